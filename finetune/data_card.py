"""The data card and NOTICE: what was read from each source, what became of it, and under which licence it stands.

For every source `read == kept + the sum of all reasons for dropping`. `publishable` says whether the data, and what is
trained on it, may be given on; train copies the summary into the adapter, so it is small and names no path of the
machine it was made on.
"""

from __future__ import annotations

import hashlib
import os.path
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from finetune.config import PrepareConfig
from finetune.licences import may_be_published
from finetune.records import Dropped, Record, Split
from finetune.sources import Source, SourceRequest
from medllama.files import sha256_file

SHOWN_PROBLEMS = 5


@dataclass
class Tally:
    """One source: what was read from it and what became of that."""

    request: SourceRequest
    source: Source
    sha256: str
    read: int = 0
    bad: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    licences: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def drop(self, dropped: Dropped) -> None:
        """Count something that gives no record; the first bad ones are remembered by name."""
        self.dropped[dropped.reason] += 1
        if dropped.is_bad:
            self.bad += 1
            if len(self.problems) < SHOWN_PROBLEMS:
                self.problems.append(str(dropped))

    def keep(self, record: Record, split: Split) -> None:
        """Count a record under the file that it is written to."""
        self.kept[split] += 1
        self.licences.add(record.licence)

    @property
    def licence(self) -> str:
        """The licences of what was kept, as one expression: all of them apply."""
        terms = sorted(self.licences) or [self.source.licence or self.request.stated_licence()]
        return terms[0] if len(terms) == 1 else " AND ".join(f"({term})" if " " in term else term for term in terms)

    @property
    def is_publishable(self) -> bool:
        return may_be_published(self.licence)

    def described_problems(self) -> str:
        """The first bad ones, one indented line each, and how many more there are."""
        more = self.bad - len(self.problems)
        return "\n  ".join(["", *self.problems, *([f"and {more:,} more"] if more else [])])

    def described_counts(self) -> str:
        """`12 read, 10 empty answer, 2 duplicate`."""
        return ", ".join(
            [f"{self.read:,} read", *(f"{count:,} {reason}" for reason, count in sorted(self.dropped.items()))]
        )

    def as_json(self) -> dict[str, Any]:
        kept = self.kept.total()
        assert self.read == kept + self.dropped.total(), f"{self.request.name}: the counts do not add up"
        folder = str(self.request.path.parent) + "/" if self.request.path and self.request.path.parent.name else ""
        return {
            "name": self.request.name,
            "kind": self.request.kind,
            "licence": self.licence,
            "publishable": self.is_publishable,
            "attribution": self.source.attribution,
            "url": self.source.url,
            "sha256": self.sha256,
            "counts": {"read": self.read, "kept": kept, "dropped": dict(sorted(self.dropped.items()))},
            "splits": {name: self.kept[name] for name in get_args(Split)},
            "problems": [problem.removeprefix(folder) for problem in self.problems],
        }


def data_card(config: PrepareConfig, tallies: list[Tally]) -> dict[str, Any]:
    """The card of the whole data set."""
    return {
        "publishable": all(tally.is_publishable for tally in tallies),
        "records": {name: sum(tally.kept[name] for tally in tallies) for name in get_args(Split)},
        "seed": config.seed,
        "validation_share": config.validation_share,
        "test_share": config.test_share,
        "max_examples": config.max_examples,
        "sources": [tally.as_json() for tally in tallies],
    }


def notice(tallies: list[Tally]) -> str:
    """The text that goes with the data and with what is made of it."""
    parts = ["This data was prepared by medllama from the sources below. Each keeps its own licence.\n"]
    for tally in tallies:
        if not tally.kept.total():
            continue
        parts.append(
            f"{tally.request.name}\n"
            f"  Attribution: {tally.source.attribution}\n"
            + (f"  Origin: {tally.source.url}\n" if tally.source.url else "")
            + f"  Licence: {_described_licence(tally.licence)}\n"
            f"  Records: {tally.kept.total():,}\n"
            "  Changes: whitespace cleaned; empty records and exact duplicates left out; split for training and testing\n"
            + ("" if tally.is_publishable else "  Not for publication: its licence does not clearly allow it.\n")
        )
    return "\n".join(parts)


def _described_licence(licence: str) -> str:
    is_listed = licence.replace(" ", "") == licence and not licence.startswith(("LicenseRef-", "NOASSERTION"))
    return f"{licence} (https://spdx.org/licenses/{licence}.html)" if is_listed else licence


def inputs_sha256(files: list[Path]) -> str:
    """One file's SHA-256; for several, that of their names (from the folder that holds them all) and digests."""
    if len(files) == 1:
        return sha256_file(files[0])
    digest = hashlib.sha256()
    top = Path(os.path.commonpath(files))
    for file in files:
        digest.update(f"{file.relative_to(top)}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()
