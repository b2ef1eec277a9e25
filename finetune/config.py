"""The configuration of `medllama prepare`: every field is a flag and a recipe key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune.sources import parse
from medllama.config import option

TINY_FILES = [
    Path(__file__).resolve().parent.parent / "recipes" / "tiny" / name for name in ("facts.tsv", "wordings.yaml")
]


@dataclass(frozen=True)
class PrepareConfig:
    """Sources in, `{train,validation,test}.jsonl` and NOTICE out."""

    source: tuple[str, ...] = option(
        help="what to read, repeated: tiny, medquad:DIR, jsonl:FILE or text:FILE; ?licence=SPDX where the source names none",
        kind="source",
        metavar="KIND:PATH[?licence=SPDX]",
    )
    output_dir: Path = option(help="folder for the data", kind="output")
    validation_share: float = option(0.05, help="share of documents held out to choose the best checkpoint")
    test_share: float = option(0.05, help="share of documents held out for the final measurement")
    seed: int = option(0, help="seed of the split and of the order")
    max_examples: int | None = option(None, help="keep at most this many training records, chosen by the seed")

    def implied_inputs(self) -> list[Path]:
        """The files of sources that name none: correcting a fact makes prepare run again."""
        return TINY_FILES if "tiny" in self.source else []

    def problems(self) -> list[str]:
        found = [] if self.source else ["source: name at least one, such as tiny or jsonl:FILE"]
        for given in self.source:
            try:
                parse(given)
            except ValueError as error:
                found.append(f"source: {error}")
        for name in ("validation_share", "test_share"):
            if not 0 <= getattr(self, name) < 0.5:
                found.append(f"{name}: expected a share from 0 to below 0.5, found {getattr(self, name)}")
        if self.max_examples is not None and self.max_examples < 1:
            found.append(f"max_examples: expected at least 1, found {self.max_examples}")
        return found
