"""A list of questions, and the table of what every model answered: what the batch tab reads and writes."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.conversation import Answer, Sampling
from app.plots import table_html
from app.render import Speaker
from medllama.errors import InputError

MOST_QUESTIONS = 500
MOST_CHARACTERS = 400_000
MOST_OF_ONE = 4000


@dataclass(frozen=True)
class Answered:
    """A question of the list with every model's answer; `problem` says why there is none."""

    question: str
    answers: tuple[Answer, ...]
    problem: str = ""


def read_questions(text: str) -> list[str]:
    """A question a line; or JSONL, whose objects have a `question`, or `messages` that begin with the user's.

    Raises InputError with the line where something is wrong.
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"the list has more than {MOST_CHARACTERS:,} characters", hint="answer it in parts")
    whole = text.encode(errors="replace").decode()  # a browser may cut an emoji in half
    breaks = io.StringIO(whole, newline=None)  # `splitlines` would break at U+2028, too, which JSON may hold
    lines = [(number, line.strip()) for number, line in enumerate(breaks, start=1) if line.strip()]
    if not lines:
        raise InputError("there is no question", hint="write one a line, or open a file")
    if len(lines) > MOST_QUESTIONS:
        raise InputError(
            f"{len(lines):,} questions are too many", hint=f"at most {MOST_QUESTIONS} are answered at once"
        )
    if lines[0][1].startswith("[") and _is_json(whole):
        raise InputError(
            "this is one JSON list, not JSONL", hint="write one object a line, without the brackets around all"
        )
    is_jsonl = lines[0][1].startswith("{")
    questions = [_from_json(number, line) if is_jsonl else line for number, line in lines]
    for (number, _), question in zip(lines, questions, strict=True):
        if len(question) > MOST_OF_ONE:
            raise InputError(
                f"line {number}: {len(question):,} characters", hint=f"a question has at most {MOST_OF_ONE:,}"
            )
    return questions


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _from_json(number: int, line: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # thousands of brackets
        raise InputError(f"line {number} is not JSON: {error}", hint="one object a line") from None
    question = record.get("question") if isinstance(record, dict) else None
    if question is None and isinstance(record, dict) and isinstance(record.get("messages"), list):
        said = (it for it in record["messages"] if isinstance(it, dict) and it.get("role") == "user")
        question = next(said, {}).get("content")
    if not isinstance(question, str) or not question.strip() or any("\ud800" <= it <= "\udfff" for it in question):
        raise InputError(f"line {number} has no question", hint='{"question": "What is gout?"}')
    return question.strip()


def table_of(done: Sequence[Answered], voices: Sequence[Speaker]) -> str:
    """The table as people read it."""
    head = ["question", *(f"{voice.role} ({voice.file})" for voice in voices)]
    rows = [[it.question, *([it.problem] * len(voices) if it.problem else map(_cell, it.answers))] for it in done]
    return table_html(head, rows, caption="The answers")


def _cell(answer: Answer) -> str:
    return answer.error or answer.text or "(no text)"


def records_of(done: Sequence[Answered], names: Sequence[str], sampling: Sampling, system: str) -> list[dict[str, Any]]:
    """One record per question and model, with all that its answer depends on."""
    return [
        {
            "question": it.question, "model": name, "answer": answer.text, "stop": answer.stop, "tokens": answer.tokens,
            "seconds": round(answer.seconds, 4), "error": answer.error or it.problem, "system": system,
            "temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed,
            "max_tokens": sampling.max_tokens,
        }
        for it in done
        for name, answer in zip(names, it.answers or [Answer()] * len(names), strict=True)
    ]  # fmt: skip
