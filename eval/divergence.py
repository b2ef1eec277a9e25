"""How far one distribution over the next token is from another: pure functions over logits.

KL divergence of the reference's distribution from the file's, in nats, as llama.cpp's `llama-perplexity --kl-divergence` has it;
sums in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import numpy.typing

from eval.statistics import Z_95, clustered_mean

Float64 = numpy.typing.NDArray[numpy.float64]
Logits = numpy.typing.NDArray[numpy.float32]
ROWS = 64  # of logits that are turned into float64 at a time


def log_softmax(logits: Logits) -> Float64:
    """(rows, vocab) float32 logits to (rows, vocab) float64 log-probabilities, nats."""
    shifted = logits.astype(numpy.float64) - logits.max(axis=1, keepdims=True)
    normalized: Float64 = shifted - numpy.log(numpy.exp(shifted).sum(axis=1, keepdims=True))
    return normalized


def kl_divergence(reference: Logits, other: Logits) -> Float64:
    """sum over tokens of p log(p / q) for each row: (rows,) nats; both (rows, vocab)."""
    parts = []
    for start in range(0, len(reference), ROWS):
        p, q = log_softmax(reference[start : start + ROWS]), log_softmax(other[start : start + ROWS])
        parts.append((numpy.exp(p) * (p - q)).sum(axis=1))
    return numpy.concatenate(parts)


@dataclass(frozen=True)
class Divergence:
    """One file against the reference on one document: sums over its tokens of what is averaged, and the largest divergence."""

    kld: float
    same_top: float
    loss_difference: float
    tokens: int
    largest: float


def divergence(reference: Logits, other: Logits, targets: numpy.typing.NDArray[numpy.int64]) -> Divergence:
    """Of one document: logits (tokens, vocab) of both, and the token that follows each."""
    klds = kl_divergence(reference, other)
    same = reference.argmax(axis=1) == other.argmax(axis=1)
    loss = _log_likelihood(reference, targets) - _log_likelihood(other, targets)
    return Divergence(float(klds.sum()), float(same.sum()), loss, len(targets), float(klds.max()))


def _log_likelihood(logits: Logits, targets: numpy.typing.NDArray[numpy.int64]) -> float:
    total = 0.0
    for start in range(0, len(targets), ROWS):
        chosen = targets[start : start + ROWS]
        total += float(log_softmax(logits[start : start + ROWS])[numpy.arange(len(chosen)), chosen].sum())
    return total


def summarize(documents: Sequence[Divergence]) -> dict[str, Any]:
    """Means over tokens with standard errors over documents; the perplexity ratio with its 95% interval."""
    counts = numpy.array([float(it.tokens) for it in documents])
    kld, same_top, (loss, error) = (
        clustered_mean(numpy.array([float(getattr(it, name)) for it in documents]), counts)
        for name in ("kld", "same_top", "loss_difference")
    )
    interval = None if error is None else [float(numpy.exp(loss + sign * Z_95 * error)) for sign in (-1, 1)]
    return {
        "tokens": int(counts.sum()),
        "documents": len(counts),
        "kld": {"mean": kld[0], "standard_error": kld[1], "largest": max(it.largest for it in documents)},
        "same_top": {"share": same_top[0], "standard_error": same_top[1]},
        "perplexity_ratio": {"ratio": float(numpy.exp(loss)), "interval_95": interval},
    }
