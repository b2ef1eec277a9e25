"""Markdown and slides hold the page's figures; the slides open again, with tables and charts that can be edited."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pptx import Presentation
from pptx.dml.color import RGBColor

from report.config import ReportConfig
from report.figures import collect
from report.markdown import render_markdown
from report.report import report
from report.slides import write_slides
from tests.report.runs import change, make_run

COST = {
    "load_seconds": 0.5, "prompt_tokens_per_second": 812.0, "generated_tokens_per_second": 97.0, "peak_memory_bytes": 40_000_000,
    "threads": 2,
}  # fmt: skip
AGAINST = {
    "tokens": 900, "documents": 12, "kld": {"mean": 0.0127, "standard_error": 0.001, "largest": 0.4},
    "same_top": {"share": 0.9467, "standard_error": 0.01}, "perplexity_ratio": {"ratio": 1.0142, "interval_95": [1.01, 1.02]},
}  # fmt: skip


ACCURACY = {"base": {"ratings": 7, "mean": 2.43}, "tuned": {"ratings": 0, "mean": None}, "agreement": 0.52}


def add_card(results: dict[str, Any]) -> None:
    files = [
        {
            "file": f"tiny-{kind}.gguf",
            "type": kind,
            "bytes": size,
            "sha256": "ab" * 32,
            "against_reference": against,
            "cost": COST,
        }
        for kind, size, against in (("Q4_K_M", 3_221_920, AGAINST), ("F16", 10_043_840, None))
    ]
    within = {"expression": "kld<0.02", "file": "tiny-Q4_K_M.gguf", "all": ["tiny-Q4_K_M.gguf", "tiny-F16.gguf"]}
    results["quant_card"] = {
        "protocol": "As told.", "reference": "tiny-F16.gguf", "files": files, "within": within,
        "accuracy": {"tiny-Q4_K_M.gguf": 0.612}, "accuracy_task": "multiple_choice",
    }  # fmt: skip
    share = {"count": 7, "share": 0.7, "interval_95": [0.41, 0.93]}
    pair = {
        "models": ["base", "tuned"], "ratings": 10, "wins": {"base": share | {"count": 1, "share": 0.1}, "tuned": share},
        "ties": share, "both_bad": share, "agreement_of_choices": 0.61, "aspects": {"accuracy": ACCURACY},
        "preference": {"of": "tuned", "over": "base", "difference": 0.6, "interval_95": [0.2, 0.9]},
    }  # fmt: skip
    results["panel"] = {
        "file": "r.jsonl", "sha256": "cd" * 32, "protocol": "Blind.", "ratings": 10, "items": 5, "raters": 2, "pairs": [pair],
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = make_run(tmp_path / "tiny")
    change(run / "eval/results.json", add_card)
    return run


def texts_of(path: Path) -> list[str]:
    """Every text of a deck, of tables too."""
    found = []
    for slide in Presentation(str(path)).slides:
        for shape in slide.shapes:
            if shape.has_text_frame:
                found.append(shape.text_frame.text)
            if shape.has_table:
                found += [cell.text for row in shape.table.rows for cell in row.cells]
    return found


def test_markdown_has_the_results_with_their_intervals_and_files(run: Path) -> None:
    text = render_markdown(collect(run))
    for expected in (
        "| multiple_choice, accuracy | 20 | 55.0% | 90.0% | +35.0 points (11.8 to 56.7), McNemar p 0.0156 |",
        "| free answers, exactly right | 16 | 6.2% | 81.2% | +75.0 points (52.0 to 88.0), McNemar p 0.0002 |",
        "| drug | 20 | 55.0% | 90.0% |", "| Q4_K_M | 3.2 MB | 0.0127 | 94.7% | 1.0142 | 812 | 97 | 0.5s | 40.0 MB |",
        "Smallest file with kld<0.02: tiny-Q4_K_M.gguf.", "| leaflets | CC-BY-4.0 | 1,234 | 1,230 | the makers |",
        "- tuned preferred: 70.0% (41.0 to 93.0)", "- agreement of choices (Krippendorff's alpha): 0.61", "- tuned: A statin.",
        "| learning_rate | 0.004 |", "| target_modules | all-linear |", "| accuracy | 2.43 | not known | 0.52 |",
        "- tuned over base: +60.0 points (20.0 to 90.0)", "Right answers of multiple_choice: tiny-Q4_K_M.gguf 61.2%.",
        "From `eval/results.json`.", "No medical device",
    ):  # fmt: skip
        assert expected in text


def test_every_part_of_the_markdown_names_its_files(run: Path) -> None:
    parts = render_markdown(collect(run)).split("\n## ")
    assert len(parts) > 10
    for part in parts:
        names = re.findall(r"`([\w/.]+)`", part)
        assert any((run / name).is_file() for name in names), part


def test_every_slide_names_its_files(run: Path, tmp_path: Path) -> None:
    write_slides(collect(run), tmp_path / "report.pptx")
    for slide in Presentation(str(tmp_path / "report.pptx")).slides:
        texts = [shape.text_frame.text for shape in slide.shapes if shape.has_text_frame]
        (named,) = [text.removeprefix("From ") for text in texts if text.startswith("From ")]
        assert all((run / name).exists() for name in named.split(", "))


def test_charts_tell_their_series_apart_without_color(run: Path, tmp_path: Path) -> None:
    write_slides(collect(run), tmp_path / "report.pptx")
    slides = Presentation(str(tmp_path / "report.pptx")).slides
    loss, right, card = (shape.chart for slide in slides for shape in slide.shapes if shape.has_chart)
    for chart in (loss, right, card):
        assert all(axis.axis_title.text_frame.text for axis in (chart.category_axis, chart.value_axis))
    points = list(card.plots[0].series)
    assert len({series.marker.style for series in points}) == len(points)
    assert {series.marker.format.fill.fore_color.rgb for series in points} == {RGBColor(0, 0, 0)}
    assert len({series.format.line.dash_style for series in loss.plots[0].series}) == 2
    columns = [series.format.fill.fore_color.rgb for series in right.plots[0].series]
    assert columns == [RGBColor(0x80, 0x80, 0x80), RGBColor(0, 0, 0)]


def test_slides_open_again_with_tables_and_charts(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.pptx"
    write_slides(collect(run), path)
    texts = texts_of(path)
    for expected in (
        "tiny",
        "+35.0 points (11.8 to 56.7), McNemar p 0.0156",
        "0.0127",
        "CC-BY-4.0",
        "learning_rate",
        "prepare",
    ):
        assert expected in texts
    assert any("A statin." in text for text in texts)
    assert any("medical device" in text for text in texts)
    slides = Presentation(str(path)).slides
    charts = [shape.chart for slide in slides for shape in slide.shapes if shape.has_chart]
    assert [[series.name for series in chart.plots[0].series] for chart in charts] == [
        ["training", "validation"], ["base", "tuned"], ["Q4_K_M", "F16"],
    ]  # fmt: skip
    assert [list(series.values) for series in charts[1].plots[0].series] == [
        [pytest.approx(55.0), 6.25], [90.0, 81.25],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "missing", ["eval/results.json", "certificate.json", "adapter/training.json", "data/data_card.json"]
)
def test_what_is_missing_is_left_out_or_said(missing: str, run: Path) -> None:
    (run / missing).unlink()
    result = report(ReportConfig(run=run))
    assert result.path == run / "report.html"
    assert {path.suffix for path in run.glob("report.*")} == {".html", ".json", ".md", ".pptx"}
    assert (missing == "eval/results.json") == (
        "Not measured: `medllama eval` makes this." in (run / "report.md").read_text()
    )


def test_the_page_shows_the_card_and_the_panel(run: Path) -> None:
    report(ReportConfig(run=run))
    page = (run / "report.html").read_text()
    for expected in (
        '<data value="0.0127">0.0127</data>',
        "What a panel of people preferred",
        "Size against divergence",
        "kld&lt;0.02",
        '<data value="2.43">2.43</data>',
        "not rated",
        'Right answers of multiple_choice: tiny-Q4_K_M.gguf\n<data value="0.612">61.2%</data>',
    ):
        assert expected in page
