"""A PEFT LoRA adapter, merged tensor by tensor in float32: what PEFT's `merge_and_unload` does to the float32 model.

    adapter = read_adapter(Path("adapter"))
    merged = adapter.merge("model.layers.0.mlp.up_proj.weight", stored)      # (rows, columns) float32

    plain LoRA   W + s B A            s = alpha / r, or alpha / sqrt(r) with rsLoRA; alpha and r by pattern
    DoRA         m (W + s B A) / ||W + s B A||     m the magnitude vector, the norm of each row
    saved module the adapter's tensor in place of the base's
    trained tokens  single rows of the embedding in place of the base's

Everything else that an adapter_config.json can ask for and that would change the result is refused by name.

Source followed: peft/tuners/lora (layer.py, dora.py), peft/tuners/trainable_tokens, peft/utils/save_and_load.py.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import numpy.typing

from convert.weights import EVERY_ROW, StoredTensor, read_tensors
from medllama.errors import InputError, UnsupportedError
from medllama.files import read_json

Array = numpy.typing.NDArray[Any]
PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"

# Fields that do not change what a merge gives, or that are understood here. Any other field that is set is refused.
UNDERSTOOD = {
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "modules_to_save",
    "trainable_token_indices", "ensure_weight_tying", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern",
}  # fmt: skip
HARMLESS = {
    "peft_type", "peft_version", "task_type", "base_model_name_or_path", "revision", "auto_mapping", "inference_mode",
    "lora_dropout", "runtime_config", "eva_config", "qalora_group_size", "megatron_core",
}  # fmt: skip
HARMLESS_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
PART = re.compile(
    r"^(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector"
    r"|token_adapter\.trainable_tokens_delta)(?:\.default)?(?:\.weight)?$"
)


@dataclass(frozen=True)
class LoraModule:
    """The adapter's tensors of one module: A (r, columns), B (rows, r), the scale s, DoRA's magnitude (rows,)."""

    name: str
    a: StoredTensor
    b: StoredTensor
    scale: float
    magnitude: StoredTensor | None = None
    is_embedding: bool = False

    def delta(self, rows: slice = EVERY_ROW) -> Array:
        """These rows of s B A, (rows, columns) float32. An embedding's LoRA is stored transposed."""
        if self.is_embedding:
            product = self.a.float32_columns(rows).T @ self.b.float32().T
        else:
            product = self.b.float32(rows) @ self.a.float32()
        product *= numpy.float32(self.scale)
        return product

    def shape(self) -> tuple[int, int]:
        """The shape of the matrix that this module changes."""
        outer = (self.b.shape[0], self.a.shape[1])
        return outer[::-1] if self.is_embedding else outer


