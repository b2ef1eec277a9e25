"""The truth that a GGUF is held against: shapes and weights, computed from config.json, safetensors and the adapter.

    truth = read_reference(base, adapter)
    truth.weights("merged").rows("blk.0.attn_q.weight", 0, 256)     # (256, hidden_size) float64, in the GGUF's row order

Rows are asked for by their place in the GGUF, and found in the checkpoint by the definition of the two RoPE layouts: Transformers
turns dimension j of a head together with j + d/2, llama.cpp 2j with 2j + 1. So row 2j + s of a head in the file is
row j + s * d/2 of that head in the checkpoint. Nothing here is shared with the converter but where files lie.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from convert.checks.base_values import Computed, dequantized, through_nf4
from convert.checks.lora import Adapter, read_adapter
from medllama.base_values import BaseValues, nf4_dtype, require_values
from medllama.checkpoint import read_config, require_token_ids, safetensors_files
from medllama.errors import InputError, MedllamaError, UnsupportedError

Which = Literal["base", "merged"]

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ATTENTION_BIASES, MLP_BIASES = ("attn_q", "attn_k", "attn_v", "attn_output"), ("ffn_gate", "ffn_up", "ffn_down")
ROPE_FACTORS = "rope_freqs.weight"
KNOWN_ROPE = ("default", "llama3", "linear", "yarn")


@dataclass(frozen=True)
class Expected:
    """A tensor that the GGUF must hold: the parameter that it comes from and its shape; `head_dim` where its rows are
    in RoPE order; `is_optional` where it may be left out because it equals the embedding."""

    parameter: str
    shape: tuple[int, ...]
    head_dim: int | None = None
    is_optional: bool = False


class Reference:
    """A checkpoint with its adapter, opened for reading. `config` is Transformers' own reading of config.json; `values` says
    which of the base's values `stored` gives."""

    def __init__(
        self, base: Path, adapter: Adapter | None, config: Any, stored: dict[str, Callable[[], Any]], values: BaseValues
    ) -> None:
        self.base, self.adapter, self.config, self._stored, self.values = base, adapter, config, stored, values

    @property
    def names(self) -> set[str]:
        """The parameters that are stored."""
        return set(self._stored)

    @property
    def head_dim(self) -> int:
        return getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads

    @property
    def has_rope_factors(self) -> bool:
        """Whether RoPE is scaled as in Llama 3, by factors that are a tensor of the GGUF."""
        return rope_type(self.config) == "llama3"

    @functools.cached_property
    def is_tied(self) -> bool:
        """Whether the base's head is its embedding. Transformers does not tie two stored tensors that differ."""
        if not self.config.tie_word_embeddings:
            return False
        if EMBEDDING in self._stored and HEAD in self._stored:
            embedding, head = self.stored(EMBEDDING)[:], self.stored(HEAD)[:]
            return embedding.shape == head.shape and bool((embedding == head).all())
        return True

    def stored(self, parameter: str) -> Any:
        """The safetensors slice of a base parameter; of a tied pair whichever is stored."""
        if parameter in (EMBEDDING, HEAD) and parameter not in self._stored and self.config.tie_word_embeddings:
            parameter = HEAD if parameter == EMBEDDING else EMBEDDING
        if parameter not in self._stored:
            raise InputError(
                f"{self.base} has no tensor {parameter}", hint="the checkpoint is not whole; copy it again"
            )
        return self._stored[parameter]()

    def is_rounded(self, parameter: str) -> bool:
        """Whether a base parameter is taken as QLoRA's training saw it."""
        return self.values == "nf4" and isinstance(self.stored(parameter), Computed)

    @functools.cached_property
    def otherwise(self) -> Reference | None:
        """The reference with the other of "stored" and "nf4", which may have been merged by mistake; None where there is none."""
        if self.adapter is None or self.values == "dequantized":
            return None
        try:
            return read_reference(self.base, self.adapter.folder, "nf4" if self.values == "stored" else "stored")
        except MedllamaError:  # not trained so, or no bitsandbytes
            return None

    def weights(self, which: Which) -> Weights:
        """The weights of the base alone, or with the adapter."""
        return Weights(self, self.adapter if which == "merged" else None)


