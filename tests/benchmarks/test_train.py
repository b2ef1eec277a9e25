"""The training benchmark runs both trainers on both loads, and counts tokens without padding."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import train

SMALLER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
           "num_key_value_heads": 4, "vocab_size": 3072, "max_position_embeddings": 256}  # fmt: skip


def test_records_have_the_lengths_of_the_load() -> None:
    full = train.make_records("full", 10_000, 512, 300)
    assert {len(record) for record in full} == {512}
    varied = train.make_records("medquad", 500_000, 4096, 300)
    lengths = sorted(len(record) for record in varied)
    assert lengths[len(lengths) // 2] == pytest.approx(244, rel=0.1), "MedQuAD's median"
    assert sum(length > 512 for length in lengths) / len(lengths) == pytest.approx(0.146, abs=0.03)
    assert all(0 < record.learned_tokens < len(record) for record in varied)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated")  # TRL's default, by its old name
def test_both_trainers_are_timed_on_both_loads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "SMALL", SMALLER)
    figures: dict[str, Any] = train.benchmark("small", 2, minutes=10)
    assert [(one["load"], one["which"]) for one in figures["results"]] == [
        ("full", "SFTTrainer"), ("medquad", "SFTTrainer"), ("full", "ours"), ("medquad", "ours"),
    ]  # fmt: skip
    for one in figures["results"]:
        assert one["steps"] == 2
        assert one["tokens_per_second"] > 0
        assert one["peak_memory_bytes"] > 1e8
    assert "tokens/s" in capsys.readouterr().out
