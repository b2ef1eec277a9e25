"""Packed rows: records in one row do not see each other, so that loss and gradient are those of the records by themselves."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from finetune.training import attention
from finetune.training.attention import document_attention
from finetune.training.base import load_base
from finetune.training.losses import add_token_nats
from finetune.training.packing import Collator, as_rows, for_the_model, row_lengths, tokens_in
from finetune.training.tokenized import TokenizedRecord
from tests.checkpoints import make_llama2_checkpoint, make_llama3_checkpoint

SMALL = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
ROW = 64


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Llama 3's shares its keys between query heads."""
    folder = tmp_path_factory.mktemp("packing")
    return {
        "llama2": make_llama2_checkpoint(folder / "llama2", **SMALL),
        "llama3": make_llama3_checkpoint(folder / "llama3", **SMALL),
    }


def load(base: Path, implementation: str) -> Any:
    attention.register()
    model = load_base(base, torch.float32, attention=implementation)
    add_token_nats(model)
    return model


def records(count: int = 12, seed: int = 0) -> list[TokenizedRecord]:
    draw = random.Random(seed)
    found = []
    for index in range(count):
        ids = numpy.array([draw.randrange(3, 250) for _ in range(draw.randrange(4, 30))], dtype=numpy.int32)
        labels = ids.copy()
        labels[: draw.randrange(1, len(ids) - 1)] = -100
        found.append(TokenizedRecord(ids, labels, str(index)))
    return found


def batch_of(rows: Any, *, packing: bool) -> dict[str, Any]:
    return Collator(packing=packing)(list(rows))


