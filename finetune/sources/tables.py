"""The rows of a file as tables: JSONL, CSV or TSV, a JSON list, Parquet, one row in memory at a time.

    for place, row in rows(Path("train.csv")): ...        place is `file:line`; a Dropped stands where a row is broken

A file that is not UTF-8 is refused as a whole: its other lines would be misread in silence.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from finetune.data.records import Dropped
from medllama.errors import InputError

LONGEST_CELL = 16_000_000  # characters; Python's own bound of 131,072 is below many a clinical note
PARQUET_ROWS = 256  # that are in memory together
JSON_BYTES = 4096  # of a JSON list or table that are parsed at once
MOST_OPENED = 500  # brackets that may stay open in them

OTHER_FORMATS = (
    (codecs.BOM_UTF16_LE, "UTF-16", "convert it first: iconv -f utf-16 -t utf-8 {0} > {0}.utf8"),
    (codecs.BOM_UTF16_BE, "UTF-16", "convert it first: iconv -f utf-16 -t utf-8 {0} > {0}.utf8"),
    (b"\x1f\x8b", "compressed", "unpack it first: gunzip -c {0} > FILE"),
    (b"PK\x03\x04", "an archive or a spreadsheet", "unpack it, or save it as CSV in UTF-8"),
    (b"PAR1", "Parquet", "hf:FOLDER reads the Parquet files of a folder"),
)

Rows = Iterator[tuple[str, dict[str, Any]] | Dropped]


def rows(path: Path) -> Rows:
    """Every row of a file with its place, read in the way that its name says; JSONL where it says nothing."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return csv_rows(path, "\t" if suffix == ".tsv" else ",")
    if suffix == ".parquet":
        return parquet_rows(path)
    if suffix == ".json" and _first_character(path) == "[":
        return json_list_rows(path)
    return jsonl_rows(path)


def jsonl_rows(path: Path) -> Rows:
    """One JSON object a line; blank lines are nothing."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            place = f"{path}:{number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise not_utf8(path, f"{place} is", raw[error.start], error.start) from None
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                yield Dropped("not JSON", place, f"column {error.colno}: {error.msg}")
                continue
            except (RecursionError, ValueError):  # ValueError: a number of more digits than Python converts
                yield Dropped("not JSON", place, "nested too deeply, or a number too long")
                continue
            if isinstance(value, dict):
                yield place, value
            else:
                yield Dropped("not an object", place, f"{type(value).__name__} where {{...}} was expected")


def csv_rows(path: Path, delimiter: str = ",", columns: tuple[str, ...] | None = None) -> Rows:
    """The rows under a header, or under `columns` where the file has none. A row of another width is broken.

    Where a quotation mark stands wrong nobody knows how many rows its lines were: each line counts as one, and what follows is read.
    """
    csv.field_size_limit(LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        # Strict: a quotation mark that never closes is an error, and not a cell that holds the rest of the file.
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            names = columns or _header(path, reader)
            while names:
                begins = reader.line_num + 1
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    for line in range(begins, reader.line_num + 1):
                        yield Dropped("not CSV", f"{path}:{line}", f"{error}, in line {reader.line_num}")
                    continue
                if cells is None:
                    return
                if len(cells) == len(names):
                    yield f"{path}:{begins}", dict(zip(names, cells, strict=True))
                elif cells:
                    yield Dropped("another width", f"{path}:{begins}", f"{len(cells)} cells under {len(names)} columns")
        except UnicodeDecodeError as error:
            raise not_utf8(path, f"{path} is", error.object[error.start], error.start) from None


def _header(path: Path, reader: Iterator[list[str]]) -> tuple[str, ...]:
    try:
        names = tuple(name.strip() for name in next(filter(None, reader), ()))
    except csv.Error as error:
        raise InputError(f"{path}:1 is no header of CSV: {error}", hint="correct its quotation marks") from None
    if len(set(names)) != len(names):
        raise InputError(f"{path}:1 names a column twice: {', '.join(names)}", hint="rename one of them")
    return names


def json_list_rows(path: Path) -> Rows:
    """The objects of one JSON list, parsed as a stream; the place is their number in it."""
    import ijson

    number = 0
    with path.open("rb") as file:
        try:
            for number, value in enumerate(
                ijson.items(Shallow(file), "item", use_float=True, buf_size=JSON_BYTES), start=1
            ):
                if isinstance(value, dict):
                    yield f"{path}#{number}", value
                else:
                    yield Dropped("not an object", f"{path}#{number}", type(value).__name__)
        except ijson.JSONError as error:
            raise _broken_off(f"{path}#{number + 1}", error) from None


def json_table_rows(path: Path) -> Iterator[tuple[str, str, Any]]:
    """(place, key, value) of one JSON object, parsed as a stream; the place is `file#key`."""
    import ijson

    if _first_character(path) != "{":
        raise InputError(
            f"{path} is no JSON object of rows by their ids", hint="check that it is the file that is meant"
        )
    key = ""
    with path.open("rb") as file:
        try:
            for key, value in ijson.kvitems(Shallow(file), "", use_float=True, buf_size=JSON_BYTES):
                yield f"{path}#{key}", key, value
        except ijson.JSONError as error:
            raise _broken_off(f"{path}#{key}", error) from None


def parquet_rows(path: Path) -> Rows:
    """The rows of a Parquet file; the place is their number in it."""
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}#{number}", row
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} is not Parquet: {one_line(error)}", hint="copy it again") from None


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def not_utf8(path: Path, place: str, byte: int, start: int) -> InputError:
    with path.open("rb") as file:
        begins = file.read(4)
    for sign, what, hint in OTHER_FORMATS:
        if begins.startswith(sign):
            return InputError(f"{path} is {what}, and UTF-8 was expected", hint=hint.format(path))
    return InputError(
        f"{place} not UTF-8: byte {byte:#04x} at column {start + 1}",
        hint=f"convert it first, for example: iconv -f latin1 -t utf-8 {path} > {path}.utf8",
    )


def _broken_off(place: str, error: Exception) -> InputError:
    """How much of the file is lost cannot be told, so it is not counted as one bad record: it stops the run."""
    return InputError(
        f"{place}: not JSON, so nothing from here on can be read: {one_line(error)}",
        hint="copy the file again, or mend it",
    )


def _first_character(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()[:1].decode("latin-1")


class Shallow:
    """A JSON file without its BOM that is no nest of brackets: the parser keeps the whole path to each, whatever that takes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        if file.read(3) != codecs.BOM_UTF8:
            file.seek(0)

    def read(self, size: int) -> bytes:
        import ijson

        content = self.file.read(size)
        opened, closed = (content.count(signs[:1]) + content.count(signs[1:]) for signs in (b"[{", b"]}"))
        if opened - closed > MOST_OPENED:
            raise ijson.JSONError("brackets in brackets")
        return content
