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

COST = {"generated_tokens_per_second": 41.26, "peak_memory_bytes": 52_000_000}
LOST = {
    "kld": {"mean": 0.031234},
    "same_top": {"share": 0.9, "standard_error": 0.02},
    "perplexity_ratio": {"ratio": 1.0512},
}
QUANT_CARD: dict[str, Any] = {
    "reference": "a-F16.gguf",
    "files": [
        {"file": "<b>a-Q4_K_M.gguf", "bytes": 3_200_000, "against_reference": LOST, "cost": COST},
        {"file": "a-F16.gguf", "bytes": 10_000_000, "against_reference": None, "cost": COST},
    ],
}


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


def test_a_perplexity_of_one_document_is_shown_without_an_interval(tmp_path: Path) -> None:
    one = {"perplexity": 2.5, "perplexity_interval_95": None}
    part = {"tokens": 12, "model": one, "baseline": {**one, "perplexity": None}}
    task = {"task": "test", "measured": 1, "line": "2.50", "answer_text": part}
    shown = html_of(tmp_path, {"line": "perplexity 2.50", "tasks": [task]}, None)
    assert "2.50 (no interval)" in shown
    assert "beyond measure (no interval)" in shown


def test_free_answers_stand_beside_the_choices_where_any_is_right(tmp_path: Path) -> None:
    right = {
        role: {"accuracy": share, "interval_95": [share - 0.1, share + 0.1]}
        for role, share in (("model", 0.75), ("baseline", 0.25))
    }
    generation = {
        "measured": 16,
        "line": "75.0% against 25.0% exactly right",
        "exactly_right": right,
        "model": {},
        "baseline": {},
    }
    html = html_of(tmp_path, EVALUATION | {"generation": generation}, CERTIFICATE)
    assert generation["line"] in html
    assert "free answers, base 25.0%, 15.0% to 35.0%; free answers, tuned 75.0%, 65.0% to 85.0%" in html
    for said in ({"line": ""}, {}):  # an earlier version said nothing
        without = {key: value for key, value in generation.items() if key != "line"} | said
        html = html_of(tmp_path, EVALUATION | {"generation": without}, CERTIFICATE)
        assert "free answers" not in html
        assert EVALUATION["line"] in html


def test_the_quant_card_is_shown_where_eval_made_one(tmp_path: Path) -> None:
    html = html_of(tmp_path, EVALUATION | {"quant_card": QUANT_CARD}, CERTIFICATE)
    for shown in (
        "against a-F16.gguf",
        "0.03123",
        "90.0%",
        "1.0512",
        "41.3",
        "52 MB",
        "it is the reference",
        "86.1% to 93.9%",
    ):
        assert shown in html
    assert "<b>" not in html
    assert html.count("<circle") == 3


def test_what_is_missing_or_broken_is_said_section_by_section(tmp_path: Path) -> None:
    assert html_of(tmp_path, None, None).count("is not there yet: ") == 3
    assert "medllama eval makes it." in html_of(tmp_path, None, CERTIFICATE)
    html = html_of(tmp_path, "{cut", CERTIFICATE)
    assert "results.json is not JSON: line 1" in html
    assert "<strong>pass</strong>" in html
    huge = EVALUATION | {"quant_card": QUANT_CARD | {"files": [QUANT_CARD["files"][1] | {"bytes": 10**400}]}}
    for value, said in (
        ({"tasks": []}, "it has no &#x27;line&#x27;"),
        ({"tasks": 5}, "what it holds is of another kind"),
        (huge, "what it holds is of another kind"),
    ):
        html = html_of(tmp_path, value, CERTIFICATE)
        assert f"results.json is none that medllama eval of this version writes: {said}. medllama eval makes" in html
        assert "<strong>pass</strong>" in html
    assert html_of(tmp_path, EVALUATION | {"line": "half \ud800"}, CERTIFICATE).encode(), "a browser can be sent it"
    assert ResultsTab(AppConfig(("a.gguf",))).html().count("No file was named: ") == 3
