"""Fixtures that many tests use. Everything is offline and on the CPU; user state never leaves the test's own folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import CHROMIUM, open_browser

REPOSITORY = Path(__file__).resolve().parent.parent

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small models: threads wait for each other longer than they compute


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The whole run of tiny, which takes longest, first: at the end one process would wait for it alone."""
    items.sort(key=lambda item: item.path.name != "test_tiny_run.py")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data that lies beside the checkout on the developers' machines and is not part of the project."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data is not here: no {folder.relative_to(REPOSITORY.parent)} beside the checkout")
    return folder


@pytest.fixture(scope="session")
def tiny_base() -> Path:
    """The embedded base model."""
    return REPOSITORY / "recipes" / "tiny" / "medllama-tiny-base"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for the tests of a file. Not longer: while Playwright runs, nothing else in the process can run an event loop."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt install chromium")
    with open_browser() as opened:
        yield opened
