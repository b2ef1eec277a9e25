"""The field's benchmarks, as more than one stage knows them: eval measures them, and prepare reads them or keeps clear of them.

ON_HUB["medmcqa"].repository                 where each lies on the Hugging Face hub
first_of_cop([2, 4, 1], "dev.json")          1: what MedMCQA's `cop` calls the first option
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from medllama import progress


@dataclass(frozen=True)
class OnHub:
    """A data set on the hub: `configurations` maps the hub's names to subjects, `test` and `examples` are its splits."""

    repository: str
    configurations: dict[str | None, str]
    test: str
    examples: str


MMLU = (
    "anatomy",
    "clinical_knowledge",
    "college_biology",
    "college_medicine",
    "medical_genetics",
    "professional_medicine",
)
ON_HUB = {
    "medqa": OnHub("GBaker/MedQA-USMLE-4-options-hf", {None: ""}, "test", "train"),
    "medmcqa": OnHub("openlifescienceai/medmcqa", {None: ""}, "validation", "train"),
    "pubmedqa": OnHub("bigbio/pubmed_qa", {"pubmed_qa_labeled_fold0_source": ""}, "test", "train"),
    "mmlu-medical": OnHub("cais/mmlu", {subject: subject for subject in MMLU}, "test", "dev"),
}


def first_of_cop(values: Iterable[object], place: str, *, is_hub: bool | None = None) -> int:
    """What `cop` of MedMCQA calls the first option in a whole file: 0 on the hub, 1 in the original files.

    A 0 or a 4 among its values tells, as numbers or as texts. Where there is neither, the origin does: `is_hub` is whether it is the
    hub's, and a file that ought to be an original one is taken for that with a warning. Raises ValueError where there are both, and
    where there is neither and the origin is not known (None).
    """
    cops = {cop for value in values if (cop := _cop(value)) is not None}
    if {0, 4} <= cops:
        raise ValueError("cop runs from 0 to 4, which neither the original files nor the hub's do")
    if 0 in cops or (is_hub and 4 not in cops):
        return 0
    if 4 not in cops and is_hub is None:
        raise ValueError(
            "cop is neither 0 nor 4 anywhere, so it is not told whether it counts from 0 (hub) or 1 (original)"
        )
    if cops and 4 not in cops:
        progress.message(
            f"warning: {place}: cop is neither 0 nor 4 anywhere; it is taken to count from 1, as in the original files"
        )
    return 1


def _cop(value: object) -> int | None:
    """The value as a number from 0 to 4; None for anything else, such as the -1 of an item without its answer."""
    text = str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""
    return int(text) if text in ("0", "1", "2", "3", "4") else None
