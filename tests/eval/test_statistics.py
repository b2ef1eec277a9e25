"""The statistics agree with SciPy, with published intervals, with the bootstrap, and with what must hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from eval.statistics import (
    clustered_mean,
    mcnemar_exact,
    paired_interval,
    proportion_standard_error,
    wilson_interval,
)

COUNTS = st.integers(0, 60)


@given(COUNTS, COUNTS)
def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs(gained: int, lost: int) -> None:
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar_exact(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_thousands_of_pairs_is_a_number() -> None:
    assert mcnemar_exact(1500, 1400) == pytest.approx(binomtest(1500, 2900).pvalue, rel=1e-9)


@given(st.integers(0, 50), st.integers(1, 50))
def test_wilson_is_scipys(right: int, more: int) -> None:
    theirs = binomtest(right, right + more).proportion_ci(method="wilson")
    assert wilson_interval(right, right + more) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_tango_is_the_published_interval() -> None:
    """Complete response before and after consolidation (Cavo et al. 2012), as the R package contingencytables 3 has it."""
    assert paired_interval(6, 16, 161) == pytest.approx((-0.1240, -0.0054), abs=5e-5)


def test_tango_agrees_with_the_bootstrap_where_items_are_many() -> None:
    rng = np.random.default_rng(0)
    differences = np.repeat([1, -1, 0], [300, 60, 640])
    means = rng.choice(differences, (4000, 1000)).mean(axis=1)
    assert paired_interval(300, 60, 1000) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.004)


def test_tango_covers_the_truth_of_small_tests_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    drawn = rng.multinomial(30, [0.3, 0.1, 0.6], 2000)
    intervals = {pair: paired_interval(*pair, 30) for pair in {(int(a), int(b)) for a, b, _ in drawn}}
    covered = np.mean([low <= 0.2 <= high for low, high in (intervals[int(a), int(b)] for a, b, _ in drawn)])
    assert 0.93 < covered < 0.975  # 0.95, whose standard error here is 0.005; Tango is known to stay near it


@settings(max_examples=200)
@given(COUNTS, COUNTS, COUNTS)
def test_the_paired_interval_holds_the_difference_and_turns_with_the_models(gained: int, lost: int, same: int) -> None:
    total = gained + lost + same
    if not total:
        return
    low, high = paired_interval(gained, lost, total)
    assert -1 <= low <= (gained - lost) / total <= high <= 1
    assert low < high
    assert paired_interval(lost, gained, total) == pytest.approx((-high, -low), abs=1e-9)


def test_a_clustered_standard_error_is_that_of_documents_not_of_tokens() -> None:
    rng = np.random.default_rng(2)
    sums, counts = [], []
    for _ in range(300):
        length = int(rng.integers(5, 20))
        values = rng.normal(2.0, 0.5) + rng.normal(0, 0.1, length)  # tokens of a document are alike
        sums.append(values.sum())
        counts.append(length)
    mean, error = clustered_mean(np.array(sums), np.array(counts, dtype=np.float64))
    drawn = rng.integers(0, 300, (4000, 300))
    means = np.array(sums)[drawn].sum(axis=1) / np.array(counts)[drawn].sum(axis=1)
    assert mean == pytest.approx(sum(sums) / sum(counts))
    assert error == pytest.approx(means.std(), rel=0.1)
    assert error is not None
    assert error > 2 * 0.5 / math.sqrt(sum(counts))


def test_equal_documents_give_the_usual_standard_error() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    mean, error = clustered_mean(values, np.ones(4))
    assert (mean, error) == (4.0, pytest.approx(values.std(ddof=1) / 2))


def test_one_of_anything_has_no_standard_error() -> None:
    assert clustered_mean(np.array([3.0]), np.array([2.0])) == (1.5, None)
    assert proportion_standard_error(1, 1) is None
    assert proportion_standard_error(3, 4) == pytest.approx(np.std([1, 1, 1, 0], ddof=1) / 2)
