"""The log-likelihood of every labelled token, for answers that share a prompt: the one way in which a model is asked.

A prompt with its answers is decoded as a tree: the tokens that the answers have in common belong to the sequences of all of
them and are computed once, the rest of each answer follows in its own sequence. Answers of one token, such as letters, are
all read from the prompt's last position. What all prompts of a family begin with (examples, a header) is computed once for the
family and stays in the cache. Several prompts go into one batch. Which ones do follows from the task file alone (its order and
its lengths), so results repeat to the bit at the same number of threads. A batch changes a quantized model's logits a
little (medllama/llamacpp.py), so both models get the same batches.

Files are asked as people run them, in llama.cpp's default settings: a float16 cache and flash attention, which passes over the
cells of other prompts; unfused attention in float32 would look at all of them and take a third longer behind five examples.

Multi-sequence tokens in one batch are what llama.cpp's own HellaSwag score does (tools/perplexity/perplexity.cpp).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy
import numpy.typing

from eval.ledger import Ledger
from eval.prompts import Answers
from medllama import progress
from medllama.chat import IGNORED_LABEL, Chat, Labelled
from medllama.errors import CheckFailed
from medllama.llamacpp import BatchToken, Context, Model
from medllama.tokenizer import common_prefix

FloatArray = numpy.typing.NDArray[numpy.float64]
Target = tuple[int, int, int]  # prompt, answer, label
BATCH_TOKENS = 1024  # of prompts that are decoded together, beside what they share
STEP_TOKENS = 512  # of them that llama.cpp computes at a time
SEQUENCES = 64


@dataclass(frozen=True)
class Batch:
    """The prompts `members` (positions) of one family, which share their first `trunk` tokens."""

    members: range
    trunk: int


def score(
    model: Model,
    prompts: Sequence[Answers],
    purpose: str,
    families: Sequence[str] | None = None,
    ledger: Ledger | None = None,
    *,
    exact: bool = False,
) -> list[list[FloatArray]]:
    """For every prompt and each of its answers the log-likelihoods of the labelled tokens: (labels,) float64, nats.

    families: (prompts,) those next to each other with the same name share what they begin with; none: all are one family.
    exact: attention in float32, to compare with other programs.
    """
    batches = plan_batches(prompts, families)
    done = ledger.read() if ledger else []
    scores = [[numpy.array(values) for values in answers] for batch in done for answers in batch]
    room = max(
        batch.trunk + sum(decoded_tokens(prompts[it]) - batch.trunk for it in batch.members) for batch in batches
    )
    trunk: list[int] = []
    with Context(model, context_tokens=room, batch_tokens=STEP_TOKENS, sequences=SEQUENCES, exact=exact) as context:
        for batch in batches[len(done) :]:
            progress.update(f"{purpose} on {model.path.name}", len(scores), len(prompts))
            wanted = prompts[batch.members[0]][0].input_ids[: batch.trunk]
            if wanted != trunk:
                trunk = wanted
                context.clear()
                for _ in context.decode_batch([BatchToken(it, place, (0,), False) for place, it in enumerate(trunk)]):
                    pass
                context.share_prefix(SEQUENCES)
            found = score_batch(context, [prompts[number] for number in batch.members], batch.trunk)
            if not all(numpy.isfinite(values).all() for answers in found for values in answers):
                raise CheckFailed(
                    f"{model.path} computes logits that are no numbers", hint="medllama verify names the fault"
                )
            if ledger:
                ledger.append([[values.tolist() for values in answers] for answers in found])
            scores += found
    return scores


def plan_batches(prompts: Sequence[Answers], families: Sequence[str] | None = None) -> list[Batch]:
    """The prompts in batches: in order, of one family, as many as fit. One that is longer stands alone."""
    batches: list[Batch] = []
    runs = groupby(range(len(prompts)), key=lambda number: families[number] if families else "")
    for _, run in runs:
        members = list(run)
        trunk = trunk_tokens([prompts[number] for number in members])
        first, tokens, sequences = members[0], 0, 0
        for number in members:
            size, width = decoded_tokens(prompts[number]) - trunk, sequences_of(prompts[number])
            if number > first and (tokens + size > BATCH_TOKENS or sequences + width > SEQUENCES):
                batches.append(Batch(range(first, number), trunk))
                first, tokens, sequences = number, 0, 0
            tokens, sequences = tokens + size, sequences + width
        batches.append(Batch(range(first, members[-1] + 1), trunk))
    return batches


def trunk_tokens(prompts: Sequence[Answers]) -> int:
    """How many leading tokens all prompts share before any of them has to predict something; 0 for a single prompt."""
    if len(prompts) < 2:
        return 0
    first = prompts[0][0].input_ids
    return min(
        min(common_prefix(first, answer.input_ids), max(0, _first_label(answer) - 1))
        for answers in prompts
        for answer in answers
    )


def score_batch(context: Context, prompts: Sequence[Answers], trunk: int) -> list[list[FloatArray]]:
    """The log-likelihoods of one batch's prompts, behind the trunk that the cache holds."""
    tokens, asked = tree(prompts, trunk)
    scores: list[list[list[float]]] = [[[] for _ in answers] for answers in prompts]
    context.truncate_all(trunk)
    remaining = iter(asked)
    for rows in context.decode_batch(tokens):
        for row, targets in zip(rows, remaining, strict=False):
            normalizer = log_sum_exp(row)
            for prompt, answer, label in targets:
                scores[prompt][answer].append(float(row[label]) - normalizer)
    return [[numpy.array(values) for values in answers] for answers in scores]


