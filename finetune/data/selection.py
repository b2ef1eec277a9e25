"""What becomes of every document once all are described: what stays, and in which split.

    selection = select(config, measured, corpus, tallies, workers)

    exact duplicates out -> near duplicates out -> overlaps with evaluation sets out -> at most max_examples

Each step counts in the tallies what it leaves out. Everything here works on tables of numbers, a row a document.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from finetune.data import near_duplicates
from finetune.data.blocks import FEATURES
from finetune.data.corpus import Corpus
from finetune.data.data_card import Tally
from finetune.data.decontamination import EvaluationIndex, Item, find_overlaps, item_of
from finetune.data.evaluation_sets import EvaluationSets
from finetune.data.splitting import SPLIT_CODES, first_of_each, ranked, with_training_records
from finetune.data.writing import lines_of
from finetune.prepare_config import PrepareConfig
from medllama.errors import InputError
from medllama.files import read_jsonl

# Features, a copy of them that is sorted, and the index of near duplicates; a line more costs 4 bytes. A test measures it.
MEMORY_BYTES_PER_DOCUMENT = 2 * FEATURES.itemsize + near_duplicates.MEMORY_BYTES_PER_DOCUMENT


@dataclass
class Selection:
    """`kept`: (documents,) bool. `splits`: (documents,) codes. `overlaps`: what an evaluation set has too, as it is listed."""

    kept: numpy.ndarray
    splits: numpy.ndarray
    last_of_train: int | None = None  # lines of train that are written, where not all are
    overlaps: list[dict[str, Any]] = field(default_factory=list)
    common_runs: int = 0  # of evaluation sets, which so many items have that they tell nothing


def select(
    config: PrepareConfig, measured: EvaluationSets, corpus: Corpus, tallies: list[Tally], workers: int
) -> Selection:
    """Which documents are kept, and where they go, with what is `measured` later out of training. What is left out is
    counted in its tally."""
    features = corpus.features

    def leave_out(is_out: numpy.ndarray, reason: str) -> None:
        counts = numpy.bincount(features["source"][is_out], minlength=len(tallies))
        for tally, count in zip(tallies, counts.tolist(), strict=True):
            tally.dropped.update({reason: count} if count else {})

    kept = first_of_each(features)
    leave_out(~kept, "duplicate")
    resembling = _near_duplicates(config, corpus, kept)
    leave_out(resembling, "near duplicate")
    kept &= ~resembling
    selection = Selection(kept, with_training_records(features, kept))

    overlapping = _overlapping(measured, corpus, selection, workers)
    leave_out(overlapping, "overlaps an evaluation set")
    kept &= ~overlapping
    if config.max_examples is not None:
        train = in_order(corpus, kept & (selection.splits == SPLIT_CODES["train"]))
        lines = numpy.cumsum(features["pieces"][train], dtype=numpy.int64)
        is_over = numpy.zeros(len(features), dtype=bool)
        is_over[train[lines - features["pieces"][train] >= config.max_examples]] = True
        leave_out(is_over, "over max_examples")
        kept &= ~is_over
        selection.last_of_train = config.max_examples
    return selection


def _near_duplicates(config: PrepareConfig, corpus: Corpus, kept: numpy.ndarray) -> numpy.ndarray:
    """(documents,) bool: what resembles a document that has the better right to stay. The test loses nothing."""
    features = corpus.features
    gone = numpy.zeros(len(features), dtype=bool)
    row_of = numpy.cumsum(features["is_signed"], dtype=numpy.uint32) - 1
    compared = ranked(features["split"])
    compared = compared[(features["is_signed"] & kept)[compared]]
    if not len(compared):
        return gone
    gone[compared] = near_duplicates.near_duplicates(
        corpus.signatures,
        row_of[compared],
        features["split"][compared],
        features["topic"][compared],
        config.near_duplicate_threshold,
    )
    return gone


def _overlapping(measured: EvaluationSets, corpus: Corpus, selection: Selection, workers: int) -> numpy.ndarray:
    """(documents,) bool: what shares words with an evaluation set; the findings are kept in the selection."""
    features, splits = corpus.features, selection.splits
    overlapping = numpy.zeros(len(features), dtype=bool)
    items = list(_evaluated_items(measured, corpus, selection))
    index = EvaluationIndex.of(items)
    selection.common_runs = index.common_runs
    if not index.hashes:
        return overlapping
    asked = selection.kept & ((splits == SPLIT_CODES["train"]) | (splits == SPLIT_CODES["validation"]))
    starts = numpy.searchsorted(features["block"], numpy.arange(len(corpus.block_paths)))
    for start, path in zip(starts, find_overlaps(corpus, asked, index, workers), strict=True):
        for _, finding in read_jsonl(path):
            overlapping[start + finding.pop("document")] = True
            selection.overlaps.append(finding)
    return overlapping


def _evaluated_items(measured: EvaluationSets, corpus: Corpus, selection: Selection) -> Iterator[Item]:
    """What will be measured: the evaluation sets that are named, and the multiple-choice items of the sources."""
    for name, rows in measured.rows():
        found = [item_of(record, Path(name).name, place.rpartition(":")[2]) for place, record in rows]
        if not any(found):
            raise InputError(
                f"{name} has no question, messages or text", hint="--decontaminate takes the tasks of medllama eval"
            )
        yield from filter(None, found)
    own = numpy.flatnonzero(selection.kept & (selection.splits == SPLIT_CODES["multiple_choice"]))
    for line in lines_of(corpus, own):
        record = json.loads(line)
        if (item := item_of(record, record["source"], record["sha256"][:16])) is not None:
            yield item


def in_order(corpus: Corpus, chosen: numpy.ndarray) -> numpy.ndarray:
    """The indices of the chosen documents, mixed as place_in_order says."""
    features = corpus.features[chosen]
    order = numpy.lexsort((features["sha_low"], features["sha_high"], features["order"]))
    return numpy.flatnonzero(chosen)[order]
