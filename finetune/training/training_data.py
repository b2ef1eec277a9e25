"""A base that was checked and the prepared records as ids, phase by phase: all that can go wrong before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.train_config import TrainConfig
from finetune.training.tokenized import RecordEncoder, Tokenized
from medllama import progress
from medllama.chat import Chat, choose_template
from medllama.checkpoint import find_base, read_config, require_llama, safetensors_files
from medllama.errors import InputError
from medllama.tokenizer import Tokenizer
from medllama.vocabulary import load_vocabulary

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class CheckedBase:
    """A base whose files were checked; its weights are not loaded."""

    folder: Path
    config: dict[str, Any]
    tokenizer: Tokenizer
    chat: Chat | None

    @property
    def context(self) -> int:
        return int(self.config.get("max_position_embeddings") or 2048)

    def encoder(self, max_length: int) -> RecordEncoder:
        rows = int(self.config["vocab_size"])
        return RecordEncoder(self.tokenizer, self.chat, embedding_rows=rows, max_length=min(max_length, self.context))


@dataclass(frozen=True)
class Phase:
    """One of the trainings in sequence: its settings, and its records by split."""

    config: TrainConfig
    data: dict[str, Tokenized]


def open_base(config: TrainConfig) -> CheckedBase:
    """Find the base and check all that can be checked without loading it."""
    folder = find_base(config.base_model)
    settings = read_config(folder)
    require_llama(settings, folder)
    safetensors_files(folder)
    tokenizer = Tokenizer(load_vocabulary(folder))
    template = choose_template(tokenizer, folder, None, config.chat_template)
    return CheckedBase(folder, settings, tokenizer, None if template is None else Chat(template, tokenizer))


def read_phases(config: TrainConfig, base: CheckedBase) -> dict[str, Phase]:
    """The phases by name. Records are read once for each kind and length; what was cut or dropped is said."""
    read: dict[tuple[str, int], dict[str, Tokenized]] = {}
    phases = {}
    for name, own in config.in_phases().items():
        wanted = (own.learn, own.max_length)
        if wanted not in read:
            read[wanted] = _read(own, base)
        phases[name] = Phase(own, read[wanted])
    return phases


def _read(config: TrainConfig, base: CheckedBase) -> dict[str, Tokenized]:
    """The records of each split as ids; only train.jsonl has to be there."""
    path = config.data / "train.jsonl"
    if not path.is_file():
        raise InputError(f"{path} does not exist", hint="make it: medllama prepare --source ... --output-dir DIR")
    encoder = base.encoder(config.max_length)
    files = {split: config.data / f"{split}.jsonl" for split in SPLITS}
    data = {
        split: encoder.encode_file(file, config.learn) if file.is_file() else Tokenized([])
        for split, file in files.items()
    }
    for split, tokenized in data.items():
        total = len(tokenized.records) + tokenized.dropped
        length = f"{encoder.max_length:,} tokens"
        if tokenized.truncated:
            progress.message(f"note: {tokenized.truncated:,} of {total:,} {split} records are cut at {length}")
        if tokenized.split:
            progress.message(
                f"note: texts of {split} longer than {length}, each now several records: {tokenized.split:,}"
            )
        if tokenized.dropped:
            progress.message(f"note: {tokenized.dropped:,} of {total:,} {split} records have no token left to learn")
    if not data["train"].records:
        what = "record" if config.learn == "all" else f"record with {config.learn}"
        raise InputError(f"{path} has no {what} to learn from", hint="prepare data with records, or raise --max-length")
    if not data["validation"].records:
        progress.message("note: there are no validation records, so the last checkpoint is kept, not the best")
    return data
