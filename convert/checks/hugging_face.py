"""The Hugging Face side of the forward pass: Transformers in float32, the adapter applied by PEFT and not merged.

The model is built without weights. Each layer's are read from the checkpoint when its turn comes and let go after it, so that a 7B
model takes the memory of its largest part (the embedding, or a layer: under 1 GB) instead of 27 GB. Sequences go through it in
batches, padded at their end, where causal attention does not look. Logits are written to a scratch file as they come.
"""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from convert.checks.reference import Reference
from medllama import progress

if TYPE_CHECKING:
    import torch

BATCH_LOGITS = 1 << 27  # 0.5 GB of float32
UNTOUCHED_ORIGINALS = "original_module"  # what PEFT keeps of a module that it replaces, and never computes with


@dataclass
class Run:
    """What the model said to each sequence of ids: logits (tokens, vocab) float32."""

    logits: StoredLogits
    places: dict[tuple[int, ...], int] = field(default_factory=dict)

    def of(self, ids: Sequence[int]) -> np.ndarray:
        """The logits of one of the sequences."""
        return self.logits[self.places[tuple(ids)]]


class Weights:
    """Where the forward pass takes its weights from: the checkpoint's, as they are."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        import torch

        return torch.float32

    def parameter(self, name: str) -> torch.Tensor:
        """A parameter by its Hugging Face name."""
        tensor: torch.Tensor = self.reference.stored(name)[:]
        return tensor

    def prepare(self, model: Any) -> None:
        """Put into the model whatever else these weights need."""


def run(
    reference: Reference,
    rows: int,
    sequences: Sequence[Sequence[int]],
    *,
    with_adapter: bool,
    weights: Weights | None = None,
    threads: int | None = None,
) -> Run:
    """The logits of every sequence, each computed once. `rows` is the embedding's; `weights` may replace the checkpoint's."""
    import torch

    found = Run(StoredLogits())
    with torch.inference_mode(), torch_threads(threads):
        progress.update("computing the Hugging Face logits")
        model = build_model(reference, rows, with_adapter=with_adapter, weights=weights or Weights(reference))
        batches = list(_batches(sequences, rows))
        for done, batch in enumerate(batches):
            longest = max(map(len, batch))
            logits = model(torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in batch]), use_cache=False).logits
            for ids, row in zip(batch, logits, strict=True):
                found.places[ids] = found.logits.add(row[: len(ids)].float().numpy())
            progress.update("computing the Hugging Face logits", done + 1, len(batches))
    return found


def build_model(reference: Reference, rows: int, *, with_adapter: bool, weights: Weights) -> Any:
    """The base with `rows` rows in its embedding, and the adapter on top of it, not merged. Each part fetches its weights
    when it computes."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
    from transformers.utils import logging

    config = copy.deepcopy(reference.config)
    config.vocab_size = rows
    with _quiet(logging):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=weights.dtype, attn_implementation="eager")
        model.model.rotary_emb = LlamaRotaryEmbedding(config)
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                module.register_parameter(name, torch.nn.Parameter(_placeholder(parameter), requires_grad=False))
        inner = model
        if with_adapter and reference.adapter is not None:
            from peft import PeftModel

            # Saved weights are assigned: copied into a placeholder they would all lie in its one value.
            folder = reference.adapter.folder
            model = PeftModel.from_pretrained(model, folder, torch_device="cpu", low_cpu_mem_usage=True)
            model = model.to(weights.dtype)
    weights.prepare(model)
    for part in (inner.model.embed_tokens, *inner.model.layers, inner.model.norm, inner.lm_head):
        _fetch_when_computing(model, part, weights)
    return model.eval()


def _placeholder(parameter: torch.Tensor) -> torch.Tensor:
    """Zeros of the parameter's shape and type in the memory of one: PEFT, which asks for their device, finds them here."""
    import torch

    return torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)


def _is_placeholder(parameter: torch.Tensor) -> bool:
    return parameter.numel() > 1 and not any(parameter.stride())


def _fetch_when_computing(model: Any, part: Any, weights: Weights) -> None:
    """Hooks that give a part of the model its weights before it computes, and take them away afterwards."""
    import torch

    prefix = next(name for name, module in model.named_modules() if module is part)
    places = [
        (module, attribute, plain_name(f"{name}.{attribute}"), empty)
        for name, module in part.named_modules(prefix=prefix)
        if UNTOUCHED_ORIGINALS not in name
        for attribute, empty in module.named_parameters(recurse=False)
        if _is_placeholder(empty)
    ]

    def fetch(module: Any, inputs: Any) -> None:
        for holder, attribute, name, empty in places:
            values = weights.parameter(name).to(empty.dtype)
            holder._parameters[attribute] = torch.nn.Parameter(values, requires_grad=False)

    def let_go(module: Any, inputs: Any, outputs: Any) -> None:
        for holder, attribute, _, empty in places:
            holder._parameters[attribute] = empty

    part.register_forward_pre_hook(fetch)
    part.register_forward_hook(let_go)


def plain_name(name: str) -> str:
    """A parameter's or module's name without what PEFT wraps around it."""
    for wrapping in ("base_model.model.", ".token_adapter", ".base_layer"):
        name = name.replace(wrapping, "")
    return name


def _batches(sequences: Sequence[Sequence[int]], rows: int) -> Iterator[list[tuple[int, ...]]]:
    """The sequences, each once, in batches of like lengths whose logits stay within BATCH_LOGITS."""
    batch: list[tuple[int, ...]] = []
    for ids in sorted(dict.fromkeys(map(tuple, sequences)), key=len, reverse=True):
        longest = len(batch[0]) if batch else 0
        if (batch and (len(batch) + 1) * longest * rows > BATCH_LOGITS) or 2 * len(ids) < longest:
            yield batch
            batch = []
        batch.append(ids)
    if batch:
        yield batch


@contextlib.contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Neither progress bars nor advice from Transformers: verify has its own line."""
    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """PyTorch with `count` threads; None leaves it as it is."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class StoredLogits:
    """Logits by number, (tokens, vocab) float32 each, in a file without a name that is gone with this object.

    They are written and read plainly: a mapped file would count as memory, and end the process where the disk is full.
    """

    def __init__(self) -> None:
        self._file, name = tempfile.mkstemp(prefix="medllama-logits-")
        os.unlink(name)  # noqa: PTH108 (the name is only text here)
        weakref.finalize(self, os.close, self._file)
        self._places: list[tuple[int, tuple[int, int]]] = []
        self._end = 0

    def add(self, rows: np.ndarray) -> int:
        """Store the logits of one sequence, and return their number."""
        data = np.ascontiguousarray(rows, np.float32).data.cast("B")
        self._places.append((self._end, (rows.shape[0], rows.shape[1])))
        self._end += len(data)
        while data:
            data = data[os.write(self._file, data) :]
        return len(self._places) - 1

    def __getitem__(self, number: int) -> np.ndarray:
        offset, shape = self._places[number]
        rows = np.empty(shape, np.float32)
        room = rows.data.cast("B")
        while room:
            count = os.preadv(self._file, [room], offset)
            room, offset = room[count:], offset + count
        return rows
