"""The card's figures are those of a float64 computation over both files' logits; bounds name the smallest file that keeps them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convert.config import ConvertConfig
from convert.convert import convert
from eval import quant_card
from eval.config import EvalConfig
from eval.divergence import divergence, kl_divergence, summarize
from eval.evaluate import evaluate
from eval.ledger import Ledger, Ledgers
from medllama.config import build
from medllama.errors import InputError, RecipeError
from medllama.llamacpp import Context, Model


@pytest.fixture(scope="module")
def files(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("card")
    summary = convert(ConvertConfig(base_model=str(base), output_dir=folder, types=("F16", "Q8_0", "Q4_0"))).summary
    return [Path(path) for path in summary["files"]]


def test_kld_is_torchs_in_float64() -> None:
    generator = np.random.Generator(np.random.PCG64(0))
    reference, other = (generator.normal(0, 5, (130, 50)).astype(np.float32) for _ in range(2))
    p, q = (torch.log_softmax(torch.from_numpy(logits).double(), dim=-1) for logits in (reference, other))
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(dim=-1).numpy()
    assert kl_divergence(reference, other) == pytest.approx(expected, abs=1e-12)
    assert kl_divergence(reference, reference) == pytest.approx(np.zeros(130), abs=1e-12)


def test_the_card_is_a_computation_on_both_files_logits(files: list[Path], data: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    config = EvalConfig(
        gguf=files[-1], output=output, task=(str(data / "test.jsonl"),), threads=1, samples=0, generate=0, domain_prompts=False,
        card=tuple(map(str, files)), within="kld<0.0000001",
    )  # fmt: skip
    evaluate(config)
    card = json.loads(output.read_text())["quant_card"]
    assert card["reference"] == "medllama-F16.gguf"
    assert len(card["prompts_sha256"]) == 64
    sizes = [row["bytes"] for row in card["files"]]
    assert sizes == sorted(sizes)
    assert card["within"]["file"] == "medllama-F16.gguf", "only the reference is that near to itself"
    rows = {row["type"]: row for row in card["files"]}
    assert rows["F16"]["against_reference"] is None
    assert rows["Q8_0"]["against_reference"]["kld"]["mean"] < rows["Q4_0"]["against_reference"]["kld"]["mean"]
    for row in rows.values():
        assert all(
            row["cost"][key] > 0 for key in ("load_seconds", "prompt_tokens_per_second", "generated_tokens_per_second")
        )
        assert row["cost"]["peak_memory_bytes"] > row["bytes"]
    texts = [[1, 5, 9, 20, 7], [1, 8, 30]]
    found = quant_card.compare(files[0], files[2], texts, 1)
    sums = np.zeros(3)
    with (
        Model(files[0], threads=1) as wide,
        Model(files[2], threads=1) as narrow,
        Context(wide, context_tokens=16) as first,
        Context(narrow, context_tokens=16) as second,
    ):
        for text in texts:
            logits = (torch.from_numpy(context.logits(text[:-1])) for context in (first, second))
            p, q = (torch.log_softmax(it.double(), -1) for it in logits)
            sums[0] += float((p.exp() * (p - q)).sum())
            sums[1] += float((p.argmax(-1) == q.argmax(-1)).sum())
            sums[2] += sum(float(p[n, token] - q[n, token]) for n, token in enumerate(text[1:]))
    assert found["tokens"] == 6
    assert found["kld"]["mean"] == pytest.approx(sums[0] / 6, rel=1e-6)
    assert found["same_top"]["share"] == sums[1] / 6
    assert found["perplexity_ratio"]["ratio"] == pytest.approx(np.exp(sums[2] / 6), rel=1e-6)


def test_a_card_that_was_cut_off_goes_on_with_the_next_text(files: list[Path], tmp_path: Path) -> None:
    texts, path = [[1, 5, 9, 20, 7], [1, 8, 30], [1, 9, 9]], tmp_path / "card.jsonl.partial"
    whole = quant_card.compare(files[0], files[2], texts, 1, Ledger(path, {}))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:20])
    assert quant_card.compare(files[0], files[2], texts, 1, Ledger(path, {})) == whole
    path.write_text("".join(lines[:2]) + lines[2].replace("[", "[9.0, ").replace(", 2,", ",", 1) + lines[3])
    assert quant_card.compare(files[0], files[2], texts, 1, Ledger(path, {})) != whole, "what is kept is used"


def test_a_planted_fault_moves_the_figures() -> None:
    generator = np.random.Generator(np.random.PCG64(1))
    logits = generator.normal(0, 3, (9, 20)).astype(np.float32)
    other = logits.copy()
    other[4] = other[4][::-1]
    targets = np.arange(9)
    same, moved = (summarize([divergence(logits, it, targets)]) for it in (logits, other))
    assert same["kld"]["mean"] == pytest.approx(0, abs=1e-12)
    assert same["same_top"]["share"] == 1
    assert moved["same_top"]["share"] == pytest.approx(8 / 9)
    assert moved["kld"]["mean"] == pytest.approx(moved["kld"]["largest"] / 9)


def row(name: str, size: float, kld: float | None) -> dict[str, Any]:
    against = (
        kld
        if kld is None
        else {"kld": {"mean": kld}, "same_top": {"share": 1 - kld}, "perplexity_ratio": {"ratio": 1 + kld}}
    )
    return {"file": name, "bytes": size, "against_reference": against, "cost": {"peak_memory_bytes": 2 * size}}


CARD = {"files": [row("Q2", 2e9, 0.1), row("Q4", 4e9, 0.012), row("Q8", 7e9, 0.0004), row("F16", 13e9, None)]}


@pytest.mark.parametrize(
    ("expression", "file"),
    [
        ("kld<0.02", "Q4"), ("kld<0.2", "Q2"), ("kld < 1e-3", "Q8"), ("kld<=0", "F16"), ("kld<0.02, size<3GB", None),
        ("size>=7GB", "Q8"), ("same_top>95%", "Q4"), ("perplexity_ratio<1.001", "Q8"), ("memory<9GB, kld<0.05", "Q4"),
        ("accuracy>=0.5", "Q8"), ("accuracy>=50%,size<7.5gb", "Q8"), ("kld<.02", "Q4"), ("kld<0.2,size<=1.9GB", None),
    ],
)  # fmt: skip
def test_bounds_name_the_smallest_file_that_keeps_them(expression: str, file: str | None) -> None:
    accuracies = {"Q2": 0.3, "Q4": 0.49, "Q8": 0.5, "F16": 0.6}
    found = quant_card.smallest_within(expression, quant_card.parse(expression), CARD, accuracies)
    assert found["file"] == file


@pytest.mark.parametrize(
    "expression",
    [
        "kld",
        "kld<",
        "speed>3",
        "kld<0.02 size<3GB",
        "",
        "kld<two",
        "kld<1.2.3",
        "size<4",
        "size<4TB",
        "kld<4GB",
        "same_top>95",
        "kld<0.02,",
    ],
)
def test_what_is_no_bound_is_told(expression: str) -> None:
    with pytest.raises(InputError, match="is no bound"):
        quant_card.parse(expression)


def test_a_card_without_a_reference_or_files_is_refused(files: list[Path]) -> None:
    with pytest.raises(InputError, match="is F32, BF16 or F16"):
        quant_card.quant_card(files[1:], [[None]], 10, 1, Ledgers(files[0], {}))  # type: ignore[list-item]
    with pytest.raises(RecipeError, match="there is nothing to choose from"):
        build(EvalConfig, {"gguf": "a", "output": "b", "task": ["c"], "within": "kld<1"}, origin="x")


def test_a_file_is_of_the_type_that_it_says_whatever_its_name(files: list[Path], tmp_path: Path) -> None:
    for path, kind in zip(files, ("F16", "Q8_0", "Q4_0"), strict=True):
        (tmp_path / "m.Q9.gguf").unlink(missing_ok=True)
        (tmp_path / "m.Q9.gguf").symlink_to(path)
        assert quant_card._type(tmp_path / "m.Q9.gguf") == kind


def test_two_files_of_one_name_are_refused(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / files[0].name).symlink_to(files[1])
    with pytest.raises(InputError, match="two files of the card have the same name"):
        quant_card.quant_card([files[0], tmp_path / files[0].name], [[None]], 10, 1, Ledgers(files[0], {}))  # type: ignore[list-item]


def test_a_run_without_an_unrounded_file_has_no_card_and_is_told_why(
    files: list[Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = EvalConfig(
        gguf=files[1], output=tmp_path / "results.json", task=(str(data / "multiple_choice.jsonl"),), threads=1,
        domain_prompts=False, card=tuple(map(str, files[1:])),
    )  # fmt: skip
    evaluate(config)
    assert json.loads(config.output.read_text())["quant_card"] is None
    assert (
        "no quant card: none of medllama-Q8_0.gguf, medllama-Q4_0.gguf is F32, BF16 or F16" in capsys.readouterr().err
    )
    with pytest.raises(InputError, match="is F32, BF16 or F16"):
        evaluate(dataclasses.replace(config, within="kld<0.1"))
