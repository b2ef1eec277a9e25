"""A plan's figures are computed: parameters as Transformers and PEFT count them, bytes as the files turn out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from medllama.errors import InputError, UnsupportedError
from medllama.plan import count_lora_parameters, count_parameters, find_shape, plan, prepared_tokens
from medllama.recipe import load_recipe
from tests.checkpoints import make_llama2_checkpoint, make_llama3_checkpoint

pytestmark = pytest.mark.usefixtures("alone")


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


def test_time_is_unknown_until_the_data_is_prepared(tmp_path: Path) -> None:
    assert prepared_tokens(tmp_path) is None
    record = {"messages": [{"role": "user", "content": "x" * 30}, {"role": "assistant", "content": "y" * 10}]}
    (tmp_path / "train.jsonl").write_text(json.dumps(record) + "\n" + json.dumps({"text": "z" * 40}) + "\n")
    assert prepared_tokens(tmp_path) == 20, "four characters a token"


def test_a_plan_has_figures_for_every_file_and_says_what_is_to_be_downloaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_llama3_checkpoint(tmp_path / "base")
    (tmp_path / "mine.yaml").write_text(
        f"prepare: {{source: [tiny]}}\ntrain: {{base_model: {base}}}\nconvert: {{types: [F16, Q8_0]}}\n"
    )
    figures = plan(load_recipe(str(tmp_path / "mine.yaml")), tmp_path / "runs")
    parameters = figures["parameters"]
    assert figures["disk_bytes"]["F16"] == 2 * parameters
    assert figures["disk_bytes"]["Q8_0"] == round(8.5 * parameters / 8)
    assert figures["disk_bytes"]["adapter"] == 4 * figures["lora_parameters"]
    assert figures["seconds"]["train on this CPU"] is None
    assert figures["licences"] == {
        "base": "unknown: no licence text beside the weights",
        "tiny": "MIT, this project's own",
    }
    assert "known once the data is prepared" in capsys.readouterr().err

    hub = plan(load_recipe("llama2-7b"), tmp_path / "runs")
    assert hub["disk_bytes"]["base (download)"] == 2 * hub["parameters"]
    assert "(to be downloaded)" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
