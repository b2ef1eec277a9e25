"""Where the field's benchmarks lie on the Hugging Face hub: eval measures them, and prepare keeps clear of them."""

from __future__ import annotations

from dataclasses import dataclass


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
