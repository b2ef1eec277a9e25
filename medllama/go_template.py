"""The Go TEMPLATE of a Modelfile, derived from the model's Jinja chat template.

    derive_go_template(chat)    ->  text for TEMPLATE, or UnsupportedError with the reason
    go_template_sha256(text)    ->  what the certificate records and `package` compares

Ollama's server renders prompts with Go's text/template, so the template a model was trained with exists a second time, in
another language. It is not translated: the Jinja is rendered for a few conversations of marks, the pieces between the marks
are the layout, and the layout is then held against the Jinja on many conversations. What does not fit is refused.

The subset: every role has a fixed text before and after its content; a system message is a turn of its own or stands inside
the user turn that follows it; a fixed text may come first (one for conversations without a system message only), before
every user turn but the first (Llama 2's <s>), and at the end, where an answer begins. Content goes in as it is.

How Ollama calls a template that names .Messages (template.Execute and collate in its template/template.go): once, with system
messages in their places, neighbors of one role joined by an empty line, and nothing appended or cut; a conversation that ends
with an answer is continued, so its last answer stays open. The server adds BOS where the vocabulary asks for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from medllama.chat import Chat, Message
from medllama.errors import InputError, UnsupportedError

HINT = "the package then has no TEMPLATE, and Ollama is left to the GGUF's own Jinja template"
TURNS = 5

# What Go's templates cannot do to a text, a Jinja template may: each row finds one such thing.
EDGES = (" {} ", "\n{}\n", "\t{}", "{}\n\n")
CONTENTS = ("", " ", "a\n\nb", "<think>a</think>b", "{{ .Content }}", "100 %s", "é ▁ 🩺", '"a" \\n', "[INST] a")


def derive_go_template(chat: Chat) -> str:
    """The TEMPLATE that renders, for every conversation that was tried, what `chat` renders."""
    return read_layout(chat).go_template()


def go_template_sha256(text: str) -> str:
    """The SHA-256 of a TEMPLATE's text."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Layout:
    """The fixed texts of a prompt, around the contents of its messages. BOS at the very start is left out."""

    user: tuple[str, str]
    assistant: tuple[str, str]
    system: tuple[str, str] = ("", "")
    system_place: Literal["turn", "user", "nowhere"] = "nowhere"
    opening: str = ""
    opening_without_system: str = ""
    between: str = ""  # before every user turn but the first
    generation: str = ""  # at the end, where the last message is no answer

    def render(self, messages: Sequence[Message]) -> str:
        """What `go_template` renders, step by step the same."""
        text, close, between, system, last = self.opening, "", "", "", ""
        for position, message in enumerate(messages):
            role, content = message["role"], message["content"]
            if position == 0 and role != "system":
                text += self.opening_without_system
            text += close
            close, last = "", role
            if role == "system" and self.system_place == "turn":
                text += self.system[0] + content + self.system[1]
            elif role == "system" and self.system_place == "user":
                system = self.system[0] + content + self.system[1]
            elif role == "user":
                text += between + self.user[0] + system + content + self.user[1]
                between, system = self.between, ""
            elif role == "assistant":
                text += self.assistant[0] + content
                close = self.assistant[1]
        return text + (self.generation if last != "assistant" else "")

    def go_template(self) -> str:
        """The layout as a Go template. Every piece is a quoted text, so the line breaks between actions never count."""
        is_used = {
            "$close": self.assistant[1] != "",
            "$between": self.between != "",
            "$last": self.generation != "",
            "$system": self.system_place == "user",
        }
        lines = ["".join(_action(f'{name} := ""') for name in is_used if is_used[name])]
        lines[0] += _texts(self.opening)
        lines.append(
            _action("range $position, $message := .Messages" if self.opening_without_system else "range .Messages")
        )
        if self.opening_without_system:
            lines[-1] += _action('if and (eq $position 0) (ne .Role "system")') + _texts(self.opening_without_system)
            lines[-1] += _action("end")
        if self.assistant[1]:
            lines[-1] += _action("$close") + _action('$close = ""')
        if self.generation:
            lines[-1] += _action("$last = .Role")
        for number, (role, actions) in enumerate(self._turns().items()):
            lines.append(_action(f'{"else if" if number else "if"} eq .Role "{role}"') + actions)
        lines += [_action("end"), _action("end")]
        if self.generation:
            lines.append(_action('if ne $last "assistant"') + _texts(self.generation) + _action("end"))
        return "\n".join("{{-" + line.removeprefix("{{") for line in lines if line)

    def _turns(self) -> dict[str, str]:
        """The actions for a message of each role."""
        turns = {}
        before, after = _texts(self.user[0]), _texts(self.user[1])
        if self.between:
            before, after = _action("$between") + before, after + _action(f"$between = {_go(self.between)}")
        if self.system_place == "turn":
            turns["system"] = _texts(self.system[0], ".Content", self.system[1])
        elif self.system_place == "user":
            before, after = before + _action("$system"), after + _action('$system = ""')
            turns["system"] = _action(f"$system = print {_go(self.system[0])} .Content {_go(self.system[1])}")
        turns["user"] = before + _action(".Content") + after
        turns["assistant"] = _texts(self.assistant[0], ".Content")
        if self.assistant[1]:
            turns["assistant"] += _action(f"$close = {_go(self.assistant[1])}")
        return turns


