"""The licence of a base: its own texts, what they are, and what they ask of a model that is made from it.

    terms = read_terms(base_folder)      LICENSE*, LICENCE*, COPYING*, USE_POLICY* and NOTICE* of the base
    terms.check_name("Llama-med")        Llama 3.x asks for a name that begins with "Llama", the first one with "Llama 3"

A licence is read from the base and never assumed: no licence text is part of medllama, and the sentences that Meta's licences
ask to be shown are taken from their own text. This is an engineer's gate, no legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medllama.errors import InputError, UnsupportedError
from medllama.files import read_json, read_text

LICENCE_NAMES = ("LICENSE", "LICENCE", "COPYING")
POLICY_NAMES = ("USE_POLICY", "USE-POLICY", "ACCEPTABLE_USE")
NOTICE_NAMES = ("NOTICE",)
NOT_TEXT = {".py", ".json", ".bin", ".safetensors", ".pdf"}

# How a text names itself near its beginning -> Hugging Face's identifier of the licence.
KNOWN_TEXTS = (
    (r"LLAMA\s+(3(?:\.\d)?|2)\s+(?:VERSION\s+\S+\s+)?COMMUNITY\s+LICEN[SC]E", "llama{0}"),
    (r"Apache\s+License\s+Version\s+2\.0", "apache-2.0"),
    (r"MIT\s+License|Permission is hereby granted, free of charge, to any person", "mit"),
    (r"Creative Commons Attribution 4\.0|CC BY 4\.0", "cc-by-4.0"),
    (r"CC0 1\.0 Universal", "cc0-1.0"),
)
BEGINNING_CHARACTERS = 3000
QUOTES = "[\"'“”‘’]"


@dataclass(frozen=True)
class Terms:
    """A base's licence: `identifier` as Hugging Face spells it ("other" where it is not known), and the texts by file name."""

    identifier: str
    licence: dict[str, str]
    policy: dict[str, str]
    notice: dict[str, str]
    is_llama3: bool

    @property
    def licence_and_policy(self) -> dict[str, str]:
        """What binds whoever uses the weights."""
        return self.licence | self.policy

    @property
    def texts(self) -> dict[str, str]:
        """Everything that travels with the weights."""
        return self.licence_and_policy | self.notice

    @property
    def notice_line(self) -> str:
        """The attribution that Meta's licences want in a notice file, in their own words; empty where none is asked for."""
        return self._quoted(
            r"((?:Meta\s+)?Llama\s+[\d.]+\s+is\s+licensed\s+under\b.{10,200}?All\s+Rights\s+Reserved\.?)"
        )

    @property
    def display_line(self) -> str:
        """What a Llama 3 licence wants displayed, such as "Built with Llama"; empty where nothing is asked for."""
        if not self.is_llama3:
            return ""
        return self._quoted(r"(Built\s+with\s+(?:Meta\s+)?Llama(?:\s+3)?)") or "Built with Llama"

    @property
    def name_start(self) -> str:
        """What the name of a model made from it must begin with, such as "Llama"; empty where nothing is asked for."""
        if not self.is_llama3:
            return ""
        return self._quoted(r"(Llama(?:\s+3)?)", after=r"\s+at\s+the\s+beginning") or "Llama"

    def _quoted(self, pattern: str, after: str = "") -> str:
        for text in self.licence.values():
            if found := re.search(QUOTES + pattern + r"[.,]?" + QUOTES + after, text, re.DOTALL | re.IGNORECASE):
                return " ".join(found[1].split())
        return ""

    def check_name(self, name: str, before: str = "--name ", after: str = "") -> None:
        """Raise InputError where the licence asks for another name, with what to write: `before`, the name that would do, `after`.
        Upper and lower case count alike, and so do a space, a hyphen and nothing: Ollama's names are best in lower case and have
        no spaces, and the model card writes "Llama"."""
        asked = self.name_start
        if not re.match(re.sub(r"\s+", "[-_.]?", asked), name, re.IGNORECASE):
            example = "-".join([*asked.split(), name.lower().removeprefix("llama").strip("-_.")]).strip("-").lower()
            raise InputError(
                f"the name {name!r} does not begin with {asked}, as Llama 3's licence asks of what is made from it",
                hint=f"rename the model, for example: {before}{example}{after}",
            )


def read_terms(base: Path, base_name: str = "") -> Terms:
    """The terms whose texts are in folder `base`, the base's own or a package of it: what a Llama 3 is tells `base_name`, never
    the folder's. Raises InputError where the licence, or the notice that it asks for, is not there."""
    licence = _texts(base, LICENCE_NAMES)
    if not licence:
        raise InputError(
            f"{base} has no licence text: no LICENSE, LICENSE.txt or LICENSE.md in it",
            hint=f"put the licence that came with the base into {base / 'LICENSE'}"
            " (a Llama base: also USE_POLICY.md); without it nothing may be given on",
        )
    kinds = {name: identify(text) or "other" for name, text in licence.items()}
    if len(set(kinds.values())) > 1:
        said = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise InputError(
            f"{base} has more than one licence: {said}", hint="leave the one there that the weights stand under"
        )
    identifier = next(iter(kinds.values()))
    names = [base_name, *_names_in_config(base)]
    is_llama3 = identifier.startswith("llama3") or any(
        re.search(r"llama-?3(?!\d*b)", name, re.IGNORECASE) for name in names
    )
    terms = Terms(identifier, licence, _texts(base, POLICY_NAMES), _texts(base, NOTICE_NAMES), is_llama3)
    if identifier.startswith("llama") and not terms.notice and not terms.notice_line:
        raise InputError(
            f"the licence in {base} asks for an attribution notice, and its wording was not found",
            hint=f"write the notice line that the licence gives into {base / 'NOTICE'}",
        )
    return terms


def identify(text: str) -> str:
    """Hugging Face's identifier of a licence text; empty where it is not known."""
    for pattern, identifier in KNOWN_TEXTS:
        if found := re.search(pattern, text[:BEGINNING_CHARACTERS], re.IGNORECASE):
            return identifier.format(*found.groups())
    return ""


def _texts(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The text files of a folder whose names begin with one of `names`, whatever their case."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_file() and path.name.upper().startswith(tuple(names)) and path.suffix.lower() not in NOT_TEXT:
            text = read_text(path)
            if not text.strip():
                raise InputError(f"{path} is empty", hint="copy the file that came with the base")
            found[path.name] = text
    return found


def _names_in_config(base: Path) -> list[str]:
    path = base / "config.json"
    config = read_json(path) if path.is_file() else {}
    name = config.get("_name_or_path") if isinstance(config, dict) else None
    return [name] if isinstance(name, str) else []


def check_ollama_name(name: str) -> None:
    """Raise UnsupportedError where Ollama would not take `name` as a model's name."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", name):
        raise UnsupportedError(
            f"{name!r} cannot be a model's name in Ollama",
            hint="use letters, digits, '-', '_' and '.', at most 80, the first a letter, a digit or '_';"
            " user and tag are given when it is published",
        )
