"""The uncertainty of what was measured: pure functions over counts and arrays.

A number of right answers gets Wilson's interval, a difference of two models on the same items Tango's score interval for
paired proportions and a bootstrap over documents, whether it could be chance McNemar's exact test, and a mean over
tokens the standard error of a ratio whose clusters are documents: tokens of one text, and two wordings of one question,
are not independent.

Wilson 1927, JASA 22:209. Tango 1998, Statistics in Medicine 17:891 (recommended over Wald's by Fagerland, Lydersen and Laake
2014, Statistics in Medicine 33:2850). McNemar 1947, Psychometrika 12:153. Ratio estimator: Cochran 1977, Sampling Techniques, 6.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy
import numpy.typing

FloatArray = numpy.typing.NDArray[numpy.float64]
Z_95 = 1.959963984540054  # the normal distribution's 97.5% quantile


def proportion_standard_error(right: int, total: int) -> float | None:
    """The sample standard error of a share; None for a single item."""
    share = right / total
    return math.sqrt(share * (1 - share) / (total - 1)) if total > 1 else None


def wilson_interval(right: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a share, which is honest at 0% and 100% too."""
    share, spread = right / total, z * z / total
    center = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, center - half), min(1.0, center + half)


def paired_interval(gained: int, lost: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Tango's score interval of a difference of two shares measured on the same items.

    `gained` items are right in the first alone, `lost` in the second alone. The limits are the differences that a score test
    at this `z` would just not reject.
    """
    estimate = (gained - lost) / total

    def is_rejected(difference: float) -> bool:
        return abs(_tango_score(gained, lost, total, difference)) > z

    return _edge(is_rejected, estimate, -1.0), _edge(is_rejected, estimate, 1.0)


def _tango_score(gained: int, lost: int, total: int, difference: float) -> float:
    """Tango's statistic for a true `difference`: normal with variance 1 where it is true."""
    a = 2 * total
    b = (2 * total - gained + lost) * difference - gained - lost
    c = -lost * difference * (1 - difference)
    only_second = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)  # its likeliest share under that difference
    variance = total * (2 * only_second + difference * (1 - difference))
    deviation = gained - lost - total * difference
    if variance <= 0:
        return 0.0 if deviation == 0 else math.copysign(math.inf, deviation)
    return deviation / math.sqrt(variance)


def _edge(is_rejected: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where between the two `is_rejected` turns true, by bisection; `outside` where it never does."""
    if not is_rejected(outside):
        return outside
    for _ in range(60):
        middle = (inside + outside) / 2
        if is_rejected(middle):
            outside = middle
        else:
            inside = middle
    return (inside + outside) / 2


def bootstrap_interval(
    values: FloatArray, clusters: numpy.typing.NDArray[numpy.int64], seed: int, resamples: int
) -> tuple[float, float]:
    """The 95% percentile interval of a mean, whole clusters drawn again with a fixed seed.

    values: (items,), of a paired comparison the items' differences; clusters: (items,) which items belong together, from 0.
    """
    sums = numpy.bincount(clusters, values)
    sizes = numpy.bincount(clusters)
    generator = numpy.random.Generator(numpy.random.PCG64(seed))
    means = []
    for _ in range(0, resamples, 500):  # a few at a time: they are (500, clusters)
        drawn = generator.integers(0, len(sums), size=(500, len(sums)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = numpy.quantile(numpy.concatenate(means)[:resamples], [0.025, 0.975])
    return float(low), float(high)


def mcnemar_exact(gained: int, lost: int) -> float:
    """The two-sided exact p-value that `gained` and `lost` discordant pairs, or less even ones, come of a fair coin."""
    total, fewer = gained + lost, min(gained, lost)
    # Integers: 2^1100 is no float, their quotient is.
    return min(1.0, 2 * sum(math.comb(total, count) for count in range(fewer + 1)) / 2**total)


def clustered_mean(sums: FloatArray, counts: FloatArray) -> tuple[float, float | None]:
    """The mean of a quantity over tokens, and its standard error with documents as clusters.

    sums, counts: (documents,) the quantity's sum over a document's tokens, and how many they are. The standard error is that
    of a ratio estimator, linearized; None for a single document.
    """
    documents, total = len(sums), float(counts.sum())
    mean = float(sums.sum()) / total
    if documents < 2:
        return mean, None
    residuals = sums - mean * counts
    return mean, math.sqrt(documents / (documents - 1) * float((residuals**2).sum())) / total
