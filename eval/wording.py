"""How a multiple-choice question is put into words, and which answers are scored: one entry per wording, named by its source.

The benchmarks' wordings are those of lm-evaluation-harness 0.4.13, character for character, so that accuracies compare with
published ones. Its tasks for medqa and medmcqa state no version of their own; its mmlu and pubmedqa are version 1.0.
`plain` text ends in "Answer:" and the answer follows after a space; in a chat the same text is the user's message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from eval.tasks import Question, Task

ScoredBy = Literal["letter", "text"]
HARNESS = "lm-evaluation-harness 0.4.13"


@dataclass(frozen=True)
class Wording:
    """`ask` makes the text before the answer; `header` what stands once before all questions of a subject."""

    name: str
    scored_by: ScoredBy
    ask: Callable[[Question], str]
    header: Callable[[str], str] = lambda subject: ""

    def answers(self, question: Question) -> list[str]:
        """What is scored for each option."""
        return list(question.options if self.scored_by == "letter" else question.options.values())

    def answer(self, question: Question) -> str:
        """What stands behind an example."""
        return question.answer if self.scored_by == "letter" else question.options[question.answer]


def _options(question: Question) -> str:
    return "".join(f"{letter}. {text}\n" for letter, text in question.options.items())


def _context(question: Question) -> str:
    return f"{question.context}\n" if question.context else ""


def _letters(question: Question) -> str:
    return f"{_context(question)}Question: {question.question}\n{_options(question)}Answer:"


def _text(question: Question) -> str:
    return f"{_context(question)}Question: {question.question}\nAnswer:"


def _message(question: Question) -> str:
    return f"{_context(question)}{question.question}"


def _medmcqa(question: Question) -> str:
    return f"Question: {question.question}\nChoices:\n{_options(question)}Answer:"


def _pubmedqa(question: Question) -> str:
    return f"Abstract: {question.context}\nQuestion: {question.question}\nAnswer:"


def _mmlu(question: Question) -> str:
    return f"{question.question.strip()}\n{_options(question)}Answer:"


def _mmlu_header(subject: str) -> str:
    return f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"


WORDINGS = {
    "medqa": Wording(f"{HARNESS}, medqa_4options", "letter", _letters),
    "medqa5": Wording(f"medqa_4options of {HARNESS} with five options; it has no such task", "letter", _letters),
    "medmcqa": Wording(f"{HARNESS}, medmcqa", "letter", _medmcqa),
    "pubmedqa": Wording(f"{HARNESS}, pubmedqa version 1.0", "text", _pubmedqa),
    "mmlu-medical": Wording(f"{HARNESS}, mmlu version 1.0, its six medical subjects", "letter", _mmlu, _mmlu_header),
}
OWN = {
    "letter": Wording(f"medllama's own, in the words of {HARNESS}'s medqa_4options", "letter", _letters),
    "text": Wording("medllama's own: the question, then the option's text", "text", _text),
    "message": Wording("medllama's own: the question is the message, an option the whole answer", "text", _message),
}


def wording_of(task: Task, prompt: str, scored_by: str) -> tuple[Literal["plain", "chat"], Wording]:
    """The prompt's form and wording: what is asked for, or what the task is known by. A benchmark is asked in plain text, a file of
    records in the chat that the model was trained on."""
    is_plain = prompt == "plain" or (prompt == "auto" and task.benchmark != "")
    form: Literal["plain", "chat"] = "plain" if is_plain else "chat"
    known = WORDINGS.get(task.benchmark)
    if known is not None and scored_by in ("auto", known.scored_by):
        return form, known
    if scored_by == "letter":
        return form, OWN["letter"]
    return form, OWN["text" if is_plain else "message"]
