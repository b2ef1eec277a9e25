"""MedQuAD in its full size, 47,457 pairs, made up in the official shape: every pair is kept or has its reason, in bounded memory."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from finetune.data.selection import MEMORY_BYTES_PER_DOCUMENT
from finetune.prepare import prepare
from finetune.prepare_config import PrepareConfig

PAIRS, ANSWERED = 47_457, 16_420
PAIRS_OF_A_FILE = 5
COPIES = 100  # of answered pairs, word for word
WORDS = [f"{first}{second}" for first in ("cardi", "derm", "gastr", "hepat", "neur", "oste", "ren", "my") for second in (
    "itis", "osis", "oma", "algia", "ology", "opathy", "ectomy", "ogram", "oscopy", "emia", "uria", "plegia",
)]  # fmt: skip
SHAPES = (  # as the set has them: nearly all, and the few that deviate
    ("<Document id='{id}' source='made up'><Focus>x</Focus><QAPairs>{pairs}</QAPairs></Document>",
     "<QAPair pid='{pid}'><Question qid='{id}-{pid}' qtype='information'>{question}</Question><Answer>{answer}</Answer></QAPair>"),
    ("<doc docid='{id}'><qaPairs>{pairs}</qaPairs></doc>",
     "<pair><question>{question}</question><answer>{answer}</answer></pair>"),
    ("<DiseaseFile fid='{id}'><QAPairs>{pairs}</QAPairs></DiseaseFile>",
     "<QAPair><Question>{question}</Question><Answer>{answer}</Answer></QAPair>"),
)  # fmt: skip


def write_medquad(folder: Path, pairs: int, answered: int) -> None:
    """`pairs` pairs in files of five, the first `answered` of them with an answer, of which the last hundred are copies."""
    rng = random.Random(0)
    told: list[tuple[str, str]] = []
    for first in range(0, pairs, PAIRS_OF_A_FILE):
        whole, part = SHAPES[(first // PAIRS_OF_A_FILE) % 50 if first // PAIRS_OF_A_FILE % 50 < 3 else 0]
        identity = f"{first:07d}"
        written = []
        for number in range(first, min(first + PAIRS_OF_A_FILE, pairs)):
            question, answer = f"What is {' '.join(rng.choices(WORDS, k=4))} {number} ?", ""
            if number < answered - COPIES:
                answer = " ".join(rng.choices(WORDS, k=120))
                told.append((question, answer))
            elif number < answered:
                question, answer = told[number % len(told)]
            written.append(part.format(id=identity, pid=number - first, question=question, answer=answer))
        place = folder / f"{1 + first * 12 // pairs}_Made_QA"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{identity}.xml").write_text(whole.format(id=identity, pairs="\n".join(written)))


def card_of(folder: Path, pairs: int, answered: int) -> tuple[dict[str, Any], int]:
    write_medquad(folder / "MedQuAD", pairs, answered)
    tracemalloc.start()
    try:
        config = PrepareConfig(source=(f"medquad:{folder / 'MedQuAD'}",), output_dir=folder / "data", workers=1)
        prepare(config)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return json.loads((folder / "data" / "data_card.json").read_text()), peak


@pytest.mark.slow
def test_all_pairs_are_counted_and_none_is_held_in_memory(tmp_path: Path) -> None:
    _, few = card_of(tmp_path / "few", 5000, 2000)
    card, all_of_them = card_of(tmp_path / "all", PAIRS, ANSWERED)
    [source] = card["sources"]
    counts = source["counts"]
    assert counts["read"] == PAIRS
    assert counts["read"] == counts["kept"] + sum(counts["dropped"].values())
    assert counts["dropped"]["empty answer"] == PAIRS - ANSWERED
    assert counts["dropped"]["duplicate"] == COPIES
    assert counts["kept"] == ANSWERED - COPIES
    assert sum(source["splits"].values()) == sum(card["records"].values()) == counts["kept"]
    # The names of the files are listed, and something is held of each document; a pair has 1 kB.
    files = (PAIRS - 5000) // PAIRS_OF_A_FILE
    documents = ANSWERED - 2000
    assert all_of_them - few < files * 1000 + documents * (MEMORY_BYTES_PER_DOCUMENT + 300), (few, all_of_them)
