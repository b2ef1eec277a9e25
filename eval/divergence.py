"""How far one distribution over the next token is from another: pure functions over logits.

KL divergence of the reference's distribution from the file's, in nats, as llama.cpp's `llama-perplexity --kl-divergence` has it;
sums in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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


@dataclass
class Tally:
    """One file against the reference, document by document: sums of what is averaged over tokens."""

    kld: list[float] = field(default_factory=list)
    same_top: list[float] = field(default_factory=list)
    loss_difference: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    largest: float = 0.0

    def add(self, reference: Logits, other: Logits, targets: numpy.typing.NDArray[numpy.int64]) -> None:
        """Count one document: logits (tokens, vocab) of both, and the token that follows each."""
        divergence = kl_divergence(reference, other)
        rows = numpy.arange(len(targets))
        losses = [0.0, 0.0]
        for start in range(0, len(targets), ROWS):
            part = slice(start, start + ROWS)
            for number, logits in enumerate((reference, other)):
                chosen = log_softmax(logits[part])[rows[: len(targets[part])], targets[part]]
                losses[number] -= float(chosen.sum())
        self.kld.append(float(divergence.sum()))
        self.same_top.append(float((reference.argmax(axis=1) == other.argmax(axis=1)).sum()))
        self.loss_difference.append(losses[1] - losses[0])
        self.tokens.append(float(len(targets)))
        self.largest = max(self.largest, float(divergence.max()))

    def summary(self) -> dict[str, Any]:
        """Means over tokens with standard errors over documents; the perplexity ratio with its 95% interval."""
        counts = numpy.array(self.tokens)
        means = {
            name: clustered_mean(numpy.array(values), counts)
            for name, values in (("kld", self.kld), ("same_top", self.same_top), ("loss", self.loss_difference))
        }
        loss, error = means["loss"]
        interval = None if error is None else [float(numpy.exp(loss + sign * Z_95 * error)) for sign in (-1, 1)]
        return {
            "tokens": int(counts.sum()),
            "documents": len(counts),
            "kld": {"mean": means["kld"][0], "standard_error": means["kld"][1], "largest": self.largest},
            "same_top": {"share": means["same_top"][0], "standard_error": means["same_top"][1]},
            "perplexity_ratio": {"ratio": float(numpy.exp(loss)), "interval_95": interval},
        }
