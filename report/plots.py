"""The report's plots as SVG to stand inside the page: they take its colors, by day and by night, and its fonts.

Matplotlib draws with placeholder colors that become CSS here. Nothing tells curves apart by color alone.
"""

from __future__ import annotations

import html
import io
import re
from typing import Any

import matplotlib
import matplotlib.axes
import matplotlib.figure
import matplotlib.ticker

WIDTH_POINTS = 400  # a point is a unit of the SVG: 12 points stay readable on a phone of 390 pixels
INK, MUTED, ACCENT = "#010101", "#020202", "#030303"
CSS_COLORS = {INK: "currentColor", MUTED: "var(--muted)", ACCENT: "var(--accent)"}
STYLE = {
    "svg.fonttype": "none", "font.size": 12, "axes.labelsize": 12,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "xtick.minor.visible": False, "ytick.minor.visible": False,
}  # fmt: skip
LETTER_POINTS, LINE_POINTS = 8, 13  # the room that a letter takes, and a line
LOGARITHMIC_FROM = 20.0  # the ratio of the highest to the lowest loss above which an even axis shows nothing of the end


def loss_curve(curve: dict[str, Any]) -> str:
    """Training and validation loss by optimizer step; empty where there is nothing to draw."""
    lines = {name: curve[name] for name in ("training", "validation") if curve[name]}
    if not lines:
        return ""
    losses = [loss for points in lines.values() for _, loss in points]
    is_logarithmic = min(losses) > 0 and max(losses) / min(losses) > LOGARITHMIC_FROM
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(height=240)
        if "training" in lines:
            axes.plot(*zip(*lines["training"], strict=True), color=MUTED, linewidth=1.2, label="training")
        if "validation" in lines:
            axes.plot(
                *zip(*lines["validation"], strict=True), color=ACCENT, linewidth=1.6, linestyle="--", marker="o",
                markersize=6, label="validation",
            )  # fmt: skip
        if is_logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 3)))
            axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel("loss, nats per token" + (" (log scale)" if is_logarithmic else ""))
        axes.grid(axis="y", color=MUTED, alpha=0.25, linewidth=0.6)
        axes.legend(frameon=False, loc="upper right")
        ends = [f"{name} loss from {points[0][1]:.3g} to {points[-1][1]:.3g}" for name, points in lines.items()]
        return _svg(figure, "loss", f"Loss by optimizer step: {', '.join(ends)} nats per token.")


def accuracies(task: dict[str, Any]) -> str:
    """The share of right answers of base and tuned model with their 95% intervals, on one axis from 0 to 100%."""
    rows = [(name, task[role]) for role, name in (("model", "tuned"), ("baseline", "base")) if task[role]]
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(height=110 if len(rows) > 1 else 80)
        described = []
        for height, (name, its) in enumerate(rows):
            share, (low, high) = 100 * its["accuracy"], (100 * limit for limit in its["interval_95"])
            color = ACCENT if name == "tuned" else INK
            axes.plot([low, high], [height, height], color=color, linewidth=2.4, solid_capstyle="butt")
            axes.plot(
                [share], [height], marker="o" if name == "tuned" else "s", markersize=8, color=color, clip_on=False
            )
            described.append(f"{name} {share:.1f}% (95% interval {low:.1f} to {high:.1f})")
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlim(0, 100)
        axes.set_xlabel("right answers, % (line: 95% interval)")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=MUTED, alpha=0.25, linewidth=0.6)
        return _svg(figure, "accuracy", f"Right answers: {'; '.join(described)}.")


def size_against_quality(card: dict[str, Any]) -> str:
    """Each file of the quant card by its size and its divergence from the reference; empty where there is only the reference."""
    rows = [(row["type"], row["bytes"], row["against_reference"]) for row in card["files"]]
    if len(rows) < 2:
        return ""
    unit, name = next(
        (it for it in ((1e9, "GB"), (1e6, "MB")) if max(size for _, size, _ in rows) >= it[0]), (1e3, "kB")
    )
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(height=220)
        described = []
        for kind, size, against in rows:
            kld = against["kld"]["mean"] if against else 0.0
            error = (against["kld"]["standard_error"] or 0.0) if against else 0.0
            axes.errorbar(
                [size / unit],
                [kld],
                yerr=[1.96 * error],
                fmt="o" if against else "s",
                color=INK,
                capsize=3,
                clip_on=False,
            )
            described.append(f"{kind} {size / unit:.2f} {name}, {kld:.4g} nats")
        axes.set_xlim(0, 1.25 * max(size for _, size, _ in rows) / unit)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"size, {name}")
        axes.set_ylabel("KL divergence, nats")
        axes.grid(axis="y", color=MUTED, alpha=0.25, linewidth=0.6)
        _name_points(
            axes, [(size / unit, against["kld"]["mean"] if against else 0.0, kind) for kind, size, against in rows]
        )
        return _svg(figure, "quality", f"Size against divergence from {card['reference']}: {'; '.join(described)}.")


def _name_points(axes: matplotlib.axes.Axes, names: list[tuple[float, float, str]]) -> None:
    """Each name right of its point (x, y), lifted until it covers no other; a line leads a lifted one to its point."""
    figure = axes.get_figure()
    assert isinstance(figure, matplotlib.figure.Figure)
    figure.draw_without_rendering()  # the layout is known then
    taken: list[tuple[float, float, float]] = []  # left, right, bottom, in points
    for x, y, name in sorted(names, reverse=True):
        left, bottom = axes.transData.transform((x, y)) * 72 / figure.dpi + (8, 6)
        right, lift = left + LETTER_POINTS * len(name), 6
        while any(
            left < other_right and other_left < right and abs(bottom - other) < LINE_POINTS
            for other_left, other_right, other in taken
        ):
            bottom, lift = bottom + 2, lift + 2
        taken.append((left, right, bottom))
        line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "relpos": (0, 0)} if lift > 6 else None
        axes.annotate(name, (x, y), textcoords="offset points", xytext=(8, lift), arrowprops=line).set_in_layout(False)


def _figure(*, height: float) -> tuple[matplotlib.figure.Figure, matplotlib.axes.Axes]:
    figure = matplotlib.figure.Figure(figsize=(WIDTH_POINTS / 72, height / 72), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: matplotlib.figure.Figure, name: str, description: str) -> str:
    """The figure as an `<svg>` element that tells a screen reader what it shows, and that refers to nothing outside itself."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):  # ids are the page's: two plots must not share one
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace("xlink:href", "href")
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[\w.]*_\d+"', "", svg)  # each figure counts its parts from 1, and nothing refers to them
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    for placeholder, color in CSS_COLORS.items():
        svg = svg.replace(placeholder, color)
    opening, _, content = svg.partition(">")
    view_box = re.search(r'viewBox="[^"]*"', opening)
    assert view_box is not None
    return f'<svg class="plot" role="img" {view_box[0]}>\n<title>{html.escape(description)}</title>{content}'
