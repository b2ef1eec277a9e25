"""`medllama train`: a base and prepared data in, a LoRA adapter out. Plain Transformers, PEFT and TRL.

    medllama train --base-model DIR_OR_HUB_ID --data runs/tiny/data --output-dir adapter

    base, data -> checked -> ids and labels -> loss of the base -> LoRA -> best checkpoint -> loss of the tuned model -> adapter/

The adapter's folder holds what PEFT loads (`finetune.adapter`), and
    metrics.jsonl    one JSON object a log: step, epoch, loss, learning_rate, validation_loss, tokens
    training.json    the base's digests, hyperparameters, data and its NOTICE, counts, losses before and after, versions

The model learns answers and their end tokens, and all of plain texts. With validation records the checkpoint with the lowest
validation loss is kept, else the last. The same configuration gives the same adapter bytes on the same machine. Checkpoints
lie in a folder beside the output while the training runs. What it does not do yet: packing, QLoRA, resuming, several GPUs.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config import TrainConfig
from finetune.tokenized import RecordEncoder, Tokenized
from medllama import progress
from medllama.chat import Chat, choose_template
from medllama.checkpoint import base_digests, find_base, read_config, require_llama, safetensors_files
from medllama.config import as_json
from medllama.errors import InputError
from medllama.files import PARTIAL_SUFFIX, atomic_directory, read_json, read_text, require_disk, write_json
from medllama.rundir import versions
from medllama.stages import StageResult
from medllama.tokenizer import Tokenizer
from medllama.vocabulary import load_vocabulary

SPLITS = ("train", "validation", "test")
TOKENIZER_BYTES = 20_000_000  # Llama 3's tokenizer.json has 17 MB
MEASURED_RECORDS = 400  # of validation and of test, so that measuring takes a small part of the time; the error is said


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


def train(config: TrainConfig) -> StageResult:
    """Train and save an adapter. Raises InputError for what is wrong with base or data before anything heavy is loaded."""
    started = time.monotonic()
    _require_replaceable(config.output_dir)
    base = open_base(config)
    data = read_data(config, base)
    scratch = config.output_dir.with_name(f"{config.output_dir.name}.checkpoints{PARTIAL_SUFFIX}")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with atomic_directory(config.output_dir) as partial:
            training = _train(config, base, data, partial, scratch)
            training["seconds"] = round(time.monotonic() - started, 1)
            write_json(partial / "training.json", training)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return StageResult(config.output_dir, _summary(training))


def open_base(config: TrainConfig) -> CheckedBase:
    """Find the base and check all that can be checked without loading it."""
    folder = find_base(config.base_model)
    settings = read_config(folder)
    require_llama(settings, folder)
    safetensors_files(folder)
    tokenizer = Tokenizer(load_vocabulary(folder))
    template = choose_template(tokenizer, folder, None, config.chat_template)
    return CheckedBase(folder, settings, tokenizer, None if template is None else Chat(template, tokenizer))


def read_data(config: TrainConfig, base: CheckedBase) -> dict[str, Tokenized]:
    """The records of each split as ids; only train.jsonl has to be there. What was cut or dropped is said."""
    path = config.data / "train.jsonl"
    if not path.is_file():
        raise InputError(f"{path} does not exist", hint="make it: medllama prepare --source ... --output-dir DIR")
    max_length = min(config.max_length, base.context)
    rows = int(base.config["vocab_size"])
    encoder = RecordEncoder(base.tokenizer, base.chat, embedding_rows=rows, max_length=max_length)
    files = {split: config.data / f"{split}.jsonl" for split in SPLITS}
    data = {split: encoder.encode_file(file) if file.is_file() else Tokenized([]) for split, file in files.items()}
    for split, tokenized in data.items():
        total = len(tokenized.records) + tokenized.dropped
        if tokenized.truncated:
            progress.message(
                f"note: {tokenized.truncated:,} of {total:,} {split} records are cut at {max_length:,} tokens"
            )
        if tokenized.dropped:
            progress.message(f"note: {tokenized.dropped:,} of {total:,} {split} records have no token left to learn")
    if not data["train"].records:
        raise InputError(f"{path} has no record to learn from", hint="prepare data with records, or raise --max-length")
    if not data["validation"].records:
        progress.message("note: there are no validation records, so the last checkpoint is kept, not the best")
    return data


def _train(
    config: TrainConfig, base: CheckedBase, data: dict[str, Tokenized], folder: Path, scratch: Path
) -> dict[str, Any]:
    """Train, write the adapter into `folder`, and return the content of training.json."""
    # Read when torch is imported: threads that wait for each other sleep. Spinning, they made training five to ten times
    # slower on two cores that other programs use too.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from finetune.base import choose_dtype, load_base, quiet_libraries

    # Read before the training, so that nothing can fail after it but the disk.
    progress.update("reading the base")
    digests, card = base_digests(base.folder), _data_card(config.data)
    with quiet_libraries():
        from finetune.adapter import hugging_face_tokenizer, save_adapter
        from finetune.trainer import AdapterTrainer, add_lora, total_steps, trainer_arguments

        dtype = choose_dtype(config.dtype)
        progress.update("loading the base")
        model = add_lora(load_base(base.folder, dtype), config)
        trainable, _ = model.get_nb_trainable_parameters()
        # The best, the last and the final adapter in float32, each with its tokenizer.
        require_disk(folder, 3 * (4 * trainable + TOKENIZER_BYTES), "training an adapter")

        records = data["train"].records
        steps = total_steps(config, len(records))
        held_out = {split: _sample(data[split], config.seed) for split in SPLITS[1:] if data[split].records}
        tokenizer = hugging_face_tokenizer(base.tokenizer, base.chat, context=base.context)
        trainer = AdapterTrainer(
            model,
            trainer_arguments(config, steps=steps, dtype=dtype, scratch=scratch, validates="validation" in held_out),
            records=records,
            validation=held_out["validation"].records if "validation" in held_out else [],
            tokenizer=tokenizer,
            metrics_path=folder / "metrics.jsonl",
        )
        with model.disable_adapter():
            before = _losses(trainer.causal_model, held_out, "the base")
        training_started = time.monotonic()
        trainer.train()
        training_seconds = time.monotonic() - training_started
        after = _losses(trainer.causal_model, held_out, "the tuned model")
        save_adapter(model, tokenizer, folder, base_model=config.base_model)

    return {
        "base": {"name": config.base_model, "files": digests},
        "hyperparameters": {
            key: value for key, value in as_json(config).items() if key not in ("base_model", "data", "output_dir")
        },
        "chat_template_sha256": None if base.chat is None else base.chat.sha256,
        "data": card,
        "records": {split: tokenized.as_json() for split, tokenized in data.items()},
        "loss": {split: {"base": before[split], "tuned": after[split]} for split in held_out},
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step or trainer.state.global_step,
        "trained_tokens": int(trainer.tokens_seen),
        "trainable_parameters": trainable,
        "device": str(trainer.args.device),
        "dtype": str(dtype).removeprefix("torch."),
        "training_seconds": round(training_seconds, 1),
        "versions": versions(),
    }


def _sample(data: Tokenized, seed: int) -> Tokenized:
    """At most MEASURED_RECORDS records, drawn by the seed."""
    number = min(MEASURED_RECORDS, len(data.records))
    return data.only(sorted(random.Random(f"measured {seed}").sample(range(len(data.records)), number)))


def _losses(causal_model: Any, held_out: dict[str, Tokenized], name: str) -> dict[str, dict[str, Any]]:
    from finetune.losses import measure

    found = {split: measure(causal_model, data.records, f"{name} on {split}") for split, data in held_out.items()}
    for split, loss in found.items():
        if not math.isfinite(loss.nats):
            raise InputError(
                f"the loss of {name} on the {split} records is {loss.nats}",
                hint="its weights may overflow in this dtype: try --dtype float32, or bfloat16 on a GPU",
            )
    return {split: loss.as_json() for split, loss in found.items()}


def _data_card(folder: Path) -> dict[str, Any]:
    """What prepare wrote about the data, with its NOTICE; empty for data made otherwise."""
    card, notice = folder / "data_card.json", folder / "NOTICE"
    return (read_json(card) if card.is_file() else {}) | {"notice": read_text(notice) if notice.is_file() else ""}


def _require_replaceable(output_dir: Path) -> None:
    """The output folder is replaced as a whole, so it must be an earlier adapter, or empty, or not there."""
    if output_dir.is_dir() and any(output_dir.iterdir()) and not (output_dir / "adapter_config.json").is_file():
        raise InputError(
            f"{output_dir} holds something else than an adapter, and would be replaced",
            hint="choose another --output-dir",
        )
    if output_dir.is_file():
        raise InputError(f"{output_dir} is a file, not a folder", hint="choose another --output-dir")


def _summary(training: dict[str, Any]) -> dict[str, Any]:
    """What the table and `--json` show."""
    losses = training["loss"]
    line = f"{training['steps']:,} steps, {training['trained_tokens']:,} tokens"
    if split := next(iter(losses), None):
        base, tuned = losses[split]["base"], losses[split]["tuned"]
        line += f", {split} perplexity {base['perplexity']:,.2f} -> {tuned['perplexity']:,.2f}"
    return {
        "line": line,
        "steps": training["steps"],
        "best_step": training["best_step"],
        "trained_tokens": training["trained_tokens"],
        "records": training["records"],
        "loss": losses,
    }
