"""The configuration of `medllama prepare`: every field is a flag and a recipe key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.data.licences import canonical
from finetune.sources import parse
from medllama.checkpoint import find_base_here
from medllama.config import option

TINY_FILES = [
    Path(__file__).resolve().parent.parent / "recipes" / "tiny" / name for name in ("facts.tsv", "wordings.yaml")
]


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
        help="evaluation sets whose 13-word runs must not be in training: files or folders (JSONL, JSON, CSV, Parquet), a "
        "benchmark's name, hf:DATASET; in a run, those that eval measures",
        kind="task",
        metavar="[NAME:]PATH_OR_NAME",
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
