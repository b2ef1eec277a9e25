"""The names of models as Ollama and OCI registries take them: [HOST/][NAMESPACE/]MODEL[:TAG].

    parse_name("ada/medllama:q8_0")    ->  ModelName("registry.ollama.ai", "ada", "medllama", "q8_0")

A part begins with a letter, a digit or `_`, goes on with these and `-`, in model and tag also `.`, and has at most 80 characters.
Host, namespace and model are written in lower case, as the hub and every registry want them; a tag may have upper
case, as Ollama's own library writes `q4_K_M`. A name is checked before anything is read or sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from medllama.errors import InputError

HUB = "registry.ollama.ai"
LIBRARY = "library"  # the namespace of a name without one
LATEST = "latest"
MAXIMUM_CHARACTERS, MAXIMUM_HOST_CHARACTERS = 80, 350
HOST = re.compile(r"(?:[a-z0-9_][a-z0-9_.-]*|\[[0-9a-f:.]+\])(?::(\d{1,5}))?")
SHAPE = "letters, digits, '-' and '_'{dot}, the first a letter, a digit or '_', at most 80 characters"
# What a repository's path may be in an OCI registry, which is narrower: separators stand singly and between letters.
OCI_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")


@dataclass(frozen=True)
class ModelName:
    """A model's whole name; `tag` is empty where none was given."""

    host: str
    namespace: str
    model: str
    tag: str = ""

    def with_tag(self, tag: str) -> ModelName:
        return replace(self, tag=tag)

    @property
    def repository(self) -> str:
        """The name inside a registry."""
        return f"{self.namespace}/{self.model}"

    def __str__(self) -> str:
        """As short as `ollama run` takes it."""
        parts = [self.host, self.namespace, self.model]
        if self.host == HUB:
            parts = parts[1:] if self.namespace != LIBRARY else parts[2:]
        return "/".join(parts) + (f":{self.tag}" if self.tag else "")


def parse_name(text: str) -> ModelName:
    """The name in `text`. Raises InputError where Ollama would refuse it, or take it for another."""
    path, tag = text, ""
    if ":" in text.rpartition("/")[2]:
        path, _, tag = text.rpartition(":")
        check_tag(tag)
    parts = path.split("/")
    if len(parts) > 3:
        raise InputError(
            f"{text!r} has {len(parts)} parts, and a name has three", hint="write HOST/NAMESPACE/MODEL:TAG"
        )
    if path != path.lower():
        raise InputError(
            f"{text!r} has upper case, which the hub and registries refuse and some disks do not tell apart",
            hint=f"write {path.lower()}" + (f":{tag}" if tag else ""),
        )
    host, namespace, model = ([HUB, LIBRARY, *parts] if len(parts) == 1 else [HUB, *parts])[-3:]
    if not (found := HOST.fullmatch(host)) or int(found[1] or 0) > 65535 or len(host) > MAXIMUM_HOST_CHARACTERS:
        raise InputError(f"{host!r} is no host", hint="write HOST or HOST:PORT, in lower case")
    _check_part(namespace, "a namespace", with_dots=False)
    _check_part(model, "a model's name", with_dots=True)
    return ModelName(host, namespace, model, tag)


def check_tag(tag: str) -> None:
    """Raise InputError where Ollama would refuse the tag."""
    _check_part(tag, "a tag", with_dots=True)


def check_case(name: ModelName, taken: Iterable[str], where: str) -> None:
    """Raise InputError where a tag that is `taken` differs from the name's in upper and lower case alone: Ollama, and some disks,
    take the two for one."""
    for tag in taken:
        if tag != name.tag and tag.lower() == name.tag.lower():
            raise InputError(
                f"{where} has the tag {tag}, and {name.tag} differs from it in upper and lower case alone",
                hint=f"to Ollama they are one name: write {name.with_tag(tag)}",
            )


def check_for_registry(name: ModelName) -> None:
    """Raise InputError where an OCI registry would refuse what Ollama takes."""
    for part in (name.namespace, name.model):
        if not OCI_PART.fullmatch(part):
            raise InputError(
                f"{part!r} cannot stand in a registry's path",
                hint="begin and end with a letter or a digit, with single '.', '_' or '-' between them",
            )


def _check_part(part: str, what: str, *, with_dots: bool) -> None:
    pattern = r"[A-Za-z0-9_][A-Za-z0-9_.-]*" if with_dots else r"[A-Za-z0-9_][A-Za-z0-9_-]*"
    if not re.fullmatch(pattern, part) or len(part) > MAXIMUM_CHARACTERS:
        raise InputError(f"{part!r} cannot be {what}", hint=SHAPE.format(dot=" and '.'" if with_dots else ""))
