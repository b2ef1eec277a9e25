"""What a Modelfile does in Ollama that its author did not mean: each trap with its line, and what to do.

    for trap in find_traps(text, folder):      relative paths are relative to `folder`, the Modelfile's own
        print(trap)                            line 3: error: there is no PARAMETER temprature in Ollama; did you mean temperature?

An error is what Ollama refuses, or does otherwise without a word: no package is made of it. A warning is what works and is
probably not meant. What the grammar itself refuses is raised by `read_modelfile`. Sources followed: CreateRequest in Ollama's
parser/parser.go, server/create.go (0.34), template/template.go.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medllama.errors import InputError
from publish.go_syntax import read_go_template
from publish.modelfile import BLOCK_COMMANDS, COMMANDS, Command, is_kept, read_modelfile
from publish.parameters import IGNORED, parse_value, sensible_range
from publish.sources import SAFETENSORS, bos_of_file, kind_of_file, looks_like_path, resolve

SINGLE = ("template", "system", "adapter", "renderer", "parser", "requires")  # of these the last counts
COMMAND_INSIDE = re.compile(rf"^({'|'.join(COMMANDS).upper()})[ \t]", re.MULTILINE)
BOS_TEXTS = ("<s>", "<|begin_of_text|>")
JINJA = re.compile(r"\{%-?\s|\bbos_token\b|\badd_generation_prompt\b|message\[")
# What Ollama gives to a template (template/template.go), and what messages and tools have (api/types.go).
GIVEN = frozenset((
    "System", "Prompt", "Response", "Messages", "Tools", "Suffix", "Query", "Document", "Instruction", "Think", "ThinkLevel",
    "IsThinkSet", "Role", "Content", "Thinking", "Images", "ToolCalls", "ToolName", "ToolCallID", "ID", "Index", "Function", "Name",
    "Arguments", "Description", "Parameters", "Type", "Items", "Defs", "AnyOf", "Required", "Properties", "HasProperties", "Enum",
    "Len", "String", "PropertyType", "ToTypeScriptType",
))  # fmt: skip


@dataclass(frozen=True, order=True)
class Trap:
    """One trap. `advice` says what to do about it."""

    line: int
    severity: Literal["error", "warning"]
    problem: str
    advice: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.severity}: {self.problem}; {self.advice}"


def find_traps(text: str, folder: Path) -> list[Trap]:
    """Every trap of a Modelfile, in the order of its lines. Raises InputError where the grammar is not kept."""
    commands = read_modelfile(text)
    found = {
        *_dropped(text), *_doubles(commands), *_quotes(commands), *_parameters(commands), *_templates(commands, folder),
        *_other_commands(commands),
    }  # fmt: skip
    for command in commands:
        if command.name == "from":
            found.update(_from(command, folder))
        elif command.name == "adapter":
            found.update(_adapter(command, folder))
    return sorted(found)


def _error(command: Command, problem: str, advice: str) -> Trap:
    return Trap(command.line, "error", problem, advice)


def _warning(command: Command, problem: str, advice: str) -> Trap:
    return Trap(command.line, "warning", problem, advice)


def _dropped(text: str) -> Iterator[Trap]:
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if lost := [character for character in line if not is_kept(character)]:
            yield Trap(number, "warning", f"Ollama drops U+{ord(lost[0]):04X}", "write a plain space, or take it out")


def _doubles(commands: Sequence[Command]) -> Iterator[Trap]:
    """Commands of which a later one takes the place."""
    seen: dict[tuple[str, str], Command] = {}
    for command in commands:
        if command.name not in (*SINGLE, "parameter", "from") or command.key == "stop":
            continue
        if earlier := seen.get((command.name, command.key)):
            shown = f"{command.name.upper()} {command.key}".strip()
            if command.name == "from":
                yield _error(command, f"FROM stands in line {earlier.line} already", "a package holds one model")
            else:
                yield _warning(
                    earlier, f"{shown} stands again in line {command.line}, and only that counts", "take one out"
                )
        seen[command.name, command.key] = command


def _quotes(commands: Sequence[Command]) -> Iterator[Trap]:
    for command in commands:
        value, shown = command.value, f"{command.name.upper()} {command.key}".strip()
        closed = "end a quoted text with its quotes, and nothing after them in that line"
        if command.name not in BLOCK_COMMANDS and "\n" in value:
            yield _error(command, f"{shown} takes in the lines that follow", closed)
        elif command.name in ("template", "system") and (found := COMMAND_INSIDE.search(value)):
            yield _warning(command, f"{shown} takes in a line that begins with {found[1]}", closed)
        if command.name in ("template", "system") and "\r" in value:
            yield _warning(
                command, f"{shown} has Windows' line ends, which the model is shown", "save the file with LF alone"
            )
        if len(value) > 1 and value[0] == value[-1] == "'":
            yield _warning(command, f"the single quotes are a part of {shown}", 'write "..."')
        if command.key == "stop" and (found := re.search(r"\\[nrt\"]", value)):
            yield _warning(
                command, f"{found[0]} in a stop is two characters: a Modelfile has no escapes", 'end it with """'
            )


def _parameters(commands: Sequence[Command]) -> Iterator[Trap]:
    for command in commands:
        if command.name != "parameter":
            continue
        if command.key in IGNORED:
            yield _warning(command, f"Ollama takes no notice of {command.key}", "take it out")
            continue
        try:
            value = parse_value(command)
        except InputError as error:
            yield _error(command, error.message, error.hint)
            continue
        if sensible := sensible_range(command.key, value):
            yield _warning(command, f"PARAMETER {command.key} {command.value} is hardly meant", f"write {sensible}")
        if command.key == "stop" and not value:
            yield _warning(command, "the stop is empty: it ends an answer at once, or never", "take it out")
    if not any(command.key == "stop" for command in commands):
        yield _warning(commands[0], "no stop is named", "answers end at the model file's own end token alone")


