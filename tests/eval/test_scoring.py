"""Log-likelihoods are those of a plain decode of one conversation at a time, and of Transformers, whatever shares a batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval import scoring
from eval.ledger import Ledger
from eval.prompts import Answers, Encoder
from eval.scoring import answer_ending, decoded_tokens, is_text, plan_batches, score, tree, trunk_tokens
from eval.tasks import Passage, Task, read_task
from eval.wording import OWN
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
    return [encoder(task, chat).encode(record) for task in tasks for record in task.records]


def encoder(task: Task, chat: Chat) -> Encoder:
    return Encoder(task, OWN["message"], "chat", chat.tokenizer, chat)


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
    batches = plan_batches(prompts)
    assert [number for batch in batches for number in batch.members] == list(range(len(prompts)))
    assert 1 < len(batches) < len(prompts)
    assert largest_gap(score(model, prompts, "test", exact=True), plain) < TOLERANCE


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


def test_a_prompt_longer_than_a_batch_is_scored_alone_and_alike(
    model: Model, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "gout " * (600 if chat.tokenizer.vocabulary.model == "llama" else 200)
    messages = ({"role": "user", "content": long}, {"role": "assistant", "content": "Yes."})
    prompt = encoder(Task("", Path(), "", ()), chat).encode(Passage("", "", "", messages, ""))
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 128)
    assert decoded_tokens(prompt) > scoring.STEP_TOKENS
    assert len(plan_batches([prompt, [Labelled([1, *prompt[0].input_ids[1:]][::-1], prompt[0].labels)]])) == 2
    with Context(model, context_tokens=1024) as context:
        alone = [[of_logits(context.logits(prompt[0].input_ids), prompt[0])]]
    assert largest_gap(score(model, [prompt], "test", exact=True), alone) < TOLERANCE


def test_other_neighbors_do_not_change_a_prompt(model: Model, prompts: list[Answers]) -> None:
    backwards = [answers[::-1] for answers in prompts[::-1]]
    turned = [answers[::-1] for answers in score(model, backwards, "test", exact=True)[::-1]]
    assert largest_gap(score(model, prompts, "test", exact=True), turned) < TOLERANCE


def test_the_same_batches_give_the_same_bits(model: Model, prompts: list[Answers]) -> None:
    assert largest_gap(score(model, prompts, "test"), score(model, prompts, "test")) == 0


def test_the_settings_in_which_people_run_files_round_the_cache_and_nothing_else(
    model: Model, prompts: list[Answers], plain: list[list[np.ndarray]]
) -> None:
    """A float16 has 11 bits: log-likelihoods, of logits of about 10, move by some thousandths."""
    assert TOLERANCE < largest_gap(score(model, prompts, "test"), plain) < 0.02


def test_what_a_family_shares_is_computed_once_and_scored_alike(
    model: Model, prompts: list[Answers], plain: list[list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 128)
    questions = prompts[:12]
    trunk = trunk_tokens(questions)
    decoded = []
    original = Context.decode_batch
    monkeypatch.setattr(
        Context, "decode_batch", lambda context, tokens: decoded.append(len(tokens)) or original(context, tokens)
    )
    assert largest_gap(score(model, questions, "test", exact=True), plain[:12]) < TOLERANCE
    assert 1 < trunk == decoded[0]
    assert len(decoded) > 3
    assert sum(decoded) == trunk + sum(decoded_tokens(answers) - trunk for answers in questions)


def test_families_do_not_share_a_batch(model: Model, prompts: list[Answers], plain: list[list[np.ndarray]]) -> None:
    families = ["a"] * 5 + ["b"] * 7
    batches = plan_batches(prompts[:12], families)
    assert all(len({families[number] for number in batch.members}) == 1 for batch in batches)
    assert largest_gap(score(model, prompts[:12], "test", families, exact=True), plain[:12]) < TOLERANCE


def test_a_letter_is_read_from_the_prompts_last_position(chat: Chat) -> None:
    ids = chat.tokenizer.encode_text("Question: Gout?\nAnswer:")
    letters = [
        Labelled([*ids, letter], [IGNORED_LABEL] * len(ids) + [letter])
        for letter in (chat.tokenizer.encode_text(f" {name}")[-1] for name in "ABCD")
    ]
    tokens, asked = tree([letters])
    assert len(tokens) == len(ids)
    assert [len(targets) for targets in asked] == [4]
    assert {token.sequences for token in tokens} == {(0,)}


@pytest.mark.parametrize("cut", ["between batches", "inside a batch", "another model"])
def test_a_resumed_measurement_ends_with_the_same_bits(
    cut: str, model: Model, prompts: list[Answers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 128)
    path = tmp_path / "items.jsonl.partial"
    whole = score(model, prompts, "test", ledger=Ledger(path, {"model": 1}))
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + len(plan_batches(prompts))
    path.write_text("".join(lines[:4]) + (lines[4][:40] if cut == "inside a batch" else ""))
    computed = []
    original = scoring.score_batch
    monkeypatch.setattr(scoring, "score_batch", lambda *given: computed.append(1) or original(*given))
    ledger = Ledger(path, {"model": 2 if cut == "another model" else 1})
    assert largest_gap(score(model, prompts, "test", ledger=ledger), whole) == 0
    assert len(computed) == len(lines) - (1 if cut == "another model" else 4)
    assert path.read_text().splitlines()[1:] == "".join(lines).splitlines()[1:]


@pytest.mark.parametrize(
    "fault", ["labels by one", "prompt counted", "cache kept", "one sequence for all", "trunk of another"]
)
def test_a_planted_fault_is_seen(
    fault: str, model: Model, prompts: list[Answers], plain: list[list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = prompts
    if fault == "labels by one":
        given = [[Labelled(it.input_ids, [*it.labels[1:], IGNORED_LABEL]) for it in answers] for answers in prompts]
    elif fault == "prompt counted":
        given = [[Labelled(it.input_ids, [IGNORED_LABEL, *it.input_ids[1:]]) for it in answers] for answers in prompts]
    elif fault == "cache kept":
        monkeypatch.setattr(Context, "truncate_all", lambda context, length: None)
    elif fault == "trunk of another":
        monkeypatch.setattr(scoring, "trunk_tokens", lambda prompts: 6)
    else:
        monkeypatch.setattr(scoring, "tree", lambda prompts, trunk: _in_one_sequence(*tree(prompts, trunk)))
    try:
        gap = largest_gap(score(model, given, "test", exact=True), plain)
    except (LlamaCppError, AssertionError, IndexError):
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
