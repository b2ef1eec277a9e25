"""What losses are measured on before and after the training: held-out records, and a general text that shows what is forgotten.

The general text (general_text.md, written for this project) is everyday English about anything but medicine, a document a
paragraph. A tuned model whose perplexity on it has risen has paid for its medicine with something else. It is short: its standard
error stands beside the figure, and a change within it says nothing.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from finetune.train_config import TrainConfig
from finetune.training.tokenized import Tokenized, tokenized
from finetune.training.training_data import CheckedBase, Phase

GENERAL_TEXT = Path(__file__).with_name("general_text.md")
MEASURED_RECORDS = 400  # of validation and of test, so that measuring takes a small part of the time; the error is said


def held_out_records(config: TrainConfig, base: CheckedBase, phases: dict[str, Phase]) -> dict[str, Tokenized]:
    """Records by name: validation and test, of every kind that some phase learns, and the general text."""
    kinds = {phase.config.learn: phase.data for phase in phases.values()}
    kinds = {"all": kinds["all"]} if "all" in kinds else kinds
    found = {}
    for split in ("validation", "test"):
        if records := [record for data in kinds.values() for record in data[split].records]:
            found[split] = sample(Tokenized(records), config.seed)
    return {**found, "general": general_text(base)}


def sample(data: Tokenized, seed: int) -> Tokenized:
    """At most MEASURED_RECORDS records, drawn by the seed."""
    number = min(MEASURED_RECORDS, len(data.records))
    return data.only(sorted(random.Random(f"measured {seed}").sample(range(len(data.records)), number)))


def general_text(base: CheckedBase) -> Tokenized:
    """The paragraphs of the general text as documents."""
    encoder = base.encoder(base.context)
    records = []
    for number, paragraph in enumerate(general_paragraphs()):
        text = encoder.encode({"text": paragraph}, f"{GENERAL_TEXT.name}:{number + 1}")
        records += [tokenized(piece, json.dumps(number)) for piece in encoder.pieces(text)]
    return Tokenized(records)


def general_paragraphs() -> list[str]:
    blocks = GENERAL_TEXT.read_text(encoding="utf-8").split("\n\n")
    return [" ".join(block.split()) for block in blocks if block.strip() and not block.startswith("#")]
