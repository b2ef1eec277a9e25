"""Decontamination: what an evaluation set has leaves training, and what only looks like it stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.data.decontamination import COMMON_ITEMS, EvaluationIndex, Item, item_of
from finetune.data.evaluation_sets import evaluation_rows
from finetune.prepare import prepare
from finetune.prepare_config import PrepareConfig
from finetune.sources.pubmedqa import TRAINING_IDS
from medllama.benchmarks import ON_HUB, OnHub
from medllama.errors import InputError
from medllama.pipeline import configure
from medllama.recipe import load_recipe
from medllama.stages import BY_NAME
from tests.finetune.sources.reading import write_jsonl

LONG = "A man of 54 years comes with a swollen red toe that woke him at night after a feast of meat and wine"
TWELVE = "Which drug lowers uric acid by blocking an enzyme called xanthine oxidase"
SHORT = "What causes gout?"


def item(question: str, answer: str = "Allopurinol", *others: str) -> Item:
    return Item("exam", question[:10], question, answer, (question, answer, *others))


def overlaps(items: list[Item], *texts: str) -> list[bool]:
    found = EvaluationIndex.of(items).overlaps(list(texts))
    return [number in found for number in range(len(texts))]


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_none() -> None:
    words = LONG.split()
    for length, expected in ((12, False), (13, True)):
        text = f"Before it, {' '.join(words[3 : 3 + length])}, and after it."
        assert overlaps([item(LONG)], text) == [expected]
    assert overlaps([item(LONG)], LONG.upper().replace(" ", " - ")) == [True]


def test_a_question_of_fewer_words_is_one_run() -> None:
    assert overlaps([item(TWELVE)], f"Tell me. {TWELVE}?", TWELVE.replace("enzyme", "protein")) == [True, False]


def test_a_short_question_counts_only_with_its_answer() -> None:
    said = ["What causes gout? Crystals of uric acid.", "What causes gout? Too much meat.", "Crystals of uric acid."]
    assert overlaps([item(SHORT, "Uric acid")], *said) == [True, False, False]


def test_a_short_option_alone_is_no_overlap_and_a_long_one_is() -> None:
    long_option = "Take the full course of the tablets even when you feel well after a few days"
    assert overlaps([item(LONG, "Aspirin", long_option)], "Aspirin is old.", f"Please: {long_option}.") == [False, True]


def test_a_phrase_of_examiners_is_no_overlap() -> None:
    phrase = "Which of the following is the most appropriate next step in the management of this patient"
    items = [item(f"{LONG} {number}. {phrase}") for number in range(COMMON_ITEMS + 1)]
    assert overlaps(items, f"Unlike others. {phrase}?") == [False]
    assert overlaps(items[:COMMON_ITEMS], f"Unlike others. {phrase}?") == [True]
    assert EvaluationIndex.of(items).common_runs > 0
    # The same question in two sets is one item, and no phrase of examiners.
    copies = [Item(f"exam {number}", "1", LONG, "Gout", (LONG, "Gout")) for number in range(9)]
    assert overlaps(copies, LONG) == [True]


def test_texts_are_told_apart() -> None:
    """A run does not go from the end of one text into the next, and each finding is of its own text."""
    words = LONG.split()
    index = EvaluationIndex.of([item(LONG), item(TWELVE)])
    assert (
        index.overlaps([" ".join(words[:11]), " ".join(words[11:])]) == {}
    )  # 11 and 12 words, 23 if they were one text
    found = index.overlaps(["", "nothing", TWELVE, "x y z", f"so {LONG}", ""])
    assert {number: match.item.question for number, match in found.items()} == {2: TWELVE, 4: LONG}
    assert found[4].words == " ".join(LONG.lower().split()[:13])
    assert index.overlaps([]) == {}


def test_items_are_made_of_every_shape_that_eval_measures() -> None:
    choice = {"question": "Q?", "options": {"A": "one", "B": "two"}, "answer": "B", "document_id": "d"}
    assert item_of(choice, "set", "7") == Item("set", "d", "Q?", "two", ("Q?", "one", "two"))
    chat = {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]}
    assert item_of(chat, "set", "7") == Item("set", "7", "Q?", "A.", ("Q?", "A."))
    assert item_of({"text": "T"}, "set", "7") == Item("set", "7", "", "", ("T",))
    assert item_of({"else": 1}, "set", "7") is None


def chats(*pairs: tuple[str, str]) -> list[Any]:
    return [{"prompt": prompt, "response": response} for prompt, response in pairs]


def test_an_evaluation_set_takes_its_questions_out_of_training_and_says_so(tmp_path: Path) -> None:
    exam = write_jsonl(
        tmp_path / "exam.jsonl", [{"question": LONG, "options": {"A": "Gout", "B": "Mumps"}, "answer": "A"}]
    )
    plain = [(f"question {number} on something else", f"answer {number}") for number in range(40)]
    source = write_jsonl(tmp_path / "c.jsonl", chats(*plain, (f"Consider this. {LONG}.", "It is gout.")))
    config = PrepareConfig(
        source=(f"jsonl:{source}",), output_dir=tmp_path / "data", decontaminate=(str(exam),), test_share=0
    )
    prepare(config)
    card = json.loads((tmp_path / "data" / "data_card.json").read_text())
    assert card["sources"][0]["counts"] == {"read": 41, "kept": 40, "dropped": {"overlaps an evaluation set": 1}}
    assert card["decontamination"]["evaluation_sets"] == ["exam.jsonl"]
    [finding] = map(json.loads, (tmp_path / "data" / "decontamination.jsonl").read_text().splitlines())
    assert (finding["evaluation_set"], finding["item"]) == ("exam.jsonl", "1")
    assert finding["words"] == " ".join(LONG.lower().split()[:13])
    assert LONG not in (tmp_path / "data" / "train.jsonl").read_text()


def test_multiple_choice_of_a_source_takes_itself_out_of_the_others(tmp_path: Path) -> None:
    item_row = {"question": LONG, "options": {"A": "Gout", "B": "Mumps"}, "answer": "A"}
    exam = write_jsonl(tmp_path / "exam.jsonl", [item_row])
    plain = [(f"question {number} on something else", f"answer {number}") for number in range(40)]
    source = write_jsonl(tmp_path / "c.jsonl", chats(*plain, (LONG, "Gout.")))
    config = PrepareConfig(source=(f"jsonl:{source}", f"jsonl:{exam}"), output_dir=tmp_path / "data", test_share=0)
    prepare(config)
    assert LONG in (tmp_path / "data" / "multiple_choice.jsonl").read_text()
    assert LONG not in (tmp_path / "data" / "train.jsonl").read_text()


def test_an_evaluation_set_of_another_shape_is_refused(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "c.jsonl", chats(("q", "a")))
    other = write_jsonl(tmp_path / "other.jsonl", [{"prompt": "q"}])
    with pytest.raises(InputError, match="has no question, messages or text"):
        prepare(PrepareConfig(source=(f"jsonl:{source}",), output_dir=tmp_path / "data", decontaminate=(str(other),)))


def test_a_missing_evaluation_set_is_an_error_before_anything_is_read(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "c.jsonl", ["broken"])
    with pytest.raises(InputError, match=r"nowhere\.jsonl does not exist"):
        prepare(
            PrepareConfig(
                source=(f"jsonl:{source}",),
                output_dir=tmp_path / "data",
                decontaminate=(f"{tmp_path}/nowhere.jsonl",),
            )
        )


def test_in_a_run_what_eval_measures_leaves_training(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "exam.jsonl", [{"question": LONG, "options": {"A": "Gout", "B": "Mumps"}, "answer": "A"}])
    (tmp_path / "r.yaml").write_text(
        "name: r\nprepare: {source: [tiny]}\ntrain: {base_model: base, max_length: 77}\neval: {task: [exam.jsonl]}\n"
    )
    recipe = load_recipe(str(tmp_path / "r.yaml"))
    config = configure(BY_NAME["prepare"], recipe, tmp_path / "run", {})
    assert config.decontaminate == (str((tmp_path / "exam.jsonl").resolve()),)
    assert (config.tokenizer, config.chunk_tokens) == ("base", 77)


def test_tasks_without_a_file_here_are_said_not_to_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "c.jsonl", chats(("q", "a")))
    exam = write_jsonl(tmp_path / "exam.jsonl", [{"question": LONG, "options": {"A": "Gout", "B": "Mumps"}}])
    tasks = ("mmlu-medical", "medmcqa", f"medqa:{exam}")
    prepare(PrepareConfig(source=(f"jsonl:{source}",), output_dir=tmp_path / "data", decontaminate=tasks))
    assert "training is not compared with mmlu-medical, medmcqa: cais/mmlu: " in capsys.readouterr().err


@pytest.mark.parametrize("task", ["medqa", "hf:{}", "hf:{}?split=test"])
def test_what_eval_takes_from_the_hub_leaves_training_where_the_hub_can_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    folder = tmp_path / "hub"  # a folder is read by the same library as a name on the hub
    folder.mkdir()
    write_jsonl(folder / "test.jsonl", [{"sent1": LONG, "ending0": "Gout", "ending1": "Mumps", "label": 0}])
    write_jsonl(
        folder / "train.jsonl", [{"sent1": "question 1 on something else", "ending0": "a", "ending1": "b", "label": 0}]
    )
    monkeypatch.setitem(ON_HUB, "medqa", OnHub(str(folder), {None: ""}, "test", "train"))
    plain = [(f"question {number} on something else", f"answer {number}") for number in range(40)]
    source = write_jsonl(tmp_path / "c.jsonl", chats(*plain, (f"Consider this. {LONG}.", "It is gout.")))
    prepare(
        PrepareConfig(
            source=(f"jsonl:{source}",), output_dir=tmp_path / "out", decontaminate=(task.format(folder),), test_share=0
        )
    )
    assert "not compared" not in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "data_card.json").read_text())["decontamination"]["documents_left_out"] == 1


@pytest.mark.parametrize("form", ["csv", "folder", "table", "lines", "list"])
def test_evaluation_sets_in_their_publishers_forms_are_compared_with(tmp_path: Path, form: str) -> None:
    row = {"id": "1", "question": LONG, "opa": "Gout", "opb": "Mumps", "cop": 1}
    csv_text = f'"{LONG}",Gout,Mumps,Rabies,Tetanus,A\n'
    written = {
        "csv": ("anatomy_test.csv", csv_text),
        "folder": ("data/anatomy_test.csv", csv_text),
        "table": ("ori_pqal.json", json.dumps({"123": {"QUESTION": "Why?", "CONTEXTS": ["x", LONG]}}, indent=1)),
        "lines": ("dev.json", json.dumps(row) + "\n" + json.dumps(row) + "\n"),
        "list": ("list.json", json.dumps([row])),
    }
    name, content = written[form]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    task = f"mmlu-medical:{tmp_path}/data" if form == "folder" else f"medmcqa:{tmp_path}/{name}"
    plain = [(f"question {number} on something else", f"answer {number}") for number in range(40)]
    source = write_jsonl(tmp_path / "c.jsonl", chats(*plain, (f"Consider this. {LONG}.", "It is gout.")))
    prepare(
        PrepareConfig(source=(f"jsonl:{source}",), output_dir=tmp_path / "out", decontaminate=(task,), test_share=0)
    )
    card = json.loads((tmp_path / "out" / "data_card.json").read_text())
    assert card["decontamination"]["documents_left_out"] == 1


def test_the_half_of_pubmedqa_that_trains_is_no_evaluation_set(tmp_path: Path) -> None:
    known = TRAINING_IDS.read_text().split()[0]
    item = {"QUESTION": "Why?", "CONTEXTS": [LONG]}
    (tmp_path / "ori_pqal.json").write_text(json.dumps({known: item, "1": item, "2": item}))
    assert [place.rpartition("#")[2] for place, _ in evaluation_rows(tmp_path / "ori_pqal.json")] == ["1", "2"]
    (tmp_path / "test_ground_truth.json").write_text('{"2": "yes"}')
    assert [place.rpartition("#")[2] for place, _ in evaluation_rows(tmp_path / "ori_pqal.json")] == ["2"]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("dev.json", {"opa": "Aspirin", "opb": "Uric acid", "opc": "Iron", "opd": "Lead", "cop": 2}),
        ("dev.jsonl", {"opa": "Aspirin", "opb": "Uric acid", "opc": "Iron", "opd": "Lead", "cop": "2"}),
        ("mmlu.jsonl", {"choices": ["Aspirin", "Uric acid", "Iron", "Lead"], "answer": 1}),
        ("mmlu.json", {"choices": ["Aspirin", "Uric acid", "Iron", "Lead"], "answer": 1}),
        ("medqa.jsonl", {"ending0": "Aspirin", "ending1": "Uric acid", "ending2": "Iron", "ending3": "Lead", "label": 1}),
        ("open.jsonl", {"answer": "Uric acid"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("question", "text", "overlaps"),
    [
        (TWELVE, f"Tell me. {TWELVE}?", True),
        (SHORT, f"{SHORT} Crystals of uric acid.", True),
        (SHORT, f"{SHORT} Iron in the blood.", False),  # a wrong option
        ("Why is this so?", "Aspirin, uric acid, iron, lead.", False),
    ],
)
def test_short_questions_in_their_publishers_forms_are_found(
    tmp_path: Path, name: str, row: dict[str, Any], question: str, text: str, overlaps: bool
) -> None:
    asked = {"sent1": question, "sent2": ""} if "ending0" in row else {"question": question}
    write_jsonl(tmp_path / name, [{"id": "1", **asked, **row}])
    items = [item_of(found, name, place) for place, found in evaluation_rows(tmp_path / name)]
    assert bool(EvaluationIndex.of(filter(None, items)).overlaps([text])) is overlaps


def test_what_the_hub_calls_the_first_option_is_told_by_its_rows(tmp_path: Path) -> None:
    row = {"question": SHORT, "opa": "Aspirin", "opb": "Uric acid", "opc": "Iron", "opd": "Lead"}
    for first, cops in ((0, (1, 0)), (1, (2, 4))):
        write_jsonl(tmp_path / "validation.json", [{**row, "cop": cop} for cop in cops])
        assert next(evaluation_rows(tmp_path / "validation.json"))[1]["answer"] == "Uric acid", first


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_files_in_which_the_first_option_has_two_numbers_are_refused(tmp_path: Path, suffix: str) -> None:
    """eval refuses them too: with either number, answers that are none would be looked for."""
    row = {"question": SHORT, "opa": "Aspirin", "opb": "Uric acid", "opc": "Iron", "opd": "Lead"}
    path = write_jsonl(tmp_path / f"dev.{suffix}", [{**row, "cop": cop} for cop in ("0", 4)])
    with pytest.raises(InputError, match="cop runs from 0 to 4"):
        list(evaluation_rows(path))


def test_a_cop_of_another_data_set_is_none_of_medmcqa_s(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", [{"question": SHORT, "answer": "Iron", "cop": cop} for cop in (0, 4)])
    assert len(list(evaluation_rows(path))) == 2
