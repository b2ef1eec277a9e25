"""In a run the base's file is made beside the model's, of the same type, and eval is given these two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest

from convert.config import ConvertConfig
from convert.convert import convert
from medllama.chat import LLAMA3_TEMPLATE
from medllama.pipeline import configure
from medllama.recipe import load_recipe
from medllama.stages import BY_NAME
from tests.adapters import make_adapter


@pytest.mark.parametrize(
    ("types", "measured"),
    [("F16, Q8_0, Q4_K_M", "Q4_K_M"), ("Q4_K_M, F16, safetensors", "Q4_K_M"), ("BF16, F32", "F32")],
)
def test_the_last_quantized_file_and_its_base_are_measured(types: str, measured: str, tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(f"train: {{base_model: .}}\nconvert: {{types: [{types}]}}\n")
    run = tmp_path / "run"
    found = configure(BY_NAME["eval"], load_recipe(str(recipe)), run, {})
    assert found.gguf == run / "gguf" / f"small-{measured}.gguf"
    assert found.baseline == run / "gguf" / f"small-base-{measured}.gguf"
    assert (found.data, found.output) == (run / "data", run / "eval" / "results.json")
    verified = configure(BY_NAME["verify"], load_recipe(str(recipe)), run, {})
    assert str(found.baseline) not in verified.gguf
    alone = configure(BY_NAME["eval"], load_recipe(str(recipe)), run, {"with_base": False})
    assert alone.baseline is None


def test_the_base_beside_the_model_is_the_base_with_the_models_template(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", modules_to_save=["lm_head"])
    (adapter / "chat_template.jinja").write_text(LLAMA3_TEMPLATE + "{# the adapter's own #}")
    common: dict[str, Any] = {"base_model": str(base), "types": ("F16", "Q8_0")}
    made = convert(ConvertConfig(**common, adapter=adapter, output_dir=tmp_path / "run", with_base=True))
    plain = convert(ConvertConfig(**common, output_dir=tmp_path / "plain"))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "medllama-F16.gguf", "medllama-Q8_0.gguf", "medllama-base-Q8_0.gguf",
    ]  # fmt: skip
    assert made.summary["files"] == [str(tmp_path / "run" / f"medllama-{name}.gguf") for name in ("F16", "Q8_0")]
    tuned, beside, alone = (
        gguf.GGUFReader(path)
        for path in (made.summary["files"][-1], made.summary["baseline"], plain.summary["files"][-1])
    )
    key = "tokenizer.chat_template"
    assert beside.fields[key].contents() == tuned.fields[key].contents() != alone.fields[key].contents()
    assert [(it.name, it.data.tobytes()) for it in beside.tensors] == [
        (it.name, it.data.tobytes()) for it in alone.tensors
    ]
    assert any(a.data.tobytes() != b.data.tobytes() for a, b in zip(beside.tensors, tuned.tensors, strict=True))
