"""metrics.jsonl and the live line of a training, and the watch over its loss.

    {"step": 40, "phase": "train", "epoch": 0.5, "loss": 1.31, "learning_rate": 0.0002, "validation_loss": null, "tokens": 81234}

Steps and tokens count on through the phases of one training. A training that goes on from a checkpoint keeps the lines up to
it, so that the file is that of a training that was never cut short.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from medllama import progress
from medllama.errors import InputError
from medllama.files import read_jsonl, write_text

# An exploded loss: so often in a row more than twice the phase's first one, and half a nat. A rate that is too high gets there
# within a few steps and stays; a hard batch does not repeat itself.
EXPLODED_LOGS = 3


class Metrics:
    """The log of one phase."""

    def __init__(self, path: Path, phase: str, *, learning_rate: float, steps_before: int, tokens_before: int) -> None:
        self.path = path
        self.phase = phase
        self.learning_rate = learning_rate
        self.steps_before = steps_before
        self.tokens = self.tokens_when_resumed = tokens_before
        self.resumed_step = 0
        self.losses: list[float] = []
        self.started = time.monotonic()

    def begin(self, *, resumed_step: int, writes: bool) -> None:
        """Start the clock, and drop what an interrupted training wrote after its last checkpoint."""
        lines = [line for _, line in read_jsonl(self.path)] if resumed_step and self.path.is_file() else []
        kept = [line for line in lines if line["step"] <= self.steps_before + resumed_step]
        if kept:
            self.tokens = self.tokens_when_resumed = kept[-1]["tokens"]
            self.losses = [line["loss"] for line in kept if line["loss"] is not None]
        self.resumed_step = resumed_step
        if writes:
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.started = time.monotonic()

    def write(self, logs: dict[str, float], state: Any, tokens: int, *, is_main: bool) -> None:
        """One line, and the live line. Raises InputError where the loss is no number any more, or has exploded."""
        step, loss, validation_loss = state.global_step, logs.get("loss"), logs.get("eval_loss")
        self.tokens = tokens
        for value in (loss, validation_loss):
            if value is not None and not math.isfinite(value):
                raise diverged(f"the loss became {value}", step, self.learning_rate)
        if loss is not None:
            self.losses.append(loss)
            if has_exploded(self.losses):
                became = f"the loss rose from {self.losses[0]:.2f} to {loss:.2f} and stayed there"
                raise diverged(became, step, self.learning_rate)
        entry = {
            "step": self.steps_before + step,
            "phase": self.phase,
            "epoch": round(state.epoch or 0.0, 4),
            "loss": loss,
            "learning_rate": logs.get("learning_rate"),
            "validation_loss": validation_loss,
            "tokens": tokens,
        }
        if not is_main:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if loss is not None:
            self._show(loss, step, state.max_steps)

    def _show(self, loss: float, step: int, steps: int) -> None:
        seconds = time.monotonic() - self.started
        speed = (self.tokens - self.tokens_when_resumed) / seconds
        left = seconds / (step - self.resumed_step) * (steps - step)
        name = "" if self.phase == "train" else f"{self.phase}  "
        progress.update(
            f"{name}{step / steps:4.0%}  loss {loss:.3f}  {speed:,.0f} tokens/s  {progress.duration(left)} left"
        )


def has_exploded(losses: list[float]) -> bool:
    bound = 2 * losses[0] + 0.5
    return len(losses) > EXPLODED_LOGS and all(loss > bound for loss in losses[-EXPLODED_LOGS:])


class Diverged(InputError):
    """The settings are at fault: going on from a checkpoint would end the same way."""


def diverged(what: str, step: int, learning_rate: float) -> Diverged:
    return Diverged(
        f"{what} at step {step}: learning_rate {learning_rate:g} is too high",
        hint=f"try --learning-rate {learning_rate / 10:g}, or a longer --warmup-share; nothing was written",
    )
