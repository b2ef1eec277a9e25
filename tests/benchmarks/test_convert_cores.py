"""The model of more cores is Amdahl's, fitted to what was measured."""

from __future__ import annotations

import pytest

from benchmarks.convert_cores import fit


def test_the_fit_finds_what_made_the_times() -> None:
    assert fit({1: 10.0, 2: 6.0, 4: 4.0}) == pytest.approx((2.0, 8.0))


def test_times_that_fall_faster_than_cores_grow_leave_nothing_alone() -> None:
    alone, shared = fit({1: 10.0, 2: 4.0})
    assert (alone, shared > 0) == (0.0, True)
