"""The plot of the data card, drawn as SVG: what became of each source's documents, and how long the records are.

    svg = figure(card)          card: the value of data_card.json

matplotlib has its home in report/ and takes a second to load, which is all that `prepare` takes for small data.
"""

from __future__ import annotations

from html import escape
from typing import Any

COLORS = ("#4477aa", "#bbbbbb", "#ee6677", "#ccbb44", "#228833", "#aa3377", "#66ccee", "#222222")
WIDTH, ROW, LABEL, BAR = 900, 26, 260, 560  # pixels
LINE_HEIGHT = 160


def figure(card: dict[str, Any]) -> str:
    """The two plots, one below the other."""
    parts: list[str] = []
    top = _fates(card["sources"], parts)
    for split, statistics in card["tokens"]["splits"].items():
        if histogram := statistics.get("histogram"):
            top = _lengths(split, histogram, statistics["records"], top, parts)
    style = "text { font: 13px sans-serif; fill: #222 } .small { font-size: 11px }"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}" role="img">'
        f"<title>What became of the sources, and how long the records are</title><style>{style}</style>"
        f'<rect width="{WIDTH}" height="{top}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _fates(sources: list[dict[str, Any]], parts: list[str]) -> int:
    """One bar for each source, in proportion to what was read of it; the first free pixel below."""
    reasons = ["kept", *sorted({reason for source in sources for reason in source["counts"]["dropped"]})]
    color = {reason: COLORS[number % len(COLORS)] for number, reason in enumerate(reasons)}
    parts.append(_text(10, 20, "Documents read, and what became of them"))
    top = 34
    for source in sources:
        counts = source["counts"]
        fates = {"kept": counts["kept"]} | counts["dropped"]
        parts.append(_text(10, top + 17, f"{source['name'][:32]}: {counts['read']:,}"))
        left = float(LABEL)
        for reason in filter(fates.get, reasons):
            width = BAR * fates[reason] / counts["read"]
            title = f"<title>{escape(reason)}: {fates[reason]:,}</title>"
            parts.append(_bar(left, top + 3, width, ROW - 6, color[reason], title))
            left += width
        top += ROW
    for number, reason in enumerate(reasons):
        x, y = LABEL + BAR // 2 * (number % 2), top + 10 + 18 * (number // 2)
        parts += [_bar(x, y, 12, 12, color[reason]), _text(x + 18, y + 11, reason, "small")]
    return top + 30 + 18 * ((len(reasons) + 1) // 2)


def _lengths(split: str, histogram: dict[str, int], records: int, top: int, parts: list[str]) -> int:
    """A histogram of the records' tokens; the first free pixel below."""
    parts.append(_text(10, top + 20, f"Tokens of a record: {split}, {records:,} records"))
    floor, width = top + LINE_HEIGHT - 24, (WIDTH - 40) / len(histogram)
    tallest = max(histogram.values())
    for number, (bound, count) in enumerate(histogram.items()):
        height = (LINE_HEIGHT - 70) * count / tallest
        x = 20 + number * width
        parts.append(_bar(x, floor - height, width - 6, height, COLORS[0]))
        parts += [_text(x, floor - height - 5, f"{count:,}", "small"), _text(x, floor + 15, bound, "small")]
    return top + LINE_HEIGHT + 10


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}>{escape(text)}</text>'


def _bar(x: float, y: float, width: float, height: float, color: str, inside: str = "") -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}">{inside}</rect>'
