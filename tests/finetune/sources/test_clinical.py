"""PMC-Patients, counselling, MTS-Dialog and ACI-Bench in their official shapes: groups stay together, official splits hold."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

from finetune.sources import load_source, parse
from tests.finetune.sources.reading import outcomes, reasons, records, spoken, write_csv, write_jsonl


def patient(number: int = 1, **changed: Any) -> dict[str, Any]:
    return {
        "patient_id": "0", "patient_uid": f"7665777-{number}", "PMID": "33492400", "file_path": "comm/PMC007xxxxxx/PMC7665777.xml",
        "title": "Early Physical Therapist Interventions", "patient": f"This 60-year-old man, number {number}, was weak.",
        "age": [[60.0, "year"]], "gender": "M", "relevant_articles": {"32320506": 1}, "similar_patients": {"7665777-2": 2},
    } | changed  # fmt: skip


def test_patients_of_one_article_are_one_document(tmp_path: Path) -> None:
    (tmp_path / "P.json").write_text(json.dumps([patient(1), patient(2), patient(PMID="5")]))
    found = records(f"pmc-patients:{tmp_path}/P.json")
    assert [record.document_id for record in found] == ["PMID33492400", "PMID33492400", "PMID5"]
    assert found[0].content == {
        "text": "Early Physical Therapist Interventions\n\nThis 60-year-old man, number 1, was weak."
    }
    assert {record.licence for record in found} == {"CC-BY-NC-SA-4.0"}


def test_patients_in_csv_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "P.json").write_text(json.dumps([patient()]))
    cells = {key: value if isinstance(value, str) else repr(value) for key, value in patient().items()}
    write_csv(tmp_path / "P.csv", [list(cells), list(cells.values())])
    assert records(f"pmc-patients:{tmp_path}/P.csv") == records(f"pmc-patients:{tmp_path}/P.json")


def test_a_broken_patient_is_named_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "P.json").write_text(json.dumps([patient(patient=""), "x", patient(), {}]))
    found = outcomes(f"pmc-patients:{tmp_path}/P.json")
    assert [str(outcome).split(" (")[0] for outcome in found if not hasattr(outcome, "content")] == [
        f"{tmp_path}/P.json#1: empty patient",
        f"{tmp_path}/P.json#2: not an object",
        f"{tmp_path}/P.json#4: no patient_uid",
    ]


def test_a_long_list_of_patients_is_a_stream(tmp_path: Path) -> None:
    with (tmp_path / "P.json").open("w") as file:
        file.write("[")
        for number in range(3000):
            file.write((", " if number else "") + json.dumps(patient(number, patient="x" * 5000)))
        file.write("]")
    request = parse(f"pmc-patients:{tmp_path}/P.json")
    tracemalloc.start()
    assert sum(1 for _ in load_source("pmc-patients").read(request)) == 3000
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 4_000_000 < (tmp_path / "P.json").stat().st_size / 3


def test_answers_of_several_counselors_are_one_document(tmp_path: Path) -> None:
    rows = [
        ("I worry.", "Talk."),
        ("I  worry. ", "Walk."),
        ("I sleep badly.", "Rest."),
        ("I worry.", ""),
        ("", "Rest."),
    ]
    file = write_jsonl(tmp_path / "c.json", [{"Context": context, "Response": said} for context, said in rows])
    assert reasons(f"mental-health:{file}") == ["kept", "kept", "kept", "empty answer", "empty Context"]
    file = write_jsonl(tmp_path / "c.json", [{"Context": context, "Response": said} for context, said in rows[:3]])
    first, second, other = records(f"mental-health:{file}")
    assert first.document_id == second.document_id != other.document_id
    assert spoken(first) == ("I worry.", "Talk.")


def test_mts_dialog_asks_for_the_section_and_keeps_the_official_splits(tmp_path: Path) -> None:
    head = ["ID", "section_header", "section_text", "dialogue"]
    row = ["7", "ALLERGY", "None known.", "Doctor: Any allergies? \r\n Patient: No."]
    for name in ("TrainingSet", "ValidationSet", "TestSet-1-MEDIQA-Chat-2023"):
        write_csv(tmp_path / f"MTS-Dialog-{name}.csv", [head, row])
    found = records(f"mts-dialog:{tmp_path}")
    assert [record.split for record in found] == ["test", "train", "validation"]
    assert [record.document_id for record in found][1] == "MTS-Dialog-TrainingSet/7"
    asked = 'Write the section "allergies" of the clinical note on this conversation.'
    assert spoken(found[0]) == (f"{asked}\n\nDoctor: Any allergies?\nPatient: No.", "None known.")


def test_aci_bench_asks_for_the_note_and_passes_metadata_over(tmp_path: Path) -> None:
    write_csv(tmp_path / "train_metadata.csv", [["dataset", "encounter_id"], ["aci", "D2N001"]])
    head = ["dataset", "encounter_id", "dialogue", "note"]
    write_csv(
        tmp_path / "clinicalnlp_taskB_test1.csv",
        [head, ["aci", "D2N088", "[doctor] hi", "NOTE"], ["aci", "D2N089", "", "x"]],
    )
    assert reasons(f"aci-bench:{tmp_path}") == ["kept", "empty dialogue"]
    record = outcomes(f"aci-bench:{tmp_path}")[0]
    assert (getattr(record, "split", None), getattr(record, "document_id", None)) == ("test", "aci/D2N088")


def test_a_quotation_mark_that_never_closes_swallows_nothing_in_silence(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text('dataset,encounter_id,dialogue,note\na,1,d,n\na,2,"d,n\na,3,d,n\n')
    assert reasons(f"aci-bench:{tmp_path}/train.csv") == ["kept", "not CSV", "not CSV"]


def test_the_real_dialogues_are_read_whole(shared_data: Path) -> None:
    found = records(f"mts-dialog:{shared_data / 'mts-dialog'}")
    assert [sum(record.split == split for record in found) for split in ("train", "validation")] == [1201, 100]
    visits = records(f"aci-bench:{shared_data / 'aci-bench'}")
    assert [sum(record.split == split for record in visits) for split in ("train", "validation")] == [67, 20]
