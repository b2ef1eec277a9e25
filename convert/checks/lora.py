"""What a PEFT adapter does to each weight, in float64, from PEFT's definition and without PEFT.

    weight + scale * B @ A                                   LoRA; scale is alpha / r, with rsLoRA alpha / sqrt(r)
    magnitude * (weight + scale * B @ A) / its row norms      DoRA
    the saved module, the trained rows of the embedding      modules_to_save, trainable_token_indices

It shares no code with the converter. Everything is computed for chosen rows, so that no weight is ever held whole.

Sources followed: peft/tuners/lora (layer.py, dora.py, variants.py), peft/utils/other.py, PEFT 0.21.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medllama.errors import InputError, UnsupportedError
from medllama.files import read_json

PREFIX = "base_model.model."
LAYER_PATTERN = re.compile(r"^(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B)(?:\.weight)?$")
MAGNITUDE_PATTERN = re.compile(r"^(?P<module>.+)\.lora_magnitude_vector(?:\.weight)?$")
TOKENS_PATTERN = re.compile(r"^(?P<module>.+?)\.(?:token_adapter\.)?trainable_tokens_delta$")
WRAPPINGS = re.compile(r"\.(modules_to_save|token_adapter\.base_layer|base_layer)\.")

# What these modules compute, or what does not change the result: any other field that is not at PEFT's default is refused.
UNDERSTOOD = frozenset(
    (
        "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "modules_to_save", "target_modules",
        "trainable_token_indices", "ensure_weight_tying", "exclude_modules", "layers_to_transform", "layers_pattern",
        "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
        "lora_dropout", "init_lora_weights", "megatron_core", "megatron_config", "runtime_config", "eva_config", "bias",
    )
)  # fmt: skip
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")  # those that leave the base's weights alone


@dataclass(frozen=True)
class Layer:
    """What an adapter adds to one module. `a` (r, inputs) and `b` (outputs, r) float64; for an embedding of `n` tokens `a` is
    (r, n) and `b` (width, r), added transposed. `magnitude` (outputs,) is DoRA's."""

    a: np.ndarray
    b: np.ndarray
    scale: float
    magnitude: np.ndarray | None = None
    is_embedding: bool = False

    def apply(self, weight: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The changed `weight` (rows, columns) float64 of the given rows."""
        if self.is_embedding:
            return weight + self.scale * (self.a[:, rows].T @ self.b.T)
        changed = weight + self.scale * (self.b[rows] @ self.a)
        if self.magnitude is None:
            return changed
        return changed * (self.magnitude[rows] / np.linalg.norm(changed, axis=1))[:, None]


@dataclass(frozen=True)
class Adapter:
    """A PEFT adapter read from its folder. Keys are Hugging Face module names such as "model.layers.0.self_attn.q_proj"."""

    folder: Path
    config: dict[str, Any]
    layers: dict[str, Layer] = field(default_factory=dict)
    saved: dict[str, np.ndarray] = field(default_factory=dict)  # parameters replaced whole, by name
    token_rows: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)  # module -> ids, rows

    def touches(self, parameter: str) -> bool:
        """Whether the adapter changes the parameter of this name."""
        module = parameter.removesuffix(".weight")
        return parameter in self.saved or (
            parameter.endswith(".weight") and (module in self.layers or module in self.token_rows)
        )


def read_adapter(folder: Path) -> Adapter:
    """The adapter in a folder. Raises InputError where it is missing or malformed, UnsupportedError for what is not LoRA
    as these modules compute it."""
    if not (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder} has no adapter_config.json", hint="name the folder that train or PEFT saved")
    config = read_json(folder / "adapter_config.json")
    _refuse_unknown(config, folder)
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        raise InputError(
            f"{folder} has no adapter_model.safetensors" + (", only a pickle (adapter_model.bin)" if pickled else ""),
            hint="save the adapter with safetensors: a pickle can run any code when it is opened",
        )
    try:
        stored = _load(path)
    except Exception as error:  # the library raises its own kinds for a short or damaged file
        raise InputError(f"{path} is not safetensors: {error}", hint="it may be cut short; copy it again") from None
    return _sort(folder, config, stored)


def _load(path: Path) -> dict[str, np.ndarray]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name).double().numpy() for name in file.keys()}  # noqa: SIM118


def _refuse_unknown(config: dict[str, Any], folder: Path) -> None:
    from peft import LoraConfig

    if config.get("peft_type") != "LORA":
        raise UnsupportedError(f"{folder}: the adapter is {config.get('peft_type')}, and only LORA can be verified")
    defaults = LoraConfig().to_dict()
    strange = [
        name
        for name, value in config.items()
        if name not in UNDERSTOOD and value and value != defaults.get(name) and not name.startswith("_")
    ]
    if config.get("init_lora_weights", True) not in PLAIN_STARTS:
        strange.append(f"init_lora_weights={config['init_lora_weights']}")
    if strange:
        raise UnsupportedError(
            f"{folder}: verify has no independent computation for {', '.join(strange)}",
            hint="merge it with PEFT, save the merged model, and convert that without --adapter",
        )


def _sort(folder: Path, config: dict[str, Any], stored: dict[str, np.ndarray]) -> Adapter:
    """The stored tensors put in their places."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    saved: dict[str, np.ndarray] = {}
    rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for key, value in stored.items():
        name = WRAPPINGS.sub(".", key.removeprefix(PREFIX))
        if match := LAYER_PATTERN.match(name):
            parts.setdefault(match["module"], {})[match["part"]] = value
        elif match := MAGNITUDE_PATTERN.match(name):
            parts.setdefault(match["module"], {})["magnitude"] = value.reshape(-1)
        elif match := TOKENS_PATTERN.match(name):
            rows[match["module"]] = (_token_indices(config, match["module"], folder), value)
        else:
            saved[name] = value
    # Beside a saved module of a grown vocabulary PEFT keeps the module that it replaces.
    replaced = {name: name.replace(".original_module.", ".") for name in saved if ".original_module." in name}
    for name, module in replaced.items():
        saved.setdefault(module, saved.pop(name))
    layers = {module: _layer(module, config, found, folder) for module, found in parts.items()}
    return Adapter(folder, config, layers, saved, rows)


def _layer(module: str, config: dict[str, Any], parts: dict[str, np.ndarray], folder: Path) -> Layer:
    is_embedding = "lora_embedding_A" in parts
    try:
        a, b = (parts[f"lora_{'embedding_' if is_embedding else ''}{letter}"] for letter in "AB")
    except KeyError as missing:
        raise InputError(
            f"{folder}: the adapter of {module} has no {missing}", hint="the adapter is not whole; save it again"
        ) from None
    if is_embedding and "magnitude" in parts:
        raise UnsupportedError(f"{folder}: verify has no independent computation for DoRA on {module}")
    rank = a.shape[0]
    alpha = float(_by_pattern(config.get("alpha_pattern") or {}, module, config["lora_alpha"]))
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return Layer(a, b, scale, parts.get("magnitude"), is_embedding)


def _by_pattern(patterns: dict[str, Any], module: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that matches the module's name, whole or after a dot."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _token_indices(config: dict[str, Any], module: str, folder: Path) -> np.ndarray:
    indices = config.get("trainable_token_indices")
    if isinstance(indices, dict):
        indices = next((value for name, value in indices.items() if module.endswith(name)), None)
    if indices is None:
        raise InputError(f"{folder}: trained rows of {module} are saved, but adapter_config.json names no token ids")
    return np.asarray(indices, dtype=np.int64)
