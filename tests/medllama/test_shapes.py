"""Parameters are counted as Transformers and PEFT count them, and published shapes have their published numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from medllama.errors import InputError, UnsupportedError
from medllama.shapes import count_lora_parameters, count_parameters, find_shape
from tests.checkpoints import make_llama2_checkpoint


@pytest.mark.parametrize(
    "overrides",
    [{}, {"tie_word_embeddings": True}, {"num_key_value_heads": 4}, {"head_dim": 32}, {"intermediate_size": 768}],
)
def test_parameters_are_counted_as_transformers_and_peft_count_them(tmp_path: Path, overrides: dict[str, Any]) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", num_hidden_layers=1, **overrides)
    shape, where = find_shape(str(base))
    assert where == "here"
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert count_parameters(shape) == model.num_parameters()
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert count_lora_parameters(shape, 4) == tuned.num_parameters(only_trainable=True)


@pytest.mark.parametrize(
    ("name", "billions"), [("meta-llama/Llama-2-7b-hf", 6.738415616), ("meta-llama/Llama-3.2-1B", 1.235814400)]
)
def test_the_published_shapes_have_their_published_number_of_parameters(name: str, billions: float) -> None:
    shape, where = find_shape(f"{name}@main")
    assert (where, count_parameters(shape) / 1e9) == ("hub", billions)


def test_a_base_whose_shape_is_not_known_is_told_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the shape of org/other is not known here") as caught:
        find_shape("org/other")
    assert caught.value.hint == "download it first: hf download org/other"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    with pytest.raises(UnsupportedError, match="mistral is not LlamaForCausalLM"):
        find_shape(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(InputError, match="gives no number for vocab_size"):
        find_shape(str(tmp_path))
