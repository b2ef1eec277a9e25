"""Tables and plots of the page: HTML and SVG as text, everything escaped, colors from app/page.css."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH, LEFT, RIGHT, ROW, TOP = 640, 250, 24, 28, 10


def table_html(head: Sequence[str], rows: Sequence[Sequence[Any]], *, caption: str = "") -> str:
    """A table that scrolls by itself where it is wider than the page."""
    titles = "".join(f'<th scope="col"{_width(title)}>{escape(title)}</th>' for title in head)
    body = "".join(
        f"<tr>{''.join(f'<td{_width(str(cell))}>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    told = f"<caption>{escape(caption)}</caption>" if caption else ""
    label = escape(caption or ", ".join(head))
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table>{told}<thead><tr>{titles}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _width(text: str) -> str:
    """What keeps a long text from a column of one word a line."""
    return f' style="min-width: {min(16, len(text) // 4)}rem"' if len(text) > 20 else ""


def intervals_svg(
    title: str, rows: Sequence[tuple[str, float, tuple[float, float]]], *, middle: float | None = None
) -> str:
    """Shares from 0 to 1 as points with their intervals, a row each; `middle` is marked by a line."""
    height = TOP + ROW * len(rows) + 24
    span = WIDTH - LEFT - RIGHT

    def x(share: float) -> str:
        return f"{LEFT + span * share:.1f}"

    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        kind = "middle" if share == middle else "grid"
        parts.append(f'<line class="{kind}" x1="{x(share)}" x2="{x(share)}" y1="{TOP}" y2="{height - 24}"/>')
        parts.append(f'<text class="tick" x="{x(share)}" y="{height - 6}">{share:.0%}</text>')
    for number, (name, value, (low, high)) in enumerate(rows):
        y = TOP + ROW * number + ROW / 2
        shown = name if len(name) <= 38 else name[:37] + "…"
        parts.append(f'<text class="name" x="{LEFT - 12}" y="{y + 4}">{escape(shown)}</text>')
        parts.append(f'<line class="interval" x1="{x(low)}" x2="{x(high)}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle cx="{x(value)}" cy="{y}" r="5"/>')
    told = "; ".join(f"{name} {value:.1%}, {low:.1%} to {high:.1%}" for name, value, (low, high) in rows)
    return (
        f'<figure class="plot" tabindex="0"><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(f"{title}: {told}")}">{"".join(parts)}</svg></figure>'
    )
