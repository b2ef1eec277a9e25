"""`csv:FILE?licence=SPDX`: a person's own table with a header, one record a row.

Between the cells stands a comma, in `.tsv` a tab; where the header has none of it, what it has: a semicolon (as Excel writes in much
of Europe), a tab, a bar or a comma.

    medllama prepare --source "csv:faq.csv?licence=CC-BY-4.0&question=Frage&answer=Antwort" --output-dir OUT

The columns are those of rows.py: question and answer, prompt and response, instruction (and input) and output, or text; also
system, source, document_id and licence. Columns of other names are given as settings: `question=COLUMN&answer=COLUMN`, or
`text=COLUMN`, and `document_id=COLUMN` for what keeps rows together in one split. Other columns are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from finetune.data.records import Dropped, Record
from finetune.sources import Source, SourceRequest, existing_file
from finetune.sources.rows import records
from finetune.sources.tables import Rows, csv_rows
from medllama.errors import InputError

LONGEST_HEADER = 100_000
RENAMED = ("question", "answer", "text", "document_id")


def read(request: SourceRequest) -> Iterator[Record | Dropped]:
    """A Record or a Dropped for each row."""
    path = request.required_path()
    return records(renamed(csv_rows(path, _separator(path)), request), request, path.stem)


def _separator(path: Path) -> str:
    expected = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        header = file.readline(LONGEST_HEADER)
    return next((sign for sign in (expected, ";", "\t", "|", ",") if sign in header), expected)


def renamed(rows: Rows, request: SourceRequest) -> Rows:
    """The rows with the columns that the settings name under the names that rows.py knows.

    Where a question or a text is named, the other columns that could be one are passed over.
    """
    columns = {name: column for name in RENAMED if (column := request.setting(name))}
    for row in rows:
        if isinstance(row, Dropped) or not columns:
            yield row
            continue
        place, value = row
        absent = [column for column in columns.values() if column not in value]
        if absent:
            raise InputError(
                f"{place} has no column {absent[0]!r}",
                hint=f"its columns are {', '.join(map(repr, value))}; see --source {request.kind}",
            )
        kept = {key: value[key] for key in ("system", "source", "document_id", "licence") if key in value}
        yield (
            place,
            (kept if columns.keys() - {"document_id"} else value)
            | {name: value[column] for name, column in columns.items()},
        )


SOURCE = Source(
    example="csv:FILE?question=COLUMN&answer=COLUMN&licence=SPDX",
    read=read,
    inputs=existing_file,
    is_own=True,
    settings=RENAMED,
)
