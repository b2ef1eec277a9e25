"""`medllama prepare` as a whole: counts add up, splits hold, bytes repeat, and bad input gives one clear error."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from finetune.data.data_card import CHANGES
from finetune.prepare import prepare
from finetune.prepare_config import PrepareConfig
from medllama.cli import main
from medllama.errors import InputError
from medllama.stages import StageResult

SPLITS = ("train", "validation", "test")


def write_lines(path: Path, lines: list[object]) -> str:
    """Write JSONL (texts go in as they are) and return the source that names it."""
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return f"jsonl:{path}"


def chats(first: int, last: int, **extra: object) -> list[object]:
    return [{"prompt": f"question {i}", "response": f"answer {i}"} | extra for i in range(first, last)]


def prepared(folder: Path, *sources: str, **options: Any) -> StageResult:
    return prepare(PrepareConfig(source=sources, output_dir=folder / "data", **options))


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "data" / f"{name}.jsonl").read_text().splitlines()]


def placed(folder: Path) -> dict[str, str]:
    """The split of every record, by its SHA-256."""
    return {record["sha256"]: split for split in SPLITS for record in records(folder, split)}


def card(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "data" / "data_card.json").read_text())


def test_counts_add_up_and_every_record_has_its_provenance(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("\n\n".join(f"Paragraph {i}. ".ljust(1500, "y") for i in range(40)))
    chat = write_lines(tmp_path / "chats.jsonl", ["not JSON", *chats(0, 100), *chats(0, 10)])
    result = prepared(tmp_path, chat, f"text:{tmp_path}/notes.txt?licence=MIT", "tiny", max_examples=500)
    found = {name: records(tmp_path, name) for name in (*SPLITS, "multiple_choice")}
    assert len(found["train"]) == 500
    for name, its_records in found.items():
        assert card(tmp_path)["records"][name] == result.summary["records"][name] == len(its_records)
        for record in its_records:
            content = {"multiple_choice": {"question", "options", "answer"}}.get(name)
            assert set(record) - {"source", "document_id", "licence", "sha256"} in (
                [content] if content else [{"messages"}, {"text"}]
            )
    for source in card(tmp_path)["sources"]:
        counts = source["counts"]
        assert counts["read"] == counts["kept"] + sum(counts["dropped"].values())
        is_cut = source["kind"] == "text"  # a document is cut into several records
        assert (counts["kept"] < sum(source["splits"].values())) is is_cut
        assert is_cut or counts["kept"] == sum(source["splits"].values())
    dropped = [source["counts"]["dropped"] for source in card(tmp_path)["sources"]]
    assert (dropped[0]["not JSON"], dropped[0]["duplicate"]) == (1, 10)
    assert sum(counts["over max_examples"] for counts in dropped) > 10_000
    assert result.summary["line"] == (
        f"{sum(map(len, found.values())):,} records from 3 sources: 500 train, {len(found['validation']):,} validation, "
        f"{len(found['test']):,} test, {len(found['multiple_choice'])} multiple choice"
    )


def test_no_document_stands_in_two_splits(tmp_path: Path) -> None:
    lines = [{"prompt": f"q{i}", "response": "a", "document_id": i // 5} for i in range(500)]
    prepared(tmp_path, write_lines(tmp_path / "c.jsonl", lines), validation_share=0.2, test_share=0.2)
    documents = [{record["document_id"] for record in records(tmp_path, split)} for split in SPLITS]
    assert all(documents)
    assert sum(map(len, documents)) == len(set.union(*documents)) == 100


def test_adding_a_source_or_reordering_one_moves_no_record(tmp_path: Path) -> None:
    lines = chats(0, 300)
    source = write_lines(tmp_path / "c.jsonl", lines)
    prepared(tmp_path, source)
    before = placed(tmp_path)
    order = [record["sha256"] for record in records(tmp_path, "train")]
    random.Random(1).shuffle(lines)
    write_lines(tmp_path / "c.jsonl", lines)
    prepared(tmp_path, write_lines(tmp_path / "other.jsonl", chats(1000, 1400)), source)
    after = placed(tmp_path)
    assert {name: after[name] for name in before} == before
    assert [record["sha256"] for record in records(tmp_path, "train") if record["sha256"] in before] == order


def test_a_duplicate_leaves_train_and_never_test(tmp_path: Path) -> None:
    """The same conversations under two source names fall into different splits; the test's copies stay."""
    first = write_lines(tmp_path / "first.jsonl", chats(0, 400))
    prepared(tmp_path, first, test_share=0.3)
    tested = {name for name, split in placed(tmp_path).items() if split == "test"}
    second = write_lines(tmp_path / "second.jsonl", chats(0, 400))
    prepared(tmp_path, second, test_share=0.3)
    tested |= {name for name, split in placed(tmp_path).items() if split == "test"}
    prepared(tmp_path, first, second, test_share=0.3)
    together = placed(tmp_path)
    assert len(together) == 400
    assert {name for name, split in together.items() if split == "test"} == tested
    assert sum(source["counts"]["dropped"]["duplicate"] for source in card(tmp_path)["sources"]) == 400


