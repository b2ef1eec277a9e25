"""One frozen dataclass per stage is its configuration: a field is a flag, a recipe key, a default and a help text at once.

    @dataclass(frozen=True)
    class ConvertConfig:
        base_model: str = option(help="folder or hub id of the base", kind="model")
        types: tuple[str, ...] = option(("F16", "Q4_K_M"), help="what to write")

`build` turns the values of a recipe's section and of the command line into that dataclass and reports every problem
together. Fields may be str, int, float, bool, Path, Literal, tuple[str, ...], dict (recipes only), or one of these or None.

A field's `kind` says what its value names: "path" (an existing file or folder), "model" (a folder or a hub id),
"source" (KIND:PATH), "task" (NAME:PATH, a NAME or a file), "template" (a file, or a name that is no file), "output" (what the
stage makes), "text" (a sentence, whose commas separate nothing) or "value". The first five are inputs: their contents
are part of what decides whether a stage has to run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from medllama.errors import InputError, RecipeError
from medllama.files import expand

Config = TypeVar("Config")
REQUIRED = dataclasses.MISSING
INPUT_KINDS = ("path", "model", "source", "task", "template")
HUB_SOURCES = ("hf:", "pmc:")  # kinds of sources that may name what is not on this disk


def option(default: Any = REQUIRED, *, help: str, kind: str = "value", metavar: str | None = None) -> Any:
    """A field of a stage's configuration; without `default` it is required."""
    metadata = {"help": help, "kind": kind, "metavar": metavar}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Option:
    """What a field says about itself, with its type resolved."""

    name: str
    help: str
    kind: str
    metavar: str | None
    type: Any
    default: Any

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def is_required(self) -> bool:
        return self.default is REQUIRED

    @property
    def plain_type(self) -> Any:
        """The type without `| None`."""
        if typing.get_origin(self.type) in (typing.Union, types.UnionType):
            return next(part for part in typing.get_args(self.type) if part is not types.NoneType)
        return self.type

    @property
    def is_list(self) -> bool:
        return typing.get_origin(self.plain_type) is tuple

    @property
    def is_table(self) -> bool:
        return self.plain_type is dict or typing.get_origin(self.plain_type) is dict

    @property
    def choices(self) -> tuple[Any, ...]:
        return typing.get_args(self.plain_type) if typing.get_origin(self.plain_type) is Literal else ()


def options(config_class: type) -> list[Option]:
    """The fields of a configuration in the order of the class, then those that it shares with others (by keyword only)."""
    hints = typing.get_type_hints(config_class)
    found = []
    for field in sorted(dataclasses.fields(config_class), key=lambda field: bool(field.kw_only)):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        metadata = field.metadata
        found.append(
            Option(field.name, metadata["help"], metadata["kind"], metadata["metavar"], hints[field.name], default)
        )
    return found


def add_flags(parser: argparse.ArgumentParser, config_class: type) -> None:
    """One kebab-case flag per field; an absent flag leaves no value, so that a recipe's value stands."""
    for entry in options(config_class):
        if entry.is_table:
            continue
        text = entry.help
        if not entry.is_required and entry.default not in (None, "", ()):
            text += f" (default: {','.join(entry.default) if entry.is_list else entry.default})"
        add_flag(parser, entry, text.replace("%", "%%"))


def add_flag(parser: Any, entry: Option, help: str) -> None:
    """The flag of one field. A list takes several values, also from repeated flags; a bool has its `--no-` form."""
    extra: dict[str, Any] = {"dest": entry.name, "default": argparse.SUPPRESS, "help": help}
    if entry.plain_type is bool:
        parser.add_argument(entry.flag, action=argparse.BooleanOptionalAction, **extra)
        return
    if entry.is_list:
        extra |= {"action": "extend", "nargs": "+"}
    metavar = entry.metavar or ("|".join(map(str, entry.choices)) or entry.name.upper())
    parser.add_argument(entry.flag, metavar=metavar, **extra)


def build(config_class: type[Config], values: Mapping[str, Any], *, origin: str) -> Config:
    """The configuration that `values` describe.

    Raises RecipeError with every problem found: unknown keys (with the nearest known one), missing required keys, values
    of the wrong type, and what the class's own `problems()` says.
    """
    ready, problems = check(config_class, values)
    required = [entry for entry in options(config_class) if entry.is_required]
    problems += [f"{entry.name} is required: {entry.help}" for entry in required if entry.name not in values]
    if all(entry.name in ready for entry in required):
        # A refused value stands at its default here, so that the rules of the other fields are checked all the same.
        config = config_class(**ready)
        problems += getattr(config, "problems", list)()
        if not problems:
            return config
    raise RecipeError(origin, problems, hint="the flags and keys are listed by medllama STAGE --help")


