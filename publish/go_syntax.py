"""Reads a Go template as Go's parser does: whether it would be refused, and what it writes and asks for.

    found = read_go_template(text)      raises InputError with the line
    found.fields                        {"Messages", "Role", "Content"}
    found.texts                         the fixed texts in their order, those in quotes too

What is refused here Go refuses too, which the tests hold against Go itself. Left to Go are the inside of numbers, templates that
are defined twice, and what only running shows: types, and the number of arguments. Followed: lex.go and parse.go of
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
CONSTANTS = ("nil", "true", "false")
BRANCHES, NAMED, JUMPS = ("if", "range", "with"), ("define", "block", "template"), ("break", "continue")
KEYWORDS = (*BRANCHES, *NAMED, *JUMPS, "else", "end")
OPEN, CLOSE = re.compile(r"\{\{(?:-[ \t\r\n])?"), re.compile(r"(?:[ \t\r\n]+-|[ \t\r\n]*)\}\}")
COMMENT = re.compile(r"/\*(?:(?!\*/).)*\*/(?:[ \t\r\n]-)?\}\}", re.DOTALL)
SPACES, DECLARES = re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n]*(:=|=|,)")
ESCAPE = r"\\[abfnrtv]|\\[0-7]{3}|\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\U[0-9a-fA-F]{8}"
TOKEN = re.compile(
    rf"""(?P<quoted>"(?:[^"\\\n]|\\["\\]|{ESCAPE})*"|`[^`]*`)
      | (?P<character>'(?:[^'\\\n]|\\['\\]|{ESCAPE})')
      | (?P<number>[+-]?\.?[0-9](?:[\w.]|[+-](?=[\w.]))*)
      | (?: (?P<field>\.\w+) | (?P<dot>\.) | (?P<variable>\$\w*) | (?P<word>\w+) ) (?=[ \t\r\n.,|:()}}]|\Z)
      | (?P<mark>:=|[=|(),])""",
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
    variables: list[str] = field(default_factory=list)
    has_else: bool = False


def read_go_template(text: str) -> GoTemplate:
    """Go through a template once, from the left. Raises InputError where Go would not parse it."""
    reader = _Reader(text)
    try:
        reader.run()
    except RecursionError:
        raise reader.error("its parentheses are nested too deep to be read here") from None
    return reader.found


class _Reader:
    """`kind` and `token` are what stands at `start`; the next begins at `position`. An action ends in one of kind "end"."""

    def __init__(self, text: str) -> None:
        self.text, self.start, self.position = text, 0, 0
        self.kind, self.token, self.is_apart = "", "", True
        self.found = GoTemplate()
        self.blocks = [_Block("define", 1, ["$"])]

    def run(self) -> None:
        while opened := OPEN.search(self.text, self.position):
            self._keep(self.text[self.position : opened.start()])
            self.start, self.position = opened.start(), opened.end()
            if self.text.startswith("/*", self.position):
                if not (comment := COMMENT.match(self.text, self.position)):
                    raise self.error("a comment is not closed by */}}")
                self.position = comment.end()
            else:
                self._action()
        self._keep(self.text[self.position :])
        if len(self.blocks) > 1:
            self.start = len(self.text)
            raise self.error(f"{{{{ {self.blocks[-1].keyword} }}}} of line {self.blocks[-1].line} has no {{{{ end }}}}")

    def _keep(self, text: str) -> None:
        if text:
            self.found.texts.append(text)

    def _advance(self) -> None:
        """Go on to the next token; `is_apart` says whether a blank stands before it."""
        if closed := CLOSE.match(self.text, self.position):
            self.kind, self.token, self.position = "end", "}}", closed.end()
            return
        self.start = self.position
        blanks = SPACES.match(self.text, self.position)
        assert blanks is not None, "none is a match too"
        if not (token := TOKEN.match(self.text, blanks.end())):
            rest = self.text[blanks.end() : blanks.end() + 12]
            advice = "; a text stands in double quotes" if rest.startswith("'") else ""
            raise self.error(f"an action cannot hold {rest!r}{advice}" if rest else "an action is not closed by }}")
        self.start, self.position, self.is_apart = token.start(), token.end(), bool(blanks[0])
        self.kind = token[0] if token.lastgroup == "mark" else str(token.lastgroup)
        self.token = token[0]

    def _action(self) -> None:
        self._advance()
        keyword = self.token if self.token in KEYWORDS else ""
        if keyword:
            self._advance()
        if keyword in BRANCHES:
            self.blocks.append(_Block(keyword, self._line()))
        if not keyword or keyword in BRANCHES:
            self._pipeline(keyword)
        elif keyword in NAMED:
            self._named(keyword)
        elif keyword in JUMPS:
            self._jump(keyword)
        elif keyword == "else":
            self._else()
        elif len(self.blocks) == 1:
            raise self.error("{{ end }} closes nothing")
        else:
            self.blocks.pop()
        if self.kind != "end":
            raise self._misplaced()

    def _named(self, keyword: str) -> None:
        """`define "name"`, `template "name"` with a value or without, `block "name"` with one."""
        if self.kind != "quoted":
            what = "has nothing in it" if self.kind == "end" else "wants a name in quotes"
            raise self.error(f"{{{{ {keyword} }}}} {what}")
        if keyword == "define" and len(self.blocks) > 1:
            raise self.error("{{ define }} stands inside of another action")
        self._advance()
        if keyword == "block" or (keyword == "template" and self.kind != "end"):
            self._pipeline(keyword)
        if keyword != "template":
            self.blocks.append(_Block(keyword, self._line(), ["$"]))

    def _jump(self, keyword: str) -> None:
        for block in reversed(self.blocks):
            if block.keyword == "range" and not block.has_else:
                return
            if block.keyword in NAMED:
                raise self.error(f"{{{{ {keyword} }}}} stands outside of a range")

    def _else(self) -> None:
        block = self.blocks[-1]
        if block.keyword not in BRANCHES or block.has_else:
            raise self.error("{{ else }} stands outside of an if, range or with")
        if self.token == block.keyword != "range":
            self._advance()
            self._pipeline(f"else {block.keyword}")
        else:
            block.has_else = True

    def _pipeline(self, keyword: str, end: str = "end") -> None:
        """The variables that a value is given to, and the commands that make it."""
        for count in range(1, 3):
            if self.kind != "variable" or not (mark := DECLARES.match(self.text, self.position)):
                break
            self.blocks[-1].variables.append(self.token)
            self._advance()
            if mark[1] == "," and (keyword != "range" or count == 2):
                raise self._misplaced()
            self._advance()
            if mark[1] != ",":
                break
            if self.kind not in ("variable", end):
                raise self._misplaced()
        is_first = True
        while self.kind != end:
            if not is_first and self._is_constant():
                raise self.error(f"{self.token} stands behind a | and can do nothing with what comes from there")
            self._command()
            is_first = False
        if is_first:
            raise self.error(f"{{{{ {keyword} }}}} has nothing in it".replace("  ", " "))

    def _command(self) -> None:
        self._operand()
        while self.kind not in ("end", ")", "|"):
            if not self.is_apart:
                raise self._misplaced()
            self._operand()
        if self.kind == "|":
            self._advance()

    def _operand(self) -> None:
        is_constant = self._is_constant()
        if self.kind == "(":
            self._advance()
            self._pipeline("()", ")")
        elif self.kind == "variable":
            self._require_declared()
        elif self.kind == "quoted":
            self._keep(self.token[1:-1])
        elif self.kind == "word" and self.token not in (*FUNCTIONS, *CONSTANTS, *KEYWORDS):
            raise self.error(f"there is no function {self.token!r}")
        elif self.kind == "field":
            self.found.fields.add(self.token[1:])
        elif self.kind in ("end", ")", "|", ":=", "=", ",") or self.token in KEYWORDS:
            raise self._misplaced()
        self._advance()
        while self.kind == "field" and not self.is_apart and not is_constant:
            self.found.fields.add(self.token[1:])
            self._advance()

    def _is_constant(self) -> bool:
        return self.kind in ("quoted", "character", "number", "dot") or self.token in CONSTANTS

    def _require_declared(self) -> None:
        """What is defined by itself sees no variable of what stands around it."""
        for block in reversed(self.blocks):
            if self.token in block.variables:
                return
            if block.keyword in NAMED:
                raise self.error(f"the variable {self.token} is not declared")

    def _misplaced(self) -> InputError:
        if self.kind == ")":
            return self.error("a parenthesis is closed that is not open")
        if self.kind == "end":
            return self.error("a parenthesis is not closed")
        advice = "; equality is asked for by eq" if self.kind == "=" else ""
        return self.error(f"{self.token!r} has no place there{advice}")

    def _line(self) -> int:
        return self.text.count("\n", 0, self.start) + 1

    def error(self, problem: str) -> InputError:
        return InputError(f"TEMPLATE line {self._line()}: {problem}", hint="see https://pkg.go.dev/text/template")
