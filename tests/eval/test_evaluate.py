"""`medllama eval` as a whole: its figures follow from its items, both models see the same ids, and errors are for people."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from eval import mcq, perplexity
from eval.benchmark_tasks import open_task
from eval.config import EvalConfig
from eval.evaluate import evaluate
from eval.prompts import Encoder
from eval.tasks import Question, read_task
from eval.wording import OWN, wording_of
from medllama.chat import Chat
from medllama.config import build
from medllama.errors import InputError, RecipeError
from medllama.files import read_json, sha256_file
from medllama.gguf_metadata import read_gguf_metadata
from medllama.llamacpp import Context, Model
from publish.certificate import CertifiedFile
from publish.evaluation import read_evaluation
from report.records import conform, results_shape
from tests.adapters import load_base
from tests.eval.conftest import write_jsonl
from tests.eval.test_formats import MEDMCQA, MEDQA, write_lines

ROUNDING = 0.02  # nats: a float16 cache moves an option's log-likelihood by some thousandths


@pytest.fixture(scope="module")
def results(ggufs: dict[str, Path], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, base against tuned."""
    output = tmp_path_factory.mktemp("eval") / "results.json"
    return run(ggufs, output, data=data)


def run(ggufs: dict[str, Path], output: Path, **options: Any) -> Path:
    given: dict[str, Any] = {"gguf": ggufs["model"], "baseline": ggufs["baseline"], "threads": 1} | options
    assert evaluate(EvalConfig(output=output, **given)).path == output
    return output


