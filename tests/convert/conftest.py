"""llama.cpp's own converter, for the tests that hold files against its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.official_converter import find_or_fetch
from medllama.errors import ResourceError


@pytest.fixture(scope="session")
def official() -> Path:
    """The folder of llama.cpp's converter."""
    try:
        return find_or_fetch()
    except ResourceError as error:
        pytest.skip(str(error))
