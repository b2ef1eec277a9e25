"""The page: figures in, one HTML file out that needs nothing but itself.

Every number is a `<data>` element whose value is the exact figure of report.json, so that the rounded one on the page can be
checked. All text is escaped; a content policy in the page forbids scripts and every request besides.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from medllama.progress import duration
from report.plain import setting
from report.plots import accuracies, loss_curve, size_against_quality

FOLDER = Path(__file__).resolve().parent
TEMPLATE, STYLE = "report.html", "report.css"
SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def render(figures: dict[str, Any]) -> str:
    """The page of a report's figures (`report.figures.collect`)."""
    tasks = figures["evaluation"]["tasks"] if figures["evaluation"] else []
    task = next((task for task in tasks if task["task"] == figures["headline"]["task"]), None)
    return _template().render(
        figures=figures,
        headline_task=task,
        style=Markup((FOLDER / STYLE).read_text(encoding="utf-8")),
        accuracy_plot=Markup(accuracies(task)) if task and task["kind"] == "multiple_choice" else "",
        card_plot=Markup(size_against_quality(figures["quant_card"])) if figures["quant_card"] else "",
        loss_plot=Markup(loss_curve(figures["loss_curve"])) if figures["loss_curve"] else "",
    )


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    return environment.get_template(TEMPLATE)


def signed(number: float, digits: int) -> str:
    """`+29.4`, with a true minus sign."""
    return f"{number:+,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def size(count: float) -> str:
    """Bytes in the largest unit that leaves a whole number of them: `3.2 MB`."""
    for unit, name in SIZES:
        if count >= unit:
            return f"{count / unit:.{2 if unit == 1e9 else 1}f} {name}"
    return f"{count:,.0f} bytes"


def _data(value: float, shown: str) -> Markup:
    return Markup('<data value="{}">{}</data>').format(value, shown)


def _range(values: list[float], show: Any) -> Markup:
    return Markup(" to ").join(_data(value, show(value)) for value in values)


FILTERS: dict[str, Callable[..., Any]] = {
    "percent": lambda share: _data(share, f"{share:.1%}"),
    "percents": lambda shares: _range(shares, lambda share: f"{100 * share:.1f}"),
    "points": lambda share: _data(share, signed(100 * share, 1)),
    "points_range": lambda shares: _range(shares, lambda share: signed(100 * share, 1)),
    "whole": lambda number: _data(number, f"{number:,}"),
    "real": lambda number, digits=2: _data(number, f"{number:,.{digits}f}"),
    "reals": lambda numbers: _range(numbers, lambda number: f"{number:,.2f}"),
    "change": lambda number: _data(number, signed(number, 3)),
    "changes": lambda numbers: _range(numbers, lambda number: signed(number, 3)),
    "probability": lambda p: _data(p, f"= {p:.3f}" if p >= 0.001 else "< 0.001"),
    "size": lambda count: _data(count, size(count)),
    "duration": lambda seconds: _data(seconds, duration(seconds)),
    "setting": setting,
    "figure": lambda value: _data(value, f"{value:.3g}") if isinstance(value, float) else value,
}
