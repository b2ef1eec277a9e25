"""A person's own JSONL: every shape is understood, and every other line is named with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from finetune.data.records import Dropped, Record
from finetune.sources import parse
from finetune.sources.jsonl import SOURCE, read
from medllama.errors import InputError

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def outcomes(folder: Path, *lines: object, query: str = "") -> list[Record | Dropped]:
    """What is read from a file with these lines: text and bytes as they are, other values as JSON."""
    file = folder / "chats.jsonl"
    raw = [
        line if isinstance(line, bytes) else line.encode() if isinstance(line, str) else json.dumps(line).encode()
        for line in lines
    ]
    file.write_bytes(b"\n".join(raw))
    return list(read(parse(f"jsonl:{file}{query}")))


def only_record(folder: Path, line: object, query: str = "") -> Record:
    [record] = outcomes(folder, line, query=query)
    assert isinstance(record, Record), record
    return record


@pytest.mark.parametrize(
    "line",
    [
        {"messages": TURNS},
        {"messages": [{"role": "user", "content": " q\n"}, {"role": "assistant", "content": "\ta ", "weight": 1}]},
        {"prompt": "q", "response": "a", "category": "any"},
        {"instruction": "q", "input": "", "output": "a", "text": "### Instruction: q ### Response: a"},
        {"question": "q", "answer": "a"},
        "\ufeff" + json.dumps({"prompt": "q", "response": "a"}) + "\r",
    ],
)
def test_every_shape_is_the_same_conversation(tmp_path: Path, line: object) -> None:
    assert only_record(tmp_path, line).content == {"messages": TURNS}


def test_instruction_with_input_text_and_system(tmp_path: Path) -> None:
    record = only_record(
        tmp_path, {"instruction": "Sum up.", "input": "Long.", "output": "Short.", "system": "Be brief."}
    )
    assert [(turn["role"], turn["content"]) for turn in record.content["messages"]] == [
        ("system", "Be brief."),
        ("user", "Sum up.\n\nLong."),
        ("assistant", "Short."),
    ]
    assert only_record(tmp_path, {"text": " running text "}).content == {"text": "running text"}


def test_provenance_comes_from_the_line_else_from_the_request(tmp_path: Path) -> None:
    own = only_record(
        tmp_path,
        {"prompt": "q", "response": "a", "source": "s", "document_id": 7, "licence": "mit"},
        "?licence=CC0-1.0",
    )
    assert (own.source, own.document_id, own.licence) == ("s", "7", "MIT")
    given = only_record(tmp_path, {"prompt": "q", "response": "a"}, "?licence=cc0-1.0")
    assert (given.source, given.licence) == ("chats", "CC0-1.0")
    assert only_record(tmp_path, {"prompt": "q", "response": "a"}).licence == "NOASSERTION"


def test_what_prepare_wrote_is_read_as_the_same_record(tmp_path: Path) -> None:
    record = only_record(tmp_path, {"prompt": "q é", "response": "a", "source": "s", "document_id": "d"})
    assert only_record(tmp_path, record.as_line()) == record


def test_answers_to_one_question_are_one_document(tmp_path: Path) -> None:
    first, second, other = outcomes(
        tmp_path,
        {"prompt": "q", "response": "a"},
        {"prompt": "q ", "response": "b", "system": "s"},
        {"prompt": "r", "response": "a"},
    )
    assert isinstance(first, Record) and isinstance(second, Record) and isinstance(other, Record)  # noqa: PT018
    assert first.document_id == second.document_id != other.document_id


def turns(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "x"} for role in roles]}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"prompt": ' + "9" * 5000 + "}", "not JSON"),
        ("[1]", "not an object"),
        ("{}", "unknown shape"),
        ({"prompt": "q", "answer": "a"}, "unknown shape"),
        ({"prompt": "q", "response": "a", "messages": TURNS}, "two shapes in one line"),
        ({"question": "q", "options": ["x", "y"], "answer": "x"}, "multiple choice"),
        ({"prompt": "q", "response": ""}, "empty answer"),
        ({"prompt": "q", "response": " \n"}, "empty answer"),
        ({"prompt": "", "response": "a"}, "empty user message"),
        ({"prompt": "q", "response": None}, "content is not text"),
        ({"text": 5}, "text is not text"),
        ({"messages": "q"}, "messages is not a list"),
        ({"messages": []}, "no messages"),
        ({"messages": ["q"]}, "a message without role and content"),
        ({"messages": [{"role": "user"}]}, "a message without role and content"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "unknown role"),
        (turns("human", "gpt"), "unknown role"),
        (turns("system"), "no assistant turn"),
        (turns("user"), "no assistant turn"),
        (turns("user", "assistant", "user"), "last turn is not the assistant's"),
        (turns("assistant"), "turns do not alternate"),
        (turns("user", "user", "assistant"), "turns do not alternate"),
        (turns("user", "assistant", "assistant"), "turns do not alternate"),
        (turns("user", "system", "user", "assistant"), "turns do not alternate"),
        ({"messages": TURNS, "licence": "free"}, "malformed licence"),
        ({"messages": TURNS, "source": ["s"]}, "source is not text"),
        ({"messages": TURNS, "document_id": "\ud800"}, "lone surrogate"),
        ('{"prompt": "q", "response": "\\ud800"}', "lone surrogate"),
        ('{"prompt": "q\\u0000", "response": "a"}', "NUL character"),
    ],
)
def test_a_bad_line_is_named_and_the_next_is_read(tmp_path: Path, line: object, reason: str) -> None:
    bad, good = outcomes(tmp_path, "", line, "  ", {"prompt": "q", "response": "a"}, "")
    assert isinstance(bad, Dropped)
    assert (bad.reason, bad.place, bad.is_bad) == (reason, f"{tmp_path}/chats.jsonl:2", True)
    assert str(bad).isprintable()
    assert isinstance(good, Record)


def test_an_escaped_surrogate_pair_is_one_character(tmp_path: Path) -> None:
    record = only_record(tmp_path, '{"prompt": "\\ud83e\\ude7a", "response": "a"}')
    assert record.content["messages"][0]["content"] == "\U0001fa7a"


@pytest.mark.parametrize(
    ("encoding", "said"), [("latin-1", "chats.jsonl:1 is not UTF-8: byte 0xe9"), ("utf-16", "chats.jsonl is UTF-16")]
)
def test_another_encoding_is_refused_by_its_line_or_its_name(tmp_path: Path, encoding: str, said: str) -> None:
    line = json.dumps({"prompt": "Ménière", "response": "a"}, ensure_ascii=False)
    with pytest.raises(InputError, match=said) as caught:
        outcomes(tmp_path, line.encode(encoding))
    assert "iconv" in caught.value.hint


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl does not exist"):
        SOURCE.inputs(parse(f"jsonl:{tmp_path}/none.jsonl"))
    with pytest.raises(InputError, match="is a folder, not a file"):
        SOURCE.inputs(parse(f"jsonl:{tmp_path}"))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["user", "assistant"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["messages", "role", "content", "prompt", "response", "text", "system", "licence", "source"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=json_values)
def test_any_json_gives_a_record_that_can_be_written_or_a_reason(tmp_path: Path, value: object) -> None:
    [outcome] = outcomes(tmp_path, json.dumps(value))
    if isinstance(outcome, Record):
        assert json.loads(outcome.as_line().encode().decode())["sha256"] == outcome.sha256
    else:
        assert outcome.is_bad


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60))
@example(content=b"\x1f\x8b")
def test_any_bytes_give_outcomes_or_one_clear_error(tmp_path: Path, content: bytes) -> None:
    try:
        found = outcomes(tmp_path, content)
    except InputError as error:
        if "is not UTF-8" not in error.message and "and UTF-8 was expected" not in error.message:
            raise
        return
    assert all(isinstance(outcome, Record | Dropped) for outcome in found)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"question": 5}, "question or option is not text"),
        ({"options": {"A": 1, "B": 2}}, "question or option is not text"),
        ({"options": {"A": ["x"], "B": "y"}}, "question or option is not text"),
        ({"answer": ["A"]}, "answer is none of the options"),
        ({"answer": 1}, "answer is none of the options"),
        ({"options": {"1": "x", "2": "y"}, "answer": "1"}, "options are not lettered from A on"),
        ({"options": {"A": "x", "C": "y"}}, "options are not lettered from A on"),
    ],
)
def test_an_item_that_is_no_question_with_lettered_texts_is_bad_and_named(
    tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    item = {"question": "q", "options": {"A": "x", "B": "y"}, "answer": "A"}
    good, bad = outcomes(tmp_path, item, item | changed)
    assert isinstance(good, Record)
    assert isinstance(bad, Dropped)
    assert (bad.reason, bad.is_bad) == (reason, True)


def test_options_out_of_order_are_put_in_order(tmp_path: Path) -> None:
    record = only_record(tmp_path, {"question": "q", "options": {"B": "y", "A": "x"}, "answer": "B"})
    assert list(record.content["options"]) == ["A", "B"]
