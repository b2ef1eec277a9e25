"""Long texts in windows: the sliding ones of a record that is longer than the context, and llama-perplexity's of a whole file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.tasks import Passage
from medllama.chat import IGNORED_LABEL, Labelled
from medllama.errors import InputError
from medllama.files import read_text
from medllama.tokenizer import Tokenizer

DEFAULT_WINDOW = 512  # of a whole file, as llama-perplexity has it


def slide(labelled: Labelled, window: int, start: Sequence[int]) -> list[Labelled]:
    """The sequence in windows of at most `window` tokens, each half a window after the one before; all but the first begin with
    `start` (BOS or nothing). Every label stands in exactly one of them, in order."""
    length = len(labelled.input_ids)
    if length <= window:
        return [labelled]
    step, found, measured = window // 2, [], 0
    for first in range(0, length, step):
        begin = list(start) if first else []
        last = min(length, first + window - len(begin))
        labels = [
            label if first + offset >= max(measured, 1) else IGNORED_LABEL
            for offset, label in enumerate(labelled.labels[first:last])
        ]
        if any(label != IGNORED_LABEL for label in labels):
            ids = begin + list(labelled.input_ids[first:last])
            found.append(Labelled(ids, [IGNORED_LABEL] * len(begin) + labels))
        measured = last
        if last == length:
            break
    return found


def file_windows(path: Path, tokenizer: Tokenizer, start: Sequence[int], window: int) -> list[tuple[Passage, Labelled]]:
    """A text file as llama-perplexity measures it: windows side by side, BOS in the place of each first token, the second half
    labelled. Source: llama.cpp's tools/perplexity/perplexity.cpp, `perplexity`."""
    ids = [*start, *tokenizer.encode_text(read_text(path))]
    if len(ids) < 2 * window:
        raise InputError(
            f"{path} has {len(ids):,} tokens, fewer than two windows of {window:,}",
            hint="use a longer text or a smaller --window",
        )
    found = []
    for number in range(len(ids) // window):
        piece = ids[number * window : (number + 1) * window]
        piece[: len(start)] = start
        unmeasured = window // 2 + 1
        labelled = Labelled(piece, [IGNORED_LABEL] * unmeasured + piece[unmeasured:])
        text = tokenizer.decode(piece[unmeasured:])
        found.append((Passage(f"window {number}", f"{path.name}/{number}", "", (), text), labelled))
    return found
