"""`--base-values`: a base that bitsandbytes quantized has the values that bitsandbytes gives it, and one that QLoRA was trained on
those that training saw; without being asked for, neither is taken; verify tells them apart."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from convert.checks import base_values as checked_values
from convert.config import ConvertConfig, VerifyConfig
from convert.convert import convert
from convert.dequantize import Scales, ThroughNf4, read_base_tensors, scales_table, through_nf4
from convert.verify import verify
from convert.weights import read_tensors
from finetune.training.base import load_base, nf4
from medllama.checkpoint import safetensors_files
from medllama.config import build
from medllama.errors import CheckFailed, InputError, MedllamaError, RecipeError, UnsupportedError
from medllama.files import read_json
from medllama.pipeline import configure
from medllama.recipe import load_recipe
from medllama.stages import BY_NAME
from tests.adapters import make_adapter
from tests.checkpoints import make_llama2_checkpoint

functional = pytest.importorskip("bitsandbytes.functional", reason="the reference: pip install medllama[gpu]")

KINDS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4, nested": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "nf4, kept as bfloat16": {
        "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_quant_storage": torch.bfloat16,
    },
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "fp4, nested": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
    "8 bits": {"load_in_8bit": True},
    "with the head": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "llm_int8_skip_modules": ["embed_tokens"]},
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # the models are so small that threads only wait for each other


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "base"
    return make_llama2_checkpoint(folder, dtype=torch.bfloat16, attention_bias=True)


def load_quantized(base: Path, settings: dict[str, Any]) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        base, dtype="auto", quantization_config=BitsAndBytesConfig(**settings), device_map={"": "cpu"}
    )


def save_quantized(base: Path, folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """A checkpoint as bitsandbytes saves it, and the values of its tensors as bitsandbytes dequantizes them."""
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    model = load_quantized(base, KINDS[kind])
    model.save_pretrained(folder)
    for path in [*base.glob("token*"), *base.glob("generation*")]:
        (folder / path.name).write_bytes(path.read_bytes())
    values = {}
    for name, module in model.named_modules():
        for part, value in module.named_parameters(recurse=False):
            state = getattr(module, "state", None)
            values[f"{name}.{part}"] = dequantize_bnb_weight(value, state) if part == "weight" else value
    return {name: value.detach() for name, value in values.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_values_are_those_of_bitsandbytes_to_the_bit(kind: str, base: Path, tmp_path: Path) -> None:
    truth = save_quantized(base, tmp_path / "quantized", kind)
    found = read_base_tensors(safetensors_files(tmp_path / "quantized"), "dequantized", None)
    assert found.keys() == truth.keys()
    for name, tensor in found.items():
        expected = truth[name].float().numpy()
        assert numpy.array_equal(tensor.float32(), expected), name
        rows = slice(3, min(8, tensor.shape[0]))
        assert numpy.array_equal(tensor.float32(rows), expected[rows]), name


@pytest.mark.parametrize("kind", ["nf4, nested", "8 bits"])
def test_a_quantized_checkpoint_is_converted_and_proven_where_that_is_asked_for(
    kind: str, base: Path, tmp_path: Path
) -> None:
    save_quantized(base, tmp_path / "quantized", kind)
    adapter = make_adapter(base, tmp_path / "adapter")
    types = ("BF16", "Q8_0", "safetensors")
    result = convert(
        ConvertConfig(str(tmp_path / "quantized"), tmp_path, adapter, types, "m", base_values="dequantized")
    )
    assert result.summary["base_values"] == "dequantized"
    fields = gguf.GGUFReader(tmp_path / "m-BF16.gguf").fields
    assert "dequantized" in fields["general.base_model.0.description"].contents()
    files = tuple(result.summary["files"])
    certificate = tmp_path / "certificate.json"
    settings: dict[str, Any] = {"sample": True, "base_values": "dequantized"}
    verify(VerifyConfig(str(tmp_path / "quantized"), files, certificate, adapter, **settings))
    assert read_json(certificate)["base"]["values"] == "dequantized"
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "m-safetensors", dtype="auto")
    assert not hasattr(merged.config, "quantization_config")
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}


def test_a_scale_of_another_block_is_caught(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_quantized(base, tmp_path / "quantized", "nf4")
    right = Scales.of
    monkeypatch.setattr(Scales, "of", lambda self, first, last: numpy.roll(right(self, first, last), 1))
    convert(ConvertConfig(str(tmp_path / "quantized"), tmp_path, types=("F16",), name="m", base_values="dequantized"))
    with pytest.raises(CheckFailed, match=r"tensors of m-F16\.gguf"):
        verify_file(tmp_path / "quantized", tmp_path / "m-F16.gguf", None, "dequantized")


def verify_file(base: Path, file: Path, adapter: Path | None, values: Any) -> dict[str, Any]:
    output = file.parent / "certificate.json"
    verify(VerifyConfig(str(base), (str(file),), output, adapter, sample=True, base_values=values))
    return dict(read_json(output))


def test_nf4_is_what_training_holds(base: Path) -> None:
    """All but a few blocks in a thousand, whose scale bitsandbytes' CPU kernel rounds to the next in its coarse table."""
    model = load_base(base, torch.bfloat16, quantization="nf4")
    stored = read_tensors(safetensors_files(base))
    names = [name for name in stored if name.endswith("_proj.weight")]
    assert len(names) == 14
    differ = total = 0
    for name in names:
        weight = model.get_parameter(name)
        truth = functional.dequantize_4bit(weight.data, weight.quant_state).float().numpy()
        found = through_nf4(stored[name], "BF16").float32()
        assert numpy.allclose(found, truth, rtol=0.02, atol=1e-5)
        assert not numpy.allclose(found, stored[name].float32(), rtol=0.02, atol=1e-5)
        differ, total = differ + int((found != truth).sum()), total + truth.size
    assert differ < 0.005 * total


