"""What `medllama eval` measured on a packaged file, for the model card: its table and Hugging Face's `model-index`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medllama.errors import CheckFailed, InputError
from medllama.files import read_json
from publish.certificate import CertifiedFile

AGAIN = "run medllama eval on one of the packaged files"
TITLES = {
    "multiple_choice": "accuracy", "free_answers": "exactly the expected words", "perplexity": "perplexity of held-out answers",
    "text": "perplexity of the text",
}  # fmt: skip
METRICS = {
    "multiple_choice": "accuracy",
    "free_answers": "exact_match",
    "perplexity": "perplexity",
    "text": "perplexity",
}


@dataclass(frozen=True)
class Score:
    """One task: how many items, what was measured, of the model and, where it was measured too, of its base.

    A perplexity beyond what a float holds is None; a single document gives no interval.
    """

    task: str
    kind: str
    items: int
    value: float | None
    interval: tuple[float, float] | None
    base_value: float | None
    difference: str


@dataclass(frozen=True)
class Evaluation:
    """The scores of one file of the package."""

    file: CertifiedFile
    scores: tuple[Score, ...]

    @property
    def has_base(self) -> bool:
        """Whether the base was measured too."""
        return any(score.base_value is not None for score in self.scores)

    def table(self) -> str:
        """A Markdown table, a row per task."""
        rows = [
            f"| {score.task} | {score.items:,} | {TITLES[score.kind]} | {_with_interval(score)} | "
            f"{_shown(score.base_value, score.kind)} | {score.difference} |"
            for score in self.scores
        ]
        return "\n".join(
            [
                "| task | n | measure | this model (95% interval) | its base | difference |",
                "|---|---|---|---|---|---|",
                *rows,
            ]
        )

    def model_index(self, name: str) -> list[dict[str, Any]]:
        """Hugging Face's metadata of results."""
        results = [
            {
                "task": {"type": "text-generation"},
                "dataset": {"name": score.task, "type": score.task},
                "metrics": [{"type": METRICS[score.kind], "value": round(score.value, 4)}],
            }
            for score in self.scores
            if score.value is not None
        ]
        return [{"name": name, "results": results}]


def read_evaluation(path: Path, files: Sequence[CertifiedFile]) -> Evaluation:
    """The results in `path`. Raises InputError where they are none, CheckFailed where they are of another file."""
    content = read_json(path)
    try:
        digest = content["model"]["sha256"]
        scores = tuple(_score(task) for task in [*content["tasks"], *_free_answers(content.get("generation"))])
    except (KeyError, TypeError, IndexError):
        raise InputError(f"{path} is not what medllama eval writes", hint=AGAIN) from None
    file = next((file for file in files if file.sha256 == digest), None)
    if file is None:
        raise CheckFailed(f"{path} was measured on another file: its SHA-256 is {digest}", hint=AGAIN)
    return Evaluation(file, scores)


def _free_answers(generation: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The answers in own words as a task; none where no answer was word for word the expected one, which tells nothing."""
    if not generation or not generation["line"]:
        return []
    known = {"task": "free answers", "kind": "free_answers", "measured": generation["measured"]}
    return [{**known, **generation["exactly_right"]}]


def _score(task: dict[str, Any]) -> Score:
    kind, difference = task["kind"], ""
    if kind != "perplexity":
        model, base = task["model"], task.get("baseline")
        value, interval, base_value = model["accuracy"], model["interval_95"], base["accuracy"] if base else None
        if base:
            low, high = task["difference"]["interval_95"]
            difference = f"{100 * task['difference']['accuracy']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
    else:
        part = task[task["part"]]
        model, base = part["model"], part.get("baseline")
        value, interval, base_value = (
            model["perplexity"],
            model["perplexity_interval_95"],
            base["perplexity"] if base else None,
        )
        if base:
            limits = part["difference"]["interval_95"]
            difference = f"{part['difference']['nats_per_token']:+.3f} nats a token"
            difference += f" ({limits[0]:+.3f} to {limits[1]:+.3f})" if limits else " (no interval)"
        kind = "text" if task.get("prompt") == "plain" else kind
    return Score(
        task["task"],
        kind,
        task["measured"],
        value,
        (interval[0], interval[1]) if interval else None,
        base_value,
        difference or "not measured",
    )


def _with_interval(score: Score) -> str:
    if score.value is None:
        return "beyond measure"
    limits = [_shown(limit, score.kind) for limit in score.interval or ()]
    return f"{_shown(score.value, score.kind)} ({' to '.join(limits) or 'no interval'})"


def _shown(value: float | None, kind: str) -> str:
    if value is None:
        return "not measured"
    return f"{value:.2f}" if METRICS[kind] == "perplexity" else f"{100 * value:.1f}%"
