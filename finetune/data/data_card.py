"""The data card and NOTICE: what was read from each source, what became of it, and under which licence it stands.

For every source `read == kept + the sum of all reasons for dropping`. `publishable` says whether the data, and what is
trained on it, may be given on; train copies the summary into the adapter, so it is small and names no path of the
machine it was made on. The same card thrice: JSON for the other stages, README.md for people and `datasets`, a plot (figure.py).
"""

from __future__ import annotations

import hashlib
import os.path
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy

from finetune.data.blocks import SHOWN_PROBLEMS, Counts
from finetune.data.corpus import Corpus
from finetune.data.licences import may_be_published
from finetune.data.records import Split
from finetune.data.splitting import SPLIT_CODES
from finetune.prepare_config import PrepareConfig
from finetune.sources import Source, SourceRequest
from medllama.files import sha256_file

CHANGES = (
    "Unicode and whitespace normalized; publishers' boilerplate, empty records, exact and near duplicates left out; long "
    "texts cut; split for training and testing"
)
MASKED = "; likely identifiers of people masked"
# Told to `datasets`, which would else take the columns from the first records that it sees.
FEATURES_OF_RECORDS = [
    "dataset_info:",
    "- config_name: default",
    "  features:",
    "  - name: messages",
    "    list:",
    "    - name: role",
    "      dtype: string",
    "    - name: content",
    "      dtype: string",
    *(
        line
        for name in ("text", "source", "document_id", "licence", "sha256")
        for line in (f"  - name: {name}", "    dtype: string")
    ),
]
HISTOGRAM_BINS = [1, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192]


@dataclass
class Tally:
    """One source: what was read from it and what became of that."""

    request: SourceRequest
    source: Source
    sha256: str
    read: int = 0
    bad: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    written: Counter[str] = field(default_factory=Counter)  # lines of each split
    licences: Counter[str] = field(default_factory=Counter)  # of the documents that are kept
    problems: list[str] = field(default_factory=list)
    cleaned: Counter[str] = field(default_factory=Counter)
    identifiers: Counter[str] = field(default_factory=Counter)

    def add(self, counts: Counts) -> None:
        """Add what was counted in one block."""
        self.read += counts.read
        self.bad += counts.bad
        self.dropped.update(counts.dropped)
        self.cleaned.update(counts.cleaned)
        self.identifiers.update(counts.identifiers)
        self.problems += counts.problems[: SHOWN_PROBLEMS - len(self.problems)]

    def count_kept(self, corpus: Corpus, kept: numpy.ndarray, splits: numpy.ndarray, source: int) -> None:
        """Count what is kept: documents by licence, records by split."""
        own = kept & (corpus.features["source"] == source)
        self.kept = int(own.sum())
        by_licence = numpy.bincount(corpus.features["licence"][own], minlength=len(corpus.licences)).tolist()
        self.licences = Counter({name: count for name, count in zip(corpus.licences, by_licence, strict=True) if count})
        for split, code in SPLIT_CODES.items():
            self.written[split] = int(corpus.features["pieces"][own & (splits == code)].sum(dtype=numpy.int64))

    @property
    def licence(self) -> str:
        """The licences of what was kept, as one expression: all of them apply."""
        terms = sorted(self.licences) or [self.source.licence or self.request.stated_licence()]
        return terms[0] if len(terms) == 1 else " AND ".join(f"({term})" if " " in term else term for term in terms)

    @property
    def is_publishable(self) -> bool:
        return may_be_published(self.licence)

    def described_counts(self) -> str:
        """`12 read, 10 empty answer, 2 duplicate`."""
        return ", ".join(
            [f"{self.read:,} read", *(f"{count:,} {reason}" for reason, count in sorted(self.dropped.items()))]
        )

    def without_folder(self, problem: str) -> str:
        """A problem without the folder that the source lies in."""
        folder = str(self.request.path.parent) + "/" if self.request.path and self.request.path.parent.name else ""
        return problem.removeprefix(folder)

    def as_json(self) -> dict[str, Any]:
        assert self.read == self.kept + self.dropped.total(), f"{self.request.name}: the counts do not add up"
        return {
            "name": self.request.name,
            "kind": self.request.kind,
            "licence": self.licence,
            "licences": dict(sorted(self.licences.items())),
            "publishable": self.is_publishable,
            "attribution": self.source.attribution,
            "url": self.source.url,
            "sha256": self.sha256,
            "counts": {"read": self.read, "kept": self.kept, "dropped": dict(sorted(self.dropped.items()))},
            "splits": {name: self.written[name] for name in get_args(Split)},
            "cleaned": dict(sorted(self.cleaned.items())),
            "identifiers": dict(sorted(self.identifiers.items())),
            "problems": [self.without_folder(problem) for problem in self.problems],
        }


def data_card(
    config: PrepareConfig,
    tallies: list[Tally],
    records: dict[str, int],
    tokens: dict[str, Any],
    overlaps: int,
    common_runs: int,
) -> dict[str, Any]:
    """The card of the whole data set. `records` counts those of each file, `overlaps` the documents that evaluation sets
    have, `common_runs` the phrases that too many of their items share."""
    return {
        "publishable": all(tally.is_publishable for tally in tallies),
        "records": records,
        "seed": config.seed,
        "validation_share": config.validation_share,
        "test_share": config.test_share,
        "max_examples": config.max_examples,
        "near_duplicate_threshold": config.near_duplicate_threshold,
        "decontamination": {
            "evaluation_sets": [Path(name).name for name in config.decontaminate],
            "and_own_multiple_choice": True,
            "run_words": 13,
            "documents_left_out": overlaps,
            "common_runs_not_counted": common_runs,
        },
        "tokens": tokens,
        "sources": [tally.as_json() for tally in tallies],
    }


