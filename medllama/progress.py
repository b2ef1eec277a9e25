"""One live line per stage on stderr, and nothing else: the terminal stays readable and stdout stays machine-readable.

On a terminal the line is redrawn in place; elsewhere (a log, CI) a stage prints one line when it starts and one when it
ends. Stages call `update` as often as they like; drawing is limited to ten times a second.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

REDRAW_SECONDS = 0.1


class Line:
    """The live line of the stage at work."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.started = time.monotonic()
        self.drawn = 0.0
        self.is_live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def update(self, text: str, done: float | None = None, total: float | None = None) -> None:
        """Show `text`, with a share and a time left where `done` of `total` is known."""
        now = time.monotonic()
        if not self.is_live or now - self.drawn < REDRAW_SECONDS:
            return
        self.drawn = now
        if done and total:
            left = (now - self.started) * (total - done) / done
            text = f"{done / total:4.0%}  {text}  {duration(left)} left"
        self._draw(text)

    def finish(self, text: str) -> None:
        """Replace the live line by its last state."""
        text = f"{text}  ({duration(time.monotonic() - self.started)})"
        if self.is_live:
            self._draw(text)
            sys.stderr.write("\n")
        else:
            sys.stderr.write(f"{self.label:<9} {text}\n")
        sys.stderr.flush()

    def _draw(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write("\r" + f"{self.label:<9} {text}"[:width].ljust(width))
        sys.stderr.flush()


_current = Line("medllama")


def update(text: str, done: float | None = None, total: float | None = None) -> None:
    """Update the line of the stage that is at work."""
    _current.update(text, done, total)


def message(text: str) -> None:
    """A line that stays, such as a warning; it goes above the live line."""
    if _current.is_live:
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write("\r" + " " * width + "\r")
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def stage(label: str) -> Iterator[Line]:
    """The live line of one stage, from its start to `finish`."""
    global _current
    previous, _current = _current, Line(label)
    try:
        _current.update("starting")
        yield _current
    except BaseException:
        if _current.is_live:
            sys.stderr.write("\n")
        raise
    finally:
        _current = previous


def duration(seconds: float) -> str:
    """`75` -> `1m15s`; two figures at most."""
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
