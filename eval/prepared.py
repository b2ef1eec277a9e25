"""A task made ready: its records as token ids, in the order of the file, with what was left out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import numpy.typing

from eval import mcq, perplexity
from eval.benchmark_tasks import open_task
from eval.config import EvalConfig
from eval.prompts import Answers, Encoder, bos, ids_sha256
from eval.scoring import FloatArray, is_text, longest
from eval.tasks import Passage, Question, Task
from eval.windows import DEFAULT_WINDOW, file_windows, slide
from eval.wording import wording_of
from medllama import progress
from medllama.chat import IGNORED_LABEL, Labelled
from medllama.errors import InputError
from medllama.files import sha256_file
from medllama.gguf_metadata import GgufMetadata

BoolArray = numpy.typing.NDArray[numpy.bool_]
TASKS_OF_A_RUN = ("multiple_choice.jsonl", "test.jsonl")
TEXT_SUFFIX = ".txt"


@dataclass(frozen=True)
class Prepared:
    """The records that are measured and their prompts: of `records[n]` those at `places[n]`, several where windows slide.

    said: of each question the answers that are scored; marks: of each passage (labels,) bool, which labels are text and no ending.
    """

    task: Task
    protocol: str
    form: str
    scored_by: str
    records: tuple[Question | Passage, ...]
    prompts: list[Answers]
    places: list[range]
    said: list[list[str]]
    marks: list[BoolArray]
    families: list[str]
    left_out: dict[str, int]

    @property
    def prompts_sha256(self) -> str:
        """The SHA-256 of all ids and labels, as JSON."""
        return ids_sha256([[[answer.input_ids, answer.labels] for answer in answers] for answers in self.prompts])

    def items(self, scores: dict[str, list[list[FloatArray]]]) -> list[dict[str, Any]]:
        """Every record's JSON object, in the order of the file; `scores` are each role's, by prompt and answer."""
        items = []
        for number, (record, places) in enumerate(zip(self.records, self.places, strict=True)):
            if isinstance(record, Question):
                place = places[0]
                lengths = [sum(label != IGNORED_LABEL for label in answer.labels) for answer in self.prompts[place]]
                its = {role: values[place] for role, values in scores.items()}
                items.append(mcq.item(record, self.said[number], lengths, its))
                continue
            joined = {role: numpy.concatenate([its[place][0] for place in places]) for role, its in scores.items()}
            items.append(perplexity.item(record, self.marks[number], _bytes(record), joined))
        return items


def _bytes(passage: Passage) -> int:
    texts = [message["content"] for message in passage.messages if message["role"] == "assistant"] or [passage.text]
    return sum(len(text.encode()) for text in texts)


def read_tasks(config: EvalConfig) -> list[Task]:
    """The tasks that are named, and those of a run's data that are there. A text file is a task whose records come later."""
    names = list(config.task)
    if config.data is not None:
        if not config.data.is_dir():
            raise InputError(f"{config.data} is no folder", hint="name the folder that medllama prepare made")
        present = [path for name in TASKS_OF_A_RUN if (path := config.data / name).is_file()]
        found = [path for path in present if path.stat().st_size]
        if not present and not names:
            raise InputError(
                f"{config.data} has neither {' nor '.join(TASKS_OF_A_RUN)}",
                hint="medllama prepare makes them; or name a task: --task NAME_OR_FILE",
            )
        if not found and not names:
            progress.message(f"warning: {config.data} holds no test records; a larger test_share makes some")
        names = [str(path) for path in found] + names
    tasks = [
        _text_task(Path(name)) if _is_text(name) else open_task(name, config.shots) for name in dict.fromkeys(names)
    ]
    for number, task in enumerate(tasks):
        if task.name in {other.name for other in tasks[:number]}:
            raise InputError(f"two tasks are called {task.name}: {task.path}", hint="rename one of the files")
    return tasks


def _is_text(name: str) -> bool:
    return ":" not in name and Path(name).suffix == TEXT_SUFFIX


def _text_task(path: Path) -> Task:
    if not path.is_file():
        raise InputError(f"{path} does not exist", hint="check the path")
    return Task(path.stem, path, sha256_file(path), (Passage("", "", "", (), ""),))


