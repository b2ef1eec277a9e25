"""`hf:DATASET?licence=SPDX`: a data set of the Hugging Face hub, or a folder or file that `datasets` loads, streamed.

    medllama prepare --source "hf:lavita/medical-qa-datasets@REVISION?licence=CC-BY-4.0&config=NAME&split=train" --output-dir OUT

The rows have a shape of rows.py, or the settings name the columns: `question=COLUMN&answer=COLUMN`, `text=COLUMN`, and
`document_id=COLUMN`. `split` is train where none is given; `config` is the data set's own name for a part of it. Without
`@REVISION` the hub's newest is taken, and another day may give other bytes. No code of a data set is ever run.

The licence is the person's word (`?licence=`): hub cards are often wrong about the data inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from finetune.data.records import Dropped, Record
from finetune.sources import Source, SourceRequest
from finetune.sources.csv_file import RENAMED, renamed
from finetune.sources.rows import records
from finetune.sources.tables import Rows, one_line
from medllama.errors import InputError

READERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".arrow": "arrow"}  # of one file


def read(request: SourceRequest) -> Iterator[Record | Dropped]:
    """A Record or a Dropped for each row of the split."""
    path = request.required_path()
    name = path.absolute().name if path.exists() else str(path).partition("@")[0]
    return records(renamed(hub_rows(request), request), request, name)


def inputs(request: SourceRequest) -> list[Path]:
    """The files of a folder; nothing for a name on the hub, which stands for itself."""
    path = request.required_path()
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    return [path] if path.is_file() else []


def hub_rows(request: SourceRequest) -> Rows:
    """The rows as they are. Raises InputError where they cannot be had."""
    import datasets

    path, split = request.required_path(), request.setting("split", "train")
    name, _, revision = (str(path), "", "") if path.exists() else str(path).partition("@")
    loaded, files = name, None
    if path.is_file():
        if path.suffix.lower() not in READERS:
            raise InputError(f"{path} is no {', '.join(READERS)}", hint="name such a file, or a folder of them")
        loaded, files = READERS[path.suffix.lower()], {split: str(path)}
    try:
        stream = datasets.load_dataset(
            loaded,
            request.setting("config") or None,
            data_files=files,
            split=split,
            revision=revision or None,
            streaming=True,
        )
        for number, row in enumerate(stream, start=1):
            yield f"{name}[{split}]#{number}", row
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # what datasets raises for names, splits, formats and the network
        raise InputError(
            f"{name}: {one_line(error)}",
            hint="check its name, ?config= and ?split=, and the network; a folder of its files can be named instead",
        ) from None


SOURCE = Source(
    example="hf:DATASET?question=COLUMN&answer=COLUMN&licence=SPDX",
    read=read,
    inputs=inputs,
    is_own=True,
    takes_name=True,
    settings=("config", "split", *RENAMED),
)
