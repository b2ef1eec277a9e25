"""Which values of a base an adapter is merged into and held against: `--base-values` of convert and verify.

    stored         as the files hold them, in 16 or 32 bits
    dequantized    what the 4 or 8 bits of a checkpoint that bitsandbytes saved stand for
    nf4            the linear layers as QLoRA's training saw them: rounded to normal-float 4 bits and back

Nothing is dequantized without being asked for: the values are the quantized model's, not those of the model it was made from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from medllama.errors import InputError, UnsupportedError
from medllama.files import read_json

BaseValues = Literal["stored", "dequantized", "nf4"]
HELP = (
    "what of the base is merged: stored, its own values; dequantized, what a bitsandbytes checkpoint's 4 or 8 bits stand for "
    "(worse than the 16-bit base that it was made from); nf4, its linear layers rounded to 4 bits and back, as QLoRA's training "
    "saw them: what the adapter was fitted to, at the price of that rounding in F16 too"
)


def require_values(config: dict[str, Any], base: Path, choice: BaseValues) -> None:
    """Raise UnsupportedError or InputError where the base of this config.json has not the values that are asked for."""
    quantization, path = config.get("quantization_config"), base / "config.json"
    if not quantization:
        if choice == "dequantized":
            raise InputError(f"{path}: the base is not quantized", hint="leave out --base-values dequantized")
        return
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    said = f"{path}: the base is quantized ({method or 'unknown'})"
    if method != "bitsandbytes":
        hint = "name the 16-bit or 32-bit base that it was made from"
        raise UnsupportedError(said, hint=hint)
    if choice != "dequantized":
        hint = "name the 16-bit base; or convert and verify what its bits stand for: --base-values dequantized"
        raise UnsupportedError(said, hint=hint)


def problems(choice: BaseValues, adapter: Path | None, *, is_apart: bool) -> list[str]:
    """What is wrong with the choice; `is_apart` says that the adapter gets a GGUF of its own."""
    if choice != "nf4":
        return []
    if adapter is None:
        return ["base_values: nf4 is what an adapter was trained on; name the adapter"]
    return ["base_values: nf4 is for merging; an adapter's own GGUF is applied to the stored base"] if is_apart else []


def nf4_dtype(adapter: Path) -> str | None:
    """The type that training held the base's values in before and after their 4 bits, in safetensors' spelling; None where
    `medllama train` did not write it down. InputError where that training did not quantize."""
    path = adapter / "training.json"
    if not path.is_file():
        return None
    training = read_json(path)
    if (training.get("hyperparameters") or {}).get("quantization") != "nf4":
        raise InputError(f"{adapter} was trained on a base that was not quantized", hint="leave out --base-values nf4")
    return {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}.get(training.get("dtype"))
