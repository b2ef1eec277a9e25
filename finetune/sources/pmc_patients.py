"""`pmc-patients:FILE`: PMC-Patients, summaries of patients from case reports (CC BY-NC-SA 4.0), as text.

    medllama prepare --source pmc-patients:PMC-Patients.json --allow-licence CC-BY-NC-SA-4.0 --output-dir OUT

JSON (one list, read as a stream) or CSV with patient_id, patient_uid ("PMID-x"), PMID, title, patient, age [[1.0, "year"]], gender;
the lists of similar patients and relevant articles are not used. The document is the article, so patients of one
article stay in one split. The text is the title and the patient's summary.

Access: free, for non-commercial use under the same licence. It is refused unless allowed by name, and what it is part of is not
publishable. Clinical text: e-mail addresses and telephone numbers are masked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from finetune.data.records import Dropped, Malformed, Record, plain_text
from finetune.sources import Source, SourceRequest, existing_file
from finetune.sources.rows import optional_text, required_text
from finetune.sources.tables import rows

LICENCE = "CC-BY-NC-SA-4.0"


def read(request: SourceRequest) -> Iterator[Record | Dropped]:
    """A Record or a Dropped for each patient."""
    for row in rows(request.required_path()):
        yield row if isinstance(row, Dropped) else _outcome(*row, request)


def _outcome(place: str, value: dict[str, Any], request: SourceRequest) -> Record | Dropped:
    try:
        article = optional_text(value, "PMID") or required_text(value, "patient_uid").partition("-")[0]
        title, patient = optional_text(value, "title"), required_text(value, "patient")
        content = plain_text(f"{title}\n\n{patient}")
    except Malformed as error:
        return Dropped(error.reason, place, error.detail)
    return Record(content, request.kind, f"PMID{article}", LICENCE)


SOURCE = Source(
    example="pmc-patients:FILE",
    read=read,
    inputs=existing_file,
    licence=LICENCE,
    attribution=(
        "PMC-Patients: Zhengyun Zhao et al., A large-scale dataset of patient summaries for retrieval-based clinical decision "
        "support systems, Scientific Data 10, 909 (2023), https://doi.org/10.1038/s41597-023-02814-8"
    ),
    url="https://github.com/pmc-patients/pmc-patients",
    masks_identifiers=True,
)
