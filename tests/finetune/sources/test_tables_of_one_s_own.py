"""csv and hf: a person's own tables, with the columns that they are told."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from finetune.sources import parse
from finetune.sources.tables import json_table_rows, rows
from medllama.errors import InputError
from tests.finetune.sources.reading import outcomes, reasons, records, spoken, write_csv, write_jsonl


def test_a_csv_has_the_columns_that_jsonl_has(tmp_path: Path) -> None:
    table = [
        ["prompt", "response", "text", "document_id", "licence"],
        ["q", "a", "", "d", "mit"],
        ["", "", "running text", "", ""],
        ["", "a", "", "", ""],
    ]
    file = write_csv(tmp_path / "t.csv", table)
    assert reasons(f"csv:{file}") == ["kept", "kept", "empty user message"]
    first, second, _ = outcomes(f"csv:{file}?licence=CC0-1.0")
    assert (getattr(first, "document_id", ""), getattr(first, "licence", "")) == ("d", "MIT")
    assert (getattr(second, "content", {}), getattr(second, "licence", "")) == ({"text": "running text"}, "CC0-1.0")


def test_columns_of_other_names_are_given(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "t.csv", [["Frage", "Antwort", "text", "case"], ["q", "a", "not this", "7"]])
    [record] = records(f"csv:{file}?question=Frage&answer=Antwort&document_id=case")
    assert (spoken(record), record.document_id) == (("q", "a"), "7")
    [record] = records(f"csv:{file}?text=Frage")
    assert record.content == {"text": "q"}
    with pytest.raises(InputError, match=r"t\.csv:2 has no column 'Question'"):
        outcomes(f"csv:{file}?question=Question&answer=Antwort")


def test_tabs_quotes_and_line_breaks_in_cells(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text('\ufeffquestion\tanswer\n"q\n""two"""\ta, b\nq\n', encoding="utf-8")
    first, second = outcomes(f"csv:{tmp_path}/t.tsv")
    assert spoken(first) == ('q\n"two"', "a, b")  # type: ignore[arg-type]
    assert str(second) == f"{tmp_path}/t.tsv:4: another width (1 cells under 2 columns)"
    (tmp_path / "latin.csv").write_bytes("question,answer\nMénière,a\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.csv is not UTF-8"):
        outcomes(f"csv:{tmp_path}/latin.csv")
    (tmp_path / "twice.csv").write_text("question,question\n")
    with pytest.raises(InputError, match="names a column twice"):
        outcomes(f"csv:{tmp_path}/twice.csv")
    (tmp_path / "empty.csv").touch()
    assert outcomes(f"csv:{tmp_path}/empty.csv") == []


def test_what_follows_a_wrong_quotation_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        'question,answer\n"q1","a"\n"is "this" odd?","a"\n"q3","a"\n"q4","never closed\nq5,a\nq6,a\n'
    )
    found = list(map(str, outcomes(f"csv:{tmp_path}/t.csv")))
    assert [f"{tmp_path}/t.csv:{line}: not CSV" for line in (3, 5, 6, 7)] == [
        text.partition(" (")[0] for text in found if "not CSV" in text
    ]
    assert reasons(f"csv:{tmp_path}/t.csv").count("kept") == 2
    (tmp_path / "head.csv").write_text('"a"b,c\n1,2\n')
    with pytest.raises(InputError, match=r"head\.csv:1 is no header"):
        outcomes(f"csv:{tmp_path}/head.csv")


def test_a_json_list_that_breaks_off_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text('[{"a": 1}, {"a": 2')
    with pytest.raises(InputError, match=r"list\.json#2: not JSON, so nothing from here on"):
        list(rows(tmp_path / "list.json"))


def test_a_json_list_and_json_lines_are_told_apart(tmp_path: Path) -> None:
    for name, text in (("list.json", '\ufeff [{"a": 1.5}, {"a": 2}]'), ("lines.json", '{"a": 1.5}\n\n{"a": 2}\n')):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert [row[1] for row in rows(tmp_path / name) if isinstance(row, tuple)] == [{"a": 1.5}, {"a": 2}]


