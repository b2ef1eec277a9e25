"""What a panel's ratings say: who wins against whom with which certainty, over all raters and for each.

A win rate is of the decided comparisons, with Wilson's 95% interval (Wilson 1927). Bradley and Terry's model (1952) gives every
model one score from all comparisons, on the scale of log odds with the first model at 0: a difference of 1 means odds of 2.7 to
1. A tie and "both bad" count there as half a win each, and every pair that met gets half a win each way beforehand, so that a
model that never lost has a finite score.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Z_95 = 1.959963984540054
ROUNDS = 10_000
CLOSE = 1e-10


@dataclass(frozen=True)
class Versus:
    """How one model did against another: comparisons won, lost, tied, and both bad."""

    model: str
    other: str
    won: int
    lost: int
    tied: int
    both_bad: int

    @property
    def win_rate(self) -> float | None:
        """The share of the decided comparisons that it won; None where none is decided."""
        return self.won / (self.won + self.lost) if self.won + self.lost else None

    @property
    def interval_95(self) -> tuple[float, float] | None:
        return wilson(self.won, self.won + self.lost) if self.won + self.lost else None


def latest(ratings: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The ratings, the newest of one person about one question and pair: as `medllama eval --panel` counts them."""
    found: dict[Any, Mapping[str, Any]] = {}
    for rating in ratings:
        pair = frozenset((rating["model_a"], rating["model_b"]))
        found[rating["item_id"], rating["rater"], pair] = rating
    return list(found.values())


def wilson(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's interval of a share."""
    share, square = successes / trials, z * z
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = z / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def versus(ratings: Iterable[Mapping[str, Any]], models: Sequence[str]) -> list[Versus]:
    """Every pair of models that met, the later one seen from its side against the earlier one: tuned against base."""
    counted: Counter[tuple[str, str, str]] = Counter()
    for rating in ratings:
        a, b, choice = rating["model_a"], rating["model_b"], rating["choice"]
        if choice in ("a", "b"):
            counted[(a, b, "won") if choice == "a" else (b, a, "won")] += 1
        else:
            counted[(*sorted((a, b)), choice)] += 1
    found = []
    for other, model in itertools.combinations(models, 2):
        one, two = sorted((model, other))
        row = Versus(
            model, other, counted[model, other, "won"], counted[other, model, "won"],
            counted[one, two, "tie"], counted[one, two, "both_bad"],
        )  # fmt: skip
        if row.won + row.lost + row.tied + row.both_bad:
            found.append(row)
    return found


def bradley_terry(pairs: Sequence[Versus]) -> dict[str, float | None]:
    """The score of every model that met another, the first one's 0 (Hunter 2004, the MM algorithm); None where no chain of
    comparisons leads to the first one: nothing says then which is better."""
    models = list(dict.fromkeys(name for pair in pairs for name in (pair.other, pair.model)))
    wins = dict.fromkeys(models, 0.0)
    games: dict[str, dict[str, float]] = {name: {} for name in models}
    for pair in pairs:
        half = 0.5 + (pair.tied + pair.both_bad) / 2
        wins[pair.model] += pair.won + half
        wins[pair.other] += pair.lost + half
        count = pair.won + pair.lost + 2 * half
        games[pair.model][pair.other] = games[pair.other][pair.model] = count
    strengths = dict.fromkeys(models, 1.0)
    for _ in range(ROUNDS):
        renewed = {
            name: wins[name] / sum(n / (strengths[name] + strengths[other]) for other, n in games[name].items())
            for name in models
        }
        scale = math.exp(sum(map(math.log, renewed.values())) / max(1, len(models)))
        renewed = {name: value / scale for name, value in renewed.items()}
        is_close = all(abs(math.log(renewed[name] / strengths[name])) < CLOSE for name in models)
        strengths = renewed
        if is_close:
            break
    connected = set(models[:1])
    for _ in models:
        connected |= {name for name in models if connected & games[name].keys()}
    return {name: math.log(strengths[name] / strengths[models[0]]) if name in connected else None for name in models}
