"""The configuration of `medllama train`: every field is a flag and a recipe key. The defaults are LoRA's usual ones; recipes say
why they differ.

Several trainings in sequence, each going on with the adapter of the one before, are a recipe's `phases`: a table whose keys name
the phases in their order, and whose values are fields that differ from the section's own.

    train:
      learning_rate: 2.0e-4
      phases:
        reading:  {learn: text, learning_rate: 1.0e-4}      # continued pretraining on raw text
        answering: {learn: messages, epochs: 3}             # then instructions
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medllama.config import check, option

# The linear layers of a Llama block. The head has no adapter: TRL's loss would not train it, and GGUF adapters skip it.
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# What a phase may set for itself; the adapter and the base are the same in all of them.
OF_A_PHASE = (
    "learn", "epochs", "max_steps", "batch_size", "gradient_accumulation", "learning_rate", "schedule", "warmup_share",
    "weight_decay", "max_length", "packing", "evaluations", "patience",
)  # fmt: skip
CUDA_ONLY_OPTIMIZERS = ("adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit")


@dataclass(frozen=True)
class TrainConfig:
    """A base and prepared data in, a LoRA adapter out."""

    base_model: str = option(
        help="folder or hub id (id@revision) of the base model", kind="model", metavar="DIR_OR_HUB_ID"
    )
    data: Path = option(help="folder that prepare made", kind="path", metavar="DIR")
    output_dir: Path = option(help="folder for the adapter", kind="output")
    chat_template: str = option(
        "auto",
        help="llama2, llama3, a Jinja file, none (plain text only), or auto: the base's own, else its family's",
        kind="template",
    )
    learn: Literal["all", "messages", "text"] = option(
        "all", help="the records to train on: conversations (their answers), texts (all of them), or both mixed"
    )
    phases: dict[str, Any] = option({}, help="trainings in sequence: name -> the fields that differ in that phase")
    rank: int = option(16, help="rank of the LoRA matrices")
    alpha: float = option(32, help="LoRA scale is alpha / rank (alpha / sqrt(rank) with --rslora)")
    dropout: float = option(0.0, help="dropout on the LoRA input while training")
    target_modules: tuple[str, ...] = option(("all-linear",), help="linear layers that get an adapter, or all-linear")
    rslora: bool = option(False, help="scale by alpha / sqrt(rank), so that a high rank learns as fast as a low one")
    dora: bool = option(False, help="DoRA: learn the length of each weight row apart from its direction; slower")
    quantization: Literal["none", "nf4"] = option(
        "none",
        help="nf4: QLoRA, the base held in 4 bits while training; convert --base-values says what it is merged into",
    )
    epochs: float = option(3.0, help="passes over the training records")
    max_steps: int | None = option(None, help="stop after this many optimizer steps instead")
    batch_size: int = option(16, help="records, or packed rows, per optimizer step and device")
    gradient_accumulation: int = option(1, help="batches whose gradients are added up for one optimizer step")
    max_length: int = option(
        1024, help="longest record, or packed row, in tokens; longer texts are split, longer conversations cut"
    )
    packing: bool = option(False, help="fill rows of max_length tokens with whole records that do not see each other")
    learning_rate: float = option(2e-4, help="peak learning rate")
    schedule: Literal["linear", "cosine", "constant"] = option("cosine", help="learning rate after the warm-up")
    warmup_share: float = option(0.03, help="share of the steps in which the learning rate rises")
    weight_decay: float = option(0.0, help="AdamW's weight decay")
    optimizer: Literal[
        "adamw_torch_fused", "adamw_torch", "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "adafactor"
    ] = option("adamw_torch_fused", help="by Transformers' name; 8 bits and paging need a CUDA GPU and bitsandbytes")
    evaluations: int = option(4, help="how often validation loss is measured and a checkpoint written, in each phase")
    patience: int | None = option(None, help="stop after this many measurements without a lower validation loss")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", help="dtype of the base while training; auto: float32 on a CPU, bfloat16 on a GPU that has it"
    )
    attention: Literal["auto", "documents", "sdpa", "eager", "flex_attention", "flash_attention_2"] = option(
        "auto", help="auto: sdpa, and for packed rows documents (a flash kernel within each record)"
    )
    gradient_checkpointing: bool = option(False, help="recompute activations: less memory, about a third more time")
    liger: bool = option(False, help="Liger's Triton kernels for norms, rotation and SwiGLU; needs a CUDA GPU")
    compile: bool = option(False, help="torch.compile: minutes at the start, faster steps afterwards")
    reporters: tuple[str, ...] = option(
        ("tensorboard",),
        help="where metrics go, by Transformers' names; tensorboard writes files, others may send; none",
    )
    seed: int = option(0, help="seed of the initial adapter, the order and the dropout")

    def in_phases(self) -> dict[str, TrainConfig]:
        """The configuration of each phase by name; without phases the one training is called `train`."""
        if not self.phases:
            return {"train": self}
        return {
            str(name): dataclasses.replace(self, phases={}, **check(TrainConfig, fields or {})[0])
            for name, fields in self.phases.items()
        }

    def problems(self) -> list[str]:
        wrong_phases = self._problems_of_phases()
        found = wrong_phases + self._problems_of_numbers()
        if not wrong_phases and self.phases:
            for name, phase in self.in_phases().items():
                own = [problem for problem in phase._problems_of_numbers() if problem not in found]
                found += [f"phases.{name}.{problem}" for problem in own]
        if self.target_modules != ("all-linear",):
            known = f"known are {', '.join(LINEAR_LAYERS)}, or all-linear alone"
            strange = [name for name in self.target_modules if name not in LINEAR_LAYERS]
            found += [f"target_modules: {name!r} is no linear layer of a Llama; {known}" for name in strange]
            if not self.target_modules:
                found.append(f"target_modules: name at least one; {known}")
        if "all" in self.reporters:
            found.append("reporters: name them; all would send the run to every service that is installed here")
        if "none" in self.reporters and len(self.reporters) > 1:
            found.append("reporters: none stands alone")
        phases = [] if wrong_phases else self.in_phases().values()
        if self.attention == "documents" and not all(phase.packing for phase in phases):
            found.append("attention: documents is for packed rows; add packing, or choose auto")
        return found

    def _problems_of_phases(self) -> list[str]:
        found = []
        for name, fields in self.phases.items():
            if not str(name).replace("-", "").replace("_", "").isalnum():
                found.append(f"phases: {name!r} must be letters, digits, '-' and '_' (it names a folder)")
            if fields is not None and not isinstance(fields, dict):
                found.append(f"phases.{name}: expected a table, found {fields!r}")
                continue
            strange = [key for key in fields or {} if key not in OF_A_PHASE]
            found += [f"phases.{name}: {key!r} cannot differ between phases" for key in strange]
            found += [f"phases.{name}.{problem}" for problem in check(TrainConfig, fields or {})[1] if not strange]
        return found

    def _problems_of_numbers(self) -> list[str]:
        values = vars(self)
        counts = ("rank", "batch_size", "gradient_accumulation", "max_steps", "max_length", "evaluations", "patience")
        found = [
            f"{name}: expected at least 1, found {values[name]}"
            for name in counts
            if values[name] is not None and values[name] < 1
        ]
        if self.max_length == 1:
            found.append("max_length: expected at least 2, found 1: the first token of a record is never learned")
        # Written as "not inside" so that a NaN is outside.
        found += [
            f"{name}: expected a number above 0, found {values[name]}"
            for name in ("alpha", "epochs", "learning_rate")
            if not 0 < values[name] < math.inf
        ]
        found += [
            f"{name}: expected 0 or more, found {values[name]}"
            for name in ("weight_decay", "seed")
            if not 0 <= values[name] < math.inf
        ]
        found += [
            f"{name}: expected a share from 0 to below 1, found {values[name]}"
            for name in ("dropout", "warmup_share")
            if not 0 <= values[name] < 1
        ]
        return found
