"""The official files of the field's multiple-choice benchmarks, a row at a time: each becomes a `Question`.

    medqa      {"question", "options": {"A": ...}, "answer_idx": "B"}, or the hub's {"sent1", "ending0" ... "ending3", "label"}
    medmcqa    {"question", "opa" ... "opd", "cop", "subject_name"}; cop counts from 1 in the original files, from 0 on the hub
    pubmedqa   {"QUESTION", "CONTEXTS": [...], "final_decision": "yes"}; on the hub with small letters, the texts in `context`
    mmlu       question, four options, the answer's letter: six columns without a header; on the hub question, choices, answer

A row that is none raises ValueError with the reason; eval/benchmark_tasks.py adds file and line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eval.tasks import Question, content_sha256
from medllama import benchmarks

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DECISIONS = ("yes", "no", "maybe")
Row = Mapping[str, Any]


def medqa(row: Row, place: str, number_of_options: int = 4) -> Question:
    """A row of MedQA (USMLE)."""
    if "sent1" in row:
        texts = [_text(row, f"ending{number}") for number in range(4)]
        return _question(_text(row, "sent1"), texts, _whole(row, "label"), place, str(row.get("id", "")))
    options = row.get("options")
    if isinstance(options, list) and all(isinstance(it, dict) for it in options):  # [{"key": "A", "value": "..."}]
        options = {str(it.get("key")): it.get("value") for it in options}
    if not isinstance(options, dict) or list(options) != list(LETTERS[: len(options)]):
        raise ValueError("options is no table of A, B, C, ...")
    if len(options) != number_of_options:
        other = {4: ": perhaps this is medqa", 5: ": perhaps this is medqa5"}.get(len(options), "")
        raise ValueError(f"it has {len(options)} options, not {number_of_options}{other}")
    answer = _text(row, "answer_idx")
    if answer not in options:
        raise ValueError(f"answer_idx is {answer!r}, none of the options")
    subject = str(row.get("meta_info") or "")
    return _question(_text(row, "question"), list(options.values()), LETTERS.index(answer), place, subject=subject)


def medqa5(row: Row, place: str) -> Question:
    """A row of MedQA with its original five options."""
    return medqa(row, place, number_of_options=5)


def medmcqa(row: Row, place: str, first: int = 1) -> Question:
    """A row of MedMCQA; `first` is what `cop` calls the first option (see `first_of_cop`)."""
    texts = [text for name in ("opa", "opb", "opc", "opd") if isinstance(text := row.get(name), str)]
    if len(texts) != 4:  # a few of its options are empty texts
        raise ValueError("it has no four options opa to opd")
    subject = str(row.get("subject_name") or "")
    number = _whole(row, "cop") - first
    return _question(_text(row, "question"), texts, number, place, str(row.get("id", "")), subject)


def first_of_cop(rows: Sequence[Row], place: str, is_hub: bool = False) -> int:
    """What `cop` calls the first option in a whole file. Raises ValueError where no row has its answer."""
    values = [row.get("cop") for row in rows]
    if all(value in (None, "", -1, "-1") for value in values):
        raise ValueError("no row has its answer (cop): MedMCQA's test split has none, use its validation split")
    return benchmarks.first_of_cop(values, place, is_hub=is_hub)


def pubmedqa(row: Row, place: str) -> Question:
    """An item of PubMedQA's labelled part."""
    row = {key.upper(): value for key, value in row.items()}
    contexts = row.get("CONTEXTS") or row.get("CONTEXT")
    if isinstance(contexts, Mapping):
        contexts = contexts.get("contexts")
    if (
        not isinstance(contexts, Sequence)
        or isinstance(contexts, str)
        or not all(isinstance(it, str) for it in contexts)
    ):
        raise ValueError("CONTEXTS is no list of texts")
    decision = _text(row, "FINAL_DECISION")
    if decision not in DECISIONS:
        raise ValueError(f"final_decision is {decision!r}, not yes, no or maybe")
    name = str(row.get("PUBID") or place)
    context = "\n".join(contexts)
    return _question(_text(row, "QUESTION"), list(DECISIONS), DECISIONS.index(decision), name, context=context)


def mmlu(row: Row, place: str, subject: str = "") -> Question:
    """A row of MMLU."""
    choices, answer = row.get("choices"), row.get("answer")
    if not isinstance(choices, Sequence) or len(choices) != 4 or not all(isinstance(it, str) for it in choices):
        raise ValueError("it has no four options")
    number = LETTERS.index(answer) if isinstance(answer, str) and answer in tuple(LETTERS) else answer
    subject = str(row.get("subject") or subject)
    return _question(_text(row, "question"), list(choices), number, place, subject=subject)


READERS: dict[str, Callable[..., Question]] = {
    "medqa": medqa, "medqa5": medqa5, "medmcqa": medmcqa, "pubmedqa": pubmedqa, "mmlu-medical": mmlu,
}  # fmt: skip


def _question(
    question: str, texts: Sequence[str], number: Any, place: str, name: str = "", subject: str = "", context: str = ""
) -> Question:
    if not isinstance(number, int) or not 0 <= number < len(texts):
        raise ValueError(f"the answer is {number!r}, none of its {len(texts)} options")
    if wordless := [text for text in texts if not isinstance(text, str)]:
        raise ValueError(f"an option is no text but {wordless[0]!r}")
    options = dict(zip(LETTERS, texts, strict=False))
    content = {"question": question, "options": options, "answer": LETTERS[number], "context": context}
    return Question(
        record_id=content_sha256(content), document_id=name or place, subject=subject, question=question, options=options,
        answer=LETTERS[number], context=context,
    )  # fmt: skip


def _text(row: Row, key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} is no text")
    return value


def _whole(row: Row, key: str) -> int:
    value = row.get(key)
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, str) and value.isdigit())):
        raise ValueError(f"{key} is no whole number but {value!r}")
    return int(value)
