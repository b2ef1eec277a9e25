"""Tables whose cells span columns and rows -> tables in which every cell stands in its own column.

    fill_spans(article)        in place; what a cell spans besides its own place becomes empty cells

Read as text, a row below a cell of two rows would otherwise begin one column too far to the left. Only what somebody asks for costs
anything: without `tables=yes` there are no cells.
"""

from __future__ import annotations

from typing import Any

from lxml import etree

WIDEST = 200  # columns and rows that one cell may span; more is a slip or an attack
MOST_COLUMNS = 1000  # of a table; cells behind them span nothing
MOST_CELLS = 100_000  # that are added to one article
GROUPS = ("thead", "tbody", "tfoot")


def fill_spans(article: Any) -> None:
    """Add the empty cells to every table of the article."""
    added = 0
    for table in article.iter("table", "array"):
        for group in (table, *table.iterchildren(*GROUPS)):  # no cell reaches from one group into the next
            added += _fill_rows(group, MOST_CELLS - added)


def _fill_rows(group: Any, most: int) -> int:
    """How many cells were added to the rows of a group."""
    added = 0
    rows_left: dict[int, int] = {}  # of each column that a cell above reaches into
    for row in group.iterchildren("tr"):
        cells: list[Any] = []
        for cell in row.iterchildren("td", "th"):
            _continue_from_above(cells, rows_left)
            is_far = len(cells) >= MOST_COLUMNS
            rows = 1 if is_far else _span(cell, "rowspan")
            for number in range(1 if is_far else _span(cell, "colspan")):
                if rows > 1:
                    rows_left[len(cells)] = rows - 1
                cells.append(etree.Element("td") if number else cell)
        _continue_from_above(cells, rows_left)
        added += len(cells) - len(row)
        if added > most:
            return most
        row[:] = cells
    return added


def _continue_from_above(cells: list[Any], rows_left: dict[int, int]) -> None:
    while rows_left.get(len(cells), 0):
        rows_left[len(cells)] -= 1
        cells.append(etree.Element("td"))


def _span(cell: Any, name: str) -> int:
    said = cell.get(name, "1").strip()
    return min(int(said), WIDEST) if said.isascii() and said.isdecimal() and len(said) < 10 and int(said) else 1
