"""A made-up run, and its page as it is parsed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.runs import make_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run, for the test to change."""
    return make_run(tmp_path / "tiny")
