"""Texts as words and their overlapping runs, hashed: what near duplicates and decontamination compare.

    hashes = word_hashes(words_of(text))     (words,) uint64
    runs(hashes, 13)                         (words - 12,) uint64, one for each 13 words in a row

Words are runs of letters and digits without case, so that layout and punctuation make no difference.
"""

from __future__ import annotations

import re
import unicodedata

import numpy
import xxhash

WORD = re.compile(r"[^\W_]+")
MULTIPLIER = numpy.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses nothing modulo 2**64


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; 10⁹ and 109 stay two words, é is one letter however it is written."""
    return WORD.findall(unicodedata.normalize("NFC", text.lower()))


def word_hashes(words: list[str]) -> numpy.ndarray:
    """(words,) uint64."""
    digests = (xxhash.xxh3_64_intdigest(word.encode()) for word in words)
    return numpy.fromiter(digests, dtype=numpy.uint64, count=len(words))


def runs(hashes: numpy.ndarray, length: int) -> numpy.ndarray:
    """(words - length + 1,) uint64: the hash of each run of `length` words in a row; none where there are fewer words."""
    count = len(hashes) - length + 1
    if count < 1:
        return numpy.empty(0, dtype=numpy.uint64)
    found = numpy.zeros(count, dtype=numpy.uint64)
    for position in range(length):
        found = found * MULTIPLIER + hashes[position : position + count]
    found ^= found >> numpy.uint64(31)  # mixes the high bits down: the low ones of a sum of products are weak
    return found * MULTIPLIER
