"""Log-likelihoods are those of a plain decode of one conversation at a time, and of Transformers, whatever shares a batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval import scoring
from eval.evaluate import encode
from eval.scoring import Answers, answer_ending, decoded_tokens, grouped, is_text, score, tree
from eval.tasks import Passage, Task, read_task
from medllama.chat import IGNORED_LABEL, Chat, Labelled
from medllama.gguf_metadata import read_gguf_metadata
from medllama.llamacpp import Context, LlamaCppError, Model
from tests.adapters import load_base

# float32 sums in another order, over logits of about 10; a label that is off by one moves a log-likelihood by about 1.
TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def chat(ggufs: dict[str, Path]) -> Chat:
    found = read_gguf_metadata(ggufs["baseline"]).chat
    assert found is not None
    return found


@pytest.fixture(scope="module")
def model(ggufs: dict[str, Path]) -> Iterator[Model]:
    with Model(ggufs["baseline"], threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def prompts(chat: Chat, data: Path) -> list[Answers]:
    tasks = [read_task(data / name) for name in ("multiple_choice.jsonl", "test.jsonl")]
    return [encode(record, chat, task) for task in tasks for record in task.records]


@pytest.fixture(scope="module")
def plain(model: Model, prompts: list[Answers]) -> list[list[np.ndarray]]:
    """One prompt with one answer at a time, all logits, log_softmax in float64."""
    with Context(model, context_tokens=512) as context:
        return [[of_logits(context.logits(answer.input_ids), answer) for answer in answers] for answers in prompts]


def of_logits(logits: np.ndarray, answer: Labelled) -> np.ndarray:
    rows = torch.log_softmax(torch.from_numpy(logits).double(), dim=-1)
    wanted = [place for place, label in enumerate(answer.labels) if label != IGNORED_LABEL]
    return np.array([float(rows[place - 1, answer.labels[place]]) for place in wanted])


def largest_gap(ours: list[list[np.ndarray]], theirs: list[list[np.ndarray]]) -> float:
    pairs = [(a, b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True)]
    assert all(a.shape == b.shape for a, b in pairs)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def test_a_shared_prefix_gives_what_one_prompt_per_option_gives(
    model: Model, prompts: list[Answers], plain: list[list[np.ndarray]]
) -> None:
    assert len(list(grouped(prompts))) > 1
    assert max(map(len, grouped(prompts))) > 1
    assert largest_gap(score(model, prompts, "test"), plain) < TOLERANCE


def test_they_are_transformers_log_likelihoods(
    base: Path, prompts: list[Answers], plain: list[list[np.ndarray]]
) -> None:
    reference = load_base(base)
    with torch.inference_mode():
        theirs = [
            [of_logits(reference(torch.tensor([it.input_ids])).logits[0].numpy(), it) for it in answers]
            for answers in prompts
        ]
    assert largest_gap(plain, theirs) < 1e-3  # two programs, float32 each


def test_every_token_of_a_prompt_is_decoded_once(prompts: list[Answers]) -> None:
    tokens, asked = tree(prompts[:1])
    assert len({(token.position, sequence) for token in tokens for sequence in token.sequences}) == sum(
        len(token.sequences) for token in tokens
    )
    assert len(tokens) == decoded_tokens(prompts[0]) < sum(len(answer.input_ids) for answer in prompts[0]) / 1.5
    assert sum(map(len, asked)) == sum(label != IGNORED_LABEL for answer in prompts[0] for label in answer.labels)


def test_a_prompt_longer_than_a_batch_is_scored_alone_and_alike(model: Model, chat: Chat) -> None:
    long = "gout " * (600 if chat.tokenizer.vocabulary.model == "llama" else 200)
    messages = ({"role": "user", "content": long}, {"role": "assistant", "content": "Yes."})
    prompt = encode(Passage("", "", "", messages, ""), chat, Task("", Path(), "", ()))
    assert decoded_tokens(prompt) > scoring.BATCH_TOKENS
    assert list(grouped([prompt, prompt])) == [[0], [1]]
    with Context(model, context_tokens=1024) as context:
        alone = [[of_logits(context.logits(prompt[0].input_ids), prompt[0])]]
    assert largest_gap(score(model, [prompt], "test"), alone) < TOLERANCE


def test_other_neighbors_do_not_change_a_prompt(model: Model, prompts: list[Answers]) -> None:
    backwards = [answers[::-1] for answers in prompts[::-1]]
    turned = [answers[::-1] for answers in score(model, backwards, "test")[::-1]]
    assert largest_gap(score(model, prompts, "test"), turned) < TOLERANCE


def test_the_same_batches_give_the_same_bits(model: Model, prompts: list[Answers]) -> None:
    assert largest_gap(score(model, prompts, "test"), score(model, prompts, "test")) == 0


@pytest.mark.parametrize("fault", ["labels by one", "prompt counted", "cache kept", "one sequence for all"])
def test_a_planted_fault_is_seen(
    fault: str, model: Model, prompts: list[Answers], plain: list[list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = prompts
    if fault == "labels by one":
        given = [[Labelled(it.input_ids, [*it.labels[1:], IGNORED_LABEL]) for it in answers] for answers in prompts]
    elif fault == "prompt counted":
        given = [[Labelled(it.input_ids, [IGNORED_LABEL, *it.input_ids[1:]]) for it in answers] for answers in prompts]
    elif fault == "cache kept":
        monkeypatch.setattr(Context, "clear", lambda context: None)
    else:
        monkeypatch.setattr(scoring, "tree", lambda prompts: _in_one_sequence(*tree(prompts)))
    try:
        gap = largest_gap(score(model, given, "test"), plain)
    except (LlamaCppError, AssertionError):
        return
    assert gap > 100 * TOLERANCE


def _in_one_sequence(tokens: list[Any], asked: Any) -> Any:
    return [token._replace(sequences=(0,)) for token in tokens], asked


def test_the_ending_of_an_answer_is_the_templates(chat: Chat) -> None:
    ending = answer_ending(chat)
    assert chat.tokenizer.decode(ending, show_control=True).strip() in ("</s>", "<|eot_id|>")
    said = [{"role": "user", "content": "Gout?"}, {"role": "assistant", "content": "Of the joints."}] * 2
    labelled = chat.encode_for_training(said)
    labels = [label for label in labelled.labels if label != IGNORED_LABEL]
    text = [label for label, mark in zip(labels, is_text(labelled, ending), strict=True) if mark]
    assert chat.tokenizer.decode(text, show_control=True).replace(" ", "") == "Ofthejoints." * 2
