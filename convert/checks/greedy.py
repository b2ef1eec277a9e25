"""Check 8: greedy text. The GGUF, fed token by token as a chat feeds it, writes what the Hugging Face model would write.

llama.cpp writes; the Hugging Face model reads each text once, and at every token says which one it would have chosen. Where its two
best are closer than twice the largest logit difference that was measured, either is right; there the texts may part, and the rest
of that text is not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from convert.certificate import Check, failed
from convert.checks.hugging_face import Run
from medllama.llamacpp import Context, Model

OPENINGS, OPENING_TOKENS, NEW_TOKENS = 8, 16, 24
SAMPLE_OPENINGS, SAMPLE_NEW_TOKENS = 4, 8
REASON = "the same weights and the same tokens give the same text, but where two tokens are as good as equal"


def check_greedy(
    model: Model,
    openings: list[list[int]],
    new_tokens: int,
    truth: Callable[[Sequence[Sequence[int]]], Run],
    largest_difference: float,
) -> Check:
    """`truth` computes the Hugging Face logits of ids; `largest_difference` of two logits comes from check 6."""
    room = 2 * largest_difference
    with Context(model, context_tokens=max(map(len, openings)) + new_tokens) as context:
        texts = [write(context, opening, new_tokens) for opening in openings]
    run = truth([opening + text for opening, text in zip(openings, texts, strict=True)])
    equal = parted = 0
    for number, (opening, text) in enumerate(zip(openings, texts, strict=True)):
        rows = run.of(opening + text)[len(opening) - 1 : -1]
        right = rows.argmax(axis=1)
        position = next((place for place, token in enumerate(text) if token != right[place]), len(text))
        equal += position
        if position == len(text):
            continue
        margin = float(rows[position][right[position]] - rows[position][text[position]])
        if margin > room:
            return failed(
                "greedy", "the texts part where the Hugging Face model is sure", figure=f"margin {margin:.3g}",
                bound=f"{room:.3g}", reason=REASON,
                where=f"text {number}, token {position}: {text[position]} where {right[position]} is right",
            )  # fmt: skip
        parted += 1
    figure = f"{equal} tokens equal, {parted} of {len(openings)} texts part in a near tie"
    return Check("greedy", "pass", figure, f"part only at margins under {room:.3g}", REASON)


def write(context: Context, opening: list[int], new_tokens: int) -> list[int]:
    """llama.cpp's most likely text after an opening: the opening in one batch, then a token at a time, to an end token or
    `new_tokens`."""
    context.clear()
    feed, start = opening, 0
    text: list[int] = []
    while len(text) < new_tokens and not (text and context.model.is_end(text[-1])):
        *_, logits = context.decode(feed, start=start, every=False)
        start, feed = start + len(feed), [int(logits[-1].argmax())]
        text += feed
    return text
