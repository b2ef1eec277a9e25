"""What a Llama checkpoint's config.json says, checked: the shape of the model, and a refusal by name of what is not exact.

    shape = read_shape(config)          # config: the JSON of config.json

Transformers 5 writes `rope_parameters`; older versions `rope_scaling` and `rope_theta`. Both are read. RoPE scaling of the
kinds "llama3", "linear" and "yarn" has an exact counterpart in llama.cpp; "dynamic" and "longrope" do not.

Sources followed: transformers' modeling_rope_utils.py and models/llama; llama.cpp's llama-context.cpp (YaRN magnitude).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy
import numpy.typing

from medllama.errors import InputError, UnsupportedError

Array = numpy.typing.NDArray[Any]
DEFAULT_ROPE_THETA = 10000.0
BETA_FAST, BETA_SLOW = 32.0, 1.0  # YaRN's ramp, in rotations over the original context


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: base frequency `theta`, and the scaling in the terms of Transformers."""

    theta: float
    kind: str = "default"
    parameters: dict[str, float] = field(default_factory=dict)
    original_context: int = 0

    @property
    def is_llama_cpp_yarn(self) -> bool:
        """Whether llama.cpp's Llama computes this YaRN from metadata: it knows no other ramp than 32 to 1 rotations."""
        ramp = (self.parameters.get("beta_fast") or BETA_FAST, self.parameters.get("beta_slow") or BETA_SLOW)
        return self.kind == "yarn" and ramp == (BETA_FAST, BETA_SLOW) and self.parameters.get("truncate", 1.0) != 0.0

    @property
    def magnitude(self) -> float:
        """What Transformers multiplies cosine and sine by; 1 but for YaRN."""
        if self.kind != "yarn":
            return 1.0
        if (wanted := self.parameters.get("attention_factor")) is not None:
            return wanted
        scale, over = self.parameters.get("mscale"), self.parameters.get("mscale_all_dim")
        return self._yarn_magnitude(scale) / self._yarn_magnitude(over) if scale and over else self.llama_cpp_magnitude

    @property
    def llama_cpp_magnitude(self) -> float:
        """What llama.cpp's own YaRN always multiplies by."""
        return self._yarn_magnitude(1.0)

    def _yarn_magnitude(self, scale: float) -> float:
        factor = self.parameters["factor"]
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    def frequency_factors(self, head_dim: int) -> Array | None:
        """What llama.cpp divides each frequency by, (head_dim / 2,) float32: the tensor `rope_freqs.weight`.

        That is how "llama3" is written, and a YaRN whose ramp llama.cpp's metadata cannot say. None for the others.
        """
        frequencies = 1.0 / self.theta ** (numpy.arange(0, head_dim, 2, dtype=numpy.float64) / head_dim)
        if self.kind == "llama3":
            factor = self.parameters["factor"]
            low, high = self.parameters["low_freq_factor"], self.parameters["high_freq_factor"]
            wavelengths = 2 * math.pi / frequencies
            smooth = (self.original_context / wavelengths - low) / (high - low)
            between = 1.0 / ((1 - smooth) / factor + smooth)
            factors = numpy.where(wavelengths > self.original_context / low, factor, between)
            return numpy.where(wavelengths < self.original_context / high, 1.0, factors).astype(numpy.float32)
        if self.kind == "yarn" and not self.is_llama_cpp_yarn:
            interpolated = self._yarn_ramp(head_dim)
            scaled = frequencies / self.parameters["factor"] * interpolated + frequencies * (1.0 - interpolated)
            return (frequencies / scaled).astype(numpy.float32)
        return None

    def _yarn_ramp(self, head_dim: int) -> Array:
        """The share of interpolation of each frequency, (head_dim / 2,) from 0 to 1."""

        def dimension(rotations: float) -> float:
            return head_dim * math.log(self.original_context / (rotations * 2 * math.pi)) / (2 * math.log(self.theta))

        low = dimension(self.parameters.get("beta_fast") or BETA_FAST)
        high = dimension(self.parameters.get("beta_slow") or BETA_SLOW)
        if self.parameters.get("truncate", 1.0) != 0.0:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        return numpy.clip((numpy.arange(head_dim // 2) - low) / (high - low or 0.001), 0.0, 1.0)


@dataclass(frozen=True)
class Shape:
    """A Llama's dimensions. Attention has `heads` query heads and `kv_heads` key and value heads of `head_dim` each."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    norm_epsilon: float
    rope: Rope
    has_attention_bias: bool
    has_mlp_bias: bool
    is_tied: bool


def read_shape(config: dict[str, Any], origin: object) -> Shape:
    """The shape that the config.json of a Llama describes (`require_llama`); `origin` names it in errors.

    Raises UnsupportedError for what llama.cpp's Llama does not compute exactly, InputError for what is missing.
    """
    if (activation := config.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise UnsupportedError(f"{origin}: hidden_act is {activation!r}; llama.cpp's Llama computes silu")
    hidden, heads = _whole(config, "hidden_size", origin), _whole(config, "num_attention_heads", origin)
    return Shape(
        layers=_whole(config, "num_hidden_layers", origin),
        hidden=hidden,
        feed_forward=_whole(config, "intermediate_size", origin),
        heads=heads,
        kv_heads=_whole(config, "num_key_value_heads", origin, heads),
        head_dim=_whole(config, "head_dim", origin, hidden // heads),
        context=_whole(config, "max_position_embeddings", origin, 2048),
        norm_epsilon=_number(config, "rms_norm_eps", origin, 1e-6),
        rope=_read_rope(config, origin),
        has_attention_bias=bool(config.get("attention_bias")),
        has_mlp_bias=bool(config.get("mlp_bias")),
        is_tied=bool(config.get("tie_word_embeddings", False)),
    )


def _number(table: dict[str, Any], name: str, origin: object, default: float | None = None) -> float:
    """A positive number of config.json, `default` where it is not there; InputError where it is anything else."""
    value = table.get(name)
    if value is None and default is not None:
        return float(default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"{origin}: {name} is {value!r}, not a positive number", hint="copy config.json again")
    return float(value)


def _whole(table: dict[str, Any], name: str, origin: object, default: int | None = None) -> int:
    """The same for a whole number; GGUF keeps these in 32 bits."""
    value = _number(table, name, origin, default)
    if not value.is_integer() or value >= 1 << 32:
        raise InputError(f"{origin}: {name} is {value:g}, not a whole number of 32 bits", hint="copy config.json again")
    return int(value)


def _read_rope(config: dict[str, Any], origin: object) -> Rope:
    # As Transformers reads it: `rope_scaling` replaces `rope_parameters`, and the original context stands outside first.
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(given, dict):
        raise InputError(f"{origin}: its RoPE settings are {given!r}, not a table", hint="copy config.json again")
    given = dict(given)
    if nested := [name for name, value in given.items() if isinstance(value, dict)]:
        raise UnsupportedError(
            f"{origin}: RoPE differs by layer ({', '.join(nested)}); llama.cpp's Llama has one for all"
        )
    theta = _number({"rope_theta": given.pop("rope_theta", None)}, "rope_theta", origin,
                    _number(config, "rope_theta", origin, DEFAULT_ROPE_THETA))  # fmt: skip
    kind = str(given.pop("rope_type", None) or given.get("type") or "default")
    given.pop("type", None)
    if (share := given.pop("partial_rotary_factor", None) or config.get("partial_rotary_factor") or 1.0) != 1.0:
        raise UnsupportedError(f"{origin}: partial_rotary_factor is {share}; llama.cpp's Llama rotates whole heads")
    context = _whole(config, "max_position_embeddings", origin, 2048)
    name = "original_max_position_embeddings"
    original = _whole(config, name, origin, _whole({name: given.pop(name, None)}, name, origin, context))
    if kind == "yarn" and "factor" in given and given["factor"] is None:
        given["factor"] = context / original
    needed: dict[str, tuple[str, ...]] = {
        "default": (),
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
        "yarn": ("factor",),
    }
    if kind not in needed:
        raise UnsupportedError(
            f"{origin}: RoPE scaling {kind!r} has no exact counterpart in llama.cpp's Llama",
            hint="known are none, linear, llama3 and yarn; convert with the scaling that the model was trained with",
        )
    if missing := [name for name in needed[kind] if given.get(name) is None]:
        raise InputError(f"{origin}: RoPE scaling {kind!r} has no {', '.join(missing)}", hint="copy config.json again")
    for name in needed[kind]:
        _number(given, name, origin)
    if kind == "llama3" and given["low_freq_factor"] == given["high_freq_factor"]:
        raise InputError(f"{origin}: low_freq_factor equals high_freq_factor", hint="copy config.json again")
    if kind == "yarn" and theta == 1:
        raise InputError(
            f"{origin}: YaRN with rope_theta 1 has no frequencies to tell apart", hint="copy config.json again"
        )
    if kind == "default":
        return Rope(theta)
    parameters = {name: float(value) for name, value in given.items() if isinstance(value, int | float)}
    return Rope(theta, kind, parameters, original)
