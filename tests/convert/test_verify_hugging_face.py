"""The Hugging Face side of verify computes what Transformers and PEFT compute, though it holds one layer at a time."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from convert.checks import hugging_face
from convert.checks.hugging_face import build_model, run
from convert.checks.reference import read_reference
from tests.adapters import LINEAR, load_unmerged, make_adapter
from tests.checkpoints import make_llama2_checkpoint, make_llama3_checkpoint
from tests.convert.test_verify_reference import KINDS

SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "Llama 2": (make_llama2_checkpoint, {}),
    "Llama 3, tied": (make_llama3_checkpoint, {"tie_word_embeddings": True}),
    "bfloat16 with biases": (
        make_llama2_checkpoint,
        {"dtype": torch.bfloat16, "attention_bias": True, "mlp_bias": True},
    ),
    "explicit head size": (make_llama3_checkpoint, {"head_dim": 128}),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # the models are so small that threads only wait for each other


def sequences(vocabulary: int) -> list[list[int]]:
    """Of lengths 1 to 60, one of them twice."""
    source = random.Random(0)
    drawn = [[source.randrange(vocabulary) for _ in range(length)] for length in (60, 1, 7, 25, 25, 24, 2)]
    return [*drawn, drawn[2]]


def assert_equal_to_transformers(base: Path, adapter: Path | None) -> None:
    reference = read_reference(base, adapter)
    rows = reference.weights("merged").vocabulary_rows
    asked = sequences(rows)
    found = run(reference, rows, asked, with_adapter=adapter is not None)
    model = load_unmerged(base, adapter)
    for ids in asked:
        with torch.inference_mode():
            right = model(torch.tensor([ids])).logits[0].numpy()
        # float32 sums in another order, since the sequences are computed together
        assert float(np.abs(found.of(ids) - right).max()) < 1e-4 * float(np.abs(right).max())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_logits_are_those_of_transformers(shape: str, tmp_path: Path) -> None:
    make, settings = SHAPES[shape]
    assert_equal_to_transformers(make(tmp_path / "base", **settings), None)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*tie:UserWarning", "ignore:.*tied:UserWarning")
def test_the_logits_are_those_of_peft(kind: str, tied: bool, tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", tie_word_embeddings=tied)
    assert_equal_to_transformers(base, make_adapter(base, tmp_path / "adapter", **KINDS[kind]))


@pytest.mark.parametrize("limit", [1, 20_000])
def test_batches_change_nothing(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugging_face, "BATCH_LOGITS", limit)
    assert_equal_to_transformers(make_llama2_checkpoint(tmp_path / "base"), None)


def test_one_part_at_a_time_is_in_memory(tmp_path: Path) -> None:
    """Of 200 MB in float32, spread over ten layers, a pass holds a fraction."""
    base = make_llama2_checkpoint(tmp_path / "base", hidden_size=512, intermediate_size=2048, num_hidden_layers=10)
    reference = read_reference(base, make_adapter(base, tmp_path / "adapter", target_modules=LINEAR))
    rows = reference.weights("base").vocabulary_rows
    model = build_model(reference, rows, with_adapter=True, weights=hugging_face.Weights(reference))
    process = psutil.Process()
    before = peak = process.memory_info().rss

    def look(module: Any, inputs: Any) -> None:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)

    for layer in model.base_model.model.model.layers:
        layer.mlp.register_forward_pre_hook(look)
    with torch.inference_mode():
        model(torch.tensor([[1, 2, 3]]))
    whole = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert whole > 150e6
    assert peak - before < whole / 4
