"""MedQA, MedMCQA and MMLU in their official shapes: what people measure on is a test item, and never trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from medllama.errors import InputError
from tests.finetune.sources.reading import outcomes, reasons, records, spoken, write_csv, write_jsonl

QUESTION = "A woman has a swollen toe. What is it?"


def medqa(**changed: Any) -> dict[str, Any]:
    options = {"A": "Gout", "B": "Asthma", "C": "Rickets", "D": "Mumps", "E": "Croup"}
    return {
        "question": QUESTION, "answer": "Gout", "options": options, "meta_info": "step1", "answer_idx": "A",
    } | changed  # fmt: skip


def medmcqa(cop: object = 1, **changed: Any) -> dict[str, Any]:
    return {
        "id": "45258d3d", "question": QUESTION, "opa": "Gout", "opb": "Asthma", "opc": "Rickets", "opd": "Mumps",
        "cop": cop, "choice_type": "single", "exp": "Uric acid.", "subject_name": "Medicine", "topic_name": None,
    } | changed  # fmt: skip


ITEM = {
    "question": QUESTION,
    "options": {"A": "Gout", "B": "Asthma", "C": "Rickets", "D": "Mumps"},
    "answer": "A",
}


def test_medqa_trains_on_train_and_tests_on_test(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        write_jsonl(tmp_path / "US" / f"{name}.jsonl", [medqa()])
    write_jsonl(tmp_path / "US" / "4_options" / "phrases_no_exclude_test.jsonl", [medqa()])  # the same items again
    found = records(f"medqa:{tmp_path}/US")
    assert [record.split for record in found] == ["validation", "multiple_choice", "train"]
    assert len({record.document_id for record in found}) == 1
    assert found[1].content == {"question": QUESTION, "options": medqa()["options"], "answer": "A"}
    assert spoken(found[2]) == (f"{QUESTION}\n\nA. Gout\nB. Asthma\nC. Rickets\nD. Mumps\nE. Croup", "A. Gout")
    assert [record.split for record in records(f"medqa:{tmp_path}/US/4_options")] == ["multiple_choice"]


def test_medqa_names_what_is_broken(tmp_path: Path) -> None:
    lines = [medqa(answer_idx="F"), medqa(options=["Gout"]), medqa(question=""), medqa(options={"A": "Gout", "B": " "})]
    file = write_jsonl(tmp_path / "train.jsonl", lines)
    assert reasons(f"medqa:{file}") == [
        "answer is none of the options",
        "options is not a table of texts",
        "empty question",
        "empty question or option",
    ]
    other = write_jsonl(tmp_path / "other.jsonl", [medqa()])
    assert reasons(f"medqa:{other}") == ["a file of no known split"]


@pytest.mark.parametrize(("cops", "first"), [((1, 4, 2), "original"), ((0, 3, 1), "hub")])
def test_medmcqa_counts_the_right_option_as_its_file_does(tmp_path: Path, cops: tuple[int, ...], first: str) -> None:
    write_jsonl(tmp_path / "train.json", [medmcqa(cop) for cop in cops])
    answers = [spoken(record)[1].split("\n\n")[0] for record in records(f"medmcqa:{tmp_path}")]
    assert answers == ["A. Gout", "D. Mumps", "B. Asthma"]


def test_medmcqa_where_nothing_tells_is_refused_until_it_is_said(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "dev.json", [medmcqa(1), medmcqa(2), medmcqa(3)])
    with pytest.raises(InputError, match="cop is neither 0 nor 4 anywhere"):
        outcomes(f"medmcqa:{file}")
    assert records(f"medmcqa:{file}?first=1")[0].content == ITEM
    assert records(f"medmcqa:{file}?first=0")[0].content["answer"] == "B"


def test_medmcqa_tests_on_validation_and_leaves_the_unlabelled_test_out(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "dev.json", [medmcqa(4), medmcqa(1, choice_type="multi")])
    write_jsonl(
        tmp_path / "test.json", [medmcqa(None), medmcqa(-1), {k: v for k, v in medmcqa().items() if k != "cop"}]
    )
    write_jsonl(tmp_path / "train.json", [medmcqa(4, exp=None), medmcqa(5), medmcqa("x"), medmcqa("²")])
    assert reasons(f"medmcqa:{tmp_path}") == [
        "kept", "kept", "no label", "no label", "no label", "kept", *["cop names no option"] * 3,
    ]  # fmt: skip
    assert reasons(f"medmcqa:{tmp_path}/dev.json?choice=single") == ["kept", "another choice_type"]
    assert [record.split for record in records(f"medmcqa:{tmp_path}/dev.json")] == ["multiple_choice"] * 2


def test_medmcqa_reads_the_hub_s_parquet(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([medmcqa(0), medmcqa(3)])
    pyarrow.parquet.write_table(table, tmp_path / "validation-00000-of-00001.parquet")
    assert [record.content["answer"] for record in records(f"medmcqa:{tmp_path}")] == ["A", "D"]


def test_mmlu_reads_the_medical_subjects_of_one_split(tmp_path: Path) -> None:
    row = [QUESTION, "Gout", "Asthma", "Rickets", "Mumps", "A"]
    for name in ("dev/anatomy_dev", "val/anatomy_val", "val/virology_val"):
        write_csv(tmp_path / f"{name}.csv", [row])
    [record] = records(f"mmlu:{tmp_path}")
    assert (record.content, record.split) == (ITEM, "multiple_choice")
    assert record.document_id.startswith("anatomy/")
    write_csv(tmp_path / "test" / "medical_genetics_test.csv", [row, row[:5], [*row[:5], "E"]])
    assert reasons(f"mmlu:{tmp_path}") == ["kept", "another width", "answer is none of the options"]
    assert len(records(f"mmlu:{tmp_path}?split=dev")) == 1
    with pytest.raises(InputError, match="holds no all file of a medical subject"):
        outcomes(f"mmlu:{tmp_path}?split=all")


def test_the_real_mmlu_is_read_whole(shared_data: Path) -> None:
    # 14 + 29 + 16 + 22 + 11 + 31 validation items and five of each subject to show, as its authors count them.
    assert len(records(f"mmlu:{shared_data / 'mmlu'}")) == 123
    assert len(records(f"mmlu:{shared_data / 'mmlu'}?split=dev")) == 30


def test_a_test_item_never_trains(tmp_path: Path) -> None:
    """Whatever the shape, a record of a test file is a multiple-choice item."""
    write_jsonl(tmp_path / "qa" / "test.jsonl", [medqa()])
    write_jsonl(tmp_path / "mcqa" / "validation.json", [medmcqa(0)])
    for given in (f"medqa:{tmp_path}/qa", f"medmcqa:{tmp_path}/mcqa"):
        [record] = records(given)
        assert record.split == "multiple_choice"
        assert "messages" not in json.loads(record.as_line())