def test_the_same_input_gives_the_same_bytes_from_any_folder(tmp_path: Path) -> None:
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        prepared(folder, write_lines(folder / "c.jsonl", ["{", *chats(0, 50)]), seed=3)
        contents.append({file.name: file.read_bytes() for file in sorted((folder / "data").iterdir())})
    assert contents[0] == contents[1]
    lists = ["NOTICE", "README.md", "bad_records.txt", "data_card.json", "data_card.svg"]
    assert sorted(contents[0]) == [*lists, "test.jsonl", "train.jsonl", "validation.jsonl"]
    assert str(tmp_path).encode() not in b"".join(contents[0].values())


def test_without_a_licence_it_trains_and_is_not_publishable(tmp_path: Path) -> None:
    open_source = write_lines(tmp_path / "open.jsonl", chats(0, 30)) + "?licence=cc-by-4.0"
    assert prepared(tmp_path, open_source).summary["publishable"] is True
    unlicensed = write_lines(tmp_path / "mine.jsonl", chats(50, 80))
    assert prepared(tmp_path, open_source, unlicensed).summary["publishable"] is False
    first, second = card(tmp_path)["sources"]
    assert (first["licence"], first["publishable"]) == ("CC-BY-4.0", True)
    assert (second["licence"], second["publishable"]) == ("NOASSERTION", False)
    assert {record["licence"] for record in records(tmp_path, "train")} == {"CC-BY-4.0", "NOASSERTION"}


def test_one_line_of_a_closed_licence_closes_its_source(tmp_path: Path) -> None:
    lines = [*chats(0, 30), *chats(30, 31, licence="CC-BY-NC-4.0")]
    source = write_lines(tmp_path / "c.jsonl", lines) + "?licence=MIT"
    assert prepared(tmp_path, source).summary["publishable"] is True
    assert card(tmp_path)["sources"][0]["counts"]["dropped"] == {"CC-BY-NC-4.0 is not allowed": 1}
    assert prepared(tmp_path, source, allow_licence=("CC-BY-NC-4.0",)).summary["publishable"] is False
    assert card(tmp_path)["sources"][0]["licence"] == "CC-BY-NC-4.0 AND MIT"


def test_notice_names_every_source_with_attribution_and_licence(tmp_path: Path) -> None:
    prepared(tmp_path, "tiny", write_lines(tmp_path / "mine.jsonl", chats(0, 3)))
    assert (tmp_path / "data" / "NOTICE").read_text() == (
        "This data was prepared by medllama from the sources below. Each keeps its own licence.\n"
        "\n"
        "tiny\n"
        "  Attribution: facts and wordings written and checked for medllama by its contributors\n"
        "  Licence: MIT (https://spdx.org/licenses/MIT.html)\n"
        f"  Records: {card(tmp_path)['sources'][0]['counts']['kept']:,}\n"
        f"  Changes: {CHANGES}\n"
        "\n"
        "jsonl:mine.jsonl\n"
        "  Attribution: supplied by the person who ran medllama\n"
        "  Licence: NOASSERTION\n"
        "  Records: 3\n"
        f"  Changes: {CHANGES}\n"
        "  Not for publication: its licence does not clearly allow it.\n"
    )


def test_notice_counts_documents_of_each_licence_and_says_what_a_name_without_version_means(tmp_path: Path) -> None:
    lines = [*chats(0, 1, licence="LicenseRef-CC-BY"), *chats(1, 3, licence="CC0-1.0")]
    prepared(tmp_path, write_lines(tmp_path / "c.jsonl", lines))
    notice = (tmp_path / "data" / "NOTICE").read_text()
    assert "    CC0-1.0 (https://spdx.org/licenses/CC0-1.0.html): 2 documents\n" in notice
    assert "    LicenseRef-CC-BY (Creative Commons, of a version" in notice
    assert "has no name in SPDX): 1 document\n" in notice


