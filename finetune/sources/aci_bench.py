"""`aci-bench:DIR`: ACI-Bench, whole visits at a doctor's with the clinical note that each became (CC BY 4.0).

    medllama prepare --source aci-bench:aci-bench/data/challenge_data --output-dir OUT

CSV of `dataset, encounter_id, dialogue, note`; the files of metadata are passed over. A record asks for the note, and answers with
it. The official splits are kept, as the files' names tell them: train, valid, test. Access: free. Clinical text, role-played and
with invented names; e-mail addresses and telephone numbers are masked all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.records import Dropped, Malformed, Record, Split, conversation
from finetune.sources import Source, SourceRequest, files_in
from finetune.sources.mts_dialog import SPLITS, dialogue_lines
from finetune.sources.official_splits import split_rows
from finetune.sources.rows import required_text
from finetune.sources.tables import csv_rows
from medllama.errors import InputError

LICENCE = "CC-BY-4.0"


def read(request: SourceRequest) -> Iterator[Record | Dropped]:
    """A Record or a Dropped for each visit of each file."""
    for row in split_rows(inputs(request), SPLITS, csv_rows):
        yield row if isinstance(row, Dropped) else _outcome(*row, request)


def inputs(request: SourceRequest) -> list[Path]:
    found = [file for file in files_in(request, "*.csv") if "metadata" not in file.name]
    if not found:
        raise InputError(f"{request.path} holds nothing but metadata", hint="expected train.csv and its like")
    return found


def _outcome(place: str, value: dict[str, Any], path: Path, split: Split, request: SourceRequest) -> Record | Dropped:
    try:
        dialogue = dialogue_lines(required_text(value, "dialogue"))
        asked = f"Write the clinical note on this visit.\n\n{dialogue}"
        content = conversation([("user", asked), ("assistant", required_text(value, "note"))])
        document_id = f"{required_text(value, 'dataset')}/{required_text(value, 'encounter_id')}"
    except Malformed as error:
        return Dropped(error.reason, place, error.detail)
    return Record(content, request.kind, document_id, LICENCE, split)


SOURCE = Source(
    example="aci-bench:DIR",
    read=read,
    inputs=inputs,
    licence=LICENCE,
    attribution=(
        "ACI-Bench: Wen-wai Yim et al., Aci-bench: a Novel Ambient Clinical Intelligence Dataset for Benchmarking Automatic Visit "
        "Note Generation, Scientific Data 10, 586 (2023), https://doi.org/10.1038/s41597-023-02487-3"
    ),
    url="https://github.com/wyim/aci-bench",
    masks_identifiers=True,
)
