"""Check 8: greedy text. The GGUF, fed token by token as a chat feeds it, continues as the Hugging Face model does.

Where the two best tokens of the Hugging Face model are closer than twice the largest logit difference that was measured, either is
right; there the texts may part, and the rest of that text is not compared.
"""

from __future__ import annotations

from collections.abc import Iterator

from convert.certificate import Check, failed
from convert.checks.hugging_face import Run
from medllama.llamacpp import Context, Model
from medllama.tokenizer import common_prefix

OPENINGS, OPENING_TOKENS, NEW_TOKENS = 8, 16, 24
SAMPLE_OPENINGS, SAMPLE_NEW_TOKENS = 4, 8
REASON = "the same weights and the same tokens give the same text, but where two tokens are as good as equal"


def check_greedy(model: Model, truth: Run, largest_difference: float) -> Check:
    """`largest_difference` of two logits comes from check 6."""
    room = 2 * largest_difference
    equal = parted = 0
    longest = max(map(len, truth.openings)) + max(map(len, truth.continuations))
    with Context(model, context_tokens=longest) as context:
        for number, found in enumerate(_continue(context, truth)):
            right, rows = truth.continuations[number], truth.choices[number]
            position = common_prefix(found, right)
            equal += position
            if position == len(right):
                continue
            margin = float(rows[position][right[position]] - rows[position][found[position]])
            if margin > room:
                return failed(
                    "greedy", "the texts part where the Hugging Face model is sure", figure=f"margin {margin:.3g}",
                    bound=f"{room:.3g}", reason=REASON,
                    where=f"text {number}, token {position}: {found[position]} where {right[position]} is right",
                )  # fmt: skip
            parted += 1
    figure = f"{equal} tokens equal, {parted} of {len(truth.openings)} texts part in a near tie"
    return Check("greedy", "pass", figure, f"part only at margins under {room:.3g}", REASON)


def _continue(context: Context, truth: Run) -> Iterator[list[int]]:
    """What llama.cpp chooses at each position of the true texts: the opening in one batch, then a token at a time."""
    for opening, right in zip(truth.openings, truth.continuations, strict=True):
        context.clear()
        feed, start, found = opening, 0, []
        for token in right:
            *_, logits = context.decode(feed, start=start, every=False)
            found.append(int(logits[-1].argmax()))
            start, feed = start + len(feed), [token]
        yield found
