"""The predicted memory of a training is what PyTorch keeps, counted tensor by tensor; advice and GPU plans follow from it."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from transformers import LlamaConfig, LlamaForCausalLM

from finetune.train_config import TrainConfig
from medllama.cli import main
from medllama.errors import UsageError
from medllama.gpus import GPUS, find_gpu
from medllama.plan import plan
from medllama.recipe import load_recipe
from medllama.shapes import PUBLISHED_SHAPES, count_lora_parameters, count_parameters
from medllama.training_cost import advice, lora_parameters, training_memory, training_operations

SHAPES: dict[str, dict[str, Any]] = {
    "wide": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
             "num_key_value_heads": 4, "vocab_size": 512, "max_position_embeddings": 512},
    "grouped": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 8,
                "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 512},
}  # fmt: skip
LLAMA2_7B = PUBLISHED_SHAPES["meta-llama/Llama-2-7b-hf"]


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(base_model="base", data=Path("data"), output_dir=Path("adapter"), **changes)


def measured(shape: dict[str, Any], used: TrainConfig, value_bytes: int) -> dict[str, float]:
    """Bytes of the weights, of the adapter, and of all that autograd keeps of one batch between forward and backward."""
    torch.manual_seed(0)
    dtype = torch.float32 if value_bytes == 4 else torch.bfloat16
    base = LlamaForCausalLM(LlamaConfig(**shape)).to(dtype)
    weights = sum(parameter.nbytes for parameter in base.parameters())
    lora = LoraConfig(
        r=used.rank, target_modules="all-linear", lora_dropout=used.dropout, use_dora=used.dora, task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, lora)
    if used.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor
        return tensor

    ids = torch.randint(0, shape["vocab_size"], (used.batch_size, used.max_length))
    sixteen = torch.autocast("cpu", dtype=torch.bfloat16) if value_bytes == 2 else contextlib.nullcontext()
    uncast = disable_input_dtype_casting(model, active=value_bytes == 2)  # as the trainer does
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), sixteen, uncast:
        model.get_base_model().model(input_ids=ids, use_cache=False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return {
        "weights": weights,
        "adapter": 4 * sum(parameter.nbytes for parameter in trained),  # with gradients and AdamW's two
        "activations": sum(tensor.untyped_storage().nbytes() for tensor in kept.values()),
    }


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
@pytest.mark.parametrize("value_bytes", [4, 2], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("rank", [4, 16])
def test_predicted_memory_is_what_pytorch_keeps(shape: str, rank: int, value_bytes: int) -> None:
    used = config(batch_size=3, max_length=96, rank=rank)
    predicted = training_memory(SHAPES[shape], used, value_bytes=value_bytes)
    found = measured(SHAPES[shape], used, value_bytes)
    assert predicted.weights == found["weights"]
    assert predicted.adapter == found["adapter"]
    # The final norm and the tables of the rotation belong to no layer.
    assert predicted.activations == pytest.approx(found["activations"], rel=0.1)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_checkpointing_keeps_each_layers_input_alone() -> None:
    used = config(batch_size=3, max_length=96, gradient_checkpointing=True)
    predicted = training_memory(SHAPES["wide"], used, value_bytes=4)
    whole = training_memory(SHAPES["wide"], dataclasses.replace(used, gradient_checkpointing=False), value_bytes=4)
    found = measured(SHAPES["wide"], used, 4)
    recomputed = whole.activations / SHAPES["wide"]["num_hidden_layers"]  # of one layer at a time, in the backward pass
    assert predicted.activations - recomputed == pytest.approx(found["activations"], rel=0.3)


def test_dropout_and_dora_are_counted() -> None:
    plain = training_memory(SHAPES["wide"], config(), value_bytes=4)
    assert training_memory(SHAPES["wide"], config(dropout=0.1), value_bytes=4).activations > plain.activations
    assert training_memory(SHAPES["wide"], config(dora=True), value_bytes=4).adapter > plain.adapter
    used = config(batch_size=1, max_length=8, dora=True)
    assert training_memory(SHAPES["wide"], used, value_bytes=4).adapter == measured(SHAPES["wide"], used, 4)["adapter"]


def test_the_adapters_parameters_are_those_of_its_layers() -> None:
    assert lora_parameters(LLAMA2_7B, config(rank=16)) == count_lora_parameters(LLAMA2_7B, 16) == 39_976_960
    only = config(rank=16, target_modules=("q_proj", "v_proj"))
    assert lora_parameters(LLAMA2_7B, only) == 2 * 32 * 16 * 2 * 4096


def test_quantized_weights_take_a_quarter() -> None:
    full = training_memory(LLAMA2_7B, config(), value_bytes=2).weights
    assert full == 2 * count_parameters(LLAMA2_7B)
    assert 3.5e9 < training_memory(LLAMA2_7B, config(quantization="nf4"), value_bytes=2).weights < 4.2e9


def test_operations_are_four_a_parameter_and_token_and_half_more_with_recomputing() -> None:
    matrices = count_parameters(LLAMA2_7B) - 32_000 * 4096
    found = training_operations(LLAMA2_7B, config(), 1000, 1)
    assert found == pytest.approx(4 * matrices * 1000, rel=0.01)
    recomputed = training_operations(LLAMA2_7B, config(gradient_checkpointing=True), 1000, 1)
    assert recomputed == pytest.approx(1.5 * found, rel=0.01)


@pytest.mark.parametrize("available", [80e9, 24e9, 16e9])
def test_advice_names_settings_that_fit(available: float) -> None:
    used = config(batch_size=16, max_length=4096)
    told = advice(LLAMA2_7B, used, value_bytes=2, available_bytes=available)
    assert training_memory(LLAMA2_7B, used, value_bytes=2).total > available
    words = told.split(" would need")[0].split()
    changed = used
    for place, word in enumerate(words):
        if word == "--gradient-checkpointing":
            changed = dataclasses.replace(changed, gradient_checkpointing=True)
        elif word.startswith("--"):
            name, value = word.removeprefix("--").replace("-", "_"), words[place + 1]
            changed = dataclasses.replace(changed, **{name: value if name == "quantization" else int(value)})
    assert training_memory(LLAMA2_7B, changed, value_bytes=2).total < available
    assert changed.batch_size * changed.gradient_accumulation == 16, "the optimizer step stays the same"
    assert ("nf4" in told) == (available == 16e9)


def test_a_plan_for_a_gpu_tells_memory_and_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow, fast = (plan(load_recipe("tiny"), tmp_path, gpu)["gpu"] for gpu in ("t4-16gb", "h100-80gb"))
    assert slow["needed_bytes"] == fast["needed_bytes"]
    assert slow["seconds"] / fast["seconds"] == pytest.approx(989 / 65)
    assert slow["fits"]
    assert "t4-16gb: training takes" in capsys.readouterr().err


def test_a_gpu_that_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="--gpu: abacus is not known"):
        find_gpu("abacus")
    assert main(["plan", "tiny", "--gpu", "abacus"]) == 2
    assert "h100-80gb" in capsys.readouterr().err
    assert all(name == gpu.name and name.endswith(f"{gpu.memory_bytes / 1e9:.0f}gb") for name, gpu in GPUS.items())
