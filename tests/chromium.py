"""Chromium without a window, as the tests of every page open it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@contextlib.contextmanager
def open_browser() -> Iterator[Any]:
    """Chromium without a window, that finds no other machine by name."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        rules = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", rules])
        yield opened
        opened.close()
