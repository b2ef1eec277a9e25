"""`mts-dialog:DIR`: MTS-Dialog, conversations of doctors and patients with the section of the note that each became (CC BY 4.0).

    medllama prepare --source mts-dialog:MTS-Dialog/Main-Dataset --output-dir OUT

CSV of `ID, section_header, section_text, dialogue`. A record asks for the section of the note, and answers with it. The official
splits are kept, as the files' names tell them: TrainingSet, ValidationSet, TestSet. Access: free. Clinical text, de-identified by
its authors; e-mail addresses and telephone numbers are masked all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.records import Dropped, Malformed, Record, Split, conversation
from finetune.sources import Source, SourceRequest, files_in
from finetune.sources.official_splits import split_rows
from finetune.sources.rows import required_text
from finetune.sources.tables import csv_rows

LICENCE = "CC-BY-4.0"
SPLITS: dict[str, Split] = {"train": "train", "valid": "validation", "test": "test"}
SECTIONS = {
    "GENHX": "history of present illness", "ROS": "review of systems", "PASTMEDICALHX": "past medical history",
    "MEDICATIONS": "medications", "CC": "chief complaint", "PASTSURGICAL": "past surgical history", "ALLERGY": "allergies",
    "FAM/SOCHX": "family and social history", "ASSESSMENT": "assessment", "EXAM": "examination", "DIAGNOSIS": "diagnosis",
    "DISPOSITION": "disposition", "PLAN": "plan", "EDCOURSE": "emergency department course", "IMMUNIZATIONS": "immunizations",
    "IMAGING": "imaging", "GYNHX": "gynecologic history", "PROCEDURES": "procedures", "OTHER_HISTORY": "other history",
    "LABS": "laboratory results",
}  # fmt: skip


def read(request: SourceRequest) -> Iterator[Record | Dropped]:
    """A Record or a Dropped for each row of each file."""
    for row in split_rows(inputs(request), SPLITS, csv_rows):
        yield row if isinstance(row, Dropped) else _outcome(*row, request)


def inputs(request: SourceRequest) -> list[Path]:
    return files_in(request, "*.csv")


def _outcome(place: str, value: dict[str, Any], path: Path, split: Split, request: SourceRequest) -> Record | Dropped:
    try:
        header = required_text(value, "section_header")
        section = SECTIONS.get(header.upper(), header.lower())
        dialogue = dialogue_lines(required_text(value, "dialogue"))
        asked = f'Write the section "{section}" of the clinical note on this conversation.\n\n{dialogue}'
        content = conversation([("user", asked), ("assistant", required_text(value, "section_text"))])
        document_id = f"{path.stem}/{required_text(value, 'ID')}"
    except Malformed as error:
        return Dropped(error.reason, place, error.detail)
    return Record(content, request.kind, document_id, LICENCE, split)


def dialogue_lines(text: str) -> str:
    """One line a turn, without the spaces that the files have at either end of a line."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


SOURCE = Source(
    example="mts-dialog:DIR",
    read=read,
    inputs=inputs,
    licence=LICENCE,
    attribution=(
        "MTS-Dialog: Asma Ben Abacha, Wen-wai Yim, Yadan Fan and Thomas Lin, An Empirical Study of Clinical Note Generation from "
        "Doctor-Patient Encounters, EACL 2023, https://doi.org/10.18653/v1/2023.eacl-main.168"
    ),
    url="https://github.com/abachaa/MTS-Dialog",
    masks_identifiers=True,
)
