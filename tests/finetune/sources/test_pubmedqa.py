"""PubMedQA: the official test never trains, whatever is given or missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.sources.pubmedqa import TRAINING_IDS
from medllama.errors import InputError
from tests.finetune.sources.reading import outcomes, reasons, records, spoken

KNOWN = TRAINING_IDS.read_text().split()[:2]


def item(**changed: Any) -> dict[str, Any]:
    return {
        "QUESTION": "Does it help?",
        "CONTEXTS": ["We asked whether it helps.", "A trial."],
        "LABELS": ["BACKGROUND", "METHODS"],
        "MESHES": [],
        "YEAR": "2004",
        "final_decision": "maybe",
        "LONG_ANSWER": "It may help some.",
    } | changed


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_a_record_asks_on_the_abstract_and_answers_with_decision_and_conclusion(tmp_path: Path) -> None:
    [record] = records(f"pubmedqa:{write(tmp_path / 'ori_pqal.json', {KNOWN[0]: item()})}")
    assert spoken(record) == (
        "Background: We asked whether it helps.\nMethods: A trial.\n\nDoes it help?",
        "Maybe. It may help some.",
    )
    assert (record.source, record.document_id, record.licence) == ("pubmedqa", f"PMID{KNOWN[0]}", "MIT")
    unlabelled = {key: value for key, value in item().items() if key not in ("final_decision", "LABELS")}
    [record] = records(f"pubmedqa:{write(tmp_path / 'ori_pqal.json', {KNOWN[0]: unlabelled})}")
    assert spoken(record) == ("We asked whether it helps.\nA trial.\n\nDoes it help?", "It may help some.")


def test_without_the_official_test_only_known_training_ids_are_read(tmp_path: Path) -> None:
    file = write(tmp_path / "ori_pqal.json", {KNOWN[0]: item(), "999999999": item(), KNOWN[1]: item()})
    assert reasons(f"pubmedqa:{file}") == ["kept", "may be of the official test", "kept"]


@pytest.mark.parametrize("place", ["beside the file", "in the folder", "named"])
def test_with_the_official_test_everything_but_its_ids_is_read(tmp_path: Path, place: str) -> None:
    file = write(tmp_path / "ori_pqal.json", {KNOWN[0]: item(), "999999999": item(), "5": item()})
    folder = tmp_path if place != "named" else tmp_path / "elsewhere"
    folder.mkdir(exist_ok=True)
    # A known training id that the official file names is a test item: the file is the later word.
    official = write(folder / "test_ground_truth.json", {"5": "no", KNOWN[0]: "yes"})
    given = {"beside the file": file, "in the folder": tmp_path, "named": f"{file}?test={official}"}[place]
    assert reasons(f"pubmedqa:{given}") == ["official test", "kept", "official test"]


def test_a_test_file_of_another_shape_or_a_missing_one_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", {"1": item()})
    for value in ([], {}, {"not an id": "yes"}):
        with pytest.raises(InputError, match="is not the official test of PubMedQA"):
            reasons(f"pubmedqa:{file}?test={write(tmp_path / 'wrong.json', value)}")
    with pytest.raises(InputError, match="nowhere does not exist"):
        reasons(f"pubmedqa:{file}?test={tmp_path}/nowhere")


def test_what_is_broken_is_named(tmp_path: Path) -> None:
    broken = [
        item(final_decision="perhaps"),
        item(CONTEXTS="text"),
        {**item(), "LONG_ANSWER": ""},
        "item",
        {"QUESTION": "q", "CONTEXTS": []},
    ]
    ids = TRAINING_IDS.read_text().split()
    file = write(tmp_path / "a.json", dict(zip(ids, broken, strict=False)))
    assert reasons(f"pubmedqa:{file}") == [
        "final_decision is none of yes, no, maybe",
        "CONTEXTS is not a list of texts",
        "empty LONG_ANSWER",
        "not an object",
        "no LONG_ANSWER",
    ]
    file.write_text(file.read_text()[:-40])
    with pytest.raises(InputError, match="not JSON, so nothing from here on"):
        outcomes(f"pubmedqa:{file}")


def test_the_real_training_half_is_read_whole(shared_data: Path) -> None:
    found = records(f"pubmedqa:{shared_data / 'pubmedqa'}")
    assert len(found) == len({record.document_id for record in found}) == 500
    assert {spoken(record)[1].split(".")[0] for record in found} == {"Yes", "No", "Maybe"}
