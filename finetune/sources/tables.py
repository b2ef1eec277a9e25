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
from typing import Any

from finetune.records import Dropped
from medllama.errors import InputError

LONGEST_CELL = 16_000_000  # characters; Python's own bound of 131,072 is below many a clinical note
PARQUET_ROWS = 256  # that are in memory together

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
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
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
    """The rows under a header, or under `columns` where the file has none. A row of another width is broken."""
    csv.field_size_limit(LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        # Strict: a quotation mark that never closes is an error, and not a cell that holds the rest of the file.
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            names = columns or tuple(name.strip() for name in next(reader, ()))
            if not names:
                return
            if len(set(names)) != len(names):
                raise InputError(f"{path}:1 names a column twice: {', '.join(names)}", hint="rename one of them")
            while True:
                begins = reader.line_num + 1
                cells = next(reader, None)
                if cells is None:
                    return
                if not cells:
                    continue
                if len(cells) == len(names):
                    yield f"{path}:{begins}", dict(zip(names, cells, strict=True))
                else:
                    yield Dropped("another width", f"{path}:{begins}", f"{len(cells)} cells under {len(names)} columns")
        except csv.Error as error:
            yield Dropped("not CSV", f"{path}:{reader.line_num}", f"{error}; nothing after it is read")
        except UnicodeDecodeError as error:
            raise not_utf8(path, f"{path} is", error.object[error.start], error.start) from None


def json_list_rows(path: Path) -> Rows:
    """The objects of one JSON list, parsed as a stream; the place is their number in it."""
    import ijson

    number = 0
    with path.open("rb") as file:
        try:
            for number, value in enumerate(ijson.items(_without_bom(file), "item", use_float=True), start=1):
                if isinstance(value, dict):
                    yield f"{path}#{number}", value
                else:
                    yield Dropped("not an object", f"{path}#{number}", type(value).__name__)
        except ijson.JSONError as error:
            yield Dropped("not JSON", f"{path}#{number + 1}", f"{one_line(error)}; nothing after it is read")


def json_table_rows(path: Path) -> Iterator[tuple[str, str, Any] | Dropped]:
    """(place, key, value) of one JSON object, parsed as a stream; the place is `file#key`."""
    import ijson

    key = ""
    with path.open("rb") as file:
        try:
            for key, value in ijson.kvitems(_without_bom(file), "", use_float=True):
                yield f"{path}#{key}", key, value
        except ijson.JSONError as error:
            yield Dropped("not JSON", f"{path}#{key}", f"{one_line(error)}; nothing after it is read")


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
    return InputError(
        f"{place} not UTF-8: byte {byte:#04x} at column {start + 1}",
        hint=f"convert it first, for example: iconv -f latin1 -t utf-8 {path} > {path}.utf8",
    )


def _first_character(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()[:1].decode("latin-1")


def _without_bom(file: Any) -> Any:
    if file.read(3) != codecs.BOM_UTF8:
        file.seek(0)
    return file
