"""TRL's SFTTrainer, told what we know better: which records share a batch, where the loss is, and what a log line is.

The trainer gets ids and labels that are ready (`finetune.tokenized`): TRL tokenizes nothing, renders nothing and masks nothing.
Overridden are
- the order: records of like length share a batch, so that little is padding; it depends on the seed and the epoch alone
- the loss on a CPU: TRL's scores every place, prompts and padding too, and its entropy: 40% more time on a small model
- the evaluation: the exact mean per learned token over all validation records, the same figure as in training.json
- the log: one JSON object a line in metrics.jsonl, and the live line

Checkpoints, the best of them, schedules, clipping, accumulation and devices stay Transformers' own.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerFast, PrinterCallback, TrainerControl, set_seed
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from finetune.config import TrainConfig
from finetune.losses import measure, token_nats
from finetune.tokenized import TokenizedRecord
from medllama import progress
from medllama.errors import InputError

PADDING_ID = 0  # any id does: padding is learned nowhere and seen by nobody, and many bases have no pad token
POOL_BATCHES = 50  # records are sorted by length within so many batches: little padding, and still random


def add_lora(model: Any, config: TrainConfig) -> PeftModel:
    """The base with a fresh LoRA on its linear layers: A random by the seed, B zero, so that it starts as the base."""
    set_seed(config.seed)
    is_all = config.target_modules == ("all-linear",)
    return get_peft_model(
        model,
        LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules="all-linear" if is_all else list(config.target_modules),
            task_type="CAUSAL_LM",
        ),
    )


def total_steps(config: TrainConfig, records: int) -> int:
    """Optimizer steps of the whole training."""
    batches = math.ceil(records / config.batch_size)
    steps_per_epoch = math.ceil(batches / config.gradient_accumulation)
    return config.max_steps or math.ceil(config.epochs * steps_per_epoch)


def trainer_arguments(
    config: TrainConfig, *, steps: int, dtype: torch.dtype, scratch: Path, validates: bool
) -> SFTConfig:
    """The configuration in TRL's words. Nothing is reported, nothing is prepared, nothing is sent."""
    has_gpu = torch.cuda.is_available()
    evaluate_every = math.ceil(steps / config.evaluations)
    strategy = "steps" if validates else "no"
    return SFTConfig(
        output_dir=str(scratch),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup" if config.schedule == "constant" else config.schedule,
        warmup_steps=math.ceil(config.warmup_share * steps),
        weight_decay=config.weight_decay,
        gradient_checkpointing=None,  # the old name of the next, which TRL would set
        activation_checkpointing=config.gradient_checkpointing,
        bf16=has_gpu and dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=not has_gpu,
        seed=config.seed,
        eval_strategy=strategy,
        eval_steps=evaluate_every,
        save_strategy=strategy,
        save_steps=evaluate_every,
        save_total_limit=1,  # and the best one
        save_only_model=True,
        load_best_model_at_end=validates,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=max(1, min(10, steps // 50)),
        logging_nan_inf_filter=False,  # a NaN must show
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        dataloader_num_workers=0,
        dataloader_pin_memory=has_gpu,
        disable_tqdm=True,
        report_to="none",
    )


class AdapterTrainer(SFTTrainer):
    """Trains the LoRA of a PeftModel on tokenized records."""

    def __init__(
        self,
        model: PeftModel,
        arguments: SFTConfig,
        *,
        records: Sequence[TokenizedRecord],
        validation: Sequence[TokenizedRecord],
        tokenizer: PreTrainedTokenizerFast,
        metrics_path: Path,
    ) -> None:
        self.lengths = [len(record) for record in records]
        self.validation = validation
        self.metrics_path = metrics_path
        self.tokens_seen = torch.tensor(0)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=as_dataset(records),
            eval_dataset=as_dataset(validation) if validation else None,
            processing_class=tokenizer,
            data_collator=DataCollatorForLanguageModeling(pad_token_id=PADDING_ID),
        )
        self.remove_callback(PrinterCallback)

    @property
    def causal_model(self) -> Any:
        """The LlamaForCausalLM inside, LoRA in its layers."""
        return self.model.get_base_model()

    @property
    def scores_learned_places_only(self) -> bool:
        """On a GPU TRL's kernel does that itself; several processes need the call through their wrapper, which TRL makes."""
        return self.args.device.type == "cpu" and self.accelerator.num_processes == 1

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int]:
        arguments = self.args
        batch_size = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
        return LikeLengths(self.lengths, batch_size, arguments.seed)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Nats summed over the learned tokens of a batch, divided by their number in the whole optimizer step."""
        self.tokens_seen = self.tokens_seen.to(inputs["input_ids"].device) + inputs["attention_mask"].sum()
        if not self.scores_learned_places_only:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        nats, _ = token_nats(self.causal_model, inputs["input_ids"], inputs["labels"])
        return nats.sum() / num_items_in_batch

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The loss on the validation records; Transformers keeps the checkpoint where it is lowest."""
        metrics = {"eval_loss": measure(self.causal_model, self.validation, "validation").nats}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write a log to metrics.jsonl and show it. Raises InputError where the loss is no number any more."""
        super().log(logs, start_time)
        if "loss" not in logs and "eval_loss" not in logs:
            return  # Transformers' summary at the end
        step, loss, tokens = self.state.global_step, logs.get("loss"), int(self.tokens_seen)
        for value in (loss, logs.get("eval_loss")):
            if value is not None and not math.isfinite(value):
                raise diverged(value, step, self.args.learning_rate)
        entry = {
            "step": step,
            "epoch": round(self.state.epoch or 0.0, 4),
            "loss": loss,
            "learning_rate": logs.get("learning_rate"),
            "validation_loss": logs.get("eval_loss"),
            "tokens": tokens,
        }
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if loss is not None and start_time is not None:
            speed = tokens / (time.time() - start_time)
            progress.update(f"loss {loss:.3f}  {speed:,.0f} tokens/s", step, self.state.max_steps)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: `medllama package` writes the model card."""


def diverged(loss: float, step: int, learning_rate: float) -> InputError:
    return InputError(
        f"the loss became {loss} at step {step}: learning_rate {learning_rate:g} is too high",
        hint=f"try --learning-rate {learning_rate / 10:g}, or a longer --warmup-share; nothing was written",
    )


class LikeLengths(Sampler[int]):
    """The order of an epoch: shuffled, sorted by length within pools of batches, the batches shuffled again.

    Only the last batch is incomplete. The order depends on the seed and the epoch, not on what ran before.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        draw = random.Random(f"order {self.seed} {self.epoch}")
        order = list(range(len(self.lengths)))
        draw.shuffle(order)
        whole = len(order) - len(order) % self.batch_size
        pool = self.batch_size * POOL_BATCHES
        batches: list[list[int]] = []
        for start in range(0, whole, pool):
            alike = sorted(order[start : min(start + pool, whole)], key=self.lengths.__getitem__)
            batches += [alike[first : first + self.batch_size] for first in range(0, len(alike), self.batch_size)]
        draw.shuffle(batches)
        return iter([position for batch in [*batches, order[whole:]] for position in batch])


def as_dataset(records: Sequence[TokenizedRecord]) -> Dataset:
    """The records as TRL takes them."""
    return Dataset.from_dict(
        {"input_ids": [record.input_ids for record in records], "labels": [record.labels for record in records]}
    )
