"""`medllama eval`: the file that people run, measured; the base beside it, on the same items.

    medllama eval --gguf medllama-Q4_K_M.gguf --baseline medllama-base-Q4_K_M.gguf --task questions.jsonl --output results.json

Both files are asked in process through llama.cpp, with the same token ids: those of the chat template in `--gguf`. A file of
multiple-choice items gives an accuracy (eval/mcq.py), a file of conversations or texts a perplexity (eval/perplexity.py).
Beside the results goes items-TASK.jsonl with every item's log-likelihoods, from which every figure can be had again. A few
answers of both are kept for people to read (eval/samples.py). No other harness's prompts are followed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval import mcq, perplexity, samples
from eval.config import EvalConfig
from eval.scoring import Answers, FloatArray, answer_ending, is_text, longest, score
from eval.tasks import Passage, Question, Task, read_task
from medllama import __version__, progress
from medllama.chat import IGNORED_LABEL, Chat, Labelled
from medllama.errors import InputError
from medllama.files import sha256_file, write_json, write_text
from medllama.gguf_metadata import read_gguf_metadata
from medllama.llamacpp import Model
from medllama.stages import StageResult

TASKS_OF_A_RUN = ("multiple_choice.jsonl", "test.jsonl")


@dataclass(frozen=True)
class Prepared:
    """A task as token ids: one prompt with its answers per record that is measured."""

    task: Task
    records: tuple[Question | Passage, ...]
    prompts: list[Answers]
    left_out: dict[str, int]

    @property
    def prompts_sha256(self) -> str:
        """The SHA-256 of all ids and labels, as JSON."""
        ids = [[[answer.input_ids, answer.labels] for answer in answers] for answers in self.prompts]
        return hashlib.sha256(json.dumps(ids, separators=(",", ":")).encode()).hexdigest()


def evaluate(config: EvalConfig) -> StageResult:
    """Measure and write the results. Raises InputError for what is no task, no GGUF, or no counterpart."""
    tasks = read_tasks(config)
    files = {"model": config.gguf} | ({"baseline": config.baseline} if config.baseline else {})
    chat, context_tokens = read_chat(config.gguf)
    prepared = [prepare(task, chat, context_tokens, config) for task in tasks]
    drawn = draw_samples(prepared, chat, config)
    asked = [it for it in drawn if len(it.prompt) + config.max_answer_tokens <= context_tokens]
    require_same_tokens(files, prepared, asked)
    scores: dict[str, list[list[list[FloatArray]]]] = {}
    answers: dict[str, list[dict[str, Any]]] = {}
    for role, path in files.items():
        with Model(path, threads=config.threads) as model:
            threads = model.threads
            scores[role] = [score(model, it.prompts, it.task.name) for it in prepared]
            answers[role] = samples.answer(model, asked, config.max_answer_tokens)
    ending = answer_ending(chat)
    results = []
    for number, it in enumerate(prepared):
        items = items_of(it, {role: its[number] for role, its in scores.items()}, ending)
        path = config.output.with_name(f"items-{it.task.name}.jsonl")
        write_text(path, "".join(json.dumps(kept, ensure_ascii=False, allow_nan=False) + "\n" for kept in items))
        results.append(result_of(it, items) | {"items_file": path.name, "items_sha256": sha256_file(path)})
    for result in results:
        for warning in result["warnings"]:
            progress.message(f"warning: {result['task']}: {warning}")
    line = "; ".join(f"{_title(result, results)} {result['line']}" for result in results) or "nothing to measure"
    report = {
        "line": line,
        **{role: _file(path) for role, path in files.items()},
        "chat_template_sha256": chat.sha256,
        "seed": config.seed,
        "threads": threads,
        "versions": {"medllama": __version__, "llama-cpp-python": importlib.metadata.version("llama-cpp-python")},
        "tasks": results,
        "samples": samples.summarize(
            asked, answers, max_tokens=config.max_answer_tokens, too_long=len(drawn) - len(asked)
        ),
    }
    write_json(config.output, report)
    return StageResult(config.output, {"line": line, "tasks": [_headline(result) for result in results]})


def read_tasks(config: EvalConfig) -> list[Task]:
    """The tasks that are named, and those of a run's data that are there."""
    paths = [Path(name) for name in config.task]
    if config.data is not None:
        present = [path for name in TASKS_OF_A_RUN if (path := config.data / name).is_file()]
        found = [path for path in present if path.stat().st_size]
        if not present and not paths:
            raise InputError(
                f"{config.data} has neither {' nor '.join(TASKS_OF_A_RUN)}",
                hint="medllama prepare makes them; or name a file: --task FILE",
            )
        if not found and not paths:
            progress.message(f"warning: {config.data} holds no test records; a larger test_share makes some")
        paths = found + paths
    tasks = [read_task(path) for path in dict.fromkeys(paths)]
    for number, task in enumerate(tasks):
        if task.name in {other.name for other in tasks[:number]}:
            raise InputError(f"two tasks are called {task.name}: {task.path}", hint="rename one of the files")
    return tasks


def read_chat(path: Path) -> tuple[Chat, int]:
    """The chat of the model to measure and its context length in tokens."""
    metadata = read_gguf_metadata(path)
    if metadata.chat is None:
        raise InputError(
            f"{path} has no chat template, so nothing can be asked of it",
            hint="convert it with --chat-template llama2, llama3 or a Jinja file",
        )
    return metadata.chat, metadata.context_length


def draw_samples(prepared: Sequence[Prepared], chat: Chat, config: EvalConfig) -> list[samples.Sample]:
    """The questions whose answers are kept."""
    held_out = {it.task.name: [record for record in it.records if isinstance(record, Passage)] for it in prepared}
    return samples.draw(config.examples, held_out, chat, count=config.samples, seed=config.seed)


