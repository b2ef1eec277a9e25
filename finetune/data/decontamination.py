"""Decontamination: what shares thirteen words in a row with an evaluation set leaves training.

    index = EvaluationIndex.of(items)        items: what is measured later, from files or from prepare's own test
    index.overlaps(texts)                    {number of the text: its first Match}

The unit is the document: one run of 13 words that a question (or an option, or an answer) of an evaluation set has too, and all
of it goes, as in Brown et al. 2020 (GPT-3), appendix C. What needs care:

- A question of 8 to 12 words has no run of 13: the whole question is the run.
- A shorter one ("What causes gout?") is asked by everybody: it counts only where its right answer stands in the document too.
- Options are short ("Aspirin"): only one of 13 words and more counts by itself.
- Phrases of examiners ("which of the following is the most likely ...") stand in many questions: a run that more than
  COMMON_ITEMS different items have tells nothing, and is not counted. The report says how many those are.
"""

from __future__ import annotations

import json
import pickle
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from finetune.data.cleaning import texts_of
from finetune.data.corpus import Corpus
from finetune.data.words import runs, word_hashes, words_of
from finetune.data.workers import run_all
from medllama import progress
from medllama.files import write_text

RUN_WORDS = 13
SHORTEST_QUESTION = 8  # words of a question that counts by itself
COMMON_ITEMS = 3


class Item(NamedTuple):
    """Something that is measured: a question, its right answer, and all texts that are part of it."""

    evaluation_set: str
    name: str
    question: str
    answer: str
    texts: tuple[str, ...]


class Match(NamedTuple):
    item: Item
    words: str


def item_of(record: dict[str, Any], evaluation_set: str, place: str) -> Item | None:
    """The item of one record of an evaluation set; None where it has neither question nor messages nor text."""
    name = str(record.get("document_id") or record.get("id") or place)
    if isinstance(record.get("question"), str):
        options = record.get("options")
        options = options if isinstance(options, dict) else {}
        answer = str(options.get(str(record.get("answer")), record.get("answer") or ""))
        texts = [record["question"], *(text for text in options.values() if isinstance(text, str))]
        return Item(evaluation_set, name, record["question"], answer, tuple(texts))
    if isinstance(record.get("messages"), list):
        turns = [turn for turn in record["messages"] if isinstance(turn, dict) and isinstance(turn.get("content"), str)]
        said = {role: [turn["content"] for turn in turns if turn.get("role") == role] for role in ("user", "assistant")}
        question, answer = "\n".join(said["user"][:1]), "\n".join(said["assistant"][:1])
        return Item(evaluation_set, name, question, answer, tuple(turn["content"] for turn in turns))
    if isinstance(record.get("text"), str):
        return Item(evaluation_set, name, "", "", (record["text"],))
    return None


@dataclass
class EvaluationIndex:
    """The runs of all items, sorted, and the items that they are of. `lengths` are the lengths of the runs, in words."""

    items: list[Item] = field(default_factory=list)
    hashes: dict[int, numpy.ndarray] = field(default_factory=dict)
    owners: dict[int, numpy.ndarray] = field(default_factory=dict)
    common_runs: int = 0

    @classmethod
    def of(cls, items: Iterable[Item]) -> EvaluationIndex:
        """Different items; of one that stands in two sets, the first."""
        index = cls(list({(item.question, item.texts): item for item in items}.values()))
        found: dict[int, list[tuple[numpy.ndarray, int]]] = defaultdict(list)
        for owner, item in enumerate(index.items):
            for length, hashes in _runs_of(item):
                found[length].append((numpy.unique(hashes), owner))
        for length, parts in found.items():
            hashes = numpy.concatenate([hashes for hashes, _ in parts])
            owners = numpy.concatenate([numpy.full(len(hashes), owner, dtype=numpy.uint32) for hashes, owner in parts])
            unique, first, counts = numpy.unique(hashes, return_index=True, return_counts=True)
            is_telling = counts <= COMMON_ITEMS
            index.common_runs += int((~is_telling).sum())
            index.hashes[length], index.owners[length] = unique[is_telling], owners[first[is_telling]]
        return index

    def overlaps(self, texts: list[str]) -> dict[int, Match]:
        """The texts, by their number, that share a run with an evaluation set; of each the first, the longest runs first.

        All texts are compared at once, as one sequence of words with a word between any two that no text has.
        """
        separate = [[*words_of(text), ""] for text in texts]
        words = [word for its_words in separate for word in its_words]
        ends = numpy.cumsum([len(its_words) for its_words in separate])
        hashes = word_hashes(words)
        found: dict[int, Match] = {}
        for length in sorted(self.hashes, reverse=True):
            own, known = runs(hashes, length), self.hashes[length]
            if not len(own) or not len(known):
                continue
            places = numpy.minimum(numpy.searchsorted(known, own), len(known) - 1)
            for position in numpy.flatnonzero(known[places] == own):
                number = int(numpy.searchsorted(ends, position, side="right"))
                item = self.items[self.owners[length][places[position]]]
                begins = int(ends[number - 1]) if number else 0
                if number not in found and (
                    length >= SHORTEST_QUESTION or _contains(words[begins : ends[number]], words_of(item.answer))
                ):
                    found[number] = Match(item, " ".join(words[position : position + length]))
        return found