def test_a_folder_that_datasets_loads_is_streamed(tmp_path: Path) -> None:
    lines = [{"input": f"q{i}", "output": f"a{i}"} for i in range(5)]
    write_jsonl(tmp_path / "set" / "train.jsonl", lines)
    found = records(f"hf:{tmp_path}/set?question=input&answer=output&licence=MIT")
    assert [spoken(record) for record in found] == [(f"q{i}", f"a{i}") for i in range(5)]
    assert (found[0].licence, found[0].source) == ("MIT", "set")  # never the path of somebody's machine
    assert parse(f"hf:{tmp_path}/set").name == "hf:set"
    assert parse("hf:org/set@main").name == "hf:org/set@main"
    with pytest.raises(InputError, match="set: "):
        outcomes(f"hf:{tmp_path}/set?split=nowhere&question=input&answer=output")


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_one_file_is_a_data_set_too(tmp_path: Path, suffix: str) -> None:
    table = pyarrow.table({"input": ["q0", "q1"], "output": ["a0", "a1"]})
    if suffix == "parquet":
        pyarrow.parquet.write_table(table, tmp_path / "set.parquet")
    elif suffix == "csv":
        write_csv(tmp_path / "set.csv", [["input", "output"], ["q0", "a0"], ["q1", "a1"]])
    else:
        write_jsonl(tmp_path / "set.jsonl", table.to_pylist())
    found = records(f"hf:{tmp_path}/set.{suffix}?question=input&answer=output")
    assert [spoken(record) for record in found] == [("q0", "a0"), ("q1", "a1")]


def test_a_file_that_datasets_does_not_read_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "notes.docx").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"notes\.docx is no \.parquet"):
        outcomes(f"hf:{tmp_path}/notes.docx")


def test_a_line_that_breaks_off_is_named_with_its_column(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x"\r\n{"text": "y"}\r\n')
    [broken, _] = outcomes(f"jsonl:{tmp_path}/a.jsonl")
    assert str(broken).endswith("a.jsonl:1: not JSON (column 13: Expecting ',' delimiter)")


def test_a_data_set_that_cannot_be_had_is_an_error_for_people(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        outcomes("hf:nobody/no-such-data-set")  # the tests are offline
    assert "check its name" in caught.value.hint


@pytest.mark.parametrize(
    ("suffix", "separator"), [("csv", ";"), ("csv", "\t"), ("csv", "|"), ("tsv", ","), ("tsv", ";")]
)
def test_the_header_tells_what_stands_between_the_cells(tmp_path: Path, suffix: str, separator: str) -> None:
    table = "\ufeff" + "\n".join(separator.join(row) for row in (["question", "answer"], ["a", "a"], ["q", "a"]))
    (tmp_path / f"t.{suffix}").write_text(table, encoding="utf-8")
    assert [spoken(record) for record in records(f"csv:{tmp_path}/t.{suffix}")] == [("a", "a"), ("q", "a")]


def test_a_comma_in_a_header_of_one_column_is_no_reason_to_look_further(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("question,answer;note\nq,a\n")
    assert [spoken(record) for record in records(f"csv:{tmp_path}/t.csv?answer=answer;note&question=question")] == [
        ("q", "a")
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("question,answer".encode("utf-16"), "is UTF-16, and UTF-8 was expected"),
        (gzip.compress(b"question,answer", mtime=0), "is compressed, and UTF-8 was expected"),
        (b"PAR1\xff\xfe", "is Parquet, and UTF-8 was expected"),
        (b"question\xe9", "not UTF-8: byte 0xe9 at column"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "text"])
def test_a_file_of_another_format_is_told_by_its_name(tmp_path: Path, kind: str, content: bytes, said: str) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(InputError, match=said):
        outcomes(f"{kind}:{tmp_path}/t")


@pytest.mark.parametrize("content", ["[" * 3000, "[" + '{"a":' * 3000, "[" * 3000 + "]" * 3000])
def test_json_of_nothing_but_brackets_is_refused(tmp_path: Path, content: str) -> None:
    """The parser keeps the whole path to each: a hundred kilobytes of brackets would take all memory."""
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(InputError, match=r"list\.json#1: not JSON.* brackets in brackets"):
        list(rows(tmp_path / "list.json"))
    (tmp_path / "table.json").write_text('{"1": ' + content)
    with pytest.raises(InputError, match=r"table\.json#.*brackets in brackets"):
        list(json_table_rows(tmp_path / "table.json"))


def test_blank_lines_before_a_header_hide_nothing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\n\r\nquestion,answer\nq,a\nq2\n")
    assert reasons(f"csv:{tmp_path}/t.csv") == ["kept", "another width"]


def test_a_json_list_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text(' [{"QUESTION": "q"}]')
    with pytest.raises(InputError, match=r"table\.json is no JSON object"):
        list(json_table_rows(tmp_path / "table.json"))
