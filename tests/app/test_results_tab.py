"""The results tab shows the files' own figures, and says what is missing or broken instead of failing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from app.config import AppConfig
from app.results_tab import ResultsTab

INTERVAL = {"perplexity": 2.5, "perplexity_interval_95": [2.25, 2.75]}
EVALUATION = {
    "line": "multiple choice 80.0% against 50.0% of the base",
    "tasks": [
        {"task": "quiz", "measured": 40, "line": "80.0% against 50.0%",
         "model": {"accuracy": 0.8, "interval_95": [0.65, 0.9]}, "baseline": {"accuracy": 0.5, "interval_95": [0.35, 0.65]}},
        {"task": "<b>test</b>", "measured": 30, "line": "2.50 against 3.50",
         "answer_text": {"tokens": 1234, "model": INTERVAL, "baseline": None}},
    ],
}  # fmt: skip
CERTIFICATE = {
    "verdict": "pass",
    "files": [
        {"name": "a-Q4_K_M.gguf", "type": "Q4_K_M", "bytes": 3_200_000, "sha256": "ab" * 32, "checks": [
            {"name": "tensors", "verdict": "pass", "figure": 0.8003871, "bound": 1.0, "reason": "no worse than a round trip"},
            {"name": "logits", "verdict": "pass", "figure": 0.05607, "bound": 0.1121, "reason": "twice the rounding"},
            {"name": "file", "verdict": "pass", "figure": "39 tensors", "bound": None, "reason": "whole"},
        ]},
    ],
}  # fmt: skip


def html_of(tmp_path: Path, evaluation: Any, certificate: Any) -> str:
    paths = []
    for name, value in (("results.json", evaluation), ("certificate.json", certificate)):
        if value is not None:
            (tmp_path / name).write_text(value if isinstance(value, str) else json.dumps(value))
        paths.append(tmp_path / name)
    return ResultsTab(AppConfig(("a.gguf",), evaluation=paths[0], certificate=paths[1])).html()


def test_every_figure_of_the_files_is_shown(tmp_path: Path) -> None:
    html = html_of(tmp_path, EVALUATION, CERTIFICATE)
    for shown in (
        EVALUATION["line"], "quiz, base 50.0%, 35.0% to 65.0%; quiz, tuned 80.0%, 65.0% to 90.0%", "2.50 (2.25 to 2.75)",
        "1,234", "3.2 MB", "0.8004", "0.05607", "0.1121", "39 tensors", "abababababababab", "<strong>pass</strong>",
    ):  # fmt: skip
        assert shown in html
    assert "<b>" not in html
    assert html.count("<circle") == 2


def test_what_is_missing_or_broken_is_said_section_by_section(tmp_path: Path) -> None:
    assert html_of(tmp_path, None, None).count("Not there yet: ") == 3
    assert "medllama eval makes it." in html_of(tmp_path, None, CERTIFICATE)
    html = html_of(tmp_path, "{cut", CERTIFICATE)
    assert "results.json is not JSON: line 1" in html
    assert "<strong>pass</strong>" in html
    html = html_of(tmp_path, {"tasks": 5}, CERTIFICATE)
    assert "results.json is none of medllama eval" in html
    assert ResultsTab(AppConfig(("a.gguf",))).html().count("Not there yet") == 3
