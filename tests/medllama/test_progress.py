"""One live line on a terminal, two plain lines elsewhere, and warnings that stay."""

from __future__ import annotations

import io
import sys

import pytest

from medllama import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 60 columns in place of stderr."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    return screen


def test_on_a_terminal_the_line_is_redrawn_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with progress.stage("train") as line:
        progress.update("step 5", 5, 10)
        progress.message("warning: a record is long")
        line.finish("adapter")
    lines = screen.getvalue().split("\r")
    assert any(" 50%  step 5  " in text and text.rstrip().endswith("left") for text in lines)
    assert all(len(text.split("\n")[0]) <= 59 for text in lines if "warning" not in text), "a longer line would wrap"
    assert "\rwarning: a record is long\n" in screen.getvalue()
    assert screen.getvalue().endswith("\n")
    assert "train     adapter  (" in screen.getvalue()


def test_a_failure_ends_the_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with pytest.raises(KeyError), progress.stage("train"):
        raise KeyError
    assert screen.getvalue().endswith("\n")


def test_elsewhere_a_stage_prints_one_line_when_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.stage("train") as line:
        for step in range(100):
            progress.update("step", step, 100)
        line.finish("adapter")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("train     adapter  (")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0s"), (9.94, "9.9s"), (9.96, "10.0s"), (59.4, "59s"), (75, "1m15s"), (3599.6, "1h00m"), (7320, "2h02m")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text