class Weights:
    """The weights of one model, by the names and in the row order of the GGUF."""

    def __init__(self, reference: Reference, adapter: Adapter | None) -> None:
        self.reference, self.adapter = reference, adapter

    @functools.cached_property
    def vocabulary_rows(self) -> int:
        """The rows of the embedding, which the vocabulary of the GGUF must have too."""
        if self.adapter is not None and EMBEDDING in self.adapter.saved:
            return int(self.adapter.saved[EMBEDDING].shape[0])
        return int(self.reference.stored(EMBEDDING).get_shape()[0])

    @functools.cached_property
    def has_tied_head(self) -> bool:
        """Whether the head of this model equals its embedding, so that the GGUF may leave it out."""
        adapter = self.adapter
        if adapter is None or not self.reference.is_tied:
            return self.reference.is_tied
        if adapter.config.get("ensure_weight_tying") or not (adapter.touches(EMBEDDING) or adapter.touches(HEAD)):
            return True
        # PEFT carries trained rows of a tied embedding over to the head, unless the head has a change of its own.
        module = EMBEDDING.removesuffix(".weight")
        only_rows = EMBEDDING not in adapter.saved and module not in adapter.layers
        return only_rows and not adapter.touches(HEAD)

    @functools.cached_property
    def expected(self) -> dict[str, Expected]:
        """Every tensor that the GGUF must or may hold, by name."""
        config, rows = self.reference.config, self.vocabulary_rows
        width, inner, head = config.hidden_size, config.intermediate_size, self.reference.head_dim
        queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
        shapes: dict[str, tuple[int, ...]] = {
            "attn_norm": (width,), "ffn_norm": (width,), "attn_q": (queries, width), "attn_k": (keys, width),
            "attn_v": (keys, width), "attn_output": (width, queries), "ffn_gate": (inner, width),
            "ffn_up": (inner, width), "ffn_down": (width, inner),
        }  # fmt: skip
        found = {
            "token_embd.weight": Expected(EMBEDDING, (rows, width)),
            "output_norm.weight": Expected("model.norm.weight", (width,)),
            "output.weight": Expected(HEAD, (rows, width), is_optional=self.has_tied_head),
        }
        biased = ATTENTION_BIASES * bool(config.attention_bias) + MLP_BIASES * bool(config.mlp_bias)
        for layer in range(config.num_hidden_layers):
            for name, module in LAYER_NAMES.items():
                in_rope_order = head if name in ("attn_q", "attn_k") else None
                parameter = f"model.layers.{layer}.{module}"
                found[f"blk.{layer}.{name}.weight"] = Expected(f"{parameter}.weight", shapes[name], in_rope_order)
                if name in biased:
                    found[f"blk.{layer}.{name}.bias"] = Expected(f"{parameter}.bias", shapes[name][:1], in_rope_order)
        return found

    def is_changed(self, name: str) -> bool:
        """Whether this tensor was computed and not copied: the adapter changes it, or it was rounded to 4 bits before."""
        parameter = self.expected[name].parameter
        if self.reference.is_rounded(parameter):
            return True
        if self.adapter is None:
            return False
        if parameter == HEAD and self.has_tied_head:
            return self.adapter.touches(EMBEDDING) or self.adapter.touches(HEAD)
        return self.adapter.touches(parameter)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows of the tensor in the GGUF's order: (stop - start, columns) float64. One-dimensional tensors are one row."""
        expected = self.expected[name]
        parameter = expected.parameter
        if parameter == HEAD and self.has_tied_head:
            parameter = EMBEDDING
        if len(expected.shape) == 1:
            return self._vector(parameter, expected)[None, :]
        rows = checkpoint_rows(np.arange(start, stop), expected.head_dim)
        adapter = self.adapter
        if adapter is not None and parameter in adapter.saved:
            weight = adapter.saved[parameter][rows]
        else:
            first = int(rows.min())
            block = self.reference.stored(parameter)[first : int(rows.max()) + 1]
            weight = block.double().numpy()[rows - first]
        if adapter is None:
            return weight
        module = parameter.removesuffix(".weight")
        if (layer := adapter.layers.get(module)) is not None:
            weight = layer.apply(weight, rows)
        if (changed := adapter.token_rows.get(module)) is not None:
            ids, values = changed
            for position in np.flatnonzero(np.isin(rows, ids)):
                weight[position] = values[np.flatnonzero(ids == rows[position])[-1]]
        return weight

    def _vector(self, parameter: str, expected: Expected) -> np.ndarray:
        if self.adapter is not None and parameter in self.adapter.saved:
            vector = self.adapter.saved[parameter]
        else:
            vector = self.reference.stored(parameter)[:].double().numpy()
        return vector[checkpoint_rows(np.arange(expected.shape[0]), expected.head_dim)]


def checkpoint_rows(rows: np.ndarray, head_dim: int | None) -> np.ndarray:
    """Where rows of the GGUF stand in the checkpoint: themselves, or for queries and keys the RoPE layout undone."""
    if head_dim is None:
        return rows
    inside = rows % head_dim
    return rows - inside + inside // 2 + (inside % 2) * (head_dim // 2)


def rope_type(config: Any) -> str:
    """The name of the RoPE scaling, "default" where there is none."""
    return str((getattr(config, "rope_parameters", None) or {}).get("rope_type", "default"))