@dataclass(frozen=True)
class Adapter:
    """An adapter folder, read and checked."""

    path: Path
    config: dict[str, Any]
    modules: dict[str, LoraModule] = field(default_factory=dict)
    saved: dict[str, StoredTensor] = field(default_factory=dict)
    trained_tokens: dict[str, tuple[list[int], StoredTensor]] = field(default_factory=dict)

    @property
    def keeps_tie(self) -> bool:
        """Whether a tied model stays tied although one of its two matrices is saved."""
        return bool(self.config.get("ensure_weight_tying"))

    def touches(self, name: str) -> bool:
        """Whether the tensor `name` (`...weight`) differs from the base's."""
        return name in self.saved or name.removesuffix(".weight") in {*self.modules, *self.trained_tokens}

    def merge(self, name: str, base: StoredTensor | None, rows: slice = EVERY_ROW) -> Array:
        """These rows of the merged tensor, float32. `base` is not read where the adapter brings the tensor whole."""
        stored = self.saved.get(name, base)
        assert stored is not None, f"{name} is neither in the base nor in the adapter"
        values = stored.float32(rows)
        module_name = name.removesuffix(".weight")
        if module_name in self.trained_tokens:
            values = self._with_trained_tokens(module_name, values, rows.indices(stored.shape[0])[0])
        module = self.modules.get(module_name)
        if module is None:
            return values
        merged = module.delta(rows)
        merged += values
        if module.magnitude is not None:
            norm = numpy.linalg.norm(merged, axis=1, keepdims=True)
            merged *= module.magnitude.float32().reshape(-1, 1)[rows] / norm
        return merged

    def _with_trained_tokens(self, module_name: str, values: Array, first: int) -> Array:
        """`values` are the rows from `first` on; those of trained tokens are replaced."""
        indices, trained = self.trained_tokens[module_name]
        places = numpy.array(indices) - first
        here = (places >= 0) & (places < len(values))
        values = values.copy()
        values[places[here]] = trained.float32()[here]
        return values

    def check_against(self, shapes: dict[str, tuple[int, ...]], *, is_tied: bool, origin: object) -> None:
        """Raise InputError unless the adapter fits these shapes of the base, UnsupportedError for a LoRA on a tied pair."""
        tied = {"model.embed_tokens", "lm_head"} & self.modules.keys()
        if is_tied and tied:
            raise UnsupportedError(
                f"{self.path} has a LoRA on {', '.join(sorted(tied))} of a model whose embedding and head are one matrix",
                hint="merged it would change both, trained it changed one; untie the base, or save the module whole",
            )
        problems = []
        for name, tensor in self.saved.items():
            if 0 in tensor.shape:
                problems.append(f"{name} is {tensor.shape}, which is nothing")
            if name in shapes and shapes[name][1:] != tensor.shape[1:]:
                problems.append(f"{name} is {shapes[name]} in the base, and {tensor.shape} in the adapter")
        # A vocabulary may have been enlarged: what the adapter saves whole is what its modules fit.
        shapes = shapes | {name: tensor.shape for name, tensor in self.saved.items()}
        for module_name, module in self.modules.items():
            found = shapes.get(f"{module_name}.weight")
            if found is None:
                problems.append(f"{module_name} is not in the base")
            elif found != module.shape():
                problems.append(f"{module_name} is {found} in the base, and the adapter is for {module.shape()}")
        for module_name, (indices, rows) in self.trained_tokens.items():
            found = shapes.get(f"{module_name}.weight", (0, 0))
            if rows.shape != (len(indices), found[1]) or (indices and max(indices) >= found[0]):
                problems.append(f"{module_name} is {found} in the base, and the adapter trains rows {rows.shape} of it")
        if problems:
            shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
            raise InputError(
                f"{self.path} is not an adapter of {origin}: {shown}",
                hint=f"it was trained on {self.config.get('base_model_name_or_path')!r}; name that as --base-model",
            )


def read_adapter(path: Path) -> Adapter:
    """Read an adapter folder.

    Raises InputError where it is no PEFT LoRA or is damaged, UnsupportedError for what cannot be merged exactly.
    """
    config_path, weights_path = path / "adapter_config.json", path / WEIGHTS
    if not config_path.is_file():
        raise InputError(
            f"{path} has no adapter_config.json", hint="name the folder that medllama train (or PEFT) wrote"
        )
    if not weights_path.is_file():
        pickled = path / "adapter_model.bin"
        hint = (
            "save it again with safe_serialization=True: a pickle can run any code"
            if pickled.exists()
            else "train it again"
        )
        raise InputError(f"{path} has no {WEIGHTS}", hint=hint)
    config = read_json(config_path)
    _check_config(config, path)
    stored = read_tensors([weights_path])
    modules: dict[str, dict[str, StoredTensor]] = {}
    saved: dict[str, StoredTensor] = {}
    for key, tensor in stored.items():
        name = key.removeprefix(PREFIX)
        match = PART.match(name)
        if match:
            modules.setdefault(match["module"], {})[match["part"].removeprefix("token_adapter.")] = tensor
        elif name.endswith(".base_layer.weight"):
            saved.setdefault(name.replace(".token_adapter.", ".").replace(".base_layer.weight", ".weight"), tensor)
        elif re.fullmatch(r"(model\.|lm_head\.)[\w.]*(weight|bias)", name):
            saved[name.replace(".modules_to_save.default", "").replace(".modules_to_save", "")] = tensor
        else:
            raise UnsupportedError(
                f"{weights_path}: {key} is not a part of a LoRA that medllama knows", hint="see docs/fidelity.md"
            )
    return _assemble(path, config, modules, saved)


