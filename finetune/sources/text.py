"""`text:FILE?licence=SPDX`: a UTF-8 text, paragraphs apart by blank lines, for continued pretraining.

    medllama prepare --source text:notes.txt?licence=CC-BY-4.0 --output-dir OUT

Paragraphs are packed into records of at most RECORD_CHARACTERS, cut only where one paragraph alone is longer: at the end
of a sentence, else between words, else anywhere. Lines inside a paragraph stay as they are (tables are lines).

The file is one document, and one document cannot be split by document. So SECTION_RECORDS consecutive records make a
section, and a section, named by the hash of its text, is what goes to a split as a whole: neighbors in the text stay
together, no sentence stands in two splits, and text added at the end moves no earlier section but the last. Text
inserted earlier moves the borders behind it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from finetune.records import Dropped, Malformed, Record, plain_text
from finetune.sources import Source, SourceRequest, existing_file
from medllama.files import read_text

RECORD_CHARACTERS = 2000  # about 500 tokens of English, well inside the 1,024 that train reads by default
SECTION_RECORDS = 4


def read(request: SourceRequest) -> Iterator[Record | Dropped]:
    """The records of the text; a paragraph with characters that cannot be trained on is left out and named."""
    path = request.required_path()
    packed: list[str] = []
    for line, paragraph in paragraphs(read_text(path)):
        try:
            plain_text(paragraph)
        except Malformed as error:
            yield Dropped(error.reason, f"{path}:{line}", error.detail)
            continue
        for piece in pieces(paragraph, RECORD_CHARACTERS):
            if packed and len(packed[-1]) + len("\n\n") + len(piece) <= RECORD_CHARACTERS:
                packed[-1] += "\n\n" + piece
            else:
                packed.append(piece)
    for first in range(0, len(packed), SECTION_RECORDS):
        section = packed[first : first + SECTION_RECORDS]
        name = hashlib.sha256("\n\n".join(section).encode()).hexdigest()[:16]
        for text in section:
            yield Record(plain_text(text), path.stem, f"{path.stem}/{name}", request.stated_licence())


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, paragraph) for each run of lines that are not blank."""
    lines: list[str] = []
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        if line.strip():
            lines.append(line.rstrip())
        elif lines:
            yield number - len(lines), "\n".join(lines).strip()
            lines = []


def pieces(paragraph: str, limit: int) -> Iterator[str]:
    """The paragraph in pieces of at most `limit` characters."""
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


SOURCE = Source(example="text:FILE?licence=SPDX", read=read, inputs=existing_file)
