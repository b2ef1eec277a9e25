"""Every benchmark's official file becomes the right questions, and what is none is named with its place."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from eval.benchmark_tasks import open_task
from eval.tasks import Question, Task
from medllama.errors import InputError

MEDQA = {
    "question": "A man has a swollen toe. What is it?", "answer": "Gout", "options": {"A": "Flu", "B": "Gout",
    "C": "Burn", "D": "Cut"},
    "meta_info": "step1", "answer_idx": "B",
}  # fmt: skip
MEDQA_HUB = {
    "id": "test-00000", "sent1": MEDQA["question"], "sent2": "", "ending0": "Flu", "ending1": "Gout",
    "ending2": "Burn", "ending3": "Cut",
    "label": 1,
}  # fmt: skip
MEDMCQA = {
    "id": "x-1", "question": "Which is a joint?", "opa": "Knee", "opb": "Liver", "opc": "Lung", "opd": "", "cop": 1,
    "choice_type": "single", "exp": None, "subject_name": "Anatomy", "topic_name": None,
}  # fmt: skip
PUBMEDQA = {
    "QUESTION": "Does it help?", "CONTEXTS": ["We tried.", "It did."], "LABELS": ["AIM", "RESULTS"], "MESHES": [], "YEAR": "2000",
    "final_decision": "maybe", "LONG_ANSWER": "Perhaps.",
}  # fmt: skip
MMLU = [
    ["What is the hyoid?", "A bone", "A muscle", "A nerve", "A vein", "A"],
    ['Say, "ah", or?', "1", "2", "3", "4", "D"],
]


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_mmlu(folder: Path, split: str, subjects: tuple[str, ...] = ("anatomy", "college_medicine")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for subject in subjects:
        with (folder / f"{subject}_{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([[f"{subject} {split}: {row[0]}", *row[1:]] for row in MMLU])
    return folder


def first(task: Task) -> Question:
    assert isinstance(task.records[0], Question)
    return task.records[0]


def test_medqa_is_read_from_its_files_and_from_the_hubs_rows(tmp_path: Path) -> None:
    for name, row in (("us.jsonl", MEDQA), ("hub.jsonl", MEDQA_HUB)):
        question = first(open_task(f"medqa:{write_lines(tmp_path / name, row)}"))
        assert (question.question, question.options, question.answer) == (MEDQA["question"], MEDQA["options"], "B")
    five = MEDQA | {"options": {**MEDQA["options"], "E": "Age"}, "answer_idx": "E"}  # type: ignore[dict-item]
    assert first(open_task(f"medqa5:{write_lines(tmp_path / 'five.jsonl', five)}")).answer == "E"
    with pytest.raises(InputError, match="it has 5 options, not 4: perhaps this is medqa5"):
        open_task(f"medqa:{tmp_path / 'five.jsonl'}")


@pytest.mark.parametrize(("cops", "answers"), [((1, 4, 2), "ADB"), ((0, 3, 1), "ADB"), ((1, 2, 3), "ABC")])
def test_medmcqas_answers_count_from_one_in_its_files_and_from_zero_on_the_hub(
    cops: tuple[int, ...], answers: str, tmp_path: Path
) -> None:
    task = open_task(f"medmcqa:{write_lines(tmp_path / 'dev.json', *(MEDMCQA | {'cop': cop} for cop in cops))}")
    assert "".join(record.answer for record in task.records if isinstance(record, Question)) == answers
    assert (first(task).subject, first(task).options["D"]) == ("Anatomy", "")


def test_pubmedqa_is_the_official_500_where_their_names_are_here(tmp_path: Path) -> None:
    path = tmp_path / "ori_pqal.json"
    path.write_text(json.dumps({str(number): PUBMEDQA | {"QUESTION": f"{number}?"} for number in range(4)}))
    task = open_task(f"pubmedqa:{path}")
    assert len(task.records) == 4
    assert first(task).context == "We tried.\nIt did."
    assert first(task).options[first(task).answer] == "maybe"
    (tmp_path / "test_ground_truth.json").write_text(json.dumps({"2": "maybe", "3": "maybe"}))
    assert [record.document_id for record in open_task(f"pubmedqa:{tmp_path}").records] == ["2", "3"]


def test_mmlus_medical_subjects_are_read_from_a_folder_with_their_examples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("test", "dev"):
        write_mmlu(tmp_path / split, split)
    write_mmlu(tmp_path / "test", "test", ("philosophy",))
    task = open_task(f"mmlu-medical:{tmp_path / 'test'}", shots=2)
    assert [record.subject for record in task.records] == ["anatomy"] * 2 + ["college_medicine"] * 2
    assert [it.question for it in task.examples if it.subject == "anatomy"] == [
        "anatomy dev: What is the hyoid?", 'anatomy dev: Say, "ah", or?',
    ]  # fmt: skip
    assert "has no clinical_knowledge" in capsys.readouterr().err
    assert len(open_task(f"mmlu-medical:{tmp_path}").records) == 4
    with pytest.raises(InputError, match="has 2 examples of anatomy that are not tested, not 3"):
        open_task(f"mmlu-medical:{tmp_path}", shots=3)


def test_an_item_of_the_test_is_no_example(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "test.jsonl", MEDQA)
    other = MEDQA | {"question": "Another?"}
    write_lines(tmp_path / "train.jsonl", MEDQA, other)
    assert [it.question for it in open_task(f"medqa:{path}", shots=1).examples] == ["Another?"]
    named = write_lines(tmp_path / "mine.jsonl", MEDQA | {"question": "Mine?"})
    assert [it.question for it in open_task(f"medqa:{path}?shots={named}", shots=1).examples] == ["Mine?"]
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(InputError, match="there are no examples for --shots"):
        open_task(f"medqa:{path}", shots=1)


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("medqa", {"question": "Gout?"}, "options is no table of A, B, C"),
        ("medqa", MEDQA | {"answer_idx": "E"}, "answer_idx is 'E', none of the options"),
        ("medqa", MEDQA | {"options": {"A": 5, "B": "x", "C": "y", "D": "z"}}, "an option is no text but 5"),
        ("medmcqa", MEDMCQA | {"cop": [1]}, "cop is no whole number but"),
        (
            "mmlu-medical",
            {"question": "Gout?", "choices": list("abcd"), "answer": "x"},
            "the answer is 'x', none of its 4",
        ),
        ("medmcqa", MEDMCQA | {"cop": -1}, "no row has its answer"),
        ("medmcqa", MEDMCQA | {"cop": 9}, "the answer is 8, none of its 4 options"),
        ("medmcqa", MEDMCQA | {"opd": None}, "it has no four options"),
        ("pubmedqa", PUBMEDQA | {"final_decision": "sure"}, "final_decision is 'sure', not yes, no or maybe"),
        ("pubmedqa", PUBMEDQA | {"CONTEXTS": "We tried."}, "CONTEXTS is no list of texts"),
        ("mmlu-medical", {"question": "Gout?", "choices": ["a"], "answer": 0}, "it has no four options"),
    ],
)
def test_a_row_that_is_none_is_named(name: str, row: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", row)
    with pytest.raises(InputError, match=said) as caught:
        open_task(f"{name}:{path}")
    assert caught.value.message.startswith(f"{path}:1")


@pytest.mark.parametrize(("cops", "answers"), [((0, 3), "AD"), (("0", "3"), "AD"), ((1, 4), "AD"), (("1", "4"), "AD")])
def test_what_medmcqa_calls_the_first_option_is_told_by_its_values(
    cops: tuple[object, ...], answers: str, tmp_path: Path
) -> None:
    rows = [MEDMCQA | {"cop": cop, "question": f"Which, {number}?"} for number, cop in enumerate(cops)]
    path = write_lines(tmp_path / "dev.json", *rows)
    assert "".join(record.answer for record in open_task(f"medmcqa:{path}").records) == answers


def test_what_is_no_task_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        open_task("medqa:nowhere")
    with pytest.raises(InputError, match=r"there is no file meqda:test\.jsonl") as caught:
        open_task("meqda:test.jsonl?shots=dev.jsonl")
    assert "medqa, medqa5, medmcqa" in caught.value.hint
    with pytest.raises(InputError, match=r"has no single file of medqa's test"):
        open_task(f"medqa:{tmp_path}")
    with pytest.raises(InputError, match=r"shoots=1 is not understood"):
        open_task("medqa:x.jsonl?shoots=1")
    with pytest.raises(InputError, match="medqa5 is not on the hub"):
        open_task("medqa5")


def test_the_real_files_are_read_whole(shared_data: Path) -> None:
    mmlu = open_task(f"mmlu-medical:{shared_data / 'mmlu' / 'val'}", shots=5)
    texts = [path.read_text() for path in sorted((shared_data / "mmlu" / "val").glob("*.csv"))]
    assert len(mmlu.records) == sum(len(list(csv.reader(io.StringIO(text, newline="")))) for text in texts)
    assert len(mmlu.examples) == 30
    assert len(open_task(f"pubmedqa:{shared_data / 'pubmedqa' / 'ori_pqal_dev500.json'}").records) == 500


def test_the_hubs_rows_are_the_same_questions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tests, trained = [("row 0", MEDQA_HUB)], [("row 0", MEDQA_HUB | {"sent1": "Trained?"})]
    monkeypatch.setattr(
        "eval.benchmark_tasks.rows_of_hub", lambda name, with_examples: ({"": tests}, {"": trained}, "abc")
    )
    task = open_task("medqa", shots=1)
    assert (first(task).options, task.path.name) == (MEDQA["options"], "MedQA-USMLE-4-options-hf@abc")
    assert [it.question for it in task.examples] == ["Trained?"]


def test_blank_lines_of_a_table_are_nothing_and_its_places_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "anatomy_test.csv"
    path.write_text('"What is\nthe hyoid?",A bone,A muscle,A nerve,A vein,A\n\nWhich?,1,2,3,4,B\n\n')
    assert [record.document_id for record in open_task(f"mmlu-medical:{path}").records] == [f"{path}:2", f"{path}:4"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("anatomy_test.csv", "Où?,1,2,3,4,A\n".encode("latin-1"), "is not UTF-8"),
        ("anatomy_test.csv", f"{'x' * 200_000},1,2,3,4,A\n".encode(), "is not CSV"),
        ("rows.json", b"5", "holds no rows"),
        ("rows.json", b'{"question": "Gout?"}', "holds no rows"),
        ("rows.json", "{'é'".encode("latin-1"), "is not UTF-8"),
        ("rows.jsonl", b"", "has no items"),
    ],
)
def test_a_file_that_holds_no_rows_is_told(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    csv.field_size_limit(131_072)  # which finetune raises for the whole process, where its tests ran before
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        open_task(f"mmlu-medical:{tmp_path / name}")


def test_a_subjects_name_is_its_files_without_the_split(tmp_path: Path) -> None:
    for name in ("college_medicine.csv", "college_medicine_dev.csv"):
        (tmp_path / name).write_text("Which?,1,2,3,4,B\n")
        assert first(open_task(f"mmlu-medical:{tmp_path / name}")).subject == "college_medicine"


def test_examples_may_be_what_the_official_test_leaves_of_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "ori_pqal.json"
    path.write_text(json.dumps({str(number): PUBMEDQA | {"QUESTION": f"{number}?"} for number in range(4)}))
    truth = tmp_path / "test_ground_truth.json"
    truth.write_text(json.dumps({"2": "maybe", "3": "maybe"}))
    task = open_task(f"pubmedqa:{path}?shots={path}", shots=2)
    assert [it.document_id for it in task.examples] == ["0", "1"]
    truth.write_text("7")
    with pytest.raises(InputError, match=r"test_ground_truth\.json is no table"):
        open_task(f"pubmedqa:{path}")


def test_where_no_example_is_left_another_file_is_asked_for(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", MEDQA)
    with pytest.raises(InputError, match="has 0 examples that are not tested") as caught:
        open_task(f"medqa:{path}?shots={path}", shots=1)
    assert caught.value.hint == "name another file: ?shots=FILE"
