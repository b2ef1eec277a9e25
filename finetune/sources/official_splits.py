"""The splits that a public set's authors made, as its files' names tell them: what people measure on never trains.

for row in split_rows(paths, {"train": "train", "valid": "validation", "test": "test"}, csv_rows): ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune.data.records import Dropped, Malformed, Split
from finetune.sources.tables import Rows


def split_rows(
    paths: Iterable[Path], names: Mapping[str, Split], rows: Callable[[Path], Rows]
) -> Iterator[tuple[str, dict[str, Any], Path, Split] | Dropped]:
    """Every row with its place, its file and the file's split; a Dropped stands for a broken row or a file of no known split."""
    for path in paths:
        try:
            split = split_of_file(path, names)
        except Malformed as error:
            yield Dropped(error.reason, str(path), error.detail)
            continue
        for row in rows(path):
            yield row if isinstance(row, Dropped) else (*row, path, split)


def split_of_file(path: Path, names: Mapping[str, Split]) -> Split:
    """The split that a file's name tells (`US/train.jsonl`, `validation-00000-of-00001.parquet`)."""
    stem = path.name.lower()
    for name, split in names.items():
        if name in stem:
            return split
    raise Malformed("a file of no known split", f"{path.name} has none of {', '.join(names)} in its name")