def nats_and_gradient(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    nats = model(**for_the_model(batch), learned_labels=batch["labels"]).sum()
    nats.backward()
    return nats.detach(), model.model.layers[0].self_attn.k_proj.weight.grad.clone()


@pytest.mark.parametrize("family", ["llama2", "llama3"])
@pytest.mark.parametrize("implementation", ["documents", "sdpa", "eager"])
def test_packed_rows_have_the_loss_and_the_gradient_of_their_records(
    bases: dict[str, Path], family: str, implementation: str
) -> None:
    model = load(bases[family], implementation)
    apart = batch_of(as_rows(records(), max_length=ROW, packing=False), packing=False)
    packed = batch_of(as_rows(records(), max_length=ROW, packing=True), packing=True)
    assert packed["input_ids"].shape[0] == 1, "one row without padding"
    expected, expected_gradient = nats_and_gradient(load(bases[family], "sdpa"), apart)
    nats, gradient = nats_and_gradient(model, packed)
    torch.testing.assert_close(nats, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("implementation", ["documents", "sdpa", "eager"])
def test_another_record_in_the_row_changes_nothing(bases: dict[str, Path], implementation: str) -> None:
    model = load(bases["llama3"], implementation)
    first, second, other = records(3, seed=5)
    found = []
    for neighbor in (second, other):
        row = {
            "input_ids": [*neighbor.input_ids, *first.input_ids],
            "labels": [*([-100] * len(neighbor)), *first.labels],
            "seq_lengths": [len(neighbor), len(first)],
        }
        batch = batch_of([row], packing=True)
        found.append(model(**for_the_model(batch), learned_labels=batch["labels"]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


def test_a_row_without_its_boundaries_would_be_contaminated(bases: dict[str, Path]) -> None:
    """The comparison above can fail: the same row read as one document has a loss that is off by 200 times its tolerance."""
    model = load(bases["llama2"], "documents")
    packed = batch_of(as_rows(records(), max_length=ROW, packing=True), packing=True)
    right = model(**for_the_model(packed), learned_labels=packed["labels"]).sum()
    contaminated = model(input_ids=packed["input_ids"], learned_labels=packed["labels"]).sum()
    assert abs(float((right - contaminated).detach())) > 1e-3 * float(right.detach())


def test_every_record_is_packed_whole_and_once() -> None:
    given = records(60)
    rows = as_rows(given, max_length=ROW, packing=True)
    assert max(row_lengths(rows)) <= ROW
    assert len(rows) < len(given) / 2
    seen = []
    for row in rows:
        start = 0
        for length in row["seq_lengths"]:
            ids, labels = (tuple(row[key][start : start + length]) for key in ("input_ids", "labels"))
            seen.append((ids, labels))
            start += length
        assert start == len(row["input_ids"])
    assert sorted(seen) == sorted((tuple(record.input_ids), tuple(record.labels)) for record in given)


def test_positions_begin_anew_with_every_record_and_its_first_token_is_not_learned() -> None:
    packed = batch_of(as_rows(records(), max_length=ROW, packing=True), packing=True)
    starts = packed["cu_seq_lens_q"].tolist()
    assert starts[0] == 0
    assert starts[-1] == packed["input_ids"].numel()
    for start, end in itertools.pairwise(starts):
        assert packed["position_ids"][0, start:end].tolist() == list(range(end - start))
        assert packed["labels"][0, start] == -100


def test_padding_counts_as_no_token() -> None:
    given = records()
    for packing in (False, True):
        batch = batch_of(as_rows(given, max_length=ROW, packing=packing), packing=packing)
        assert int(tokens_in(batch)) == sum(map(len, given))


@pytest.mark.parametrize("key_heads", [8, 2])
def test_the_kernel_is_given_what_it_takes(key_heads: int) -> None:
    """torch's own signature and shapes, on tensors without values: forward and backward."""
    with FakeTensorMode():
        query, key, value = (
            torch.empty(1, heads, 100, 64, dtype=torch.bfloat16, requires_grad=True)
            for heads in (8, key_heads, key_heads)
        )
        boundaries = torch.empty(4, dtype=torch.int32)
        attended = attention._with_kernel(query, key, value, boundaries, 47, 0.125)
        assert attended.shape == (1, 100, 8, 64)
        attended.sum().backward()
        assert [tensor.grad.shape for tensor in (query, key, value)] == [query.shape, key.shape, value.shape]


@pytest.mark.parametrize("key_heads", [8, 2])
def test_the_kernel_is_asked_for_causal_attention_within_each_document(
    key_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_definition(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor, key_starts: torch.Tensor,
        longest: int, longest_key: int, *, scale: float, window_size: tuple[int, int], enable_gqa: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        assert window_size == (-1, 0)
        assert (longest, longest_key) == (47, 47)
        assert enable_gqa or key_heads == 8
        assert starts.dtype == key_starts.dtype == torch.int32
        found = []
        for start, end in itertools.pairwise(starts.tolist()):
            keys, values = (it[start:end].repeat_interleave(8 // key_heads, dim=1) for it in (key, value))
            scores = torch.einsum("qhd,khd->hqk", query[start:end], keys) * scale
            later = torch.ones(end - start, end - start, dtype=torch.bool).triu(1)
            found.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(later, -math.inf).softmax(-1), values))
        return torch.cat(found)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", by_definition)
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 100, 64) for heads in (8, key_heads, key_heads))
    boundaries = torch.tensor([0, 13, 60, 100], dtype=torch.int32)
    expected = attention._one_by_one(query, key, value, boundaries, 0.125)
    torch.testing.assert_close(attention._with_kernel(query, key, value, boundaries, 47, 0.125), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="the variable-length kernel needs a CUDA GPU")
def test_the_kernel_agrees_with_one_document_at_a_time() -> None:
    torch.manual_seed(0)
    query = torch.randn(1, 8, 100, 64, device="cuda", dtype=torch.bfloat16)
    key, value = (torch.randn(1, 2, 100, 64, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    boundaries = torch.tensor([0, 13, 60, 100], dtype=torch.int32, device="cuda")
    by_kernel, _ = document_attention(
        torch.nn.Module(), query, key, value, None, cu_seq_lens_q=boundaries, max_length_q=47, scaling=0.125
    )
    one_by_one = attention._one_by_one(query, key, value, boundaries, 0.125)
    torch.testing.assert_close(by_kernel, one_by_one, rtol=2e-2, atol=2e-2)  # bfloat16 has 8 bits
