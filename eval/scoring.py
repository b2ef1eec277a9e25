"""The log-likelihood of every labelled token, for answers that share a prompt: the one way in which a model is asked.

A prompt with its answers is decoded as a tree: the tokens that the answers have in common belong to the sequences of all of
them and are computed once, the rest of each answer follows in its own sequence. Several prompts go into one batch. Which ones
do follows from the task file alone (its order and its lengths), so results repeat to the bit at the same number of threads.
A batch changes a quantized model's logits a little (medllama/llamacpp.py), so both models get the same batches.

Multi-sequence tokens in one batch are what llama.cpp's own HellaSwag score does (tools/perplexity/perplexity.cpp).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy
import numpy.typing

from medllama import progress
from medllama.chat import IGNORED_LABEL, Chat, Labelled
from medllama.errors import CheckFailed
from medllama.llamacpp import BatchToken, Context, Model
from medllama.tokenizer import common_prefix

FloatArray = numpy.typing.NDArray[numpy.float64]
Answers = Sequence[Labelled]  # whole conversations that differ in the answer alone
Target = tuple[int, int, int]  # prompt, answer, label
BATCH_TOKENS = 512
SEQUENCES = 64


def score(model: Model, prompts: Sequence[Answers], purpose: str) -> list[list[FloatArray]]:
    """For every prompt and each of its answers the log-likelihoods of the labelled tokens: (labels,) float64, nats."""
    groups = list(grouped(prompts))
    context_tokens = max(sum(decoded_tokens(prompts[number]) for number in group) for group in groups)
    scores: list[list[FloatArray]] = []
    with Context(
        model, context_tokens=context_tokens, batch_tokens=min(BATCH_TOKENS, context_tokens), sequences=SEQUENCES
    ) as context:
        for group in groups:
            progress.update(f"{purpose} on {model.path.name}", len(scores), len(prompts))
            scores += score_group(context, [prompts[number] for number in group])
    if not all(numpy.isfinite(values).all() for answers in scores for values in answers):
        raise CheckFailed(f"{model.path} computes logits that are no numbers", hint="medllama verify names the fault")
    return scores


def grouped(prompts: Sequence[Answers]) -> Iterator[list[int]]:
    """The positions of the prompts that share a batch: in order, as many as fit. One that is longer stands alone."""
    group: list[int] = []
    tokens = sequences = 0
    for number, answers in enumerate(prompts):
        size = decoded_tokens(answers)
        if group and (tokens + size > BATCH_TOKENS or sequences + len(answers) > SEQUENCES):
            yield group
            group, tokens, sequences = [], 0, 0
        group.append(number)
        tokens, sequences = tokens + size, sequences + len(answers)
    if group:
        yield group


def score_group(context: Context, prompts: Sequence[Answers]) -> list[list[FloatArray]]:
    """The log-likelihoods of one batch's prompts, from an empty cache."""
    tokens, asked = tree(prompts)
    scores: list[list[list[float]]] = [[[] for _ in answers] for answers in prompts]
    context.clear()
    remaining = iter(asked)
    for rows in context.decode_batch(tokens):
        for row, targets in zip(rows, remaining, strict=False):
            normalizer = log_sum_exp(row)
            for prompt, answer, label in targets:
                scores[prompt][answer].append(float(row[label]) - normalizer)
    return [[numpy.array(values) for values in answers] for answers in scores]


def tree(prompts: Sequence[Answers]) -> tuple[list[BatchToken], list[list[Target]]]:
    """The tokens to decode, and for each that wants logits the targets that it predicts."""
    tokens: list[BatchToken] = []
    asked: list[list[Target]] = []
    first = 0
    for prompt, answers in enumerate(prompts):
        shared = shared_tokens(answers)
        sequences = tuple(range(first, first + len(answers)))
        branches = [(range(shared), range(len(answers)))]
        branches += [
            (range(shared, _decoded_length(answer)), range(number, number + 1)) for number, answer in enumerate(answers)
        ]
        for positions, numbers in branches:
            for position in positions:
                labels = [(prompt, number, answers[number].labels[position + 1]) for number in numbers]
                wanted = [it for it in labels if it[2] != IGNORED_LABEL]
                places = tuple(sequences[number] for number in numbers)
                tokens.append(BatchToken(answers[numbers[0]].input_ids[position], position, places, bool(wanted)))
                if wanted:
                    asked.append(wanted)
        first += len(answers)
    return tokens, asked


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