def _assemble(
    path: Path, config: dict[str, Any], modules: dict[str, dict[str, StoredTensor]], saved: dict[str, StoredTensor]
) -> Adapter:
    adapter = Adapter(path, config, {}, saved, {})
    for name, parts in modules.items():
        if rows := parts.pop("trainable_tokens_delta", None):
            adapter.trained_tokens[name] = (_trained_indices(config, name), rows)
        if not parts:
            continue
        kind = "lora_embedding_" if "lora_embedding_A" in parts else "lora_"
        a, b = parts.get(f"{kind}A"), parts.get(f"{kind}B")
        if a is None or b is None:
            raise InputError(
                f"{path}: {name} has {', '.join(sorted(parts))} alone", hint="the adapter is damaged; copy it again"
            )
        magnitude = parts.get("lora_magnitude_vector")
        if bool(config.get("use_dora")) != (magnitude is not None):
            raise InputError(f"{path}: use_dora and the tensors of {name} do not agree", hint="copy the adapter again")
        if magnitude is not None and kind == "lora_embedding_":
            raise UnsupportedError(
                f"{path}: DoRA on the embedding {name}", hint="save the embedding whole: modules_to_save"
            )
        rank = _by_pattern(config.get("rank_pattern"), name, config["r"])
        if a.shape[0] != rank or b.shape[1] != rank:
            raise InputError(
                f"{path}: {name} has rank {a.shape[0]} where the config says {rank}", hint="copy the adapter again"
            )
        alpha = _by_pattern(config.get("alpha_pattern"), name, config["lora_alpha"])
        scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
        adapter.modules[name] = LoraModule(name, a, b, scale, magnitude, is_embedding=kind == "lora_embedding_")
    if not (adapter.modules or saved or adapter.trained_tokens):
        raise InputError(f"{path} holds no tensors", hint="train it again")
    return adapter


def _check_config(config: dict[str, Any], path: Path) -> None:
    """Refuse every setting that would change the merge and is not understood here."""
    if config.get("peft_type") != "LORA":
        raise UnsupportedError(f"{path} is {config.get('peft_type')}, not LORA", hint="medllama merges LoRA adapters")
    if missing := [name for name in ("r", "lora_alpha") if not isinstance(config.get(name), int | float)]:
        raise InputError(f"{path}/adapter_config.json has no {', '.join(missing)}", hint="copy the adapter again")
    refused = []
    for name, value in config.items():
        if name == "init_lora_weights":
            if value not in HARMLESS_INITS:
                refused.append(f"{name}={value} (it changed the base's own weights)")
        elif name == "bias":
            if value not in ("none", None):
                refused.append(f"bias={value}")
        elif name not in UNDERSTOOD | HARMLESS and value not in (None, False, {}, [], ""):
            refused.append(f"{name}={value}")
    if refused:
        raise UnsupportedError(
            f"{path}: this adapter cannot be merged exactly: {', '.join(refused)}",
            hint="merge it with PEFT's merge_and_unload, look at the result, and convert the merged checkpoint",
        )


def _by_pattern(pattern: dict[str, Any] | None, name: str, default: float) -> Any:
    """PEFT's rule: the first pattern that matches the end of the module's name."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return default


def _trained_indices(config: dict[str, Any], name: str) -> list[int]:
    given = config.get("trainable_token_indices")
    if isinstance(given, dict):
        given = next((value for key, value in given.items() if name.endswith(key)), None)
    if not isinstance(given, list):
        raise InputError(
            f"{name} has trained tokens, but adapter_config.json does not say which", hint="copy the adapter again"
        )
    return [int(index) for index in given]
