"""TRL's SFTTrainer, told what we know better: which records share a batch, where the loss is, and what a log line is.

Ids and labels come ready (`finetune.training.tokenized`): TRL tokenizes nothing, renders nothing and masks nothing.
Overridden are
- the order: records of like length share a batch, so that little is padding; it depends on the seed and the epoch alone
- the loss: TRL's scores every place, prompts and padding too, and its entropy: 40% more time on a small model
- the evaluation: the exact mean per learned token over all validation records, the same figure as in training.json
- the log: one JSON object a line in metrics.jsonl, and the live line (`finetune.training.metrics`)

Checkpoints, the best of them, resuming, early stopping, schedules, clipping, accumulation, optimizers, reporters and several
processes stay Transformers' own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from torch.utils.data import Sampler
from transformers import (
    EarlyStoppingCallback,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)
from transformers.integrations import INTEGRATION_TO_CALLBACK, TensorBoardCallback
from trl import SFTConfig, SFTTrainer

from finetune.train_config import CUDA_ONLY_OPTIMIZERS, TrainConfig
from finetune.training.losses import measure
from finetune.training.metrics import Metrics
from finetune.training.packing import Collator, LikeLengths, as_rows, for_the_model, row_lengths, tokens_in
from finetune.training.tokenized import TokenizedRecord
from medllama.errors import InputError, UnsupportedError


def require_device_for(config: TrainConfig) -> None:
    """Raise UnsupportedError for what only a CUDA GPU can do, InputError for reporters that Transformers does not know."""
    needs_gpu = {
        f"optimizer {config.optimizer}": config.optimizer in CUDA_ONLY_OPTIMIZERS,
        "liger": config.liger,
        "attention flash_attention_2": config.attention == "flash_attention_2",
        # PyTorch has no backward pass of it on a CPU.
        "attention flex_attention": config.attention == "flex_attention",
    }
    if not torch.cuda.is_available():
        for what, is_asked in needs_gpu.items():
            if is_asked:
                raise UnsupportedError(f"{what} needs a CUDA GPU, and there is none here", hint="leave it out")
    if (number := torch.cuda.device_count()) > 1 and os.environ.get("WORLD_SIZE", "1") == "1":
        raise InputError(
            f"{number} GPUs are here, and one process uses one",
            hint=f"accelerate launch --multi_gpu --num_processes {number} -m medllama train ..., or CUDA_VISIBLE_DEVICES=0",
        )
    for name in config.reporters:
        if name not in (*INTEGRATION_TO_CALLBACK, "none"):
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise InputError(f"reporters: Transformers knows no {name!r}", hint=f"known are {known}, or none")


def total_steps(config: TrainConfig, rows: int, processes: int = 1) -> int:
    """Optimizer steps of the whole training."""
    batches = math.ceil(rows / (config.batch_size * processes))
    steps_per_epoch = math.ceil(batches / config.gradient_accumulation)
    return config.max_steps or math.ceil(config.epochs * steps_per_epoch)


def trainer_arguments(
    config: TrainConfig, *, steps: int, dtype: torch.dtype, scratch: Path, validates: bool
) -> SFTConfig:
    """The configuration in TRL's words. Files are written under `scratch`, and nothing is sent that no reporter was named for."""
    has_gpu = torch.cuda.is_available()
    log_every = max(1, min(10, steps // 50))
    # A checkpoint follows a log: resumed, the next log is the mean of the same steps.
    evaluate_every = log_every * math.ceil(steps / config.evaluations / log_every)
    return SFTConfig(
        output_dir=str(scratch),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup" if config.schedule == "constant" else config.schedule,
        warmup_steps=math.ceil(config.warmup_share * steps),
        weight_decay=config.weight_decay,
        optim=config.optimizer,
        gradient_checkpointing=None,  # the old name of the next, which TRL would set
        activation_checkpointing=config.gradient_checkpointing,
        bf16=has_gpu and dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=not has_gpu,
        seed=config.seed,
        eval_strategy="steps" if validates else "no",
        eval_steps=evaluate_every,
        save_strategy="steps",
        save_steps=evaluate_every,
        save_total_limit=1,  # and the best one
        load_best_model_at_end=validates,
        metric_for_best_model="eval_loss" if validates else None,
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,  # how often validation did not improve
        logging_steps=log_every,
        logging_nan_inf_filter=False,  # a NaN must show
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        dataloader_num_workers=0,
        dataloader_pin_memory=has_gpu,
        disable_tqdm=True,
        report_to=[name for name in config.reporters if name != "tensorboard"] or "none",
        ddp_find_unused_parameters=False,
        push_to_hub=False,
    )


class AdapterTrainer(SFTTrainer):
    """Trains the LoRA of a PeftModel on tokenized records."""

    def __init__(
        self,
        model: PeftModel,
        arguments: SFTConfig,
        config: TrainConfig,
        *,
        rows: Dataset,
        validation: Sequence[TokenizedRecord],
        tokenizer: PreTrainedTokenizerFast,
        metrics: Metrics,
    ) -> None:
        self.lengths = row_lengths(rows)
        self.validation = validation
        self.metrics = metrics
        self.tokens_seen = torch.tensor(0)
        self.has_dora = config.dora
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=rows,
            eval_dataset=as_rows(validation[:1], max_length=1, packing=False) if validation else None,
            processing_class=tokenizer,
            data_collator=Collator(packing=config.packing),
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(LastStep())
        if "tensorboard" in config.reporters:
            to_files = TensorBoardCallback()
            to_files.logging_dir = str(Path(arguments.output_dir) / "tensorboard")
            self.add_callback(to_files)
        if config.patience is not None and validation:
            self.add_callback(EarlyStoppingCallback(early_stopping_patience=config.patience))

    def train(self, *given: Any, **named: Any) -> Any:
        """Autocast casts what a product takes. PEFT's own cast, to the adapter's float32, would be undone by it: the same values,
        and each layer's input three times more. DoRA computes with the weights besides, and keeps the cast."""
        is_cast_anyway = self.accelerator.native_amp and not self.has_dora
        with disable_input_dtype_casting(self.model, active=is_cast_anyway):
            return super().train(*given, **named)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int]:
        arguments = self.args
        together = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
        return LikeLengths(self.lengths, together, arguments.seed)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Nats summed over the learned tokens of a batch, divided by their number in the whole optimizer step."""
        self.tokens_seen = self.tokens_seen.to(inputs["input_ids"].device) + tokens_in(inputs)
        nats = model(**for_the_model(inputs), learned_labels=inputs["labels"])
        # Each process sees its own part of the step, and gradients are averaged over processes.
        return nats.sum() / num_items_in_batch * self.accelerator.num_processes

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The loss on the validation records; Transformers keeps the checkpoint where it is lowest."""
        metrics = {"eval_loss": measure(self.scored_model, self.validation, "validation").nats}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @property
    def scored_model(self) -> Any:
        """What answers a measurement: with FSDP only the wrapped model has its weights together."""
        return self.model_wrapped if self.is_fsdp_enabled else self.model

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write a log to metrics.jsonl and show it. Raises InputError where the loss is no number any more, or has exploded."""
        super().log(logs, start_time)
        if "loss" in logs or "eval_loss" in logs:  # else it is Transformers' summary at the end
            self.metrics.write(logs, self.state, self.all_tokens_seen(), is_main=self.args.process_index == 0)

    def all_tokens_seen(self) -> int:
        """Of all processes, since the beginning of this training, also where it was resumed."""
        seen = self.accelerator.reduce(self.tokens_seen.to(self.accelerator.device), reduction="sum")
        return int(seen) + self.metrics.tokens_when_resumed

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: `medllama package` writes the model card."""


class LastStep(TrainerCallback):
    """The last step is logged and measured too, also where the steps are no multiple of the intervals."""

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        if state.global_step >= state.max_steps:
            control.should_log = True
            control.should_evaluate = bool(args.load_best_model_at_end)
        return control
