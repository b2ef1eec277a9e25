"""Where llama.cpp's own converter is wrong, its file is, and ours of the same checkpoint is right.

docs/fidelity.md lists these checkpoints. A fault that is mended in the build that is installed fails here, so that the page
stays true.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from benchmarks.official_converter import Job, convert_officially
from convert.config import ConvertConfig
from convert.convert import convert
from medllama.llamacpp import LlamaCppError, Model
from tests.adapters import peft_logits
from tests.checkpoints import made_up_words, sentences
from tests.convert.test_convert import F32_BOUND, YARN, divergence, token_ids
from tests.official import Case, llama2, llama3, only_lm_head, table, with_named_end


@dataclass(frozen=True)
class Outcome:
    """What became of one checkpoint in the official converter: the base, its file, and the reason where it refused."""

    base: Path
    gguf: Path
    failure: str


def has_other_tokens(outcome: Outcome) -> bool:
    truth = AutoTokenizer.from_pretrained(outcome.base)
    with Model(outcome.gguf, vocab_only=True) as model:
        return any(
            model.tokenize(text) != truth.encode(text, add_special_tokens=False)
            for text in (*sentences(), *made_up_words())
        )


def does_not_load(outcome: Outcome) -> bool:
    try:
        with Model(outcome.gguf):
            return False
    except LlamaCppError:
        return True


def computes_otherwise(outcome: Outcome) -> bool:
    ids = token_ids(512)
    return divergence(outcome.gguf, peft_logits(outcome.base, None, ids), ids) > 1000 * F32_BOUND


def does_not_end(outcome: Outcome) -> bool:
    ends = json.loads((outcome.base / "generation_config.json").read_text())["eos_token_id"]
    with Model(outcome.gguf, vocab_only=True) as model:
        return not all(model.is_end(index) for index in ends)


def refuses(outcome: Outcome) -> bool:
    return bool(outcome.failure)


# The row of the page's second table -> what it says of the official converter's file.
WRONG: dict[str, tuple[Case, Callable[[Outcome], bool]]] = {
    "Llama 2 with `tokenizer.json` alone": (llama2(tokenizer_model=False), has_other_tokens),
    "the same with a padded vocabulary": (llama2(tokenizer_model=False, vocab_size=576), does_not_load),
    "tied, stored as `lm_head.weight` alone": (Case(only_lm_head), does_not_load),
    "YaRN with another ramp than 32 to 1": (
        llama2(rope_parameters={**YARN, "beta_fast": 16.0, "beta_slow": 2.0}),
        computes_otherwise,
    ),
    "YaRN, not truncated": (llama2(rope_parameters={**YARN, "truncate": False}), computes_otherwise),
    "YaRN with `attention_factor`": (llama2(rope_parameters={**YARN, "attention_factor": 0.7}), computes_otherwise),
    "YaRN with `mscale`": (
        llama2(rope_parameters={**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}),
        computes_otherwise,
    ),
    "several end tokens in generation_config.json": (Case(with_named_end), does_not_end),
    "Llama 3 with tokens of its own": (Case(llama3().make), refuses),
}


@pytest.fixture(scope="module")
def outcomes(official: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What the official converter makes of every wrong case, in F32."""
    folders = {name: tmp_path_factory.mktemp("wrong") for name in WRONG}
    bases = {name: case.make(folders[name] / "base") for name, (case, _) in WRONG.items()}
    jobs = [Job(str(bases[name]), str(folders[name] / "official.gguf"), "F32") for name in WRONG]
    failures = convert_officially(official, jobs)
    return {
        name: Outcome(bases[name], folders[name] / "official.gguf", failure)
        for name, failure in zip(WRONG, failures, strict=True)
    }


@pytest.mark.parametrize("name", WRONG)
def test_where_it_is_wrong_ours_is_right(name: str, outcomes: dict[str, Outcome], tmp_path: Path) -> None:
    outcome, (_, is_wrong) = outcomes[name], WRONG[name]
    assert is_wrong(outcome), f"the official converter does this now: take it out of docs/fidelity.md ({outcome})"
    convert(ConvertConfig(str(outcome.base), tmp_path, types=("F32",), name="m"))
    ours = Outcome(outcome.base, tmp_path / "m-F32.gguf", "")
    assert not is_wrong(ours)
    ids = token_ids(384)
    assert divergence(ours.gguf, peft_logits(ours.base, None, ids), ids) < F32_BOUND


def test_the_page_names_every_checkpoint_that_it_gets_wrong() -> None:
    assert [row[0] for row in table("Where its file is wrong")] == list(WRONG)
