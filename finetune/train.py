"""`medllama train`: a base and prepared data in, a LoRA adapter out. Plain Transformers, PEFT and TRL.

    medllama train --base-model DIR_OR_HUB_ID --data runs/tiny/data --output-dir adapter

    base, data -> checked -> ids and labels -> loss of the base -> LoRA, phase by phase -> loss of the tuned model -> adapter/

The adapter's folder holds what PEFT loads (`finetune.training.adapter`), and
    metrics.jsonl    one JSON object a log (`finetune.training.metrics`)
    tensorboard/     the same for TensorBoard, unless --reporters says otherwise
    training.json    the base's digests, hyperparameters, data and its NOTICE, counts, losses before and after, versions

The model learns answers and their end tokens, and all of plain texts. With validation records the checkpoint with the lowest
validation loss is kept, else the last. The same configuration gives the same adapter bytes on the same machine, also where it was
killed and started again: it goes on from its last checkpoint, in a folder beside the output (`finetune.training.checkpoints`).
Several GPUs or machines: `accelerate launch` (docs/training.md). The losses stand beside that on a general text, so that what
the base forgets shows.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from finetune.train_config import TrainConfig
from finetune.training.checkpoints import Checkpoints, fingerprint
from finetune.training.measured import held_out_records
from finetune.training.metrics import Diverged
from finetune.training.training_data import CheckedBase, open_base, read_phases
from medllama import progress
from medllama.checkpoint import base_digests, base_states
from medllama.config import as_json
from medllama.errors import InputError
from medllama.files import atomic_directory, read_json, read_text, require_disk, write_json
from medllama.rundir import is_main_process, versions
from medllama.stages import StageResult
from medllama.training_cost import disk_bytes

NOT_HYPERPARAMETERS = ("base_model", "data", "output_dir")


def train(config: TrainConfig) -> StageResult:
    """Train and save an adapter. Raises InputError for what is wrong with base or data before anything heavy is loaded."""
    started = time.monotonic()
    _require_replaceable(config.output_dir)
    base = open_base(config)
    phases = read_phases(config, base)
    checkpoints = Checkpoints(config.output_dir)
    is_main = is_main_process()
    try:
        with atomic_directory(config.output_dir) if is_main else contextlib.nullcontext() as partial:
            training = _train(config, base, phases, checkpoints, partial)
            training["seconds"] = round(time.monotonic() - started, 1)
            if partial is not None:
                write_json(partial / "training.json", training)
    except Diverged:
        checkpoints.remove()  # they would go there again
        raise
    if is_main:
        checkpoints.remove()
    return StageResult(config.output_dir, _summary(training))


def _train(
    config: TrainConfig, base: CheckedBase, phases: dict[str, Any], checkpoints: Checkpoints, folder: Path | None
) -> dict[str, Any]:
    """Train, write the adapter into `folder` (None: another process does), and return the content of training.json."""
    # Read when torch is imported: threads that wait for each other sleep. Spinning, they made training five to ten times
    # slower on two cores that other programs use too.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from finetune.training.base import quiet_libraries

    # Read before the training, so that nothing can fail after it but the disk.
    progress.update("reading the base")
    states, digests, card = base_states(base.folder), base_digests(base.folder), _data_card(config.data)
    held_out = held_out_records(config, base, phases)
    with quiet_libraries():
        from finetune.training.adapter import hugging_face_tokenizer, save_adapter
        from finetune.training.phases import Training
        from finetune.training.trainer import require_device_for

        require_device_for(config)
        tokenizer = hugging_face_tokenizer(base.tokenizer, base.chat, context=base.context)
        progress.update("loading the base")
        training = Training(config, base, tokenizer, checkpoints)
        if folder is not None:
            require_disk(folder, disk_bytes(training.trainable_parameters), "training an adapter")
            chat_sha256 = None if base.chat is None else base.chat.sha256
            checkpoints.begin(fingerprint(config, digests, chat_sha256, training.processes))
        before = training.losses(held_out, "the base", adapter=False)
        finished = {name: training.run(name, phase) for name, phase in phases.items()}
        after = training.losses(held_out, "the tuned model", adapter=True)
        weights = training.whole_weights()
        if folder is not None:
            save_adapter(training.model, tokenizer, folder, base_model=config.base_model, weights=weights)
            checkpoints.collect_logs(list(phases), folder)

    last = list(finished.values())[-1]
    return {
        "base": {"name": config.base_model, "files": digests, "states": states},
        "hyperparameters": {key: value for key, value in as_json(config).items() if key not in NOT_HYPERPARAMETERS},
        "merge_base": "the 16-bit base" if config.quantization != "none" else "the base",
        "chat_template_sha256": None if base.chat is None else base.chat.sha256,
        "data": card,
        "records": {
            split: _sum([phase.data[split].as_json() for phase in phases.values()])
            for split in ("train", "validation", "test")
        },
        "loss": {split: {"base": before[split], "tuned": after[split]} for split in held_out},
        "steps": sum(phase["steps"] for phase in finished.values()),
        "best_step": last["best_step"],
        "trained_tokens": last["trained_tokens"],
        "phases": finished,
        "trainable_parameters": training.trainable_parameters,
        "processes": training.processes,
        "device": str(training.device),
        "dtype": str(training.dtype).removeprefix("torch."),
        "attention": training.attention,
        "training_seconds": round(sum(phase["seconds"] for phase in finished.values()), 1),
        "versions": versions(),
    }


def _sum(counts: list[dict[str, int]]) -> dict[str, int]:
    """The counts of all phases."""
    return {key: sum(count[key] for count in counts) for key in counts[0]}


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
    for split in ("validation" if "validation" in losses else "test", "general"):
        if split in losses:
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