def test_few_bad_lines_are_named_and_many_stop_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_lines(tmp_path / "c.jsonl", [*chats(0, 95), *["bad"] * 5])
    prepared(tmp_path, source)
    shown = capsys.readouterr().err
    assert "warning: jsonl:c.jsonl: 5 of 100 are bad and left out:\n" in shown
    assert f"  {tmp_path}/c.jsonl:96: not JSON (column 1: Expecting value)\n" in shown
    assert card(tmp_path)["sources"][0]["problems"][0] == "c.jsonl:96: not JSON (column 1: Expecting value)"
    before = (tmp_path / "data" / "data_card.json").read_bytes()
    write_lines(tmp_path / "c.jsonl", [*chats(0, 94), *["bad"] * 6])
    with pytest.raises(InputError) as caught:
        prepared(tmp_path, source)
    assert caught.value.message.startswith(
        f"{tmp_path}/c.jsonl: 6 of 100 are bad, more than 5%:\n  {tmp_path}/c.jsonl:95: "
    )
    assert caught.value.message.endswith("\n  and 1 more")
    assert (tmp_path / "data" / "data_card.json").read_bytes() == before


def test_a_stray_file_among_medquad_s_is_named_and_a_folder_of_other_xml_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "MedQuAD"
    folder.mkdir()
    (folder / "1.xml").write_text("<Document><QAPair><Question>q</Question><Answer>a</Answer></QAPair></Document>")
    (folder / "2.xml").write_text("<article/>")
    prepared(tmp_path, f"medquad:{folder}")
    assert f"{folder}/2.xml: not MedQuAD (root <article> holds no QAPairs)" in capsys.readouterr().err
    assert card(tmp_path)["sources"][0]["counts"] == {"read": 2, "kept": 1, "dropped": {"not MedQuAD": 1}}
    (folder / "1.xml").unlink()
    with pytest.raises(InputError, match=r"1 of 1 are bad, more than 50%:\n.*root <article> holds no QAPairs"):
        prepared(tmp_path, f"medquad:{folder}")


def test_a_handful_of_documents_trains_and_says_what_is_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(20):  # whichever split the hash gives the only document
        prepared(
            tmp_path, write_lines(tmp_path / "c.jsonl", chats(number, number + 1)), test_share=0.4, validation_share=0.4
        )
        assert [len(records(tmp_path, split)) for split in SPLITS] == [1, 0, 0]
    shown = capsys.readouterr().err
    assert (
        "warning: no test records: a share of 0.4 of 1 document(s) came to none; give more, or raise --test-share"
        in shown
    )
    prepared(tmp_path, write_lines(tmp_path / "c.jsonl", chats(0, 1)), test_share=0, validation_share=0)
    assert capsys.readouterr().err == ""


def test_nothing_to_train_on_is_an_error_with_counts(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    folder = tmp_path / "MedQuAD"
    folder.mkdir()
    (folder / "1.xml").write_text("<Document><QAPair><Question>q</Question><Answer/></QAPair></Document>")
    with pytest.raises(InputError) as caught:
        prepared(tmp_path, f"jsonl:{tmp_path}/empty.jsonl", f"medquad:{folder}")
    assert caught.value.message == (
        "no record is left to train on\n  jsonl:empty.jsonl: 0 read\n  medquad:MedQuAD: 1 read, 1 empty answer"
    )
    assert not (tmp_path / "data").exists()


def test_the_output_folder_is_replaced_only_where_it_is_prepare_s_own(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    source = write_lines(tmp_path / "data" / "train.jsonl", chats(0, 30))
    with pytest.raises(InputError, match=r"train\.jsonl lies in .*data, which would be replaced"):
        prepared(tmp_path, source)
    (tmp_path / "data" / "thesis.tex").touch()
    source = write_lines(tmp_path / "c.jsonl", chats(0, 30))
    with pytest.raises(InputError, match=r"holds 'thesis\.tex', which prepare did not make"):
        prepared(tmp_path, source)
    (tmp_path / "data" / "thesis.tex").unlink()
    prepared(tmp_path, source)
    prepared(tmp_path, source)


def test_the_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert main(["prepare", "--source", "medqad:x", "--output-dir", out]) == 2
    assert "did you mean medquad?" in capsys.readouterr().err
    assert main(["prepare", "--source", f"jsonl:{tmp_path}/none.jsonl", "--output-dir", out]) == 1
    assert f"error: {tmp_path}/none.jsonl does not exist\nhint: " in capsys.readouterr().err
    assert main(["prepare", "--source", write_lines(tmp_path / "c.jsonl", chats(0, 9)), "--output-dir", out]) == 0
    assert capsys.readouterr().out == f"{out}\n"


def test_datasets_loads_the_files_as_they_are(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    (tmp_path / "notes.txt").write_text("Text for pretraining.")
    prepared(tmp_path, write_lines(tmp_path / "c.jsonl", chats(0, 60)), f"text:{tmp_path}/notes.txt")
    files = {split: str(tmp_path / "data" / f"{split}.jsonl") for split in SPLITS}
    loaded = datasets.load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"))
    for split in SPLITS:
        assert [row["sha256"] for row in loaded[split]] == [record["sha256"] for record in records(tmp_path, split)]
