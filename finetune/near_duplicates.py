"""Near duplicates: documents that share most of their five-word runs, found by MinHash and locality-sensitive hashing.

    signatures(texts)                            (texts, 128) uint32, in the workers
    near_duplicates(table, rows, may_go, 0.8)    which documents go, in one process

MinHash is rensa's (R-MinHash in Rust). Its index is not used: it holds the signatures in memory, over a kilobyte a document, and
takes none that another process made. Instead the signatures lie in a file (512 bytes a document), and each band of them is
sorted in turn, as in Spark's and datatrove's deduplication: at most 128 bytes a document in memory, whatever the number of bands.

A pair of one bucket is a near duplicate where the estimate of its Jaccard similarity, over all 128 slots, reaches the
threshold. Of a pair the test's document stays, then validation's, then the earlier one; test documents never go.
Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import rensa

from finetune.words import MULTIPLIER, runs, word_hashes, words_of

SLOTS = 128
RUN_WORDS = 5
SEED = 1
MINIMUM_WORDS = 20  # of shorter texts, one other word changes a quarter of the runs: only exact copies are found
MEMORY_BYTES_PER_DOCUMENT = 128  # at most, while it works; beside the documents' features (blocks.py)
DISK_BYTES_PER_DOCUMENT = 4 * SLOTS
RECALL = 0.99  # of pairs that are exactly as similar as the threshold
ROUNDS = 32  # of comparing a bucket with the first that is left in it
COMPARED_ROWS = 8192  # signatures of which are in memory together


def signatures(texts: Sequence[str]) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The (n, 128) uint32 signatures of the texts that are long enough, and for each text whether it is one of them."""
    hashed = [
        runs(word_hashes(words), RUN_WORDS) if len(words) >= MINIMUM_WORDS else None for words in map(words_of, texts)
    ]
    is_signed = numpy.array([it is not None for it in hashed], dtype=bool)
    found = [it for it in hashed if it is not None]
    if not found:
        return numpy.empty((0, SLOTS), dtype=numpy.uint32), is_signed
    offsets = numpy.cumsum([0, *map(len, found)], dtype=numpy.uint64)
    rows = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        numpy.concatenate(found), offsets, num_perm=SLOTS, seed=SEED
    ).to_rows()
    return numpy.array(rows, dtype=numpy.uint32), is_signed


def rows_of_a_band(threshold: float) -> int:
    """The longest bands that find a pair of just this similarity with a chance of RECALL."""
    for rows in range(SLOTS, 0, -1):
        if 1 - (1 - threshold**rows) ** (SLOTS // rows) >= RECALL:
            return rows
    return 1


def near_duplicates(
    table: numpy.ndarray, rows: numpy.ndarray, may_go: numpy.ndarray, threshold: float
) -> numpy.ndarray:
    """(documents,) bool: which documents resemble one before them that stays.

    table: (signed, 128) uint32, may be mapped from a file. rows: (documents,) the row of each document, those that have the better
    right to stay in front. may_go: (documents,) bool.
    """
    gone = numpy.zeros(len(rows), dtype=bool)
    width = rows_of_a_band(threshold)
    for first in range(0, SLOTS - width + 1, width):
        keys = _band_keys(table, rows, first, width)
        order = numpy.argsort(keys, kind="stable").astype(numpy.uint32)
        keys = keys[order]
        is_first = numpy.ones(len(order), dtype=bool)
        is_first[1:] = keys[1:] != keys[:-1]
        del keys
        is_alone = is_first.copy()
        is_alone[:-1] &= is_first[1:]
        buckets = numpy.cumsum(is_first, dtype=numpy.uint32)[~is_alone]
        _compare_within(table, rows, order[~is_alone], buckets, may_go, threshold, gone)
    return gone


def _band_keys(table: numpy.ndarray, rows: numpy.ndarray, first: int, width: int) -> numpy.ndarray:
    """(documents,) uint64: the hash of `width` slots of every document's signature."""
    keys = numpy.zeros(len(rows), dtype=numpy.uint64)
    for start in range(0, len(rows), COMPARED_ROWS):
        chosen = slice(start, start + COMPARED_ROWS)
        for column in table[rows[chosen], first : first + width].T:
            keys[chosen] = (keys[chosen] ^ column) * MULTIPLIER
            keys[chosen] ^= keys[chosen] >> numpy.uint64(29)
    return keys


def _compare_within(
    table: numpy.ndarray,
    rows: numpy.ndarray,
    members: numpy.ndarray,
    buckets: numpy.ndarray,
    may_go: numpy.ndarray,
    threshold: float,
    gone: numpy.ndarray,
) -> None:
    """Mark in `gone` what resembles the first document that is left in its bucket, then what resembles the second, and so on."""
    for _ in range(ROUNDS):
        left = ~gone[members]
        members, buckets = members[left], buckets[left]
        if len(members) < 2:
            return
        is_first = numpy.ones(len(members), dtype=bool)
        is_first[1:] = buckets[1:] != buckets[:-1]
        leaders = members[is_first][numpy.cumsum(is_first) - 1]
        others = ~is_first
        candidates, leaders_of_them = members[others], leaders[others]
        for start in range(0, len(candidates), COMPARED_ROWS):
            chosen = slice(start, start + COMPARED_ROWS)
            agreeing = (table[rows[candidates[chosen]]] == table[rows[leaders_of_them[chosen]]]).mean(axis=1)
            resembling = candidates[chosen][(agreeing >= threshold) & may_go[candidates[chosen]]]
            gone[resembling] = True
        members, buckets = candidates, buckets[others]