def token_statistics(tokens: numpy.ndarray) -> dict[str, Any]:
    """Of (records,) token counts: sum, mean, quantiles, and how many records lie between the bounds of a histogram."""
    if not len(tokens):
        return {"records": 0, "sum": 0}
    counts, _ = numpy.histogram(tokens, bins=[0, *HISTOGRAM_BINS[1:], numpy.iinfo(numpy.uint32).max])
    quantiles = numpy.quantile(tokens, [0.5, 0.95], method="lower").tolist()
    return {
        "records": len(tokens),
        "sum": int(tokens.sum(dtype=numpy.int64)),
        "mean": round(float(tokens.mean(dtype=numpy.float64)), 1),
        "median": int(quantiles[0]),
        "95%": int(quantiles[1]),
        "longest": int(tokens.max()),
        "histogram": {f"{low} or more": int(count) for low, count in zip(HISTOGRAM_BINS, counts, strict=True) if count},
    }


def notice(tallies: list[Tally]) -> str:
    """The text that goes with the data and with what is made of it."""
    parts = ["This data was prepared by medllama from the sources below. Each keeps its own licence.\n"]
    for tally in tallies:
        if not tally.kept:
            continue
        licences = [f"  Licence: {_described_licence(name)}\n" for name in sorted(tally.licences)]
        if len(licences) > 1:
            counted = sorted(tally.licences.items())
            licences = ["  Licences, as each record says:\n"]
            licences += [
                f"    {_described_licence(name)}: {count:,} document{'s' * (count > 1)}\n" for name, count in counted
            ]
        parts.append(
            f"{tally.request.name}\n"
            f"  Attribution: {tally.source.attribution}\n"
            + (f"  Origin: {tally.source.url}\n" if tally.source.url else "")
            + "".join(licences)
            + f"  Records: {tally.written.total():,}\n"
            f"  Changes: {CHANGES}{MASKED * any(kind.startswith('masked') for kind in tally.cleaned)}\n"
            + ("" if tally.is_publishable else "  Not for publication: its licence does not clearly allow it.\n")
        )
    return "\n".join(parts)


def _described_licence(licence: str) -> str:
    if licence.startswith("LicenseRef-CC-"):
        return f"{licence} (Creative Commons, of a version or country that is not stated or has no name in SPDX)"
    is_listed = licence.replace(" ", "") == licence and not licence.startswith(("LicenseRef-", "NOASSERTION"))
    return f"{licence} (https://spdx.org/licenses/{licence}.html)" if is_listed else licence


def readme(card: dict[str, Any], files: list[str]) -> str:
    """The card for people, under the header by which `datasets` finds the files."""
    data_files = [(split, file) for split in get_args(Split) for file in files if file.startswith(f"{split}.")]
    configs = [("default", [it for it in data_files if it[0] != "multiple_choice"])]
    configs += [("multiple_choice", [("test", file)]) for split, file in data_files if split == "multiple_choice"]
    header = ["configs:"]
    for name, found in configs:
        header += [f"- config_name: {name}", "  data_files:"]
        # datasets refuses a file without a record: it has no columns.
        header += [f"  - split: {split}\n    path: {file}" for split, file in found if card["records"].get(split, 1)]
    lines = ["---", *header, *FEATURES_OF_RECORDS, "---", "", "# Prepared data", ""]
    lines.append(
        "May be given on, with NOTICE."
        if card["publishable"]
        else "**Not for publication**: a licence below does not clearly allow it."
    )
    lines += ["", "| source | licence | read | kept | left out |", "|---|---|---:|---:|---|"]
    for source in card["sources"]:
        counts = source["counts"]
        dropped = "; ".join(f"{count:,} {reason}" for reason, count in counts["dropped"].items()) or "nothing"
        lines.append(
            f"| {source['name']} | {source['licence']} | {counts['read']:,} | {counts['kept']:,} | {dropped} |"
        )
    lines += ["", "| file | records | tokens | mean | median | 95% | longest |", "|---|---:|---:|---:|---:|---:|---:|"]
    for split, statistics in card["tokens"]["splits"].items():
        if statistics["records"]:
            shown = " | ".join(f"{statistics[key]:,}" for key in ("records", "sum", "mean", "median", "95%", "longest"))
            lines.append(f"| {split} | {shown} |")
    lines += [
        "",
        f"Tokens: {card['tokens']['counted_by']}.",
        "",
        "![What became of the sources, and lengths](data_card.svg)",
        "",
    ]
    return "\n".join(lines)


def inputs_sha256(files: list[Path]) -> str:
    """One file's SHA-256; for several, that of their names (from the folder that holds them all) and digests."""
    if len(files) == 1:
        return sha256_file(files[0])
    digest = hashlib.sha256()
    top = Path(os.path.commonpath(files)) if files else Path()
    for file in files:
        digest.update(f"{file.relative_to(top)}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()
