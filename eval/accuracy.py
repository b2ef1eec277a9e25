"""Shares of right answers, and of two models on the same items: what choices and free answers have in common.

    found = accuracies({"model": [True, False, ...], "baseline": [False, False, ...]}, documents, seed=0)

Each share has Wilson's interval, the paired difference Tango's (1998), McNemar's exact test and a bootstrap over documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from eval.statistics import (
    bootstrap_interval,
    mcnemar_exact,
    paired_interval,
    proportion_standard_error,
    wilson_interval,
)

RESAMPLES = 10_000
INTERVALS = (
    "Intervals: Wilson's for a share, Tango's (1998) score interval for the paired difference, both 95%; p: McNemar's exact test, "
    "two-sided. Items count as independent there; bootstrap_95 is over documents, "
    f"{RESAMPLES:,} resamples with the run's seed."
)


def accuracies(
    right: Mapping[str, Sequence[bool]], documents: Sequence[str] = (), seed: int | None = None
) -> dict[str, Any]:
    """Each role's share of right answers, and the paired difference where there is a baseline.

    right: of each role (items,) bool; documents: (items,) what each is about, for the bootstrap, which needs a seed.
    """
    found: dict[str, Any] = {}
    for role, its in right.items():
        total, count = len(its), sum(its)
        found[role] = {
            "right": count,
            "accuracy": count / total,
            "standard_error": proportion_standard_error(count, total),
            "interval_95": list(wilson_interval(count, total)),
        }
    if "baseline" in right:
        pairs = list(zip(right["model"], right["baseline"], strict=True))
        gained, lost = pairs.count((True, False)), pairs.count((False, True))
        found["difference"] = {
            "accuracy": (gained - lost) / len(pairs),
            "interval_95": list(paired_interval(gained, lost, len(pairs))),
            "mcnemar_exact_p": mcnemar_exact(gained, lost),
            "only_model_right": gained,
            "only_baseline_right": lost,
        }
        if seed is not None:
            found["difference"]["bootstrap_95"] = _bootstrap(pairs, documents, seed)
    return found


def _bootstrap(pairs: Sequence[tuple[bool, bool]], documents: Sequence[str], seed: int) -> list[float]:
    """The interval of the difference where whole documents are drawn again: wordings of one fact are not independent."""
    numbers = {document: number for number, document in enumerate(dict.fromkeys(documents))}
    clusters = numpy.array([numbers[document] for document in documents])
    gains = numpy.array([float(model) - baseline for model, baseline in pairs])
    return list(bootstrap_interval(gains, clusters, seed, RESAMPLES))


def too_small(found: Mapping[str, Any], items: int) -> list[str]:
    """A warning where the difference may be none."""
    if "difference" not in found:
        return []
    low, high = found["difference"]["interval_95"]
    if low > 0 or high < 0:
        return []
    return [
        f"too small to tell: on {items:,} items a difference between {100 * low:+.1f} and {100 * high:+.1f} points is compatible "
        "with what was seen, and that includes none"
    ]


def line(found: Mapping[str, Any]) -> str:
    """The headline in words."""
    text = f"{found['model']['accuracy']:.1%}"
    if "difference" not in found:
        low, high = found["model"]["interval_95"]
        return f"{text} (95% interval {100 * low:.1f} to {100 * high:.1f})"
    low, high = found["difference"]["interval_95"]
    return (
        f"{text} against {found['baseline']['accuracy']:.1%} of the base "
        f"({100 * found['difference']['accuracy']:+.1f}, 95% interval {100 * low:.1f} to {100 * high:.1f})"
    )
