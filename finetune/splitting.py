"""Which record goes where: a split by source document, exact duplicates out, an order, all decided by hashes.

A document's place is the hash of (seed, source, document id), and nothing else: adding, removing or reordering sources
and documents moves no other document between splits. So shares are met on average, not exactly, and a handful of
documents may leave validation or test empty; only an empty training split is mended.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import get_args

from finetune.records import Record, Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def unit_hash(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing but `parts`."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53  # 53 bits: as many as a float holds


def split_of(record: Record, *, seed: int, validation_share: float, test_share: float) -> Split:
    """The split that the source gives the record, else that of its document."""
    if record.split is not None:
        return record.split
    place = unit_hash(seed, record.source, record.document_id)
    if place < test_share:
        return "test"
    return "validation" if place < test_share + validation_share else "train"


def first_of_each(records: Sequence[Record], splits: Sequence[Split]) -> list[bool]:
    """For each record, whether it is kept when exact duplicates go: the test's copy stays, else validation's, else the first.

    So nothing that is measured was trained on word for word, and no later source takes a record out of the test.
    """
    kept = [False] * len(records)
    seen: set[str] = set()
    for split in reversed(get_args(Split)):
        for index, record in enumerate(records):
            if splits[index] == split and record.sha256 not in seen:
                seen.add(record.sha256)
                kept[index] = True
    return kept


def with_training_records(records: Sequence[Record], splits: Sequence[Split], *, seed: int) -> list[Split]:
    """The splits, with one document moved to train where none was there, as happens with a handful of documents."""
    movable = [record for record in records if record.split is None]
    if "train" in splits or not movable:
        return list(splits)
    last = max(movable, key=lambda record: unit_hash(seed, record.source, record.document_id))
    moved = (last.source, last.document_id)
    return [
        "train" if record.split is None and (record.source, record.document_id) == moved else split
        for record, split in zip(records, splits, strict=True)
    ]


def place_in_order(record: Record, *, seed: int) -> tuple[float, str]:
    """A sort key that mixes the sources, so that the first N records are a fair sample, and that others do not move."""
    return unit_hash(seed, record.sha256), record.sha256
