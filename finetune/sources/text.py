"""`text:FILE?licence=SPDX`: a UTF-8 text, paragraphs apart by blank lines, for continued pretraining.

    medllama prepare --source text:notes.txt?licence=CC-BY-4.0 --output-dir OUT

The file is one document, and one document cannot be split by document. So paragraphs are packed into sections of at most
SECTION_CHARACTERS, and a section, named by the hash of its text, is a record that goes to a split as a whole: neighbors in the
text stay together, no sentence stands in two splits, and text added at the end moves no earlier section but the last. Text
inserted earlier moves the borders behind it. prepare cuts sections to the model's length. Lines inside a paragraph stay as
they are (tables are lines). One section is in memory at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from finetune.data.records import Dropped, Malformed, Record, plain_text
from finetune.sources import Source, SourceRequest, existing_file
from finetune.sources.rows import short_hash
from finetune.sources.tables import not_utf8

SECTION_CHARACTERS = 8000  # about 2,000 tokens of English
LONGEST_PARAGRAPH = 500_000  # characters that are in memory together, of a text without blank lines


def read(request: SourceRequest) -> Iterator[Record | Dropped]:
    """The sections of the text; a paragraph with characters that cannot be trained on is left out and named."""
    path = request.required_path()
    section = ""
    for line, paragraph in paragraphs(lines_of(path)):
        try:
            plain_text(paragraph)
        except Malformed as error:
            yield Dropped(error.reason, f"{path}:{line}", error.detail)
            continue
        for piece in pieces(paragraph, SECTION_CHARACTERS):
            if section and len(section) + len("\n\n") + len(piece) > SECTION_CHARACTERS:
                yield _record(section, path, request)
                section = ""
            section = f"{section}\n\n{piece}" if section else piece
    if section:
        yield _record(section, path, request)


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a file, without their ends; InputError where it is not UTF-8."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise not_utf8(path, f"{path}:{number} is", raw[error.start], error.start) from None


def paragraphs(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    """(number of its first line, paragraph) for each run of lines that are not blank; of a very long run its parts."""
    found: list[str] = []
    first = characters = 0
    for number, line in enumerate(lines, start=1):
        is_blank = not line.strip()
        if not is_blank:
            first = first if found else number
            found.append(line.rstrip())
            characters += len(line)
        if found and (is_blank or characters >= LONGEST_PARAGRAPH):
            yield first, "\n".join(found).strip()
            found, characters = [], 0
    if found:
        yield first, "\n".join(found).strip()


def pieces(paragraph: str, limit: int) -> Iterator[str]:
    """The paragraph in pieces of at most `limit` characters, cut after sentences, else between words, else anywhere."""
    start = 0
    while len(paragraph) - start > limit:
        window = paragraph[start : start + limit + 1]
        ends = [match.end() for match in re.finditer(r"[.!?](?=\s)", window)] or [
            match.start() for match in re.finditer(r"(?<=\S)\s", window)
        ]
        cut = ends[-1] if ends else limit
        yield window[:cut].strip()
        start += cut
        while start < len(paragraph) and paragraph[start].isspace():
            start += 1
    if start < len(paragraph):
        yield paragraph[start:]


def _record(section: str, path: Path, request: SourceRequest) -> Record:
    return Record(plain_text(section), path.stem, f"{path.stem}/{short_hash(section)}", request.stated_licence())


SOURCE = Source(example="text:FILE?licence=SPDX", read=read, inputs=existing_file, is_own=True)