def _templates(commands: Sequence[Command], folder: Path) -> Iterator[Trap]:
    given = Counter(command.name for command in commands)
    for command in commands:
        if command.name != "template":
            continue
        if JINJA.search(command.value):
            yield _error(
                command, "TEMPLATE is Jinja, and Ollama's templates are Go's", "take it out: medllama derives one"
            )
            continue
        try:
            found = read_go_template(command.value)
        except InputError as error:
            yield _error(command, f"Ollama refuses the TEMPLATE: {error.message}", error.hint)
            continue
        yield from _begins_with_bos(command, found.texts, _bos_texts(commands, folder))
        yield from _what_it_asks_for(command, found.fields, has_system=given["system"] > 0)
    if not given["template"] and not given["adapter"]:
        yield _warning(
            commands[0], "there is no TEMPLATE, so Ollama may take a built-in one", "the package has the one that was derived"
        )  # fmt: skip


def _bos_texts(commands: Sequence[Command], folder: Path) -> Sequence[str]:
    """What the server puts before every prompt: the file of FROM says it, else it is what Llama's are."""
    for command in commands:
        path = resolve(command.value, folder)
        if command.name == "from" and path.is_file() and (bos := bos_of_file(path)) is not None:
            return [bos] if bos else []
    return BOS_TEXTS


def _begins_with_bos(command: Command, texts: Sequence[str], bos_texts: Sequence[str]) -> Iterator[Trap]:
    first = next((text.lstrip() for text in texts if text.strip()), "")
    if bos := next((bos for bos in bos_texts if first.startswith(bos)), None):
        yield _error(
            command, f"TEMPLATE begins with {bos}, and the server adds it: it would stand twice", "take it out"
        )


def _what_it_asks_for(command: Command, fields: set[str], *, has_system: bool) -> Iterator[Trap]:
    for name in sorted(fields - GIVEN):
        if (meant := name.capitalize()) in GIVEN:
            yield _error(command, f"there is no .{name}", f"write .{meant}")
        else:
            yield _warning(command, f"Ollama knows no .{name}", "what people say is .Prompt, or .Content in .Messages")
    if fields & {"Messages"}:
        return
    if not fields & {"Prompt"}:
        yield _error(
            command, "TEMPLATE holds neither .Messages nor .Prompt: the question is not in it", "write .Messages"
        )
    elif not fields & {"Response"}:
        yield _warning(
            command,
            "TEMPLATE has neither .Messages nor .Response, so nothing ends an earlier answer",
            "range over .Messages",
        )
    if has_system and not fields & {"System"}:
        yield _warning(command, "TEMPLATE has no .System, so SYSTEM is dropped", "range over .Messages")


def _other_commands(commands: Sequence[Command]) -> Iterator[Trap]:
    for command in commands:
        if command.name in ("renderer", "parser"):
            yield _error(
                command, f"{command.name.upper()} takes the place of the TEMPLATE: prompts are not those of training", "take it out"
            )  # fmt: skip
        elif command.name == "draft":
            yield _error(command, "DRAFT names a second model, which no certificate speaks of", "take it out")
        elif command.name == "capability":
            yield _error(
                command, "CAPABILITY claims what nothing has checked, and older servers refuse it", "take it out"
            )
        elif command.name == "message":
            yield _error(
                command, "MESSAGE puts turns before every conversation that nothing has checked", "say it in SYSTEM"
            )
        elif command.name == "requires" and not re.fullmatch(r"v?\d+(\.\d+){0,2}([-+][\w.+-]+)?", command.value):
            yield _error(command, f"{command.value!r} is no version", "write REQUIRES 0.30.0")
        elif command.name == "license":
            yield _warning(
                command, "LICENSE is not taken over: the package has the base's own texts", "put further ones into the base's folder"
            )  # fmt: skip


def _from(command: Command, folder: Path) -> Iterator[Trap]:
    path = resolve(command.value, folder)
    if path.is_dir():
        yield _error(
            command, f"{path} is a folder, and Ollama takes it rather than a model of that name",
            "name the GGUF in it; of safetensors, make one with medllama convert",
        )  # fmt: skip
    elif not path.exists():
        if looks_like_path(command.value):
            advice = "a # begins no comment there" if "#" in command.value else "medllama convert makes GGUF files"
            yield _error(command, f"there is no file {path}, so Ollama would ask for a model {command.value!r}", advice)
    else:
        kind = kind_of_file(path)
        if kind == "adapter":
            yield _error(command, f"{path} is an adapter, no model", "FROM names its base, ADAPTER the adapter")
        elif kind != "model":
            yield _error(command, f"{path} is no GGUF", "medllama convert makes GGUF files")
        elif not command.value.startswith(("./", "../", "/", "~")):
            yield _warning(
                command, f"were {command.value} missing, Ollama would ask for a model of that name", f"write ./{command.value}"
            )  # fmt: skip


def _adapter(command: Command, folder: Path) -> Iterator[Trap]:
    path = resolve(command.value, folder)
    make = "make a GGUF of it: medllama convert --adapter-only"
    if not path.exists():
        yield _error(command, f"there is no file {path}", make)
    elif path.is_dir() or path.suffix == SAFETENSORS:
        yield _error(command, f"{path} is no GGUF: Ollama reads adapters of safetensors wrongly, or not at all", make)
    elif kind_of_file(path) != "adapter":
        yield _error(command, f"{path} is no adapter", make)
    yield _warning(
        command, "Ollama 0.34.1 and newer refuse ADAPTER where a model is created", "merge it, or publish to store:DIR"
    )
