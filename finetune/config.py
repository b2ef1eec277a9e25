"""The configurations of `medllama prepare` and `medllama train`: every field is a flag and a recipe key."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.licences import canonical
from finetune.sources import parse
from medllama.checkpoint import find_base_here
from medllama.config import option

TINY_FILES = [
    Path(__file__).resolve().parent.parent / "recipes" / "tiny" / name for name in ("facts.tsv", "wordings.yaml")
]

# The linear layers of a Llama block. The head has no adapter: TRL's loss would not train it, and GGUF adapters skip it.
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class PrepareConfig:
    """Sources in, `{train,validation,test}.jsonl` and NOTICE out."""

    source: tuple[str, ...] = option(
        help="what to read, repeated: tiny, medquad:DIR, jsonl:FILE, text:FILE ... (docs/sources.md); ?licence=SPDX where the "
        "source names none",
        kind="source",
        metavar="KIND:PATH[?licence=SPDX]",
    )
    output_dir: Path = option(help="folder for the data", kind="output")
    validation_share: float = option(0.05, help="share of documents held out to choose the best checkpoint")
    test_share: float = option(0.05, help="share of documents held out for the final measurement")
    seed: int = option(0, help="seed of the split and of the order")
    max_examples: int | None = option(None, help="keep at most this many training records, chosen by the seed")
    format: Literal["jsonl", "parquet"] = option("jsonl", help="of the records; train and eval read JSONL")
    allow_licence: tuple[str, ...] = option(
        (),
        help="a non-commercial or restricted licence whose data is wanted all the same, by its SPDX name",
        metavar="SPDX",
    )
    near_duplicate_threshold: float = option(
        0.8, help="Jaccard similarity of five-word runs from which a document is a near duplicate; 1: exact copies only"
    )
    decontaminate: tuple[str, ...] = option(
        (),
        help="JSONL of evaluation sets whose 13-word runs must not be in training; in a run, those that eval measures",
        kind="path",
        metavar="FILE",
    )
    language: tuple[str, ...] = option(
        (), help="keep only these languages, as ISO 639-1 codes such as en (default: all)"
    )
    mask_identifiers: bool = option(
        False, help="mask e-mail addresses, telephone and record numbers in your own files too, as in clinical sources"
    )
    chunk_tokens: int = option(1024, help="running text is cut into records of at most this many tokens")
    tokenizer: str | None = option(
        None,
        help="base model whose tokenizer counts them (default: an estimate, four characters a token)",
        metavar="DIR_OR_HUB_ID",
    )
    workers: int | None = option(
        None, help="processes that read and clean (default: one per core, for input of 20 MB each)"
    )

    def implied_inputs(self) -> list[Path]:
        """Files that no field names: correcting a fact of tiny makes prepare run again, and so does another tokenizer."""
        folder = find_base_here(self.tokenizer) if self.tokenizer else None
        names = ("tokenizer.model", "tokenizer.json", "added_tokens.json", "tokenizer_config.json")
        tokenizer_files = [folder / name for name in names if (folder / name).is_file()] if folder else []
        return [*(TINY_FILES if "tiny" in self.source else []), *tokenizer_files]

    def problems(self) -> list[str]:
        found = [] if self.source else ["source: name at least one, such as tiny or jsonl:FILE"]
        for given in self.source:
            try:
                parse(given)
            except ValueError as error:
                found.append(f"source: {error}")
        for licence in self.allow_licence:
            try:
                if canonical(licence) != licence:
                    found.append(f"allow_licence: write {canonical(licence)} for {licence!r}")
            except ValueError as error:
                found.append(f"allow_licence: {error}")
        for name in ("validation_share", "test_share"):
            if not 0 <= getattr(self, name) < 0.5:
                found.append(f"{name}: expected a share from 0 to below 0.5, found {getattr(self, name)}")
        if not 0.3 <= self.near_duplicate_threshold <= 1:
            found.append(
                f"near_duplicate_threshold: expected a similarity from 0.3 to 1, found {self.near_duplicate_threshold}"
            )
        for name, least in (("max_examples", 1), ("workers", 1), ("chunk_tokens", 32)):
            if (value := getattr(self, name)) is not None and value < least:
                found.append(f"{name}: expected at least {least}, found {value}")
        return found


@dataclass(frozen=True)
class TrainConfig:
    """A base and prepared data in, a LoRA adapter out. The defaults are LoRA's usual ones; recipes say why they differ."""

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
    rank: int = option(16, help="rank of the LoRA matrices")
    alpha: float = option(32, help="LoRA scale is alpha / rank")
    dropout: float = option(0.0, help="dropout on the LoRA input while training")
    target_modules: tuple[str, ...] = option(("all-linear",), help="linear layers that get an adapter, or all-linear")
    epochs: float = option(3.0, help="passes over the training records")
    max_steps: int | None = option(None, help="stop after this many optimizer steps instead")
    batch_size: int = option(16, help="records per optimizer step and device")
    gradient_accumulation: int = option(1, help="batches whose gradients are added up for one optimizer step")
    learning_rate: float = option(2e-4, help="peak learning rate of AdamW")
    schedule: Literal["linear", "cosine", "constant"] = option("cosine", help="learning rate after the warm-up")
    warmup_share: float = option(0.03, help="share of the steps in which the learning rate rises")
    weight_decay: float = option(0.0, help="AdamW's weight decay")
    max_length: int = option(1024, help="longest record in tokens; longer ones are cut and counted")
    evaluations: int = option(4, help="how often validation loss is measured; the best checkpoint is kept")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", help="dtype of the base while training; auto: float32 on a CPU, bfloat16 on a GPU that has it"
    )
    gradient_checkpointing: bool = option(False, help="recompute activations: less memory, about a third more time")
    seed: int = option(0, help="seed of the initial adapter, the order and the dropout")

    def problems(self) -> list[str]:
        values = vars(self)
        counts = ("rank", "batch_size", "gradient_accumulation", "max_steps", "max_length", "evaluations")
        found = [
            f"{name}: expected at least 1, found {values[name]}"
            for name in counts
            if values[name] is not None and values[name] < 1
        ]
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
        if self.target_modules != ("all-linear",):
            known = f"known are {', '.join(LINEAR_LAYERS)}, or all-linear alone"
            strange = [name for name in self.target_modules if name not in LINEAR_LAYERS]
            found += [f"target_modules: {name!r} is no linear layer of a Llama; {known}" for name in strange]
            if not self.target_modules:
                found.append(f"target_modules: name at least one; {known}")
        return found
