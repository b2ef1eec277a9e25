"""Near duplicates: documents that share most of their five-word runs, found by MinHash and locality-sensitive hashing.

    signatures(texts)                                      (texts, 128) uint32, in the workers
    near_duplicates(table, rows, splits, topics, 0.8)      which documents go, in one process

MinHash is rensa's (R-MinHash in Rust). Its index is not used: it holds the signatures in memory, over a kilobyte a document, and
takes none that another process made. Instead the signatures lie in a file (512 bytes a document), and each band of them is
sorted in turn, as in Spark's and datatrove's deduplication: at most 128 bytes a document in memory, whatever the number of bands.

A pair of one bucket is a near duplicate where the estimate of its Jaccard similarity, over all 128 slots, reaches the
threshold. Of a pair the test's document stays, then validation's, then the earlier one; test documents never go.

Between splits that is all. Within one split the answers to short questions are compared only where the questions ask about the
same (`topic_of`): "This condition is inherited in an autosomal recessive pattern ..." is true of a hundred diseases, and each
is a fact of its own. Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy
import rensa
import xxhash

from finetune.data.splitting import TEST, TRAIN
from finetune.data.words import MULTIPLIER, runs, word_hashes, words_of

SLOTS = 128
RUN_WORDS = 5
SEED = 1
# Of shorter texts, one other word changes a quarter of the runs: they are compared as wholes, without case and punctuation, but with
# signs that mean something, such as the last one of CD4+.
MINIMUM_WORDS = 20
PUNCTUATION = re.compile(r"[\s.,;:!?'\"()]+")
MEMORY_BYTES_PER_DOCUMENT = 128  # at most, while it works; beside the documents' features (blocks.py)
DISK_BYTES_PER_DOCUMENT = 4 * SLOTS
RECALL = 0.99  # of pairs that are exactly as similar as the threshold
ROUNDS = 64  # of comparing a bucket with the first that is left in it, within a split
SHORT_QUESTION = 20  # words; a longer one is a text that says itself what it is about
COMPARED_ROWS = 8192  # signatures of which are in memory together
NAMES_NOTHING = frozenset(
    words_of(
        "a about an and any are at be by can could describe did do does explain for from give has have how i if in is it its "
        "list may me my of on or please should so some tell that the their them there these they this to was what when where "
        "which who why will with would you your"
    )
)


def signatures(texts: Sequence[str]) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The (n, 128) uint32 signatures of the texts that have words, and for each text whether it is one of them."""
    hashed = list(map(_hashes, texts))
    is_signed = numpy.array([it is not None for it in hashed], dtype=bool)
    found = [it for it in hashed if it is not None]
    if not found:
        return numpy.empty((0, SLOTS), dtype=numpy.uint32), is_signed
    offsets = numpy.cumsum([0, *map(len, found)], dtype=numpy.uint64)
    rows = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        numpy.concatenate(found), offsets, num_perm=SLOTS, seed=SEED
    ).to_rows()
    return numpy.array(rows, dtype=numpy.uint32), is_signed


def _hashes(text: str) -> numpy.ndarray | None:
    """(runs,) uint64 of a text; of a short one a single hash of all of it; None where it has no words."""
    words = words_of(text)
    if len(words) >= MINIMUM_WORDS:
        return runs(word_hashes(words), RUN_WORDS)
    return word_hashes([PUNCTUATION.sub(" ", text.lower()).strip()]) if words else None


def rows_of_a_band(threshold: float) -> int:
    """The longest bands that find a pair of just this similarity with a chance of RECALL."""
    for rows in range(SLOTS, 0, -1):
        if 1 - (1 - threshold**rows) ** (SLOTS // rows) >= RECALL:
            return rows
    return 1


def topic_of(question: str) -> int:
    """What a short question asks about: a hash of the words in it that name something, in any order; 0 for a text."""
    words = words_of(question)
    naming = sorted({word for word in words if word not in NAMES_NOTHING})
    if not naming or len(words) >= SHORT_QUESTION:
        return 0
    return xxhash.xxh3_64_intdigest(" ".join(naming).encode())


def near_duplicates(
    table: numpy.ndarray, rows: numpy.ndarray, splits: numpy.ndarray, topics: numpy.ndarray, threshold: float
) -> numpy.ndarray:
    """(documents,) bool: which documents resemble one before them that stays.

    table: (signed, 128) uint32, may be mapped from a file. rows: (documents,) the row of each document, those that have the better
    right to stay in front. splits: (documents,) codes, of which the last two are tests. topics: (documents,) uint64 of topic_of.
    """
    gone = numpy.zeros(len(rows), dtype=bool)
    width = rows_of_a_band(threshold)
    for first in range(0, SLOTS - width + 1, width):
        keys = _band_keys(table, rows, first, width)
        _compare_buckets(table, rows, keys, splits, threshold, gone, between_splits=True)
        keys ^= topics
        _compare_buckets(table, rows, keys, splits, threshold, gone, between_splits=False)
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


def _compare_buckets(
    table: numpy.ndarray,
    rows: numpy.ndarray,
    keys: numpy.ndarray,
    splits: numpy.ndarray,
    threshold: float,
    gone: numpy.ndarray,
    *,
    between_splits: bool,
) -> None:
    """Mark in `gone` what resembles the first document that is left in its bucket (of another split, or of any), then what
    resembles the second, and so on."""
    members = numpy.argsort(keys, kind="stable").astype(numpy.uint32)
    members = members[~gone[members]]
    is_first = _begins(keys[members])
    # Between splits to the end: what a test has too must not stay. Within a split, a bucket of many unlike documents may be left.
    for _ in itertools.count() if between_splits else range(ROUNDS):
        has_company = ~is_first
        has_company[:-1] |= ~is_first[1:]
        if between_splits:  # a bucket is done when training documents alone are left of it
            leads = members[is_first][numpy.cumsum(is_first) - 1]
            has_company &= splits[leads] != TRAIN
        members = members[has_company]
        is_first = is_first[has_company]
        if not len(members):
            return
        leaders = members[is_first][numpy.cumsum(is_first) - 1][~is_first]
        buckets = numpy.cumsum(is_first, dtype=numpy.uint32)[~is_first]
        candidates = members[~is_first]
        _drop_resembling(table, rows, candidates, leaders, splits, threshold, gone, between_splits)
        left = ~gone[candidates]
        members, is_first = candidates[left], _begins(buckets[left])


def _begins(keys: numpy.ndarray) -> numpy.ndarray:
    """(n,) bool: where in sorted keys another begins."""
    found = numpy.ones(len(keys), dtype=bool)
    found[1:] = keys[1:] != keys[:-1]
    return found


def _drop_resembling(
    table: numpy.ndarray,
    rows: numpy.ndarray,
    candidates: numpy.ndarray,
    leaders: numpy.ndarray,
    splits: numpy.ndarray,
    threshold: float,
    gone: numpy.ndarray,
    between_splits: bool,
) -> None:
    """Mark the candidates that resemble the leader beside them and may go."""
    may_go = splits[candidates] < TEST
    if between_splits:
        may_go &= splits[candidates] != splits[leaders]
    candidates, leaders = candidates[may_go], leaders[may_go]
    for start in range(0, len(candidates), COMPARED_ROWS):
        chosen = slice(start, start + COMPARED_ROWS)
        agreeing = (table[rows[candidates[chosen]]] == table[rows[leaders[chosen]]]).mean(axis=1)
        gone[candidates[chosen][agreeing >= threshold]] = True
