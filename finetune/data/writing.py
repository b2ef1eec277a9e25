"""The chosen documents in their final order, as JSONL or Parquet that `datasets` loads as they are.

    write_split(corpus, documents, path, lines=None)        documents: indices into the corpus, in the order of the file

Lines are copied from the blocks one document at a time, so the corpus may be larger than memory. Parquet has one schema for all
files, with nulls where a record has no such field; options are columns of their letters.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy

from finetune.data.corpus import Corpus
from finetune.data.records import LETTERS
from medllama import progress

OPEN_FILES = 200  # of the blocks; below the usual limit of 1,024
PARQUET_ROWS = 1000
PROVENANCE = ("source", "document_id", "licence", "sha256")


def lines_of(corpus: Corpus, documents: numpy.ndarray) -> Iterator[bytes]:
    """The lines of the documents, in order."""
    opened: OrderedDict[int, int] = OrderedDict()
    try:
        for row in map(corpus.features.__getitem__, documents):
            block = int(row["block"])
            if block not in opened:
                if len(opened) == OPEN_FILES:
                    os.close(opened.popitem(last=False)[1])
                opened[block] = os.open(corpus.block_paths[block], os.O_RDONLY)
            opened.move_to_end(block)
            yield from os.pread(opened[block], int(row["bytes"]), int(row["offset"])).splitlines(keepends=True)
    finally:
        for descriptor in opened.values():
            os.close(descriptor)


def write_split(corpus: Corpus, documents: numpy.ndarray, path: Path, lines: int | None = None) -> None:
    """Write the lines of the documents to `path`, whose suffix says the format; at most the first `lines` of them."""
    found = itertools.islice(lines_of(corpus, documents), lines)
    if path.suffix == ".parquet":
        write_parquet(map(json.loads, found), path)
        return
    with path.open("wb") as file:
        for number, line in enumerate(found):
            file.write(line)
            progress.update(f"writing {path.name}: {number:,} records")


def write_parquet(records: Iterator[dict[str, Any]], path: Path) -> None:
    """Write records of any shape to one Parquet file."""
    import pyarrow
    import pyarrow.parquet

    is_test = path.stem == "multiple_choice"
    turn = pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
    content: list[Any] = [("messages", pyarrow.list_(turn)), ("text", pyarrow.string())]
    if is_test:
        letters = pyarrow.struct([(letter, pyarrow.string()) for letter in LETTERS])
        content = [("question", pyarrow.string()), ("options", letters), ("answer", pyarrow.string())]
    schema = pyarrow.schema([*content, *((name, pyarrow.string()) for name in PROVENANCE)])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while batch := list(itertools.islice(records, PARQUET_ROWS)):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