def require_same_tokens(files: dict[str, Path], prepared: Sequence[Prepared], drawn: Sequence[samples.Sample]) -> None:
    """Raise InputError unless every id that will be asked for stands for the same bytes in all files."""
    scored = [answer.input_ids for it in prepared for answers in it.prompts for answer in answers]
    asked = sorted({index for ids in [*scored, *(sample.prompt for sample in drawn)] for index in ids})
    pieces = {}
    for role, path in files.items():
        with Model(path, vocab_only=True) as model:
            known = model.n_vocab
            pieces[role] = [model.piece(index, show_control=True) if index < known else None for index in asked]
    if any(its != pieces["model"] for its in pieces.values()):
        raise InputError(
            f"{files['baseline']} has another vocabulary than {files['model']}: token ids mean something else in it",
            hint="medllama convert --with-base makes the base's file in the same way",
        )


def prepare(task: Task, chat: Chat, context_tokens: int, config: EvalConfig) -> Prepared:
    """The records to measure, in the order of the file, with their ids."""
    records: Sequence[Question | Passage] = task.records
    left_out = {"not_sampled": 0, "too_long": 0}
    if task.kind == "perplexity" and len(records) > config.max_records:
        chosen = random.Random(config.seed).sample(range(len(records)), config.max_records)
        left_out["not_sampled"] = len(records) - len(chosen)
        records = [records[number] for number in sorted(chosen)]
    pairs = [(record, encode(record, chat, task)) for record in records]
    fitting = [(record, answers) for record, answers in pairs if longest(answers) <= context_tokens]
    left_out["too_long"] = len(pairs) - len(fitting)
    if not fitting:
        raise InputError(f"{task.path}: every record is longer than the context of {context_tokens:,} tokens")
    return Prepared(task, tuple(record for record, _ in fitting), [answers for _, answers in fitting], left_out)


def encode(record: Question | Passage, chat: Chat, task: Task) -> Answers:
    """A record as conversations of token ids, labelled as in training: one per option, or one alone."""
    if isinstance(record, Question):
        user = {"role": "user", "content": record.question}
        said = [[user, {"role": "assistant", "content": option}] for option in record.options.values()]
        answers = [chat.encode_for_training(messages) for messages in said]
    elif record.messages:
        answers = [chat.encode_for_training(record.messages)]
    else:
        answers = [_text(record.text, chat)]
    for answer in answers:
        answer.labels[0] = IGNORED_LABEL  # nothing comes before it that could predict it
        if all(label == IGNORED_LABEL for label in answer.labels):
            raise InputError(f"{task.path}: the chat template leaves no answer of record {record.record_id}")
    return answers


def _text(text: str, chat: Chat) -> Labelled:
    """A text as training has it: BOS, the text, EOS. EOS counts as its ending."""
    vocabulary = chat.tokenizer.vocabulary
    start, end = ([] if index is None else [index] for index in (vocabulary.bos_id, vocabulary.eos_id))
    ids = start + chat.tokenizer.encode_text(text) + end
    return Labelled(ids, list(ids))


def items_of(
    prepared: Prepared, scores: dict[str, list[list[FloatArray]]], ending: Sequence[int]
) -> list[dict[str, Any]]:
    """Every measured record's JSON object, in the order of the file."""
    items = []
    for number, (record, answers) in enumerate(zip(prepared.records, prepared.prompts, strict=True)):
        marks = [is_text(answer, ending) for answer in answers]
        its = {role: scores[role][number] for role in scores}
        if isinstance(record, Question):
            of_text = {
                role: [values[mark] for values, mark in zip(options, marks, strict=True)]
                for role, options in its.items()
            }
            items.append(mcq.item(record, [int(mark.sum()) for mark in marks], of_text))
        else:
            items.append(perplexity.item(record, marks[0], {role: values[0] for role, values in its.items()}))
    return items


def result_of(prepared: Prepared, items: list[dict[str, Any]]) -> dict[str, Any]:
    """A task's part of results.json."""
    task, kind = prepared.task, mcq if prepared.task.kind == "multiple_choice" else perplexity
    summary = kind.summarize(items)
    warnings = kind.warnings(summary, len(items))
    if prepared.left_out["too_long"]:
        warnings.append(f"{prepared.left_out['too_long']:,} records are longer than the context and were left out")
    return {
        "task": task.name,
        "kind": task.kind,
        "line": kind.line(summary),
        "file": str(task.path),
        "sha256": task.sha256,
        "records": len(task.records),
        "measured": len(items),
        "documents": len({kept["document_id"] for kept in items}),
        "left_out": prepared.left_out,
        "prompts_sha256": prepared.prompts_sha256,
        "protocol": kind.PROTOCOL,
        **summary,
        "warnings": warnings,
    }


def _title(result: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """What a task is called in the line: its kind, with the file's name where there are several of the kind."""
    title = str(result["kind"]).replace("_", " ")
    is_alone = sum(other["kind"] == result["kind"] for other in results) == 1
    return title if is_alone else f"{title} of {result['task']}"


def _headline(result: dict[str, Any]) -> dict[str, Any]:
    """A task's figures for the manifest and for `--json`."""
    figures = result if result["kind"] == "multiple_choice" else result[perplexity.HEADLINE]
    kept = {key: figures[key] for key in ("model", "baseline", "difference") if key in figures}
    return {"task": result["task"], "kind": result["kind"], "measured": result["measured"], **kept}


def _file(path: Path) -> dict[str, Any]:
    return {"file": str(path), "bytes": path.stat().st_size, "sha256": sha256_file(path)}
