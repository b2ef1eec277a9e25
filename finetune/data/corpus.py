"""All blocks as one: what decides about every document in tables of numbers, its text and its signature on the disk.

    corpus = gather(paths, sources, folder)      paths: the `.json` of every block, in the order of reading
    corpus.features[number]                      (documents,) FEATURES of blocks.py

In memory is a row for each document, and a number for each line; a corpus may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy

from finetune.data.blocks import FEATURES, Counts, read_counts, unsigned
from finetune.data.near_duplicates import SLOTS


@dataclass(frozen=True)
class Corpus:
    """All blocks: what decides about every document, and where its lines and its signature lie."""

    folder: Path
    features: numpy.ndarray  # (documents,) FEATURES; `block` counts over all sources, `licence` into `licences`
    tokens: numpy.ndarray  # (lines,) uint32
    signatures: numpy.ndarray  # (signed documents, 128) uint32, mapped from a file
    licences: list[str]
    block_paths: list[Path]
    counts: list[list[Path]]  # of each source the `.json` of its blocks

    def counts_of(self, source: int) -> Iterator[Counts]:
        for path in self.counts[source]:
            yield read_counts(path)


def gather(paths: list[Path], sources: int, folder: Path) -> Corpus:
    """The features of all blocks in one table, their signatures in one file."""
    tables, tokens, licences = [], [], list[str]()
    counts: list[list[Path]] = [[] for _ in range(sources)]
    signed = 0
    with (folder / "signatures.bin").open("wb") as file:
        for number, path in enumerate(paths):
            with numpy.load(path.with_suffix(".npz")) as arrays:
                table = arrays["features"]
                tokens.append(arrays["tokens"])
                signed += len(arrays["signatures"])
                file.write(arrays["signatures"].tobytes())
            licences_of_block = read_counts(path).licences
            licences += [name for name in licences_of_block if name not in licences]
            index = numpy.array([licences.index(name) for name in licences_of_block] or [0], dtype="u2")
            table["licence"], table["block"] = index[table["licence"]], number
            counts[int(path.stem.partition("-")[0])].append(path)
            tables.append(table)
    mapped = unsigned()  # an empty file cannot be mapped
    if signed:
        mapped = numpy.memmap(folder / "signatures.bin", dtype=numpy.uint32, mode="r", shape=(signed, SLOTS))
    return Corpus(
        folder,
        numpy.concatenate([numpy.empty(0, dtype=FEATURES), *tables]),
        numpy.concatenate([numpy.empty(0, dtype=numpy.uint32), *tokens]),
        mapped,
        licences,
        [path.with_suffix(".jsonl") for path in paths],
        counts,
    )
