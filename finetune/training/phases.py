"""The phases of one training, in sequence: each has its own optimizer and schedule, and goes on with the adapter so far."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from finetune.train_config import TrainConfig
from finetune.training.adapter import add_lora
from finetune.training.attention import NAME as DOCUMENTS
from finetune.training.attention import register
from finetune.training.base import choose_dtype, load_base
from finetune.training.checkpoints import Checkpoints
from finetune.training.losses import add_token_nats, measure
from finetune.training.measured import sample
from finetune.training.memory import told_of_memory
from finetune.training.metrics import Metrics
from finetune.training.packing import as_rows, row_lengths
from finetune.training.tokenized import Tokenized
from finetune.training.trainer import AdapterTrainer, total_steps, trainer_arguments
from finetune.training.training_data import CheckedBase, Phase
from medllama import progress
from medllama.errors import UnsupportedError
from medllama.files import atomic_directory, read_json, write_json
from medllama.rundir import is_main_process


class Training:
    """A base with its LoRA in memory, and how far its training has come."""

    def __init__(
        self, config: TrainConfig, base: CheckedBase, tokenizer: PreTrainedTokenizerFast, checkpoints: Checkpoints
    ) -> None:
        self.config = config
        self.base = base
        self.tokenizer = tokenizer
        self.checkpoints = checkpoints
        self.processes = int(os.environ.get("WORLD_SIZE", "1"))
        self.is_main = is_main_process()
        self.device = training_device()
        self.dtype = choose_dtype(config.dtype)
        self.attention = choose_attention(config)
        self.model = self._load()
        self.trainable_parameters: int = self.model.get_nb_trainable_parameters()[0]
        self.trainer: AdapterTrainer | None = None
        self.steps = self.tokens = 0  # of the phases that are done

    def _load(self) -> Any:
        with told_of_memory(self.config, self.base.config, self.device):
            model = load_base(
                self.base.folder, self.dtype, attention=self.attention, quantization=self.config.quantization
            )
            if self.config.quantization == "none":
                model.to(self.device)
        return prepared(model, self.config)

    def run(self, name: str, phase: Phase) -> dict[str, Any]:
        """Train one phase to its end, from its last checkpoint where there is one. Returns its figures for training.json."""
        scratch = self.checkpoints.folder / name
        finished = scratch / "finished"
        if (finished / "phase.json").is_file():
            self._load_adapter(finished / "adapter.safetensors")
            figures: dict[str, Any] = read_json(finished / "phase.json")
        else:
            figures = self._train(name, phase, scratch)
            weights = self.whole_weights()  # every process takes part
            if self.is_main:
                with atomic_directory(finished) as partial:
                    save_file(self._adapter(weights), partial / "adapter.safetensors")
                    write_json(partial / "phase.json", figures)
        self.steps += figures["steps"]
        self.tokens = figures["trained_tokens"]
        return figures

    def _train(self, name: str, phase: Phase, scratch: Path) -> dict[str, Any]:
        config = phase.config
        records = phase.data["train"].records
        rows = as_rows(records, max_length=min(config.max_length, self.base.context), packing=config.packing)
        steps = total_steps(config, len(rows), self.processes)
        validation = sample(phase.data["validation"], config.seed).records
        metrics = Metrics(
            scratch / "metrics.jsonl",
            name,
            learning_rate=config.learning_rate,
            steps_before=self.steps,
            tokens_before=self.tokens,
        )
        arguments = trainer_arguments(
            config, steps=steps, dtype=self.dtype, scratch=scratch, validates=bool(validation)
        )
        trainer = AdapterTrainer(
            self.model,
            arguments,
            config,
            rows=rows,
            validation=validation,
            tokenizer=self.tokenizer,
            metrics=metrics,
        )
        self.trainer = trainer
        trainer.accelerator.wait_for_everyone()  # the first process has made the folder by now
        last = self.checkpoints.last(name, remove=self.is_main)
        if last is not None:
            progress.message(f"note: {name} goes on from its checkpoint of step {last[1]:,}")
        metrics.begin(resumed_step=last[1] if last else 0, writes=self.is_main)
        started = time.monotonic()
        with told_of_memory(config, self.base.config, self.device):
            trainer.train(resume_from_checkpoint=str(last[0]) if last else None)
        return {
            "learn": config.learn,
            "records": {split: data.as_json() for split, data in phase.data.items()},
            "rows": len(rows),
            "row_fill": sum(row_lengths(rows)) / (len(rows) * max(row_lengths(rows))),
            "steps": trainer.state.global_step,
            "planned_steps": steps,
            "best_step": self.steps + (trainer.state.best_global_step or trainer.state.global_step),
            "trained_tokens": metrics.tokens,
            "seconds": round(time.monotonic() - started, 1),
        }

    def losses(self, held_out: dict[str, Tokenized], whose: str, *, adapter: bool) -> dict[str, dict[str, Any]]:
        """The measured loss of each split, as JSON; without the adapter those of the base."""
        model = self.model if self.trainer is None else self.trainer.scored_model
        if not adapter:
            with self.model.disable_adapter():
                return self.losses(held_out, whose, adapter=True)
        return {
            split: measure(model, data.records, f"{whose} on {split}").as_json() for split, data in held_out.items()
        }

    def whole_weights(self) -> dict[str, torch.Tensor] | None:
        """With FSDP the whole adapter, put together from all processes; else None, and the model has it."""
        if self.trainer is None or not self.trainer.is_fsdp_enabled:
            return None
        weights: dict[str, torch.Tensor] = self.trainer.accelerator.get_state_dict(self.trainer.model_wrapped)
        return weights

    def _adapter(self, weights: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
        """What was trained, by the model's own names."""
        parameters = dict(self.model.named_parameters())
        trained = [name for name, weight in parameters.items() if weight.requires_grad]
        return {name: (weights or parameters)[name].detach().cpu().contiguous() for name in trained}

    def _load_adapter(self, path: Path) -> None:
        self.model.load_state_dict(load_file(path), strict=False)


def prepared(model: Any, config: TrainConfig) -> Any:
    """A base as it is trained: with the kernels that were asked for, our loss, and a fresh LoRA."""
    if config.liger:
        apply_liger(model)
    add_token_nats(model)
    tuned = add_lora(model, config)
    if config.compile:
        compile_layers(model)
    return tuned


def training_device() -> torch.device:
    """The GPU of this process, or the CPU."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def choose_attention(config: TrainConfig) -> str:
    """What there is for this training: a kernel that keeps packed documents apart, or PyTorch's own."""
    if config.attention == "auto":
        chosen = DOCUMENTS if any(phase.packing for phase in config.in_phases().values()) else "sdpa"
    else:
        chosen = config.attention
    if chosen == DOCUMENTS:
        register()
    return chosen


def compile_layers(model: Any) -> None:
    """One layer for all of them, as they are alike; lengths are variables, as they differ between batches."""
    for layer in model.model.layers:
        layer.compile(dynamic=True)


def apply_liger(model: Any) -> None:
    """Liger's kernels where they replace layers; the loss stays ours, which never makes all logits."""
    try:
        from liger_kernel.transformers import apply_liger_kernel_to_llama
    except ImportError:
        raise UnsupportedError("liger needs liger-kernel", hint='pip install "medllama[gpu]"') from None
    apply_liger_kernel_to_llama(cross_entropy=False, fused_linear_cross_entropy=False, model=model)