def task(results: Path, number: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    found = json.loads(results.read_text())["tasks"][number]
    return found, [json.loads(line) for line in (results.parent / found["items_file"]).read_text().splitlines()]


def test_every_figure_follows_from_the_items(results: Path) -> None:
    for number, kind in enumerate((mcq, perplexity)):
        result, items = task(results, number)
        assert kind.summarize(items).items() <= result.items()
        assert result["measured"] == len(items) == result["records"]
        assert result["items_sha256"] == sha256_file(results.parent / result["items_file"])
    result, items = task(results, 0)
    assert result["model"]["right"] == sum(it["model"]["choice"][mcq.HEADLINE] == it["answer"] for it in items)
    assert sum(row["items"] for row in result["by_subject"]) == len(items)
    difference = result["difference"]
    assert difference["accuracy"] * len(items) == pytest.approx(
        difference["only_model_right"] - difference["only_baseline_right"]
    )


def test_the_results_say_what_was_measured(results: Path, ggufs: dict[str, Path], data: Path) -> None:
    said = json.loads(results.read_text())
    for role, path in ggufs.items():
        assert said[role] == {"file": str(path), "bytes": path.stat().st_size, "sha256": sha256_file(path)}
    assert [it["sha256"] for it in said["tasks"]] == [
        sha256_file(data / name) for name in ("multiple_choice.jsonl", "test.jsonl")
    ]
    assert said["line"] == "; ".join(f"{it['kind'].replace('_', ' ')} {it['line']}" for it in said["tasks"])
    assert "of the base" in said["tasks"][0]["line"]
    assert all(len(part["prompts_sha256"]) == 64 for part in (*said["tasks"], said["generation"]))


def test_the_loss_of_training_is_pytorchs_cross_entropy(
    results: Path, base: Path, ggufs: dict[str, Path], data: Path
) -> None:
    chat = read_gguf_metadata(ggufs["model"]).chat
    assert chat is not None
    reference = load_base(base)
    loss = tokens = 0.0
    for line in (data / "test.jsonl").read_text().splitlines()[:-1]:  # the last is a text
        labelled = chat.encode_for_training(json.loads(line)["messages"])
        with torch.inference_mode():
            logits = reference(torch.tensor([labelled.input_ids])).logits[0, :-1]
        loss += float(torch.nn.functional.cross_entropy(logits, torch.tensor(labelled.labels[1:]), reduction="sum"))
        tokens += sum(label >= 0 for label in labelled.labels[1:])
    result, items = task(results, 1)
    of_text = items[-1]["tokens"]["with_ending"]
    found = result["with_ending"]["tokens"] * result["with_ending"]["baseline"]["nats_per_token"]
    assert result["with_ending"]["tokens"] - of_text == tokens
    ours = found + items[-1]["baseline"]["log_likelihood"]["with_ending"]
    assert ours / tokens == pytest.approx(loss / tokens, abs=2e-4)  # of rounding the cache
    headline = result["answer_text"]
    assert headline["baseline"]["perplexity"] == math.exp(headline["baseline"]["nats_per_token"])
    assert headline["tokens"] < result["with_ending"]["tokens"]


def test_a_repeated_run_gives_the_same_bytes(results: Path, ggufs: dict[str, Path], data: Path, tmp_path: Path) -> None:
    again = run(ggufs, tmp_path / "results.json", data=data)
    for path in results.parent.iterdir():
        assert path.read_bytes() == (again.parent / path.name).read_bytes()


def test_another_order_of_items_and_options_changes_no_choice(
    results: Path, ggufs: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    items = [json.loads(line) for line in (data / "multiple_choice.jsonl").read_text().splitlines()]
    turned = [it | {"options": dict(reversed(it["options"].items()))} for it in reversed(items)]
    output = run(ggufs, tmp_path / "results.json", task=(str(write_jsonl(tmp_path / "turned.jsonl", turned)),))
    for one, other in zip(task(results, 0)[1], reversed(task(output, 0)[1]), strict=True):
        for role in ggufs:
            assert one[role]["choice"] == other[role]["choice"]
            assert one[role]["log_likelihood"] == pytest.approx(other[role]["log_likelihood"], abs=ROUNDING)
    assert task(results, 0)[0]["difference"] == task(output, 0)[0]["difference"]


def test_a_sample_is_the_seeds_and_what_is_left_out_is_counted(
    ggufs: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    long = {"messages": [{"role": "user", "content": "gout " * 600}, {"role": "assistant", "content": "Yes"}]}
    records = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
    path = str(write_jsonl(tmp_path / "records.jsonl", [long, *records]))
    drawn = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        output = run(ggufs, tmp_path / name / "results.json", task=(path,), max_records=6, seed=seed, baseline=None)
        result, items = task(output, 0)
        assert result["left_out"]["not_sampled"] == len(records) + 1 - 6
        assert len(items) + result["left_out"]["too_long"] == 6
        drawn.append([it["id"] for it in items])
    assert drawn[0] == drawn[1] != drawn[2]
    result, _ = task(run(ggufs, tmp_path / "all" / "results.json", task=(path,), baseline=None), 0)
    assert result["left_out"] == {"not_sampled": 0, "too_long": 0}  # windows slide over the long one
    assert "difference" not in result["answer_text"]


def test_questions_longer_than_the_context_are_left_out_and_counted(
    ggufs: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    items = [json.loads(line) for line in (data / "multiple_choice.jsonl").read_text().splitlines()]
    path = write_jsonl(tmp_path / "items.jsonl", [items[0] | {"question": "gout " * 600}, *items])
    result, kept = task(run(ggufs, tmp_path / "results.json", task=(str(path),), baseline=None), 0)
    assert result["left_out"] == {"not_sampled": 0, "too_long": 1}
    assert len(kept) == len(items)
    assert "1 records are longer than the context" in result["warnings"][0]


def test_a_question_with_its_right_option_twice_is_told_and_others_are_not(
    ggufs: dict[str, Path], tmp_path: Path
) -> None:
    item = {"question": "Where is gout?", "options": {"A": "Joints", "B": "Joints", "C": "Skin"}, "answer": "A"}
    items = [item, item | {"question": "Where not?", "answer": "C"}]
    path = write_jsonl(tmp_path / "items.jsonl", items)
    result, kept = task(run(ggufs, tmp_path / "out" / "results.json", task=(str(path),), baseline=None), 0)
    assert result["warnings"] == ["1 items have the right option twice: scored by its text that is a tie, and wrong"]
    assert not kept[0]["model"]["is_right"]["sum"]


def test_accuracy_bounds_need_questions_before_anything_is_measured(
    ggufs: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    given = {"task": (str(data / "test.jsonl"),), "card": (str(ggufs["model"]),), "within": "accuracy>=50%"}
    with pytest.raises(InputError, match="accuracy is of multiple-choice questions, and no task has any"):
        run(ggufs, tmp_path / "results.json", baseline=None, **given)
    assert list(tmp_path.iterdir()) == []


def test_items_that_training_has_read_are_marked_counted_and_warned_of(
    ggufs: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    long = "A man of sixty wakes at night with a hot and swollen big toe after a feast."
    items = [
        {"question": question, "options": {"A": "Gout", "B": "Flu"}, "answer": "A"}
        for question in (f"{long} What is it?", "Which joint hurts most in gout, the big toe?", "Gout?")
    ]
    write_jsonl(tmp_path / "multiple_choice.jsonl", items)
    trained = [{"text": f"So. {long.upper()}"}, {"messages": [{"role": "user", "content": "Gout?"}]}]
    write_jsonl(tmp_path / "train.jsonl", trained)
    (tmp_path / "data_card.json").write_text(json.dumps({"sources": [{"name": "leaflets"}]}))
    result, kept = task(run(ggufs, tmp_path / "out" / "results.json", data=tmp_path, baseline=None), 0)
    assert [it["overlaps_training"] for it in kept] == [True, False, False]  # one word is found anywhere
    assert result["training_overlap"]["training_sha256"] == sha256_file(tmp_path / "train.jsonl")
    assert result["warnings"] == [
        "1 of 3 items share 13 words in a row, or all of theirs, with the training data (leaflets)"
    ]
    write_jsonl(tmp_path / "train.jsonl", [*trained, {"text": "Which joint hurts most in gout, the big toe?"}])
    result, kept = task(run(ggufs, tmp_path / "out" / "results.json", data=tmp_path, baseline=None), 0)
    assert [it["overlaps_training"] for it in kept] == [True, True, False]


@pytest.mark.parametrize(("prompt", "scored_by"), [("plain", "letter"), ("plain", "text"), ("chat", "letter")])
def test_every_way_of_asking_scores_what_a_plain_decode_scores(
    prompt: str, scored_by: str, ggufs: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    items = [json.loads(line) for line in (data / "multiple_choice.jsonl").read_text().splitlines()]
    examples = write_jsonl(tmp_path / "examples.jsonl", [it | {"question": it["question"] + "?"} for it in items[:4]])
    source = f"{data / 'multiple_choice.jsonl'}?shots={examples}"
    options = {"prompt": prompt, "scored_by": scored_by, "shots": 2, "baseline": None}
    result, kept = task(run(ggufs, tmp_path / "results.json", task=(source,), **options), 0)
    assert (result["prompt"], result["shots"], result["examples_sha256"]) == (prompt, 2, sha256_file(examples))
    assert "2-shot" in result["protocol"]
    metadata = read_gguf_metadata(ggufs["model"])
    opened = open_task(source, 2)
    encoder = Encoder(opened, wording_of(opened, prompt, scored_by)[1], prompt, metadata.tokenizer, metadata.chat)
    with Model(ggufs["model"], threads=1) as model, Context(model, context_tokens=1024) as context:
        for record, it in zip(opened.records, kept, strict=True):
            answers = encoder.encode(record)
            text = metadata.tokenizer.decode(answers[0].input_ids)
            assert text.count("?") > 3, "the examples stand before the question"
            for letter, answer in zip(it["tokens"], answers, strict=True):
                rows = torch.log_softmax(torch.from_numpy(context.logits(answer.input_ids)).double(), dim=-1)
                wanted = [place for place, label in enumerate(answer.labels) if label >= 0][: it["tokens"][letter]]
                expected = sum(float(rows[place - 1, answer.labels[place]]) for place in wanted)
                assert it["model"]["log_likelihood"][letter] == pytest.approx(expected, abs=ROUNDING)


def test_a_tie_is_no_answer_and_the_measures_differ_in_what_length_is_worth() -> None:
    assert mcq.choose({"A": -1.0, "B": -1.0, "C": -2.0}) is None
    question = Question("id", "d", "", "Gout?", {"A": "No", "B": "Inflammation"}, "B")
    scores = [torch.tensor([-2.0]).numpy(), torch.tensor([-1.0, -2.0]).numpy()]
    kept = mcq.item(question, list(question.options.values()), [1, 2], {"model": scores})
    assert kept["model"]["choice"] == {"per_byte": "B", "per_token": "B", "sum": "A"}


def test_a_test_that_is_too_small_says_so() -> None:
    def items(gained: int, lost: int) -> list[dict[str, Any]]:
        pairs = [(True, False)] * gained + [(False, True)] * lost + [(True, True)] * 10
        return [
            {
                "subject": "",
                "document_id": f"d/{number}",
                "model": {"is_right": dict.fromkeys(mcq.MEASURES, model)},
                "baseline": {"is_right": dict.fromkeys(mcq.MEASURES, baseline)},
            }
            for number, (model, baseline) in enumerate(pairs)
        ]

    assert "too small to tell" in mcq.warnings(mcq.summarize(items(4, 1)), 15)[0]
    assert mcq.warnings(mcq.summarize(items(40, 1)), 51) == []
    turned = items(40, 1)
    for it in turned:
        for role in mcq.ROLES:
            it[role]["is_right"]["per_byte"] = True
    assert mcq.warnings(mcq.summarize(turned), 51) == ["the measures disagree: per_byte cannot tell, or says otherwise"]


def test_a_baseline_with_other_tokens_is_refused(
    ggufs: dict[str, Path], base: Path, data: Path, tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger.gguf"
    content = ggufs["baseline"].read_bytes()
    word = "▁the".encode() if (base / "tokenizer.model").exists() else "Ġthe".encode()
    at = content.index(len(word).to_bytes(8, "little") + word) + 8
    stranger.write_bytes(content[: at + len(word) - 1] + b"x" + content[at + len(word) :])
    with pytest.raises(InputError, match="has another vocabulary"):
        run(ggufs, tmp_path / "results.json", data=data, baseline=stranger)
    assert not (tmp_path / "results.json").exists()


def test_what_cannot_be_measured_is_told(ggufs: dict[str, Path], data: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    (tmp_path / "no.gguf").write_text("no GGUF at all")
    with pytest.raises(InputError, match=r"no\.gguf is no GGUF"):
        run(ggufs, output, data=data, gguf=tmp_path / "no.gguf")
    with pytest.raises(InputError, match=r"has neither multiple_choice\.jsonl nor test\.jsonl"):
        run(ggufs, output, data=tmp_path)
    with pytest.raises(InputError, match="two tasks are called test"):
        run(ggufs, output, data=data, task=(str(write_jsonl(tmp_path / "test.jsonl", [{"text": "Gout."}])),))


def test_a_task_of_one_short_record_is_measured(ggufs: dict[str, Path], tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = write_jsonl(tmp_path / "test.jsonl", [{"messages": messages, "document_id": "x/1"}])
    output = run(ggufs, tmp_path / "results.json", task=(str(path),))
    assert json.loads(output.read_text())["tasks"][0]["measured"] == 1


def test_a_run_without_test_records_goes_on_and_says_that_nothing_was_measured(
    ggufs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.jsonl").touch()
    result = evaluate(
        EvalConfig(gguf=ggufs["model"], output=tmp_path / "results.json", data=tmp_path / "data", threads=1)
    )
    assert result.summary["line"] == "nothing to measure"
    assert "holds no test records" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mine", "task"),
    [
        ("answers.jsonl", "{mine}"),
        ("items-multiple_choice.jsonl", "{data}?shots={mine}"),
        ("results.json", "{mine}"),
    ],
)
def test_what_is_read_is_not_overwritten(
    mine: str, task: str, ggufs: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    questions = data / "multiple_choice.jsonl"
    path = tmp_path / mine
    path.write_bytes(questions.read_bytes())
    with pytest.raises(InputError, match=f"{mine} is read, and would be overwritten"):
        run(ggufs, tmp_path / "results.json", baseline=None, task=(task.format(mine=path, data=questions),))
    assert path.read_bytes() == questions.read_bytes()


def test_a_data_folder_that_is_not_there_is_told(ggufs: dict[str, Path], data: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"task": (str(data / "test.jsonl"),), "data": tmp_path / "nowhere"}
    with pytest.raises(InputError, match="nowhere is no folder"):
        run(ggufs, tmp_path / "results.json", **given)


def test_an_item_that_stands_twice_in_the_file_is_told(ggufs: dict[str, Path], tmp_path: Path) -> None:
    item = {"question": "Where is gout?", "options": {"A": "Joints", "B": "Skin"}, "answer": "A"}
    path = write_jsonl(tmp_path / "items.jsonl", [item, item | {"question": "And scurvy?"}, item])
    result, _ = task(run(ggufs, tmp_path / "out" / "results.json", task=(str(path),), baseline=None), 0)
    assert result["warnings"] == ["1 of 3 items repeat another: each counts, and the intervals take it for independent"]


def test_what_one_document_gives_is_read_by_the_report_and_the_card(ggufs: dict[str, Path], tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Gout?"}, {"role": "assistant", "content": "Joints."}]
    path = write_jsonl(tmp_path / "test.jsonl", [{"messages": messages, "document_id": "x/1"}])
    output = run(ggufs, tmp_path / "out" / "results.json", task=(str(path),), domain_prompts=False)
    said = read_json(output)
    assert said["tasks"][0]["answer_text"]["model"]["perplexity_interval_95"] is None
    conform(said, results_shape, output)
    file = CertifiedFile("m.gguf", said["model"]["sha256"], 10, "F32", "merged", ("file",))
    assert "(no interval)" in read_evaluation(output, [file]).table()


def test_an_answer_without_words_has_no_bytes_to_divide_by(ggufs: dict[str, Path], tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Gout?"}, {"role": "assistant", "content": ""}]
    path = write_jsonl(tmp_path / "test.jsonl", [{"messages": messages}])
    result, _ = task(run(ggufs, tmp_path / "out" / "results.json", task=(str(path),), generate=0, samples=0), 0)
    assert result["answer_text"]["bytes"] == 0
    assert result["answer_text"]["model"]["nats_per_byte"] is None


def test_the_end_of_a_text_is_no_part_of_its_words(ggufs: dict[str, Path], tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "test.jsonl", [{"text": "Gout is a disorder."}, {"text": "Scurvy too."}])
    result, _ = task(run(ggufs, tmp_path / "out" / "results.json", task=(str(path),), baseline=None), 0)
    assert result["with_ending"]["tokens"] - result["answer_text"]["tokens"] == 2


def test_a_system_prompt_that_all_share_is_no_overlap(ggufs: dict[str, Path], tmp_path: Path) -> None:
    system = {"role": "system", "content": "You are a careful doctor who answers in a few short plain words."}

    def conversation(word: str) -> dict[str, Any]:
        said = [system, {"role": "user", "content": f"{word}?"}, {"role": "assistant", "content": "Yes."}]
        return {"messages": said}

    write_jsonl(tmp_path / "test.jsonl", [conversation("Gout"), conversation("Scurvy")])
    write_jsonl(tmp_path / "train.jsonl", [conversation("Angina")])
    result, _ = task(run(ggufs, tmp_path / "out" / "results.json", data=tmp_path, baseline=None), 0)
    assert result["training_overlap"]["items"] == 0


def test_a_conversation_that_the_template_refuses_is_named(ggufs: dict[str, Path], tmp_path: Path) -> None:
    turns = [{"role": "assistant", "content": "Hello."}, {"role": "assistant", "content": "Yes."}]
    path = write_jsonl(tmp_path / "test.jsonl", [{"messages": turns, "document_id": "talk/7"}])
    metadata = read_gguf_metadata(ggufs["model"])
    assert metadata.chat is not None
    refusing = Chat("{{ raise_exception('no') }}", metadata.tokenizer)
    encoder = Encoder(read_task(path), OWN["message"], "chat", metadata.tokenizer, refusing)
    with pytest.raises(InputError, match=r"test\.jsonl: record talk/7: the chat template refuses"):
        encoder.encode(encoder.task.records[0])


def test_a_benchmark_may_lie_in_a_file_of_another_name(ggufs: dict[str, Path], tmp_path: Path) -> None:
    path = write_lines(tmp_path / "questions.txt", MEDQA)
    result, _ = task(run(ggufs, tmp_path / "results.json", task=(f"medqa:{path}",), baseline=None), 0)
    assert (result["kind"], result["measured"]) == ("multiple_choice", 1)


def test_an_empty_option_is_scored_by_its_text(ggufs: dict[str, Path], tmp_path: Path) -> None:
    path = write_lines(tmp_path / "dev.json", MEDMCQA, MEDMCQA | {"question": "Another?"})
    for prompt in ("plain", "chat"):
        options = {"task": (f"medmcqa:{path}",), "scored_by": "text", "prompt": prompt, "baseline": None}
        result, items = task(run(ggufs, tmp_path / prompt / "results.json", **options), 0)
        assert result["measured"] == 2
        assert items[0]["bytes"]["D"] == 0


def test_results_in_one_folder_keep_their_own_items(ggufs: dict[str, Path], data: Path, tmp_path: Path) -> None:
    questions = (str(data / "multiple_choice.jsonl"),)
    outputs = [run(ggufs, tmp_path / f"{role}.json", gguf=ggufs[role], baseline=None, task=questions) for role in ggufs]
    for output in outputs:
        result, _ = task(output, 0)
        assert result["items_sha256"] == sha256_file(tmp_path / result["items_file"])
    assert sorted(path.name for path in tmp_path.glob("*.partial")) == []


def test_a_slip_in_the_card_is_told_before_anything_is_measured(
    ggufs: dict[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.evaluate.score", None)
    for named, said in ((tmp_path / "gone.gguf", "does not exist"), (ggufs["model"], "have the same name")):
        card = (str(ggufs["model"]), str(named))
        with pytest.raises(InputError, match=said):
            run(ggufs, tmp_path / "results.json", baseline=None, data=data, card=card)


@pytest.mark.parametrize("name", ["seed", "card_tokens"])
def test_a_number_below_nothing_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=f"{name}: -1 must be"):
        build(EvalConfig, {"gguf": "a", "output": "b", "task": ["c"], name: -1}, origin="x")
