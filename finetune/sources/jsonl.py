"""`jsonl:FILE?licence=SPDX`: a person's own records, one JSON object a line, in any shape of rows.py.

    medllama prepare --source jsonl:chats.jsonl?licence=CC-BY-4.0 --output-dir OUT

A line that is none of those shapes is bad: counted, and named with its number. Blank lines are nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from finetune.data.records import Dropped, Record
from finetune.sources import Source, SourceRequest, existing_file
from finetune.sources.rows import records
from finetune.sources.tables import jsonl_rows


def read(request: SourceRequest) -> Iterator[Record | Dropped]:
    """A Record or a Dropped for each line that is not blank."""
    path = request.required_path()
    return records(jsonl_rows(path), request, path.stem)


SOURCE = Source(example="jsonl:FILE?licence=SPDX", read=read, inputs=existing_file, is_own=True)
