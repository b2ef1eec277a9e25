"""Sample answers are what the file says greedily; the questions are the seed's, and an end is told from a cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import torch
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import binomtest

from eval import generation, references
from eval.config import EvalConfig
from eval.domain_prompts import PROMPTS
from eval.evaluate import evaluate
from eval.ledger import Ledger
from eval.samples import Sample, answer, compare, draw
from eval.tasks import Passage
from medllama.chat import Chat
from medllama.config import build
from medllama.errors import RecipeError
from medllama.gguf_metadata import read_gguf_metadata
from medllama.llamacpp import Model
from medllama.pipeline import configure
from medllama.recipe import load_recipe
from medllama.stages import BY_NAME
from tests.adapters import load_base

EXAMPLE = "Which drug, if any, is given for gout?"


@pytest.fixture(scope="module")
def chat(ggufs: dict[str, Path]) -> Chat:
    return chat_of(ggufs["model"])


def chat_of(path: Path) -> Chat:
    found = read_gguf_metadata(path).chat
    assert found is not None
    return found


def passage(number: int, **options: Any) -> Passage:
    said = [("user", f"Question {number}?"), ("assistant", f"Answer {number}."), ("user", "And?"), ("assistant", "No.")]
    messages = tuple({"role": role, "content": content} for role, content in said)
    known = {"record_id": str(number), "document_id": f"drug/{number}", "subject": "drug", "text": ""}
    return Passage(**{**known, "messages": messages, **options})


def test_answers_are_pytorchs_greedy_ones(base: Path, ggufs: dict[str, Path], chat: Chat) -> None:
    samples = draw([EXAMPLE, "Malaria?"], {}, chat, count=0, seed=0)
    reference = load_base(base)
    with Model(ggufs["baseline"], threads=1) as model:
        for sample, said in zip(samples, answer(model, samples, 12), strict=True):
            ids = list(sample.prompt)
            while len(ids) < len(sample.prompt) + 12:
                with torch.inference_mode():
                    token = int(reference(torch.tensor([ids])).logits[0, -1].argmax())
                if model.is_end(token):
                    break
                ids.append(token)
            expected = ids[len(sample.prompt) :]
            assert said["tokens"] == len(expected)
            assert said["text"] == model.detokenize(expected).strip()


@pytest.mark.parametrize(("ends_after", "tokens", "ended"), [(3, 3, True), (5, 5, True), (6, 5, False), (99, 5, False)])
def test_an_answer_that_ends_at_the_last_token_is_not_a_cut_one(
    monkeypatch: pytest.MonkeyPatch, ggufs: dict[str, Path], ends_after: int, tokens: int, ended: bool
) -> None:
    asked = []

    def is_end(self: Any, token: int) -> bool:
        asked.append(token)
        return len(asked) > ends_after

    monkeypatch.setattr("medllama.llamacpp.Model.is_end", is_end)
    with Model(ggufs["model"], threads=1) as model:
        (said,) = answer(model, [Sample((), [1, 2], {"expected": None})], 5)
    assert (said["tokens"], said["ended"]) == (tokens, ended)


def test_answers_written_together_are_those_written_alone(ggufs: dict[str, Path], chat: Chat) -> None:
    prompts = [
        chat.encode([{"role": "user", "content": "Gout? " * n}], add_generation_prompt=True) for n in range(1, 20)
    ]
    with Model(ggufs["model"], threads=1) as model:
        together = generation.answers(model, prompts, 6)
        alone = [generation.answers(model, [prompt], 6)[0] for prompt in prompts]
    assert len({tuple(said.tokens) for said in alone}) > 1
    assert together == alone


def test_the_scores_are_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, expected = (
        ["The joints are swollen today.", "gout", "Rest"],
        ["The joints are swollen.", "Gout", "Drink water"],
    )
    said = [
        {"text": text, "tokens": tokens, "ended": ended}
        for text, tokens, ended in zip(texts, [5, 1, 1], [True, True, False], strict=True)
    ]
    found = references.measure(said, expected)
    assert found["bleu"]["score"] == sacrebleu.corpus_bleu(texts, [expected]).score
    assert found["chrf"]["score"] == sacrebleu.corpus_chrf(texts, [expected]).score
    assert "version:" in found["bleu"]["signature"]
    rouge = [
        RougeScorer(["rougeL"], use_stemmer=True).score(a, b)["rougeL"] for a, b in zip(expected, texts, strict=True)
    ]
    assert found["rougeL"]["mean"] == pytest.approx(100 * sum(it.fmeasure for it in rouge) / 3)
    assert found["ended"]["mean"] == pytest.approx(2 / 3)
    assert found["ended"]["standard_error"] == pytest.approx(1 / 3)
    assert references.mean([1.0])["standard_error"] is None


def test_held_out_questions_are_the_first_of_their_conversations_and_the_seeds(chat: Chat) -> None:
    held_out = {"test": [passage(number) for number in range(40)] + [passage(40, messages=(), text="Gout.")]}
    drawn = [[sample.origin["id"] for sample in draw([], held_out, chat, count=4, seed=seed)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 4
    (sample,) = draw([], {"test": [passage(3)]}, chat, count=4, seed=0)
    assert sample.messages == ({"role": "user", "content": "Question 3?"},)
    assert sample.prompt == chat.encode(sample.messages, add_generation_prompt=True)
    assert sample.origin == {"origin": "test", "id": "3", "document_id": "drug/3", "expected": "Answer 3."}


def test_a_conversation_that_begins_with_an_answer_asks_nothing(chat: Chat) -> None:
    messages = tuple({"role": role, "content": role} for role in ("assistant", "user", "assistant"))
    held_out = {"test": [passage(1), passage(2, messages=messages)]}
    assert [sample.origin["id"] for sample in draw([], held_out, chat, count=4, seed=0)] == ["1"]


def test_only_the_expected_words_and_no_more_count_as_the_expected_answer(
    chat: Chat, ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = draw([EXAMPLE], {"test": [passage(number) for number in range(1, 5)]}, chat, count=4, seed=0)
    texts = ["No.", "ANSWER\n 1.", "Answer 2", "Answer 3.", "Answer 4."]
    said = [generation.Said(chat.tokenizer.encode_text(text), number != 3) for number, text in enumerate(texts)]
    monkeypatch.setattr(generation, "answers", lambda *given: said)
    with Model(ggufs["model"], vocab_only=True) as model:
        found = answer(model, samples, 9)
    assert [item["is_expected"] for item in found] == [None, True, False, False, True]
    never = [it | {"is_expected": it["is_expected"] and False} for it in found]
    compared = compare(samples, {"model": found, "baseline": never}, seed=0)
    assert compared is not None
    exactly = compared["exactly_right"]
    assert (compared["measured"], compared["documents"], exactly["model"]["right"]) == (4, 4, 2)
    assert exactly["model"]["interval_95"] == pytest.approx(binomtest(2, 4).proportion_ci(method="wilson"))
    assert exactly["difference"]["accuracy"] == 0.5
    assert exactly["difference"]["mcnemar_exact_p"] == pytest.approx(binomtest(2, 2, 0.5).pvalue)
    assert "50.0% against 0.0% of the base" in compared["line"]
    assert "too small to tell" in compared["warnings"][0]
    nothing = compare(samples, {"model": never, "baseline": never}, seed=0)
    assert nothing is not None
    assert (nothing["line"], nothing["warnings"]) == ("", [])


def test_answers_that_were_cut_off_go_on_with_the_next_group(
    ggufs: dict[str, Path], chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "TOGETHER", 3)
    path = tmp_path / "answers.jsonl.partial"
    prompts = [chat.encode([{"role": "user", "content": f"Gout {n}?"}], add_generation_prompt=True) for n in range(8)]
    with Model(ggufs["model"], threads=1) as model:
        whole = generation.answers(model, prompts, 6, Ledger(path, {}))
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:3]) + lines[3][:9])
        asked = []
        original = generation._together
        monkeypatch.setattr(generation, "_together", lambda *given: asked.append(given[1]) or original(*given))
        assert generation.answers(model, prompts, 6, Ledger(path, {})) == whole
    assert [len(group) for group in asked] == [2]
    assert path.read_text() == "".join(lines)


def test_the_results_hold_the_answers_of_both(ggufs: dict[str, Path], data: Path, tmp_path: Path) -> None:
    config = EvalConfig(
        gguf=ggufs["model"], output=tmp_path / "results.json", baseline=ggufs["baseline"], data=data, threads=1, examples=(EXAMPLE,),
        samples=3, max_answer_tokens=8, generate=5,
    )  # fmt: skip
    evaluate(config)
    found = json.loads(config.output.read_text())["samples"]
    assert [item["origin"] for item in found["items"]] == [
        "example",
        *["test"] * 3,
        *["domain"] * len(PROMPTS),
    ]
    every = [json.loads(line) for line in (tmp_path / found["answers_file"]).read_text().splitlines()]
    assert [item["origin"] for item in every].count("test") == 5
    compared = json.loads(config.output.read_text())["generation"]
    for role in ggufs:
        texts = [item[role]["text"] for item in every if item["expected"] is not None]
        expected = [item["expected"] for item in every if item["expected"] is not None]
        assert compared[role]["chrf"]["score"] == sacrebleu.corpus_chrf(texts, [expected]).score
        right = [item[role]["is_expected"] for item in every if item["expected"] is not None]
        assert compared["exactly_right"][role]["right"] == sum(right)
    assert found["items"][0]["messages"] == [{"role": "user", "content": EXAMPLE}]
    chat = chat_of(ggufs["model"])
    for role, path in ggufs.items():
        with Model(path, threads=1) as model:
            said, *_ = answer(model, draw([EXAMPLE], {}, chat, count=0, seed=0), 8)
        assert found["items"][0][role] == said | {"is_expected": None}


def test_a_question_without_room_for_an_answer_is_left_out_and_counted(
    ggufs: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "results.json"
    evaluate(
        EvalConfig(
            gguf=ggufs["model"],
            output=output,
            data=data,
            examples=("gout " * 600, EXAMPLE),
            samples=0,
            generate=0,
            domain_prompts=False,
            threads=1,
        )
    )
    found = json.loads(output.read_text())["samples"]
    assert found["too_long"] == 1
    assert [item["messages"][0]["content"] for item in found["items"]] == [EXAMPLE]
    assert "baseline" not in found["items"][0]


def test_a_run_asks_the_recipes_examples_and_a_comma_separates_none(tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(f"examples: ['{EXAMPLE}', 'Malaria?']\ntrain: {{base_model: .}}\n")
    found = configure(BY_NAME["eval"], load_recipe(str(recipe)), tmp_path / "run", {})
    assert found.examples == (EXAMPLE, "Malaria?")
    flag = configure(BY_NAME["eval"], load_recipe(str(recipe)), tmp_path / "run", {"examples": [EXAMPLE]})
    assert flag.examples == (EXAMPLE,)


def test_numbers_that_mean_nothing_are_refused() -> None:
    with pytest.raises(
        RecipeError, match=r"max_answer_tokens: 0 must be 1 or more[\s\S]*samples: -1 must be 0 or more"
    ):
        build(EvalConfig, {"gguf": "a", "output": "b", "data": "c", "max_answer_tokens": 0, "samples": -1}, origin="x")
