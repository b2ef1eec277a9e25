"""Answers in the model's own words, many at a time: greedy, until the model ends each by itself or a number of tokens is reached.

    said = answers(model, [[1, 518, ...], ...], max_tokens=128)

Prompts go together in the order in which they are given, so that a run repeats to the bit at the same number of threads, and one
that was cut off goes on with the next group. The settings are llama.cpp's defaults, with which people run the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field

from eval.ledger import Ledger
from medllama import progress
from medllama.llamacpp import BatchToken, Context, Model

TOGETHER = 48  # answers that are written at the same time, ...
CACHE_BYTES = 1e9  # ... or fewer, so that what the cache keeps of them stays under this
STEP_TOKENS = 512


@dataclass
class Said:
    """An answer's tokens without the one that ends it, and whether it was ended so."""

    tokens: list[int] = field(default_factory=list)
    has_ended: bool = False


def answers(
    model: Model, prompts: Sequence[Sequence[int]], max_tokens: int, ledger: Ledger | None = None
) -> list[Said]:
    """The answer to each prompt of token ids. One that would end after its last token counts as ended."""
    done = ledger.read() if ledger else []
    found = [Said(*said) for group in done for said in group]
    longest = max(map(len, prompts), default=0) + max_tokens + 1
    together = max(1, min(TOGETHER, int(CACHE_BYTES / (model.cache_bytes_per_token * longest))))
    groups = [prompts[start : start + together] for start in range(0, len(prompts), together)]
    room = max((sum(len(prompt) + max_tokens + 1 for prompt in group) for group in groups), default=0)
    if not room:
        return found
    step = min(STEP_TOKENS, room)
    with Context(model, context_tokens=room, batch_tokens=step, sequences=together, exact=False) as context:
        for group in groups[len(done) :]:
            progress.update(f"answers of {model.path.name}", len(found), len(prompts))
            said = _together(context, group, max_tokens)
            if ledger:
                ledger.append([astuple(it) for it in said])
            found += said
    return found


def _together(context: Context, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[Said]:
    """One group from an empty cache. An answer gets a token more than it keeps, which shows whether it would go on."""
    context.clear()
    said = [Said() for _ in prompts]
    places = [len(prompt) for prompt in prompts]
    at_work = list(range(len(prompts)))
    feed = [
        BatchToken(token, position, (number,), position == len(prompt) - 1)
        for number, prompt in enumerate(prompts)
        for position, token in enumerate(prompt)
    ]
    while at_work:
        rows = [row for batch in context.decode_batch(feed) for row in batch]
        going_on, feed = [], []
        for number, row in zip(at_work, rows, strict=True):
            token = int(row.argmax())
            if context.model.is_end(token):
                said[number].has_ended = True
            elif len(said[number].tokens) < max_tokens:
                said[number].tokens.append(token)
                feed.append(BatchToken(token, places[number], (number,), True))
                places[number] += 1
                going_on.append(number)
        at_work = going_on
    return said
