"""The report as slides: a PowerPoint file whose texts, tables and charts can be edited.

Figures in (`report.figures.collect`), a file out. Charts are PowerPoint's own, in black and gray with markers, so that they print.
The same figures give the same slides; python-pptx writes the time of day into the file, so its bytes differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pptx import Presentation
from pptx.chart.data import CategoryChartData, XyChartData
from pptx.dml.color import RGBColor
from pptx.enum.chart import XL_CHART_TYPE, XL_LEGEND_POSITION, XL_MARKER_STYLE
from pptx.enum.dml import MSO_LINE
from pptx.util import Inches, Pt

from medllama.files import atomic_file
from medllama.progress import duration
from report.page import size
from report.plain import headline_text, percent, setting, task_rows

Figures = dict[str, Any]
TITLE_ONLY, TITLE = 5, 0  # layouts of the default template
WIDTH, TOP, HEIGHT = Inches(9), Inches(1.4), Inches(5.2)
MARGIN = Inches(0.5)
MOST_ROWS = 9  # of a table, so that it can be read
MOST_BULLETS = 5
MOST_SAMPLES = 3
INK, GRAY = RGBColor(0, 0, 0), RGBColor(0x80, 0x80, 0x80)
MARKERS = (
    XL_MARKER_STYLE.SQUARE, XL_MARKER_STYLE.CIRCLE, XL_MARKER_STYLE.TRIANGLE, XL_MARKER_STYLE.DIAMOND, XL_MARKER_STYLE.X,
    XL_MARKER_STYLE.PLUS, XL_MARKER_STYLE.STAR, XL_MARKER_STYLE.DASH,
)  # fmt: skip


def write_slides(figures: Figures, path: Path) -> None:
    """Write the slides of a report."""
    deck = Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[TITLE])
    first.shapes.title.text = figures["run"]
    first.placeholders[1].text = headline_text(figures).replace("**", "")
    _from(first, figures["headline"]["source"])
    _data(deck, figures)
    _method(deck, figures)
    _loss(deck, figures)
    _results(deck, figures)
    _card(deck, figures)
    _samples(deck, figures)
    _certificate(deck, figures)
    _bullets(deck, "Limits", figures["limits"])
    _bullets(deck, "Lessons: noted on the way", figures["notes"])
    with atomic_file(path) as partial:
        deck.save(str(partial))


def _slide(deck: Any, title: str, source: Iterable[str] = ()) -> Any:
    slide = deck.slides.add_slide(deck.slide_layouts[TITLE_ONLY])
    slide.shapes.title.text = title
    slide.shapes.title.text_frame.paragraphs[0].font.size = Pt(28)
    _from(slide, source)
    return slide


def _from(slide: Any, source: Iterable[str]) -> None:
    if names := ", ".join(source):
        _text(slide, f"From {names}", Inches(6.9), 11)


def _text(slide: Any, text: str, top: Any, points: int) -> None:
    frame = slide.shapes.add_textbox(MARGIN, top, WIDTH, Inches(0.4)).text_frame
    frame.word_wrap = True
    frame.text = text
    for paragraph in frame.paragraphs:
        paragraph.font.size = Pt(points)


def _bullets(deck: Any, title: str, told: Sequence[Figures]) -> None:
    """Texts with their sources, on as many slides as they need."""
    for start in range(0, len(told), MOST_BULLETS):
        its = told[start : start + MOST_BULLETS]
        names = dict.fromkeys(name for it in its for name in it["source"])
        slide = _slide(deck, title if not start else f"{title}, continued", names)
        _text(slide, "\n".join(f"\N{BULLET} {it['text']}" for it in its), TOP, 14)


def _table(deck: Any, title: str, rows: Sequence[Sequence[Any]], source: Iterable[str]) -> None:
    """A table, its first row the head, on as many slides as it needs."""
    head, body = rows[0], rows[1:]
    for start in range(0, len(body), MOST_ROWS):
        slide = _slide(deck, title if not start else f"{title}, continued", source)
        shown = [head, *body[start : start + MOST_ROWS]]
        table = slide.shapes.add_table(len(shown), len(head), MARGIN, TOP, WIDTH, Inches(0.4) * len(shown)).table
        for place, row in enumerate(shown):
            for column, value in enumerate(row):
                cell = table.cell(place, column)
                cell.text = str(value)
                cell.text_frame.paragraphs[0].font.size = Pt(12)


def _data(deck: Any, figures: Figures) -> None:
    data = figures["data"]
    if data:
        rows = [(its["name"], its["licence"] or "none stated", f"{its['counts']['kept']:,}") for its in data["sources"]]
        _table(deck, "Data and licences", [("source", "licence", "records"), *rows], data["source"])


def _method(deck: Any, figures: Figures) -> None:
    training = figures["training"]
    if training:
        rows = [(name, setting(value)) for name, value in training["hyperparameters"].items()]
        _table(deck, f"Method: LoRA on {figures['base']['name']}", [("setting", "value"), *rows], training["source"])
    stages = [its for its in figures["cost"]["stages"] if its["source"]]
    if stages:
        costs = [(its["stage"], duration(its["seconds"]), size(its["peak_memory_bytes"])) for its in stages]
        _table(deck, "Cost", [("stage", "time", "memory"), *costs], ("manifests/",))


def _loss(deck: Any, figures: Figures) -> None:
    curve = figures["loss_curve"]
    lines = {name: curve[name] for name in ("training", "validation") if curve[name]} if curve else {}
    if not lines:
        return
    data = XyChartData()
    for name, points in lines.items():
        series = data.add_series(name)
        for step, loss in points:
            series.add_data_point(step, loss)
    slide = _slide(deck, "Loss, nats per token, by optimizer step", curve["source"])
    _add_chart(slide, XL_CHART_TYPE.XY_SCATTER_LINES_NO_MARKERS, data, "optimizer steps", "loss, nats per token")


def _results(deck: Any, figures: Figures) -> None:
    evaluation = figures["evaluation"]
    if not evaluation or not evaluation["tasks"]:
        _text(_slide(deck, "Results"), "The model was not measured.", TOP, 14)
        return
    head = ("task", "n", "base", "tuned", "difference (95%)")
    _table(deck, "Base against tuned", [head, *task_rows(figures)], evaluation["source"])
    shares = {task["task"]: task for task in evaluation["tasks"] if task["kind"] == "multiple_choice"}
    if figures["generation"]:
        shares["free answers"] = figures["generation"]["exactly_right"]
    if shares:
        data = CategoryChartData()
        data.categories = list(shares)
        for role, name in (("baseline", "base"), ("model", "tuned")):
            if all(its[role] for its in shares.values()):
                data.add_series(name, [100 * its[role]["accuracy"] for its in shares.values()])
        slide = _slide(deck, "Right answers, %", evaluation["source"])
        chart = _add_chart(slide, XL_CHART_TYPE.COLUMN_CLUSTERED, data, "task", "right answers, %")
        chart.value_axis.minimum_scale, chart.value_axis.maximum_scale = 0, 100


def _card(deck: Any, figures: Figures) -> None:
    card = figures["quant_card"]
    if not card:
        return
    rows: list[Sequence[Any]] = [("type", "size", "KLD", "same top", "answer tokens/s", "memory")]
    data = XyChartData()
    told: tuple[str, str]
    for row in card["files"]:
        against, cost = row["against_reference"], row["cost"]
        told = (
            (f"{against['kld']['mean']:.4f}", percent(against["same_top"]["share"])) if against else ("reference", "")
        )
        speed = f"{cost['generated_tokens_per_second']:.0f}"
        rows.append((row["type"], size(row["bytes"]), *told, speed, size(cost["peak_memory_bytes"])))
        data.add_series(row["type"]).add_data_point(row["bytes"] / 1e6, against["kld"]["mean"] if against else 0)
    _table(deck, "What each file type loses and costs", rows, card["source"])
    slide = _slide(deck, "Size against divergence", card["source"])
    _add_chart(slide, XL_CHART_TYPE.XY_SCATTER, data, "size, MB", "KL divergence, nats")


def _add_chart(slide: Any, kind: Any, data: Any, across: str, upward: str) -> Any:
    """A chart in black and gray, whose series are told apart by marker or line, not by color alone."""
    chart = slide.shapes.add_chart(kind, MARGIN, TOP, WIDTH, HEIGHT, data).chart
    chart.font.size = Pt(14)
    chart.has_legend = True
    chart.legend.position, chart.legend.include_in_layout = XL_LEGEND_POSITION.BOTTOM, False
    for axis, title in ((chart.category_axis, across), (chart.value_axis, upward)):
        axis.axis_title.text_frame.text = title
        axis.axis_title.text_frame.paragraphs[0].font.size = Pt(14)
    for number, series in enumerate(chart.plots[0].series):
        color = (GRAY, INK)[number % 2]
        if kind == XL_CHART_TYPE.COLUMN_CLUSTERED:
            series.format.fill.solid()
            series.format.fill.fore_color.rgb = color
        elif kind == XL_CHART_TYPE.XY_SCATTER:
            series.format.line.fill.background()
            _mark(series, MARKERS[number % len(MARKERS)])
        else:
            series.format.line.color.rgb = color
            if number:
                series.format.line.dash_style = MSO_LINE.DASH
                _mark(series, MARKERS[number])
    return chart


def _mark(series: Any, style: Any) -> None:
    series.marker.style, series.marker.size = style, 10
    series.marker.format.fill.solid()
    series.marker.format.fill.fore_color.rgb = INK
    series.marker.format.line.color.rgb = INK


def _samples(deck: Any, figures: Figures) -> None:
    for item in (figures["samples"] or {"items": []})["items"][:MOST_SAMPLES]:
        asked = " ".join(message["content"] for message in item["messages"])
        said = [("Expected", item["expected"])] if item["expected"] is not None else []
        said += [(name, item[role]["text"]) for role, name in (("baseline", "Base"), ("model", "Tuned")) if item[role]]
        slide = _slide(deck, "The same question before and after", figures["samples"]["source"])
        _text(slide, "\n\n".join([asked, *(f"{name}: {text[:400]}" for name, text in said)]), TOP, 16)


def _certificate(deck: Any, figures: Figures) -> None:
    certificate = figures["certificate"]
    if not certificate:
        _text(
            _slide(deck, "Certificate"), "There is none: that the files are the trained model is not proven.", TOP, 14
        )
        return
    rows = [
        (file["name"], check["name"], check["verdict"]) for file in certificate["files"] for check in file["checks"]
    ]
    _table(deck, f"Certificate: {certificate['verdict']}", [("file", "check", "verdict"), *rows], certificate["source"])
