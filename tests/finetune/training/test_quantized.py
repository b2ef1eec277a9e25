"""QLoRA on the CPU: the base is held in 4 bits while training, and the adapter is an ordinary one for the 16-bit base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune.train import train
from finetune.train_config import TrainConfig
from finetune.training import base as base_module
from finetune.training.base import load_base
from medllama.errors import UnsupportedError
from medllama.files import read_json
from medllama.training_cost import training_memory

bitsandbytes = pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes: pip install medllama[gpu]")


def config(folder: Path, output: str, **changes: Any) -> TrainConfig:
    paths = {"base_model": str(folder / "base"), "data": folder / "data", "output_dir": folder / output}
    settings = {"rank": 4, "alpha": 8.0, "learning_rate": 5e-3, "batch_size": 8, "max_steps": 12}
    return TrainConfig(**{**paths, **settings, "quantization": "nf4", **changes})


def test_the_linear_layers_and_nothing_else_are_held_in_four_bits(folder: Path) -> None:
    model = load_base(folder / "base", torch.float32, quantization="nf4")
    kinds = {name.rsplit(".", 1)[-1]: type(module).__name__ for name, module in model.named_modules()}
    assert {kinds[name] for name in ("q_proj", "o_proj", "gate_proj", "down_proj")} == {"Linear4bit"}
    assert (kinds["lm_head"], kinds["embed_tokens"]) == ("Linear", "Embedding")
    assert model.model.layers[0].mlp.up_proj.weight.quant_state.quant_type == "nf4"


def test_a_plan_knows_what_four_bits_take(folder: Path) -> None:
    model = load_base(folder / "base", torch.float32, quantization="nf4")
    shape = read_json(folder / "base" / "config.json")
    shape.setdefault("num_key_value_heads", shape["num_attention_heads"])
    planned = training_memory(shape, config(folder, "unused"), value_bytes=4).weights
    # bitsandbytes pads the scales of a small matrix to whole blocks.
    assert model.get_memory_footprint() == pytest.approx(planned, rel=0.1)


@pytest.mark.parametrize("packing", [False, True])
def test_a_quantized_base_is_learned_on_and_its_adapter_fits_the_16_bit_base(folder: Path, packing: bool) -> None:
    used = config(folder, f"qlora-{packing}", packing=packing, max_length=64, gradient_checkpointing=True)
    train(used)
    told = json.loads((used.output_dir / "training.json").read_text())
    loss = told["loss"]["test"]
    assert loss["tuned"]["nats_per_token"] < loss["base"]["nats_per_token"] - 0.3
    assert told["merge_base"] == "the 16-bit base"
    weights = load_file(used.output_dir / "adapter_model.safetensors")
    plain = config(folder, f"lora-{packing}", packing=packing, max_length=64, quantization="none")
    train(plain)
    expected = load_file(plain.output_dir / "adapter_model.safetensors")
    assert {name: weight.shape for name, weight in weights.items()} == {
        name: weight.shape for name, weight in expected.items()
    }
    settings = [read_json(one.output_dir / "adapter_config.json") for one in (used, plain)]
    assert settings[0] == settings[1]


def test_without_bitsandbytes_the_command_that_installs_it_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UnsupportedError, match="needs bitsandbytes") as caught:
        base_module.nf4(torch.float32)
    assert caught.value.hint == 'pip install "medllama[gpu]"'
