"""A compiled training has the losses of one that is not, and compiles a few graphs, however many layers and lengths there are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from finetune.train import train
from finetune.train_config import TrainConfig

VARIANTS: dict[str, dict[str, Any]] = {
    "padded": {"dropout": 0.1},
    "packed, recomputed": {"packing": True, "max_length": 64, "gradient_checkpointing": True},
    "packed, DoRA": {"packing": True, "max_length": 64, "dora": True},
}
# Of training, validation and the base, one each, and once more for a batch of one record. On a CPU the attention of packed rows cuts
# a layer in two, and PEFT 0.21's DoRA cuts it at each of its seven products.
GRAPHS = {"padded": 4, "packed, recomputed": 8, "packed, DoRA": 64}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # of a busy machine
    # torch 2.13's own, while it traces, and where it imports torch.utils.mkldnn to compile
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def losses(folder: Path, output: str, **changes: Any) -> list[float]:
    config = TrainConfig(
        base_model=str(folder / "base"), data=folder / "data", output_dir=folder / output, rank=4, alpha=8.0,
        learning_rate=5e-3, batch_size=2, max_steps=8, evaluations=2, **changes,
    )  # fmt: skip
    train(config)
    entries = [json.loads(line) for line in (config.output_dir / "metrics.jsonl").read_text().splitlines()]
    return [entry["loss"] or entry["validation_loss"] for entry in entries]


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_compiled_layers_have_the_same_losses(folder: Path, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated ahead, and run by PyTorch: without a compiler's minutes."""
    plain = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda layer, **named: plain(layer, backend="aot_eager", **named))
    expected = losses(folder, f"{variant} plain", **VARIANTS[variant])
    assert not counters["stats"]["unique_graphs"]
    assert losses(folder, f"{variant} compiled", compile=True, **VARIANTS[variant]) == pytest.approx(expected, rel=1e-4)
    assert 0 < counters["stats"]["unique_graphs"] <= GRAPHS[variant]


def test_by_pytorchs_compiler_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    expected = losses(folder, "plain")
    assert losses(folder, "compiled", compile=True) == pytest.approx(expected, rel=1e-4)
    assert 0 < counters["stats"]["unique_graphs"] <= GRAPHS["padded"]