# --------------------------------------------------------------------------------------------- over all that was read


def find_overlaps(corpus: Corpus, asked: numpy.ndarray, index: EvaluationIndex, workers: int) -> list[Path]:
    """Look for overlaps in the documents that are `asked`, a (documents,) bool; one file of findings for each block, which a
    killed run does not make again."""
    path = corpus.folder / "evaluation.pickle"
    path.write_bytes(pickle.dumps(index))
    found: list[Path] = []

    def tasks() -> Iterator[tuple[Any, ...]]:
        bounds = numpy.searchsorted(corpus.features["block"], numpy.arange(len(corpus.block_paths) + 1))
        for number, lines in enumerate(corpus.block_paths):
            found.append(lines.with_suffix(".overlap"))
            chosen = asked[bounds[number] : bounds[number + 1]]
            if not found[-1].exists():
                yield lines, corpus.features[bounds[number] : bounds[number + 1]][["offset", "bytes"]], chosen, path
            progress.update(f"comparing with evaluation sets: {number:,} of {len(corpus.block_paths):,} blocks")

    run_all(_search_block, tasks(), workers)
    return found


def _search_block(lines: Path, places: numpy.ndarray, asked: numpy.ndarray, index_path: Path) -> None:
    """Write what was found in one block: one JSON object a line, `document` being its number in the block."""
    records, numbers, texts = [], numpy.flatnonzero(asked).tolist(), []
    with lines.open("rb") as file:
        for number in numbers:
            file.seek(int(places["offset"][number]))
            pieces = [json.loads(line) for line in file.read(int(places["bytes"][number])).splitlines()]
            records.append(pieces[0])
            texts.append("\n".join(text for piece in pieces for text in texts_of(piece)))
    findings = [
        {
            "document": numbers[number],
            **{key: records[number][key] for key in ("source", "document_id", "sha256")},
            "evaluation_set": match.item.evaluation_set,
            "item": match.item.name,
            "words": match.words,
        }
        for number, match in sorted(_load_index(index_path).overlaps(texts).items())
    ]
    write_text(lines.with_suffix(".overlap"), "".join(json.dumps(it, ensure_ascii=False) + "\n" for it in findings))


@cache
def _load_index(path: Path) -> EvaluationIndex:
    index = pickle.loads(path.read_bytes())  # written by this very run, beside its blocks
    assert isinstance(index, EvaluationIndex)
    return index


def _runs_of(item: Item) -> Iterator[tuple[int, numpy.ndarray]]:
    """(length in words, hashes) of what tells that a text holds this item."""
    for text in item.texts:
        if len(words := words_of(text)) >= RUN_WORDS:
            yield RUN_WORDS, runs(word_hashes(words), RUN_WORDS)
        elif text == item.question and words and (len(words) >= SHORTEST_QUESTION or words_of(item.answer)):
            yield len(words), runs(word_hashes(words), len(words))


def _contains(words: list[str], sought: list[str]) -> bool:
    return f" {' '.join(sought)} " in f" {' '.join(words)} "
