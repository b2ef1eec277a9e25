"""Sample answers: what the models say, word for word, to the same questions, beside the answer that was expected.

The questions are those that `examples` names (a recipe's own, in a run) and a few of the held-out conversations, drawn by
the seed and never picked by hand. They are for people to read: an answer is the expected one word for word, or it is for people
to judge.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.tasks import Passage
from medllama import progress
from medllama.chat import Chat
from medllama.llamacpp import Context, Model

PROTOCOL = (
    "Greedy: the likeliest token each time, from an empty cache, in the file's chat template, until the model ends its answer or "
    "max_tokens are reached. Held-out questions are the first of their conversations and are drawn by the seed. is_expected: the "
    "expected answer word for word, but for capitals and whitespace; another answer may be right too."
)


@dataclass(frozen=True)
class Sample:
    """A question: the messages up to the answer, the ids of their prompt, and what is said about where they come from."""

    messages: tuple[dict[str, str], ...]
    prompt: list[int]
    origin: dict[str, Any]


def draw(
    examples: Sequence[str], held_out: Mapping[str, Sequence[Passage]], chat: Chat, *, count: int, seed: int
) -> list[Sample]:
    """The examples, then `count` held-out conversations; `held_out` maps a task's name to what was measured of it."""
    samples = [
        _sample(({"role": "user", "content": text},), chat, {"origin": "example", "expected": None})
        for text in examples
    ]
    pool = [(task, passage) for task, passages in held_out.items() for passage in passages if passage.messages]
    for number in sorted(random.Random(seed).sample(range(len(pool)), min(count, len(pool)))):
        task, passage = pool[number]
        place = [message["role"] for message in passage.messages].index("assistant")
        origin = {"origin": task, "id": passage.record_id, "document_id": passage.document_id}
        expected = passage.messages[place]["content"]
        samples.append(_sample(passage.messages[:place], chat, origin | {"expected": expected}))
    return samples


def _sample(messages: tuple[dict[str, str], ...], chat: Chat, origin: dict[str, Any]) -> Sample:
    return Sample(messages, chat.encode(messages, add_generation_prompt=True), origin)


def answer(model: Model, samples: Sequence[Sample], max_tokens: int) -> list[dict[str, Any]]:
    """What the model says to each: the text without whitespace at its edges, its tokens, and whether it ended by itself."""
    if not samples:
        return []
    answers = []
    with Context(model, context_tokens=max(len(sample.prompt) for sample in samples) + max_tokens) as context:
        for number, sample in enumerate(samples):
            progress.update(f"answers of {model.path.name}", number, len(samples))
            said = context.greedy(sample.prompt, max_tokens + 1)  # one more than is kept shows whether it would go on
            kept = said[:max_tokens]
            text = model.detokenize(kept).strip()
            answers.append({"text": text, "tokens": len(kept), "ended": len(said) <= max_tokens})
    return answers


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
                **{role: its[number] | _compared(its[number], sample) for role, its in answers.items()},
            }
            for number, sample in enumerate(samples)
        ],
    }


def _compared(said: dict[str, Any], sample: Sample) -> dict[str, Any]:
    expected = sample.origin["expected"]
    return {"is_expected": None if expected is None else _words(said["text"]) == _words(expected)}


def _words(text: str) -> list[str]:
    return text.casefold().split()
