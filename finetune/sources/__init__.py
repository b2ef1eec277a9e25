"""The kinds of sources that prepare reads, one small module each.

    medllama prepare --source medquad:DIR --source text:notes.txt?licence=CC-BY-4.0 --output-dir OUT

A source's module holds `SOURCE`, a `Source`: what it is, whose it is, and a generator that yields, for each thing it
reads, a Record or a Dropped with the reason. prepare does the rest. A new kind is such a module, a line in MODULES and
a test. The modules are imported when used: `medllama prepare --help` loads no XML parser. docs/sources.md is the table of
all kinds with their licences and terms of access.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.records import NO_LICENCE, Dropped, Record
from medllama.errors import InputError
from medllama.files import expand

MODULES = {
    "tiny": "finetune.sources.tiny",
    "pmc": "finetune.sources.pmc",
    "jats": "finetune.sources.jats",
    "medquad": "finetune.sources.medquad",
    "pubmedqa": "finetune.sources.pubmedqa",
    "medqa": "finetune.sources.medqa",
    "medmcqa": "finetune.sources.medmcqa",
    "mmlu": "finetune.sources.mmlu",
    "pmc-patients": "finetune.sources.pmc_patients",
    "mental-health": "finetune.sources.mental_health",
    "mts-dialog": "finetune.sources.mts_dialog",
    "aci-bench": "finetune.sources.aci_bench",
    "hf": "finetune.sources.hf",
    "jsonl": "finetune.sources.jsonl",
    "csv": "finetune.sources.csv_file",
    "text": "finetune.sources.text",
}


Member = tuple[str, bytes | Dropped]  # of an archive: its place and its bytes, or why it cannot be read


@dataclass(frozen=True)
class SourceRequest:
    """`KIND:PATH?licence=SPDX`, taken apart. `licence` is the person's word, None where they gave none."""

    kind: str
    path: Path | None = None
    licence: str | None = None
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """What the source is called in messages, the data card and NOTICE: never the whole path, as cards are published."""
        if self.path is None:
            return self.kind
        is_hub_name = load_source(self.kind).takes_name and not self.path.exists()
        return f"{self.kind}:{self.path if is_hub_name else self.path.absolute().name}"

    def required_path(self) -> Path:
        assert self.path is not None, "parse() requires a path where the source takes one"
        return self.path

    def stated_licence(self) -> str:
        return self.licence or NO_LICENCE

    def setting(self, name: str, default: str = "") -> str:
        return dict(self.settings).get(name, default)


@dataclass(frozen=True)
class Source:
    """A kind of source.

    `example` shows its grammar, with its settings other than `licence` in `settings`. `licence` is None where the person states
    it, or each record its own. `inputs` lists the files that a request reads, and raises InputError where they are missing. A
    source with `read_file` is read file by file, on several cores; its `read` is never called. Of a file that is an archive
    `members` gives what it holds, one at a time, for `read_member`; of any other file it gives None. A source that must be gone
    through from its beginning to its end gives its pieces as `unread`, each with its size in bytes, for `read_member` too. A
    source of which more than `maximum_bad_share` is bad stops the run. `masks_identifiers`: counselling and clinical text, whose
    e-mail addresses and telephone numbers are masked. `is_own`: a person's own files, which are searched for identifiers of
    patients. `takes_name`: what follows the colon may be a name on a hub.
    """

    example: str
    read: Callable[[SourceRequest], Iterator[Record | Dropped]]
    inputs: Callable[[SourceRequest], list[Path]]
    licence: str | None = None
    attribution: str = "supplied by the person who ran medllama"
    url: str = ""
    maximum_bad_share: float = 0.05
    settings: tuple[str, ...] = ()
    read_file: Callable[[SourceRequest, Path], Iterator[Record | Dropped]] | None = None
    members: Callable[[SourceRequest, Path], Iterator[Member] | None] | None = None
    unread: Callable[[SourceRequest], Iterator[tuple[Any, int]]] | None = None
    read_member: Callable[[SourceRequest, Any], Iterator[Record | Dropped]] | None = None
    masks_identifiers: bool = False
    is_own: bool = False
    takes_name: bool = False

    @property
    def takes_path(self) -> bool:
        return ":" in self.example


def load_source(kind: str) -> Source:
    """The source of a known kind."""
    source = importlib.import_module(MODULES[kind]).SOURCE
    assert isinstance(source, Source)
    return source


def parse(given: str) -> SourceRequest:
    """Take `KIND:PATH?licence=SPDX` apart. Raises ValueError with what is wrong and what was probably meant."""
    from finetune.data.licences import canonical

    place, _, query = given.partition("?")
    kind, _, path = place.partition(":")
    if kind not in MODULES:
        near = difflib.get_close_matches(kind.lower(), MODULES, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(MODULES)}"
        raise ValueError(f"{given!r} is of an unknown kind {kind!r}; {advice}")
    source = load_source(kind)
    if bool(path) != source.takes_path:
        raise ValueError(f"{given!r} {'takes no path' if path else 'has no path'}; write {source.example}")
    licence, settings = None, []
    for setting in filter(None, query.split("&")):
        key, _, value = setting.partition("=")
        if key in source.settings:
            settings.append((key, value))
            continue
        if key != "licence":
            raise ValueError(
                f"{given!r} has an unknown setting {key!r}; known is {', '.join(('licence', *source.settings))}"
            )
        if source.licence is not None:
            raise ValueError(f"{given!r} states a licence, but {kind} has its own ({source.licence}); take it out")
        try:
            licence = canonical(value)
        except ValueError as error:
            raise ValueError(f"{given!r}: {error}") from None
    return SourceRequest(kind, expand(path) if path else None, licence, tuple(settings))


def existing_file(request: SourceRequest) -> list[Path]:
    """The `inputs` of a source that is one file."""
    path = request.required_path()
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file", hint=f"name the file inside it: {request.kind}:{path}/FILE")
    if not path.exists():
        raise InputError(f"{path} does not exist", hint=f"check the path of --source {request.kind}:{path}")
    return [path]


def files_in(request: SourceRequest, *patterns: str) -> list[Path]:
    """The `inputs` of a source that is a file, or the files of a folder whose names match a pattern, sorted."""
    path = request.required_path()
    if not path.is_dir():
        return existing_file(request)
    found = sorted({file for pattern in patterns for file in path.rglob(pattern) if file.is_file()})
    if not found:
        raise InputError(
            f"{path} holds no {' or '.join(patterns)}", hint=f"expected {load_source(request.kind).example}"
        )
    return found
