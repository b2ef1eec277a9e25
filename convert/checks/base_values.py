"""The base's values where they are not the stored ones (`--base-values`), computed by bitsandbytes itself on the CPU.

Two steps are not left to its CPU kernels. Some of them mistake the block where a row is not whole blocks, so everything goes
through them as rows of one block. And its double quantization looks the nearest scale up in a coarse table, where its CUDA kernel,
on which a QLoRA is trained, finds the nearest; so does PyTorch here. The mean of the scales, which depends on the device, is taken
in float64.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from medllama.cores import usable_cores
from medllama.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    import torch

Stored = Mapping[str, Callable[[], Any]]
STATES = (".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4")
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Computed:
    """A tensor that is computed when rows of it are asked for; like a safetensors slice, it can tell its shape before."""

    def __init__(self, shape: tuple[int, ...], values: Callable[[], torch.Tensor]) -> None:
        self.shape, self.values = shape, values

    def get_shape(self) -> tuple[int, ...]:
        return self.shape

    def __getitem__(self, rows: slice) -> torch.Tensor:
        return _kept(self)[rows]


@functools.lru_cache(usable_cores())  # rows are asked for in pieces, by so many threads
def _kept(tensor: Computed) -> torch.Tensor:
    return tensor.values()


def dequantized(stored: Stored, origin: object) -> dict[str, Callable[[], Any]]:
    """The tensors of a checkpoint that bitsandbytes saved, the quantized ones put together of their parts."""
    _require_bitsandbytes()
    found = dict(stored)
    for name in stored:
        if name.endswith(STATES):
            weight = name.partition(".quant_state.")[0]
            parts = {part: stored[part] for part in stored if part.startswith(f"{weight}.")}
            computed = _four_bit(weight, stored, parts, origin)
        elif name.endswith(".SCB"):
            weight = f"{name.removesuffix('SCB')}weight"
            parts = {part: stored[part] for part in (name, f"{weight}_format") if part in stored}
            computed = _eight_bit(stored[weight], stored[name])
        else:
            continue
        found = {part: value for part, value in found.items() if part not in parts}
        found[weight] = functools.partial(_itself, computed)
    return found


def through_nf4(stored: Stored, dtype: str | None) -> dict[str, Callable[[], Any]]:
    """The tensors with the linear layers as QLoRA's training sees them; `dtype` is that training's, None the stored one."""
    _require_bitsandbytes()
    found = dict(stored)
    for name, weight in stored.items():
        if ".layers." in name and len(shape := tuple(weight().get_shape())) == 2:
            values = functools.partial(_nf4_and_back, weight, DTYPES[dtype] if dtype else None)
            found[name] = functools.partial(_itself, Computed(shape, values))
    return found


def _itself(computed: Computed) -> Computed:
    return computed


def _require_bitsandbytes() -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UnsupportedError("verify computes a quantized base with bitsandbytes", hint='pip install "medllama[gpu]"')


def _four_bit(weight: str, stored: Stored, parts: Stored, origin: object) -> Computed:
    import torch
    from bitsandbytes.functional import QuantState, dequantize_4bit

    try:
        named = {part.removeprefix(f"{weight}."): value()[...] for part, value in parts.items()}
        state = QuantState.from_dict(named, torch.device("cpu"))
    except (ValueError, KeyError, AssertionError, AttributeError, TypeError) as error:
        raise InputError(
            f"{origin}: {weight} is not as bitsandbytes writes it: {error}", hint="copy the checkpoint again"
        ) from None
    shape, block = tuple(state.shape), state.blocksize

    def values() -> torch.Tensor:
        packed = stored[weight]()[...].contiguous().view(torch.uint8).reshape(-1)
        blocks = -(-math.prod(shape) // block)
        packed = torch.nn.functional.pad(packed, (0, blocks * block // 2 - packed.numel()))
        state.shape = torch.Size((blocks, block))
        return dequantize_4bit(packed[:, None], state).reshape(-1)[: math.prod(shape)].reshape(shape)

    return Computed(shape, values)


def _eight_bit(codes: Callable[[], Any], scales: Callable[[], Any]) -> Computed:
    from bitsandbytes.functional import int8_vectorwise_dequant

    return Computed(tuple(codes().get_shape()), lambda: int8_vectorwise_dequant(codes()[:], scales()[:]))


def _nf4_and_back(weight: Callable[[], Any], dtype: str | None) -> torch.Tensor:
    import torch
    from bitsandbytes import functional

    values = weight()[:]
    values = values if dtype is None else values.to(getattr(torch, dtype))
    packed, state = functional.quantize_4bit(values, quant_type="nf4", blocksize=64)
    offset = state.absmax.double().mean().float()
    table, count = functional.create_dynamic_map(), state.absmax.numel()
    shifted = torch.nn.functional.pad(state.absmax - offset, (0, -count % 256)).reshape(-1, 256)
    largest = shifted.abs().amax(dim=1).clamp_min(1e-38)
    codes = torch.bucketize(shifted * (1.0 / largest)[:, None], (table[:-1] + table[1:]) / 2).to(torch.uint8)
    scales = functional.dequantize_blockwise(codes, absmax=largest, code=table, blocksize=256).reshape(-1)
    state.absmax = scales[:count] + offset
    state.shape = torch.Size((count, 64))
    packed = torch.nn.functional.pad(packed.reshape(-1), (0, count * 32 - packed.numel()))
    return functional.dequantize_4bit(packed[:, None], state).reshape(-1)[: values.numel()].reshape(values.shape)