def test_nf4_is_trained_with_the_settings_that_are_computed_here() -> None:
    settings = nf4(torch.bfloat16)
    assert (settings.bnb_4bit_quant_type, settings.bnb_4bit_use_double_quant) == ("nf4", True)
    assert numpy.allclose(scales_table(), functional.create_dynamic_map().numpy(), rtol=0, atol=1e-7)


def test_rows_do_not_depend_on_where_the_reading_begins(tmp_path: Path) -> None:
    weight = torch.randn(37, 50, generator=torch.Generator().manual_seed(0))  # no row is whole blocks
    save_file({"w": weight}, tmp_path / "w.safetensors")
    tensor = through_nf4(read_tensors([tmp_path / "w.safetensors"])["w"], "F32")
    whole = tensor.float32()
    assert numpy.array_equal(numpy.concatenate([tensor.float32(slice(row, row + 1)) for row in range(37)]), whole)
    packed, state = functional.quantize_4bit(weight.reshape(-1), quant_type="nf4")
    assert numpy.abs(whole - weight.numpy()).max() < 0.2 * weight.abs().max()
    assert numpy.array_equal(whole == 0, (functional.dequantize_4bit(packed, state) == 0).reshape(37, 50).numpy())


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter as QLoRA leaves it, and the two files it can be merged to."""
    folder = tmp_path_factory.mktemp("trained")
    adapter = make_adapter(base, folder / "adapter")
    training = {"dtype": "bfloat16", "hyperparameters": {"quantization": "nf4"}}
    (adapter / "training.json").write_text(json.dumps(training))
    for values in ("stored", "nf4"):
        convert(ConvertConfig(str(base), folder, adapter, ("F16",), values, base_values=values))
    return folder


@pytest.mark.parametrize("values", ["stored", "nf4"])
def test_a_merge_is_right_for_the_values_that_it_was_made_of_and_wrong_for_the_others(
    values: str, base: Path, trained: Path
) -> None:
    adapter, file = trained / "adapter", trained / f"{values}-F16.gguf"
    assert verify_file(base, file, adapter, values)["base"]["values"] == values
    other = "nf4" if values == "stored" else "stored"
    with pytest.raises(CheckFailed, match="tensors of"):
        verify_file(base, file, adapter, other)
    checks = read_json(trained / "certificate.json")["files"][0]["checks"]
    cause = next(check["likely_cause"] for check in checks if check["name"] == "tensors")
    assert f"merged into the base's {values} values" in cause


@pytest.mark.parametrize(("every", "is_right"), [(4096, True), (16, False)])
def test_a_scale_between_two_codes_may_fall_to_either_but_not_many_do(
    every: int, is_right: bool, base: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = vars(ThroughNf4)["_scales"].func

    def moved(self: ThroughNf4) -> Any:
        codes, nested, offset = right(self)
        codes = codes.copy()
        codes[::every] ^= 1
        return codes, nested, offset

    monkeypatch.setattr(ThroughNf4, "_scales", property(moved))
    convert(ConvertConfig(str(base), tmp_path, trained / "adapter", ("F32", "F16"), "m", base_values="nf4"))
    for kind in ("F32", "F16"):
        with nullcontext() if is_right else pytest.raises(CheckFailed, match="tensors of"):
            verify_file(base, tmp_path / f"m-{kind}.gguf", trained / "adapter", "nf4")


def test_the_base_to_compare_with_keeps_its_own_values(base: Path, trained: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"base_values": "nf4", "with_base": True}
    convert(ConvertConfig(str(base), tmp_path, trained / "adapter", ("F16",), "m", **settings))
    verify_file(base, tmp_path / "m-base-F16.gguf", None, "stored")


REFUSED: dict[str, tuple[str, str, type[MedllamaError], str]] = {
    "bitsandbytes, not asked for": ("bitsandbytes", "stored", UnsupportedError, r"is quantized \(bitsandbytes\)"),
    "bitsandbytes, to be quantized again": ("bitsandbytes", "nf4", UnsupportedError, r"is quantized \(bitsandbytes\)"),
    "GPTQ": ("gptq", "dequantized", UnsupportedError, r"is quantized \(gptq\)"),
    "AWQ": ("awq", "dequantized", UnsupportedError, r"is quantized \(awq\)"),
    "FP8": ("fp8", "stored", UnsupportedError, r"is quantized \(fp8\)"),
    "compressed-tensors": ("compressed-tensors", "stored", UnsupportedError, r"is quantized \(compressed-tensors\)"),
    "not quantized": ("", "dequantized", InputError, "is not quantized"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_base_that_has_not_the_values_is_refused_by_name(case: str, trained: Path, tmp_path: Path) -> None:
    method, values, error, reason = REFUSED[case]
    base, adapter = make_llama2_checkpoint(tmp_path / "base"), trained / "adapter"
    config = read_json(base / "config.json") | ({"quantization_config": {"quant_method": method}} if method else {})
    (base / "config.json").write_text(json.dumps(config))
    settings: dict[str, Any] = {"base_values": values}
    with pytest.raises(error, match=reason) as caught:
        convert(ConvertConfig(str(base), tmp_path / "out", adapter, **settings))
    assert caught.value.hint
    assert not (tmp_path / "out").exists()
    file = trained / "stored-F16.gguf"
    with pytest.raises(error, match=reason):
        verify(VerifyConfig(str(base), (str(file),), tmp_path / "certificate.json", adapter, **settings))


def test_nf4_is_refused_for_an_adapter_that_was_not_trained_so(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    (adapter / "training.json").write_text(
        json.dumps({"dtype": "bfloat16", "hyperparameters": {"quantization": "none"}})
    )
    with pytest.raises(InputError, match="was trained on a base that was not quantized"):
        convert(ConvertConfig(str(base), tmp_path / "out", adapter, base_values="nf4"))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({}, "name the adapter"), ({"adapter": "a", "adapter_only": True}, "applied to the stored base")],
)
def test_nf4_is_for_merging_an_adapter(settings: dict[str, Any], reason: str, tmp_path: Path) -> None:
    values = {"base_model": "b", "output_dir": str(tmp_path), "base_values": "nf4"} | settings
    with pytest.raises(RecipeError, match=reason):
        build(ConvertConfig, values, origin="here")


def test_a_recipe_says_it_once(tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text("name: own\ntrain:\n  base_model: base\nconvert:\n  base_values: nf4\n")
    for name in ("convert", "verify"):
        assert configure(BY_NAME[name], load_recipe(str(recipe)), tmp_path, {}).base_values == "nf4"


@pytest.mark.parametrize("fault", ["scales missing", "scales cut", "codes cut", "state is no JSON", "a type unknown"])
def test_a_damaged_quantized_checkpoint_is_an_error_for_people(fault: str, base: Path, tmp_path: Path) -> None:
    save_quantized(base, tmp_path / "quantized", "nf4, nested")
    path, name = tmp_path / "quantized" / "model.safetensors", "model.layers.0.mlp.up_proj.weight"
    tensors = load_file(path)
    if fault == "scales missing":
        del tensors[f"{name}.absmax"]
    elif fault == "scales cut":
        tensors[f"{name}.nested_absmax"] = tensors[f"{name}.nested_absmax"][:-1].clone()
    elif fault == "codes cut":
        tensors[name] = tensors[name][:-1].clone()
    elif fault == "state is no JSON":
        tensors[f"{name}.quant_state.bitsandbytes__nf4"][0] = 0
    else:
        tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
    save_file(tensors, path)
    with pytest.raises(MedllamaError, match=r"up_proj|norm") as caught:
        convert(ConvertConfig(str(tmp_path / "quantized"), tmp_path / "out", base_values="dequantized"))
    assert caught.value.hint


def test_verify_says_what_it_needs(base: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_values.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UnsupportedError, match="with bitsandbytes") as caught:
        verify_file(base, trained / "nf4-F16.gguf", trained / "adapter", "nf4")
    assert caught.value.hint == 'pip install "medllama[gpu]"'
