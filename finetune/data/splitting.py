"""Which record goes where: a split by source document, exact duplicates out, an order, all decided by hashes.

A document's place is the hash of (seed, source, document id), and nothing else: adding, removing or reordering sources
and documents moves no other document between splits. So shares are met on average, not exactly, and a handful of
documents may leave validation or test empty; only an empty training split is mended.
"""

from __future__ import annotations

import hashlib
import json
from typing import get_args

import numpy

from finetune.data.records import Record, Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SPLIT_CODES: dict[Split, int] = {name: code for code, name in enumerate(get_args(Split))}
TRAIN, TEST = SPLIT_CODES["train"], SPLIT_CODES["test"]


def unit_hash(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing but `parts`."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53  # 53 bits: as many as a float holds


def place_of(record: Record, *, seed: int) -> float:
    """The place of the record's document among the splits."""
    return unit_hash(seed, record.source, record.document_id)


def split_of(record: Record, *, seed: int, validation_share: float, test_share: float) -> Split:
    """The split that the source gives the record, else that of its document."""
    if record.split is not None:
        return record.split
    place = place_of(record, seed=seed)
    if place < test_share:
        return "test"
    return "validation" if place < test_share + validation_share else "train"


def place_in_order(record: Record, *, seed: int) -> tuple[float, str]:
    """A sort key that mixes the sources, so that the first N records are a fair sample, and that others do not move."""
    return unit_hash(seed, record.sha256), record.sha256


def ranked(splits: numpy.ndarray) -> numpy.ndarray:
    """The documents in the order in which they have a right to stay: multiple choice, test, validation, train; as read.

    splits: (documents,) codes of the splits in the order of `Split`.
    """
    return numpy.argsort(-splits.astype(numpy.int8), kind="stable")


def first_of_each(features: numpy.ndarray) -> numpy.ndarray:
    """(documents,) bool: which are kept when exact duplicates go. The test's copy stays, else validation's, else the first.

    So nothing that is measured was trained on word for word, and no later source takes a record out of the test.
    features: (documents,) with `sha_high`, `sha_low` and `split`.
    """
    kept = numpy.zeros(len(features), dtype=bool)
    if not len(features):
        return kept
    order = ranked(features["split"])
    order = order[numpy.lexsort((features["sha_low"][order], features["sha_high"][order]))]  # stable: keeps the ranks
    is_first = numpy.ones(len(order), dtype=bool)
    for half in ("sha_high", "sha_low"):
        is_first[1:] &= features[half][order[1:]] == features[half][order[:-1]]
    is_first[1:] = ~is_first[1:]
    kept[order[is_first]] = True
    return kept


def with_training_records(features: numpy.ndarray, kept: numpy.ndarray) -> numpy.ndarray:
    """The splits, with one document moved to train where none was there, as happens with a handful of documents."""
    splits = features["split"].copy()
    movable = kept & features["is_movable"]
    if (splits[kept] == TRAIN).any() or not movable.any():
        return splits
    last = features["place"][movable].max()
    splits[movable & (features["place"] == last)] = TRAIN
    return splits
