"""Ollama's Modelfile: written so that Ollama reads back exactly what was meant, and read as Ollama reads it.

    write_modelfile([Command("from", "./medllama-Q4_K_M.gguf"), Command("parameter", "</s>", "stop")])
    read_modelfile(modelfile_text(path))    ->  the commands of anybody's Modelfile

The grammar has no escapes. A value that starts with three quotes runs to the first line that ends in three quotes and keeps
what is between them; one that starts with a quote runs to the first line that ends in a quote; any other ends with its
line. Line ends inside of quotes stay as they are, Windows' too. Characters that are not printable (by Go's strconv.IsPrint)
are dropped without a word, save tabs and line breaks. So a text that holds three quotes or such a character cannot be
written, and is refused by name.

Source followed: ParseFile in Ollama's parser/parser.go. What the values mean is not checked here.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medllama.errors import InputError
from medllama.files import read_text

COMMANDS = (
    "from", "parameter", "template", "system", "adapter", "license", "message", "renderer", "parser", "requires", "draft",
    "capability",
)  # fmt: skip
NAMED_COMMANDS = ("parameter", "message")  # PARAMETER name value, MESSAGE role text
BLOCK_COMMANDS = ("template", "system", "license", "message")
ROLES = ("system", "user", "assistant")
SPACES, LINE_ENDS, BLOCK = " \t", "\r\n", '"""'


@dataclass(frozen=True)
class Command:
    """One command: `name` in lower case, its value, and for PARAMETER and MESSAGE the parameter's name or the role."""

    name: str
    value: str
    key: str = ""
    line: int = field(default=0, compare=False)  # where it began, of one that was read


def write_modelfile(commands: Sequence[Command], comments: Sequence[str] = ()) -> str:
    """The text of a Modelfile, comments first. Raises InputError where a value cannot be written."""
    parts = ["".join(f"# {comment}".rstrip() + "\n" for comment in comments)] if comments else []
    is_open = False  # commands of one line stand together, blocks apart
    for command in commands:
        words = [command.name.upper(), *([command.key] if command.key else []), _quoted(command)]
        line = " ".join(words) + "\n"
        if is_open and command.name not in BLOCK_COMMANDS:
            parts[-1] += line
        else:
            parts.append(line)
        is_open = command.name not in BLOCK_COMMANDS
    text = "\n".join(parts)
    assert read_modelfile(text) == list(commands), "the Modelfile does not read back as it was meant"
    return text


def _quoted(command: Command) -> str:
    shown = f"{command.name.upper()} {command.key}".strip()
    if BLOCK in command.value:
        raise InputError(
            f"{shown} holds three quotes in a row, which a Modelfile cannot",
            hint="a Modelfile has no escapes: take them out of the text",
        )
    for offset, character in enumerate(command.value):
        if not is_kept(character):
            raise InputError(
                f"{shown} holds U+{ord(character):04X} at character {offset}, which Ollama drops from a Modelfile",
                hint="take it out of the text, or put a plain space in its place",
            )
    is_plain = not set(command.value) & set('"' + LINE_ENDS)
    if command.name in BLOCK_COMMANDS or not is_plain:
        return BLOCK + command.value + BLOCK
    if command.key == "stop" or command.value != command.value.strip() or not command.value:
        return f'"{command.value}"'
    return command.value


def is_kept(character: str) -> bool:
    """Whether Ollama keeps a character of a value. `str.isprintable` and Go's `strconv.IsPrint` go by the same classes."""
    return character.isprintable() or character in "\t" + LINE_ENDS


def modelfile_text(path: Path) -> str:
    """The text of a Modelfile, in UTF-16 too where a byte order mark says so: PowerShell writes it, and Ollama reads it."""
    if path.is_file():
        with path.open("rb") as file:
            mark = file.read(len(codecs.BOM_UTF16))
        if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return path.read_bytes().decode("utf-16", errors="replace")
    return read_text(path, newline="")


def read_modelfile(text: str) -> list[Command]:
    """The commands of a Modelfile, in order. Raises InputError with the line where Ollama would refuse it."""
    reader = _Reader(text.removeprefix("\ufeff"))
    commands = []
    while reader.skip_to_command():
        line = reader.line()
        name = reader.word("a command").lower()
        if name not in COMMANDS:
            raise reader.error(f"{name!r} is no command; known are {', '.join(COMMANDS).upper()}")
        key = reader.word(f"the name after {name.upper()}") if name in NAMED_COMMANDS else ""
        if name == "message" and key not in ROLES:
            raise reader.error(f"{key!r} is no role; known are {', '.join(ROLES)}")
        commands.append(Command(name, reader.value(), key, line))
    if not any(command.name == "from" for command in commands):
        raise InputError("the Modelfile has no FROM line", hint="name the model file: FROM ./NAME.gguf")
    return commands


class _Reader:
    """Goes through a Modelfile once, from the left."""

    def __init__(self, text: str) -> None:
        self.text, self.position = text, 0

    def skip_to_command(self) -> bool:
        """Pass over white space and comment lines; False at the end of the text."""
        while self.position < len(self.text):
            character = self.text[self.position]
            if character == "#":
                while self.position < len(self.text) and self.text[self.position] not in LINE_ENDS:
                    self.position += 1
            elif character not in SPACES + LINE_ENDS:
                self.position += not is_kept(character)  # Ollama drops one before a command, as from a page on the web
                return True
            self.position += 1
        return False

    def word(self, what: str) -> str:
        """Letters (for a parameter digits and `_` too) up to the one space or tab that must follow."""
        start = self.position
        while self.position < len(self.text) and self.text[self.position] not in SPACES:
            character = self.text[self.position]
            if not (character.isascii() and (character.isalnum() or character == "_")):
                read = self.text[start : self.position]
                raise self.error(f"{what} ends in {character!r} where a space was expected: {read!r}")
            self.position += 1
        if self.position == len(self.text):
            raise self.error(f"the file ends in {what}")
        self.position += 1
        return self.text[start : self.position - 1]

    def value(self) -> str:
        """The value up to the line that ends it, without its quotes."""
        kept, begun = "", self.line()
        while self.position < len(self.text):
            character = self.text[self.position]
            self.position += 1
            if character in LINE_ENDS and (found := _unquoted(kept)) is not None:
                return found
            if is_kept(character):
                kept += character
        if (found := _unquoted(kept)) is None:
            raise self.error("a quoted text that begins there is not closed by a line that ends in quotes", begun)
        return found

    def error(self, problem: str, line: int = 0) -> InputError:
        hint = 'the grammar is COMMAND value, one command a line; a text of several lines stands between """ and """'
        return InputError(f"Modelfile line {line or self.line()}: {problem}", hint=hint)

    def line(self) -> int:
        return self.text.count("\n", 0, self.position) + 1


def _unquoted(raw: str) -> str | None:
    """A value without its quotes; None while they are open."""
    raw = raw.strip()
    for quotes in (BLOCK, '"'):
        if raw.startswith(quotes):
            is_closed = len(raw) >= 2 * len(quotes) and raw.endswith(quotes)
            return raw[len(quotes) : -len(quotes)] if is_closed else None
    return raw