def read_reference(base: Path, adapter: Path | None, values: BaseValues = "stored") -> Reference:
    """Open a checkpoint and its adapter. Raises InputError where something is missing, cut short or a pickle."""
    config, stored = _read_config(base, values), _open_weights(base)
    if values == "dequantized":
        stored = dequantized(stored, base)
    elif values == "nf4" and adapter is not None:
        stored = through_nf4(stored, nf4_dtype(adapter))
    reference = Reference(base, None if adapter is None else read_adapter(adapter), config, stored, values)
    _require_shapes(reference)
    if reference.adapter is not None:
        _require_fit(reference, reference.adapter)
    return reference


def _read_config(base: Path, values: BaseValues) -> Any:
    """Transformers' LlamaConfig of the base, where it is one that verify can compute."""
    from transformers import AutoConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    raw = read_config(base)
    if raw.get("model_type") != "llama":
        raise UnsupportedError(
            f"{base} is a {raw.get('model_type')!r} model, and verify knows Llama's architecture",
            hint="name a LlamaForCausalLM checkpoint",
        )
    require_values(raw, base, values)
    try:
        config = AutoConfig.from_pretrained(base, local_files_only=True)
        config.__dict__.pop("quantization_config", None)  # the model is built unquantized
        LlamaRotaryEmbedding(config)  # computes with what is not checked yet: theta and the factors
        if 0 in (config.vocab_size, getattr(config, "head_dim", 1)):
            raise ValueError("vocab_size or head_dim is 0")
    except Exception as error:  # Transformers checks the values, and raises whatever its checks raise
        raise InputError(f"{base}/config.json: {error}", hint="copy it again from where the weights are from") from None
    require_token_ids(raw | {"vocab_size": config.vocab_size}, base)
    if (kind := rope_type(config)) not in KNOWN_ROPE:
        raise UnsupportedError(
            f"{base} scales RoPE by {kind!r}, which llama.cpp does not do for this architecture",
            hint=f"known are {', '.join(KNOWN_ROPE)}",
        )
    return config


def _open_weights(base: Path) -> dict[str, Callable[[], Any]]:
    """For each stored tensor a function that gives its safetensors slice, which is read when rows are asked for.

    Each opens its file again: the library maps files, and what was read through a mapping counts as memory until it is closed.
    """
    from safetensors import SafetensorError, safe_open

    stored: dict[str, Callable[[], Any]] = {}
    for path in safetensors_files(base):
        try:
            with safe_open(path, "pt") as file:
                stored |= {name: functools.partial(_slice, path, name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is not safetensors: {error}", hint="it may be cut short; copy it again") from None
    return stored


def _slice(path: Path, name: str) -> Any:
    from safetensors import safe_open

    return safe_open(path, "pt").get_slice(name)


def _require_shapes(reference: Reference) -> None:
    """Refuse a checkpoint that is not what its config.json says."""
    hint = "config.json and the weights are of different models; copy both again"
    weights = reference.weights("base")
    if (layers := reference.config.num_hidden_layers) > len(reference.names):
        said = f"config.json says {layers} layers"
        raise InputError(f"{reference.base} has {len(reference.names)} tensors, and {said}", hint=hint)
    if weights.vocabulary_rows != reference.config.vocab_size:
        said = f"config.json says vocab_size {reference.config.vocab_size}"
        raise InputError(f"{reference.base}: the embedding has {weights.vocabulary_rows} rows, and {said}", hint=hint)
    for expected in weights.expected.values():
        shape = tuple(reference.stored(expected.parameter).get_shape())
        if shape != expected.shape:
            said = f"config.json makes it {expected.shape}"
            raise InputError(f"{reference.base}: {expected.parameter} is {shape}, and {said}", hint=hint)


def _require_fit(reference: Reference, adapter: Adapter) -> None:
    """Refuse an adapter that was not trained on this base."""
    shapes = {entry.parameter: entry.shape for entry in reference.weights("merged").expected.values()}
    found: list[tuple[str, tuple[int, ...]]] = []
    for module, layer in adapter.layers.items():
        outputs, inputs = layer.b.shape[0], layer.a.shape[1]
        found.append((f"{module}.weight", (inputs, outputs) if layer.is_embedding else (outputs, inputs)))
    for module, (ids, values) in adapter.token_rows.items():
        rows = shapes.get(f"{module}.weight", (0,))[0]
        found.append((f"{module}.weight", (max(rows, int(ids.max()) + 1), *values.shape[1:])))
    found += [(parameter, value.shape) for parameter, value in adapter.saved.items()]
    for parameter, shape in found:
        if shapes.get(parameter) != shape:
            base = shapes.get(parameter, "not there")
            raise InputError(
                f"{adapter.folder} does not belong to {reference.base}: it has {parameter} of {shape}, the base's is {base}",
                hint="name the base that it was trained on (base_model_name_or_path in adapter_config.json)",
            )