def _action(text: str) -> str:
    return "{{ " + text + " }}"


def _texts(*parts: str) -> str:
    """Actions that write fixed texts, and `.Content` where that is named."""
    return "".join(_action(part if part == ".Content" else _go(part)) for part in parts if part)


def _go(text: str) -> str:
    """A Go string literal, in characters that a Modelfile can hold: printable ones, and never three quotes in a row."""
    escapes = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", '"': "\\x22"}
    return '"' + "".join(escapes.get(c, c if c.isprintable() else f"\\U{ord(c):08x}") for c in text) + '"'


def read_layout(chat: Chat) -> Layout:
    """The layout of a chat's template. Raises UnsupportedError with the reason where it has none."""
    if chat.tokenizer.vocabulary.add_eos:
        raise _unsupported("the tokenizer ends every prompt with its end token, and Ollama's server does too")
    turns = _Marked(chat)
    first, after_user = turns.pieces("user")
    _, answer, after_answer = turns.pieces("user", "assistant")
    later = turns.pieces("user", "assistant", "user")[2]
    before_answer = _without_prefix(answer, after_user, "what follows a user turn depends on whether it is the last")
    before_later = _without_prefix(later, after_answer, "what follows an answer depends on whether it is the last")
    end = turns.pieces("user", generate=True)[1]
    generation = _without_prefix(end, after_user, "add_generation_prompt changes more than the end of the prompt")
    if before_later.endswith(first):
        opening, between, before_user = "", before_later.removesuffix(first), first
    elif first.endswith(before_later):
        opening, between, before_user = first.removesuffix(before_later), "", before_later
    else:
        raise _unsupported("the first user turn is written in another way than later ones")
    plain = Layout(
        user=(before_user, after_user), assistant=(before_answer, after_answer),
        opening=opening, between=between, generation=generation,
    )  # fmt: skip
    differences = []
    for layout in _with_system(plain, turns):
        difference = _difference(layout, chat)
        if difference is None:
            return layout
        differences.append(difference)
    raise _unsupported(max(differences)[1])  # the layout that came furthest is the one that was meant


def _with_system(plain: Layout, turns: _Marked) -> list[Layout]:
    """The layouts that a system message's place allows; the one that fits every conversation is the right one."""
    if not turns.takes_system():
        return [plain]
    before, middle, _ = turns.pieces("system", "user")
    before_user, found = plain.user[0], []
    default = replace(plain, opening="", opening_without_system=plain.opening)
    for layout in [plain, default] if plain.opening else [plain]:
        rest = before.removeprefix(layout.opening)
        if middle.endswith(before_user):
            found.append(replace(layout, system_place="turn", system=(rest, middle.removesuffix(before_user))))
        if rest.startswith(before_user):
            found.append(replace(layout, system_place="user", system=(rest.removeprefix(before_user), middle)))
    if not found:
        raise _unsupported("a system message is neither a turn of its own nor a part of the user turn after it")
    return found