def tree(prompts: Sequence[Answers], trunk: int = 0) -> tuple[list[BatchToken], list[list[Target]]]:
    """The tokens to decode behind the trunk, and for each that wants logits the targets that it predicts."""
    tokens: list[BatchToken] = []
    asked: list[list[Target]] = []
    first = 0
    for prompt, answers in enumerate(prompts):
        shared, width = shared_tokens(answers), sequences_of(answers)
        branches = [(range(trunk, shared), list(range(len(answers))), tuple(range(first, first + width)))]
        if width > 1:
            branches += [
                (range(shared, _decoded_length(answer)), [number], (first + number,))
                for number, answer in enumerate(answers)
            ]
        for positions, numbers, sequences in branches:
            for position in positions:
                labels = [(prompt, number, answers[number].labels[position + 1]) for number in numbers]
                wanted = [it for it in labels if it[2] != IGNORED_LABEL]
                token = answers[numbers[0]].input_ids[position]
                tokens.append(BatchToken(token, position, sequences, bool(wanted)))
                if wanted:
                    asked.append(wanted)
        first += width
    return tokens, asked


def sequences_of(answers: Answers) -> int:
    """How many sequences a prompt takes: one where all of its answers are read from shared positions."""
    shared = shared_tokens(answers)
    return 1 if all(_decoded_length(answer) == shared for answer in answers) else len(answers)


def decoded_tokens(answers: Answers) -> int:
    """How many tokens a prompt with its answers takes in a batch and in the cache."""
    shared = shared_tokens(answers)
    return shared + sum(_decoded_length(answer) - shared for answer in answers)


def longest(answers: Answers) -> int:
    """The length of the longest sequence, in tokens."""
    return max(len(answer.input_ids) for answer in answers)


def shared_tokens(answers: Answers) -> int:
    """How many leading tokens all answers have in common, of those that are decoded."""
    first = answers[0].input_ids
    return min(min(_decoded_length(answer), common_prefix(first, answer.input_ids)) for answer in answers)


def _first_label(answer: Labelled) -> int:
    return next(place for place, label in enumerate(answer.labels) if label != IGNORED_LABEL)


def _decoded_length(answer: Labelled) -> int:
    """The position of the last label: the token there is predicted, and predicts nothing itself."""
    return max((place for place, label in enumerate(answer.labels) if label != IGNORED_LABEL), default=0)


def log_sum_exp(row: numpy.typing.NDArray[numpy.float32]) -> float:
    """log(sum(exp(row))) of logits (vocab,) float32, summed in float64."""
    highest = row.max()
    return float(highest) + math.log(float(numpy.exp(row - highest).sum(dtype=numpy.float64)))


def answer_ending(chat: Chat) -> list[int]:
    """The ids by which the template ends an answer, whatever the answer is."""
    labels = [
        _labels(chat.encode_for_training([{"role": "user", "content": "a"}, {"role": "assistant", "content": said}]))
        for said in ("b", "c")
    ]
    return labels[0][len(labels[0]) - _common_suffix(*labels) :]


def is_text(labelled: Labelled, ending: Sequence[int]) -> numpy.typing.NDArray[numpy.bool_]:
    """Which labels are an answer's text rather than its ending: (labels,) bool.

    A stretch of labels is an answer; of its end, what agrees with the template's ending is no text. One token is always text.
    """
    marks: list[bool] = []
    for stretch in stretches(labelled.labels):
        ends = min(_common_suffix(stretch, ending), len(stretch) - 1)
        marks += [True] * (len(stretch) - ends) + [False] * ends
    return numpy.array(marks, dtype=bool)


def stretches(labels: Iterable[int]) -> list[list[int]]:
    """The runs of labels between those that are ignored."""
    found: list[list[int]] = [[]]
    for label in labels:
        if label != IGNORED_LABEL:
            found[-1].append(label)
        elif found[-1]:
            found.append([])
    return [stretch for stretch in found if stretch]


def _labels(labelled: Labelled) -> list[int]:
    return [label for label in labelled.labels if label != IGNORED_LABEL]


def _common_suffix(first: Sequence[int], second: Sequence[int]) -> int:
    return common_prefix(first[::-1], second[::-1])
