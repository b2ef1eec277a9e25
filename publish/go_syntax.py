"""Reads a Go template as far as its syntax goes: whether Go's parser would refuse it, and what it writes and asks for.

    found = read_go_template(text)      raises InputError with the line
    found.fields                        {"Messages", "Role", "Content"}
    found.texts                         the fixed texts in their order, those in quotes too

Known are actions, their nesting, quoted texts, variables and functions; what has a wrong type or a wrong number of arguments
passes here and is Go's to refuse. What is refused here Go refuses too, which the tests hold against Go itself. Followed:
text/template/parse in Go's standard library; the functions are those of Ollama's template/template.go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from medllama.errors import InputError

FUNCTIONS = frozenset((
    "and", "call", "html", "index", "slice", "js", "len", "not", "or", "print", "printf", "println", "urlquery",
    "eq", "ge", "gt", "le", "lt", "ne", "json", "currentDate", "yesterdayDate",
))  # fmt: skip
OPENING = ("if", "range", "with", "define", "block")
KEYWORDS = frozenset((*OPENING, "else", "end", "template", "break", "continue", "nil", "true", "false"))
NEEDS_VALUE = ("if", "range", "with", "define", "block", "template")
OPEN, CLOSE = re.compile(r"\{\{(?:-[ \t\r\n])?"), re.compile(r"(?:[ \t\r\n]+-)?\}\}")
COMMENT = re.compile(r"/\*.*?\*/(?:[ \t\r\n]-)?\}\}", re.DOTALL)
TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
      | (?P<quoted>"(?:[^"\\\n]|\\.)*"|`[^`]*`|'(?:[^'\\\n]|\\.)+')
      | (?P<field>(?:\.[A-Za-z_]\w*)+)
      | (?P<variable>\$\w*)
      | (?P<number>[+-]?\.?\d[\w.]*)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<mark>:=|[=|(),.])""",
    re.VERBOSE,
)


@dataclass
class GoTemplate:
    """What a template holds."""

    texts: list[str] = field(default_factory=list)
    fields: set[str] = field(default_factory=set)


@dataclass
class _Block:
    """An open action: its keyword, the line that it began in, and the variables that end with it."""

    keyword: str
    line: int
    variables: list[str]
    has_else: bool = False


def read_go_template(text: str) -> GoTemplate:
    """Go through a template once, from the left. Raises InputError where Go would not parse it."""
    reader = _Reader(text)
    reader.run()
    return reader.found


class _Reader:
    def __init__(self, text: str) -> None:
        self.text, self.position = text, 0
        self.found = GoTemplate()
        self.blocks = [_Block("", 1, ["$"])]

    def run(self) -> None:
        while opened := OPEN.search(self.text, self.position):
            self._keep(self.text[self.position : opened.start()])
            self.position = opened.end()
            if self.text.startswith("/*", self.position):
                if not (comment := COMMENT.match(self.text, self.position)):
                    raise self.error("a comment is not closed by */}}")
                self.position = comment.end()
            else:
                self._action(self._tokens())
        self._keep(self.text[self.position :])
        if len(self.blocks) > 1:
            raise self.error(f"{{{{ {self.blocks[-1].keyword} }}}} of line {self.blocks[-1].line} has no {{{{ end }}}}")

    def _keep(self, text: str) -> None:
        if text:
            self.found.texts.append(text)

    def _tokens(self) -> list[tuple[str, str]]:
        """The tokens up to the end of the action, without white space."""
        tokens, depth = [], 0
        while not (closed := CLOSE.match(self.text, self.position)):
            if not (token := TOKEN.match(self.text, self.position)):
                rest = self.text[self.position : self.position + 12]
                raise self.error("an action is not closed by }}" if not rest else f"an action cannot hold {rest!r}")
            self.position = token.end()
            if token.lastgroup != "space":
                tokens.append((str(token.lastgroup), token[0]))
                depth += (token[0] == "(") - (token[0] == ")")
            if depth < 0:
                raise self.error("a parenthesis is closed that is not open")
        if depth:
            raise self.error("a parenthesis is not closed")
        self.position = closed.end()
        return tokens

    def _action(self, tokens: list[tuple[str, str]]) -> None:
        words = [text for kind, text in tokens if kind == "word"]
        first = words[0] if tokens and tokens[0][0] == "word" else ""
        if not tokens or (first in NEEDS_VALUE and len(tokens) == 1):
            raise self.error(f"{{{{ {first or ' '} }}}} has nothing in it".replace("   ", " "))
        if first in OPENING:
            self.blocks.append(_Block(first, self._line(), []))
        elif first == "end":
            self._end()
        elif first == "else":
            self._else(words)
        declared = self._declared(tokens)
        self._look_at(tokens, declared)
        self.blocks[-1].variables += declared

    def _end(self) -> None:
        if len(self.blocks) == 1:
            raise self.error("{{ end }} closes nothing")
        self.blocks.pop()

    def _else(self, words: list[str]) -> None:
        block = self.blocks[-1]
        if block.keyword not in ("if", "range", "with") or block.has_else:
            raise self.error("{{ else }} stands outside of an if, range or with")
        block.has_else = len(words) == 1

    def _declared(self, tokens: list[tuple[str, str]]) -> list[str]:
        """The variables that an action declares: those before its first `:=`."""
        marks = [number for number, token in enumerate(tokens) if token == ("mark", ":=")]
        return [text for kind, text in tokens[: marks[0]] if kind == "variable"] if marks else []

    def _look_at(self, tokens: list[tuple[str, str]], declared: list[str]) -> None:
        known = {name for block in self.blocks for name in block.variables} | set(declared)
        for kind, text in tokens:
            if kind == "variable" and text not in known:
                raise self.error(f"the variable {text} is not declared")
            if kind == "word" and text not in FUNCTIONS | KEYWORDS:
                raise self.error(f"there is no function {text!r}")
            if kind == "field":
                self.found.fields.update(text.split(".")[1:])
            if kind == "quoted" and text[0] != "'":
                self._keep(text[1:-1])

    def _line(self) -> int:
        return self.text.count("\n", 0, self.position) + 1

    def error(self, problem: str) -> InputError:
        return InputError(f"TEMPLATE line {self._line()}: {problem}", hint="see https://pkg.go.dev/text/template")
