"""A list of questions is read as people write them, and its table holds what each answer depends on."""

from __future__ import annotations

import json

import pytest

from app.batch import Answered, read_questions, records_of, table_of
from app.conversation import Answer, Sampling
from app.ratings import as_csv
from app.render import speakers
from medllama.errors import InputError


def test_a_question_a_line_or_an_object_a_line() -> None:
    assert read_questions(" What is gout?\n\n  What is asthma? \r\n") == ["What is gout?", "What is asthma?"]
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "What is asthma?"}]
    lines = [json.dumps({"question": "What is gout?", "id": 1}), "", json.dumps({"messages": messages})]
    assert read_questions("\n".join(lines)) == ["What is gout?", "What is asthma?"]


def test_what_is_no_line_break_in_a_file_is_none_here() -> None:
    odd = "one\u2028line\x85and\x0cno other"
    assert read_questions(f"{odd}\r\nWhat is gout?") == [odd, "What is gout?"]
    assert read_questions(json.dumps({"question": odd}, ensure_ascii=False)) == [odd]


def test_a_question_may_begin_with_a_bracket() -> None:
    assert read_questions("[A case] What is gout?") == ["[A case] What is gout?"]


def test_half_an_emoji_is_no_reason_to_fail() -> None:
    assert read_questions("What is gout \ud83d?") == ["What is gout ??"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("  \n", "there is no question"),
        ("a\n" * 501, "501 questions are too many"),
        ("a" * 400_001, "more than 400,000 characters"),
        ("a\n" + "b" * 4001, "line 2: 4,001 characters"),
        ('{"question": "a"}\nnot json', "line 2 is not JSON"),
        ('{"question": "a"}\n[1]', "line 2 has no question"),
        ('{"question": ' + "[" * 100_000, "line 1 is not JSON"),
        ('[{"question": "a"},\n {"question": "b"}]', "this is one JSON list, not JSONL"),
        ('{"question": 5}', "line 1 has no question"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "line 1 has no question"),
        (r'{"question": "half a character: \ud800"}', "line 1 has no question"),
        ('{"messages": [5]}', "line 1 has no question"),
    ],
)
def test_what_is_no_list_of_questions_is_named_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(InputError) as told:
        read_questions(text)
    assert problem in told.value.message


def test_the_table_has_every_answer_and_the_file_what_it_depends_on() -> None:
    answers = (
        Answer("<i>Joints.</i>", tokens=3, seconds=1.23456, stop="end"),
        Answer(stop="failed", error="It broke."),
    )
    done = [Answered("Gout?", answers), Answered("x" * 10, (), "too long.")]
    html = table_of(done, speakers(["base", "tuned"]))
    assert "&lt;i&gt;Joints.&lt;/i&gt;" in html
    assert "It broke." in html
    assert html.count("too long.") == 2
    records = records_of(done, ["base", "tuned"], Sampling(0.5, 0.9, 3, 20), "Be brief.")
    assert [(it["question"], it["model"], it["answer"], it["error"]) for it in records] == [
        ("Gout?", "base", "<i>Joints.</i>", ""), ("Gout?", "tuned", "", "It broke."),
        ("x" * 10, "base", "", "too long."), ("x" * 10, "tuned", "", "too long."),
    ]  # fmt: skip
    assert {key: records[0][key] for key in ("system", "temperature", "top_p", "seed", "max_tokens", "stop", "seconds")} == {
        "system": "Be brief.", "temperature": 0.5, "top_p": 0.9, "seed": 3, "max_tokens": 20, "stop": "end", "seconds": 1.2346,
    }  # fmt: skip
    assert as_csv(records).splitlines()[0].startswith("\ufeffquestion,model,answer")
