"""The Hugging Face side of the forward pass: Transformers in float32, the adapter applied by PEFT and not merged.

Logits are written to a scratch file as they come, and the model is let go before any GGUF is opened, so that the two never
stand in memory together.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.checks.reference import Reference
from medllama import progress


@dataclass(frozen=True)
class Run:
    """What the model said. `logits[i]` (tokens, vocab) float32 belongs to `prompts[i]`; `continuations[i]` are the greedy tokens
    after `openings[i]`, each chosen from its row of `choices[i]` (new tokens, vocab)."""

    prompts: list[list[int]]
    logits: StoredLogits
    openings: list[list[int]]
    continuations: list[list[int]]
    choices: list[np.ndarray]


def load_model(reference: Reference, rows: int, *, with_adapter: bool) -> Any:
    """The base in float32 with `rows` rows in its embedding, and the adapter on top of it, not merged."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    with _quiet(logging):
        model = AutoModelForCausalLM.from_pretrained(
            reference.base,
            dtype=torch.float32,
            attn_implementation="eager",
            local_files_only=True,
            use_safetensors=True,
        )
        if rows != model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(rows, mean_resizing=False)
        if with_adapter and reference.adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, reference.adapter.folder)
    return model.float().eval()


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


def run(
    reference: Reference,
    rows: int,
    prompts: list[list[int]],
    *,
    with_adapter: bool,
    openings: list[list[int]] | None = None,
    new_tokens: int = 0,
    ends: Sequence[int] = (),
    prepare: Callable[[Any], Any] | None = None,
    threads: int | None = None,
) -> Run:
    """Logits of every prompt, and greedy continuations of the openings (all of one length). `prepare` may change the model."""
    import torch

    progress.update("loading the Hugging Face model")
    model = load_model(reference, rows, with_adapter=with_adapter)
    if prepare is not None:
        model = prepare(model)
    with torch.inference_mode(), torch_threads(threads):
        logits = StoredLogits()
        for done, ids in enumerate(prompts):
            progress.update("computing the Hugging Face logits", done, len(prompts))
            logits.add(model(torch.tensor([ids])).logits[0].float().numpy())
        progress.update("generating with the Hugging Face model")
        texts, choices = _greedy(model, openings, new_tokens, ends) if openings else ([], [])
    return Run(prompts, logits, openings or [], texts, choices)


def _greedy(
    model: Any, openings: list[list[int]], new_tokens: int, ends: Sequence[int]
) -> tuple[list[list[int]], list[np.ndarray]]:
    """Token by token, all openings in one batch; a continuation stops with an end token."""
    import torch

    feed, cache = torch.tensor(openings), None
    steps = []
    for _ in range(new_tokens):
        output = model(feed, past_key_values=cache, use_cache=True)
        steps.append(output.logits[:, -1].float().numpy())
        cache, feed = output.past_key_values, output.logits[:, -1].argmax(-1, keepdim=True)
    texts, choices = [], []
    for number in range(len(openings)):
        rows = np.stack([step[number] for step in steps])
        tokens = [int(token) for token in rows.argmax(axis=1)]
        length = next((position + 1 for position, token in enumerate(tokens) if token in ends), len(tokens))
        texts.append(tokens[:length])
        choices.append(rows[:length])
    return texts, choices


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
    """Logits by prompt, (tokens, vocab) float32 each, in a file without a name that is gone with this object.

    They are written and read plainly: a mapped file would count as memory, and end the process where the disk is full.
    """

    def __init__(self) -> None:
        self._file, name = tempfile.mkstemp(prefix="medllama-logits-")
        os.unlink(name)  # noqa: PTH108 (the name is only text here)
        weakref.finalize(self, os.close, self._file)
        self._places: list[tuple[int, tuple[int, int]]] = []
        self._end = 0

    def add(self, rows: np.ndarray) -> None:
        data = np.ascontiguousarray(rows, np.float32).data.cast("B")
        self._places.append((self._end, (rows.shape[0], rows.shape[1])))
        self._end += len(data)
        while data:
            data = data[os.write(self._file, data) :]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> np.ndarray:
        offset, shape = self._places[number]
        rows = np.empty(shape, np.float32)
        room = rows.data.cast("B")
        while room:
            count = os.preadv(self._file, [room], offset)
            room, offset = room[count:], offset + count
        return rows