def prepare(task: Task, metadata: GgufMetadata, config: EvalConfig, ending: Sequence[int]) -> Prepared:
    """The records to measure, in the order of the file, with their ids."""
    if task.kind == "perplexity" and task.path.suffix == TEXT_SUFFIX:
        return _prepare_text(task, metadata, config)
    if task.kind == "perplexity":
        return _prepare_passages(task, metadata, config, ending)
    form, wording = wording_of(task, config.prompt, config.scored_by)
    encoder = Encoder(task, wording, form, metadata.tokenizer, metadata.chat)
    questions = [record for record in task.records if isinstance(record, Question)]
    pairs = [
        (question, _text_alone(encoder.encode(question), ending if form == "chat" else ())) for question in questions
    ]
    fitting = [(question, answers) for question, answers in pairs if longest(answers) <= metadata.context_length]
    _require_some(fitting, task, metadata)
    shots, origin = config.shots if task.examples else 0, "its examples' file"
    return Prepared(
        task, mcq.protocol(form, wording, shots, origin), form, wording.scored_by,
        tuple(question for question, _ in fitting), [answers for _, answers in fitting],
        [range(number, number + 1) for number in range(len(fitting))],
        [wording.answers(question) for question, _ in fitting], [],
        [question.subject if task.benchmark == "mmlu-medical" else "" for question, _ in fitting],
        {"not_sampled": 0, "too_long": len(pairs) - len(fitting)},
    )  # fmt: skip


def _text_alone(answers: Answers, ending: Sequence[int]) -> list[Labelled]:
    """The answers with labels on their text alone, so that no token is computed for what is not scored."""
    found = []
    for answer in answers:
        marks = iter(is_text(answer, ending))
        labels = [label if label != IGNORED_LABEL and next(marks) else IGNORED_LABEL for label in answer.labels]
        found.append(Labelled(answer.input_ids, labels))
    return found


def _prepare_passages(task: Task, metadata: GgufMetadata, config: EvalConfig, ending: Sequence[int]) -> Prepared:
    records = [record for record in task.records if isinstance(record, Passage)]
    total = len(records)
    if total > config.max_records:
        chosen = random.Random(config.seed).sample(range(total), config.max_records)
        records = [records[number] for number in sorted(chosen)]
    window = min(config.window or metadata.context_length, metadata.context_length)
    encoder = Encoder(task, wording_of(task, "chat", "text")[1], "chat", metadata.tokenizer, metadata.chat)
    prompts: list[Answers] = []
    places: list[range] = []
    marks: list[BoolArray] = []
    end_of_text = metadata.tokenizer.vocabulary.eos_id
    for record in records:
        whole = encoder.encode(record)[0]
        marks.append(is_text(whole, ending if record.messages or end_of_text is None else [end_of_text]))
        pieces = slide(whole, window, bos(metadata.tokenizer))
        places.append(range(len(prompts), len(prompts) + len(pieces)))
        prompts += [[piece] for piece in pieces]
    protocol = perplexity.PROTOCOL.format(window=window, step=window // 2)
    return Prepared(
        task, protocol, "chat", "text", tuple(records), prompts, places, [], marks, [""] * len(prompts),
        {"not_sampled": total - len(records), "too_long": 0},
    )  # fmt: skip


def _prepare_text(task: Task, metadata: GgufMetadata, config: EvalConfig) -> Prepared:
    window = min(config.window or DEFAULT_WINDOW, metadata.context_length)
    pairs = file_windows(task.path, metadata.tokenizer, bos(metadata.tokenizer), window)
    protocol = perplexity.WINDOWS_PROTOCOL.format(window=window)
    return Prepared(
        task, protocol, "plain", "text", tuple(passage for passage, _ in pairs), [[labelled] for _, labelled in pairs],
        [range(number, number + 1) for number in range(len(pairs))], [], [is_text(labelled, ()) for _, labelled in pairs],
        [""] * len(pairs), {"not_sampled": 0, "too_long": 0},
    )  # fmt: skip


def _require_some(fitting: Sequence[Any], task: Task, metadata: GgufMetadata) -> None:
    if not fitting:
        raise InputError(
            f"{task.path}: every record is longer than the context of {metadata.context_length:,} tokens",
            hint="ask with fewer --shots" if task.examples else "a model with a longer context could read them",
        )