class _Marked:
    """Renders conversations whose contents are marks, and gives the texts around the marks."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        private = (chr(code) for code in range(0xE000, 0xF8FF))
        self.marks = [mark for mark, _ in zip((c for c in private if c not in chat.template), range(8), strict=False)]

    def pieces(self, *roles: str, generate: bool = False) -> list[str]:
        """The texts before, between and after the contents of messages of these roles, without BOS."""
        rest = self._render(roles, generate)
        found = []
        for mark, role in zip(self.marks, roles, strict=False):
            before, seen, rest = rest.partition(mark)
            if not seen or mark in rest:
                raise _unsupported(f"a {role} message is left out, moved or repeated (roles {', '.join(roles)})")
            found.append(before)
        return [*found, rest]

    def takes_system(self) -> bool:
        """Whether a system message is written at all: some templates refuse it, some pass over it."""
        try:
            return self.marks[0] in self._render(("system", "user"), False)
        except UnsupportedError:
            return False

    def _render(self, roles: Sequence[str], generate: bool) -> str:
        messages = [{"role": role, "content": mark} for role, mark in zip(roles, self.marks[: len(roles)], strict=True)]
        text = _render_without_bos(self.chat, messages, generate)
        if text is None:
            raise _unsupported(f"it refuses a conversation of roles {', '.join(roles)}")
        return text


def _render_without_bos(chat: Chat, messages: Sequence[Message], generate: bool) -> str | None:
    """What `chat` renders, less the BOS that Ollama's server adds; None where the template refuses the conversation."""
    try:
        text = chat.render(messages, add_generation_prompt=generate)
    except InputError:
        return None
    vocabulary = chat.tokenizer.vocabulary
    if not vocabulary.add_bos or vocabulary.bos_id is None:
        return text
    bos = vocabulary.tokens[vocabulary.bos_id]
    if not text.startswith(bos):
        raise _unsupported(f"the prompt does not begin with {bos}, and Ollama's server adds it")
    return text.removeprefix(bos)


def _difference(layout: Layout, chat: Chat) -> tuple[int, str] | None:
    """After how many conversations the layout is not what `chat` renders, and why; None where no conversation shows it."""
    for number, (messages, reason) in enumerate(_trials()):
        if not _agree(layout, chat, messages):
            return number, reason
    return None


def _trials() -> Iterator[tuple[list[Message], str]]:
    """The conversations that layout and Jinja are held against, and what it means where they differ there first."""
    for messages in _conversations("abcdefghijkl"):
        yield messages, f"the template depends on more than roles: {_roles(messages)} is not made of the same pieces"
    for edge in EDGES:
        for messages in _conversations([edge.format(letter) for letter in "abcdefghijkl"]):
            yield (
                messages,
                "the template depends on white space at the edges of messages, which Go's templates cannot trim",
            )
    for content in CONTENTS:
        for messages in _conversations([content] * 12):
            yield messages, f"the template depends on what a message says: {content!r} is not written as it is"


def _conversations(contents: Sequence[str]) -> Iterator[list[Message]]:
    """One to five turns, ending with a question and with an answer, with no system message, one first, and one later."""
    for turns in range(1, TURNS + 1):
        roles = ["user", "assistant"] * turns
        for ending in (roles[:-1], roles):
            yield _messages(ending, contents)
            yield _messages(["system", *ending], contents)
    yield _messages(["user", "assistant", "system", "user"], contents)
    yield _messages(["system", "user", "assistant", "system", "user", "assistant", "user"], contents)


def _messages(roles: Sequence[str], contents: Sequence[str]) -> list[Message]:
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


def _roles(messages: Sequence[Message]) -> str:
    return ", ".join(message["role"] for message in messages)


def _agree(layout: Layout, chat: Chat, messages: Sequence[Message]) -> bool:
    """Whether layout and Jinja agree on one conversation. What the Jinja refuses may be anything, where it has a system message."""
    is_answered = messages[-1]["role"] == "assistant"
    expected = _render_without_bos(chat, messages, generate=not is_answered)
    if expected is None:
        return any(message["role"] == "system" for message in messages)
    return layout.render(messages) + (layout.assistant[1] if is_answered else "") == expected


def _without_prefix(text: str, prefix: str, reason: str) -> str:
    if not text.startswith(prefix):
        raise _unsupported(reason)
    return text.removeprefix(prefix)


def _unsupported(reason: str) -> UnsupportedError:
    return UnsupportedError(f"the chat template has no Go counterpart: {reason}", hint=HINT)