def check(config_class: type, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values in the types of their fields, and a problem for every unknown key and every value of the wrong type."""
    known = {entry.name: entry for entry in options(config_class)}
    ready, problems = {}, []
    for key, value in values.items():
        if key not in known:
            problems.append(unknown(key, known))
            continue
        try:
            ready[key] = coerce(value, known[key])
        except ValueError as error:
            problems.append(f"{key}: {error}")
    return ready, problems


def unknown(key: str, known: typing.Iterable[str]) -> str:
    """`unknown key 'adaptor'; did you mean 'adapter'?`"""
    names = list(known)
    near = difflib.get_close_matches(str(key).replace("-", "_"), names, n=1, cutoff=0.5)
    return f"unknown key {key!r}; " + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}")


def coerce(value: Any, entry: Option) -> Any:
    """The value in the field's type; ValueError says what was expected. Strings come from flags, the rest from YAML."""
    target = entry.plain_type
    if value is None:
        if entry.type is target:
            raise ValueError("has no value")
        return None
    if entry.is_list:
        if isinstance(value, tuple):  # a list that is ready: its paths may hold commas
            return value
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, str | int | float) and not isinstance(part, bool) for part in parts):
            raise ValueError(f"expected a list of texts, found {value!r}")
        # A source may hold a comma in its path, a text in its sentence: they are repeated, not split.
        is_whole = entry.kind in ("source", "text")
        pieces = [piece for part in parts for piece in ([part] if is_whole else str(part).split(","))]
        return tuple(text for piece in pieces if (text := str(piece).strip()))
    if entry.is_table:
        if not isinstance(value, dict):
            raise ValueError(f"expected a table, found {value!r}")
        return value
    if entry.choices:
        if value not in entry.choices:
            raise ValueError(f"expected one of {', '.join(map(str, entry.choices))}, found {value!r}")
        return value
    if target is bool:
        if not isinstance(value, bool):
            raise ValueError(f"expected true or false, found {value!r}")
        return value
    if isinstance(value, bool | list | dict):
        raise ValueError(f"expected {_type_name(target)}, found {value!r}")
    if entry.kind != "value" and not str(value).strip():
        raise ValueError("is empty")
    if target is Path:
        try:
            return expand(str(value))
        except InputError as error:
            raise ValueError(error.message) from None
    if target is str:
        return str(value)
    if target is int and isinstance(value, float) and not value.is_integer():
        raise ValueError(f"expected a whole number, found {value!r}")
    try:
        number = target(value)
    except (TypeError, ValueError):
        raise ValueError(f"expected {_type_name(target)}, found {value!r}") from None
    if target is float and not math.isfinite(number):
        raise ValueError(f"expected {_type_name(target)}, found {value!r}")
    return number


def _type_name(target: Any) -> str:
    return {int: "a whole number", float: "a number", str: "a text", Path: "a path"}.get(target, str(target))


def input_paths(config: Any) -> dict[str, list[Path]]:
    """The existing files and folders that a configuration names as inputs, by field."""
    found: dict[str, list[Path]] = {}
    for entry in options(type(config)):
        value = getattr(config, entry.name)
        if entry.kind not in INPUT_KINDS or value in (None, ""):
            continue
        names = value if entry.is_list else [value]
        if entry.kind in NAMED_KINDS:
            names = [NAMED_KINDS[entry.kind](name) for name in names]
        found[entry.name] = [Path(name) for name in names if name and Path(name).exists()]
    return found


def source_path(source: str) -> str:
    """The path inside `KIND:PATH?licence=SPDX`; empty where there is none."""
    return source.partition(":")[2].partition("?")[0]


def resolve_paths(config_class: type, values: dict[str, Any], folders: list[Path]) -> tuple[dict[str, Any], list[str]]:
    """Checked recipe values with relative input paths made absolute against the first folder where they exist.

    Returns the values and a problem for every input that exists nowhere. Hub ids and names of templates stay as they are.
    """
    resolved, problems = dict(values), []
    for entry in options(config_class):
        value = values.get(entry.name)
        if entry.kind not in INPUT_KINDS or value is None:
            continue
        ready = []
        for text in map(str, value if entry.is_list else [value]):
            name = NAMED_KINDS[entry.kind](text) if entry.kind in NAMED_KINDS else text
            places = [folder / expand(name) for folder in folders if name]
            if (found := next((place for place in places if place.exists()), None)) is not None:
                path = str(found.resolve())
                ready.append(_with_path(text, path) if entry.kind in NAMED_KINDS else path)
                continue
            ready.append(text)
            is_hub_source = entry.kind in NAMED_KINDS and text.startswith(HUB_SOURCES)
            is_name = entry.kind == "template" or is_hub_source or (entry.kind == "model" and looks_like_hub_id(name))
            if name and not is_name:
                problems.append(f"{entry.name}: {name} does not exist in {' or '.join(map(str, folders))}")
        resolved[entry.name] = tuple(ready) if entry.is_list else ready[0]
    return resolved, problems


def task_path(task: str) -> str:
    """The path inside `NAME:PATH?shots=PATH`, or the file that a task without a name is; empty for a name alone."""
    place = task.partition("?")[0]
    return place.partition(":")[2] if ":" in place else place if Path(place).suffix or "/" in place else ""


NAMED_KINDS = {"source": source_path, "task": task_path}


def _with_path(named: str, path: str) -> str:
    """`KIND:PATH?licence=SPDX`, or a file without a name, with another path."""
    place, question_mark, query = named.partition("?")
    kind, colon, _ = place.partition(":")
    return f"{kind + colon if colon else ''}{path}{question_mark}{query}"


def looks_like_hub_id(name: str) -> bool:
    """`meta-llama/Llama-2-7b-hf` or `.../...@revision`: two parts and nothing that only a path has."""
    parts = name.split("@")[0].split("/")
    return len(parts) == 2 and all(parts) and not name.startswith((".", "~", "/"))


def as_json(config: Any) -> dict[str, Any]:
    """The configuration as JSON values, in field order."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return value
