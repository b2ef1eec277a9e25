"""Sample answers: what the models say, word for word, to the same questions, beside the answer that was expected.

The questions are those that `examples` names (a recipe's own, in a run), the domain's prompts (eval/domain_prompts.py) and
held-out conversations, drawn by the seed and never picked by hand. All answers to held-out ones are compared with the expected ones
(eval/references.py); the first few are kept in the results for people to read.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval import accuracy, generation, references
from eval.domain_prompts import PROMPTS
from eval.ledger import Ledger
from eval.prompts import ids_sha256
from eval.tasks import Passage
from medllama.chat import Chat
from medllama.llamacpp import Model

PROTOCOL = (
    "Greedy: the likeliest token each time, in the file's chat template, until the model ends its answer or max_tokens are reached; "
    "several answers are computed together. Held-out questions are the first of their conversations and are drawn by the seed. "
    "is_expected: the expected answer word for word and no more, but for capitals and whitespace; another may be right too."
)


@dataclass(frozen=True)
class Sample:
    """A question: the messages up to the answer, the ids of their prompt, and what is said about where they come from."""

    messages: tuple[dict[str, str], ...]
    prompt: list[int]
    origin: dict[str, Any]


def draw(
    examples: Sequence[str], held_out: Mapping[str, Sequence[Passage]], chat: Chat, *, count: int, seed: int,
    with_domain: bool = False,
) -> list[Sample]:  # fmt: skip
    """The examples, the domain's prompts, then `count` held-out conversations; `held_out` maps a task's name to what was measured of
    it."""
    asked = [(text, {"origin": "example"}) for text in examples]
    asked += [(text, {"origin": "domain", "kind": kind}) for kind, text in PROMPTS if with_domain]
    samples = [
        _sample(({"role": "user", "content": text},), chat, origin | {"expected": None}) for text, origin in asked
    ]
    pool = [
        (task, passage)
        for task, passages in held_out.items()
        for passage in passages
        if _begins_with_a_question(passage)
    ]
    for number in sorted(random.Random(seed).sample(range(len(pool)), min(count, len(pool)))):
        task, passage = pool[number]
        place = [message["role"] for message in passage.messages].index("assistant")
        origin = {"origin": task, "id": passage.record_id, "document_id": passage.document_id}
        expected = passage.messages[place]["content"]
        samples.append(_sample(passage.messages[:place], chat, origin | {"expected": expected}))
    return samples


def _begins_with_a_question(passage: Passage) -> bool:
    spoken = [message["role"] for message in passage.messages if message["role"] != "system"]
    return spoken[:1] == ["user"]


def _sample(messages: tuple[dict[str, str], ...], chat: Chat, origin: dict[str, Any]) -> Sample:
    return Sample(messages, chat.encode(messages, add_generation_prompt=True), origin)


def answer(
    model: Model, samples: Sequence[Sample], max_tokens: int, ledger: Ledger | None = None
) -> list[dict[str, Any]]:
    """What the model says to each: the text without whitespace at its edges, its tokens, whether it ended by itself, and whether
    that is the expected answer."""
    said = generation.answers(model, [sample.prompt for sample in samples], max_tokens, ledger)
    texts = [model.detokenize(it.tokens).strip() for it in said]
    return [
        {"text": text, "tokens": len(it.tokens), "ended": it.has_ended, "is_expected": _is_expected(text, it, sample)}
        for text, it, sample in zip(texts, said, samples, strict=True)
    ]


def _is_expected(text: str, said: generation.Said, sample: Sample) -> bool | None:
    """None where nothing is expected."""
    expected = sample.origin["expected"]
    return None if expected is None else said.has_ended and references.words(text) == references.words(expected)


def compare(samples: Sequence[Sample], answers: Mapping[str, list[dict[str, Any]]], seed: int) -> dict[str, Any] | None:
    """Every role's answers to the held-out questions against the expected ones; None where there are none."""
    held_out = [number for number, sample in enumerate(samples) if sample.origin["expected"] is not None]
    if not held_out:
        return None
    kept = {role: [its[number] for number in held_out] for role, its in answers.items()}
    right = {role: [said["is_expected"] for said in its] for role, its in kept.items()}
    documents = [samples[number].origin["document_id"] for number in held_out]
    exactly_right = accuracy.accuracies(right, documents, seed)
    # Where answers are long, none is the same word for word, which tells nothing.
    is_told = any(any(its) for its in right.values())
    expected = [samples[number].origin["expected"] for number in held_out]
    return {
        "protocol": references.PROTOCOL,
        "measured": len(held_out),
        "documents": len(set(documents)),
        "prompts_sha256": ids_sha256([samples[number].prompt for number in held_out]),
        "line": accuracy.line(exactly_right) if is_told else "",
        "exactly_right": exactly_right,
        "warnings": accuracy.too_small(exactly_right, len(held_out)) if is_told else [],
        **{role: references.measure(its, expected) for role, its in kept.items()},
    }


def summarize(
    samples: Sequence[Sample], answers: Mapping[str, list[dict[str, Any]]], *, max_tokens: int, too_long: int
) -> dict[str, Any]:
    """The samples' part of results.json; `answers` are each role's, in the order of the samples."""
    return {
        "protocol": PROTOCOL,
        "max_tokens": max_tokens,
        "too_long": too_long,
        "items": [
            {
                **sample.origin,
                "messages": list(sample.messages),
                **{role: its[number] for role, its in answers.items()},
            }
            for number, sample in enumerate(samples)
        ],
    }
