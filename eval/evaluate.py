"""`medllama eval`: the file that people run, measured; the base beside it, on the same items.

    medllama eval --gguf medllama-Q4_K_M.gguf --baseline medllama-base-Q4_K_M.gguf --task questions.jsonl --output results.json
    medllama eval --gguf medllama-Q4_K_M.gguf --task medqa:phrases_no_exclude_test.jsonl --output results.json

Both files are asked in process through llama.cpp, with the same token ids. Multiple-choice items give an accuracy (eval/mcq.py),
conversations and texts a perplexity (eval/perplexity.py); eval/benchmark_tasks.py names the field's own tasks. Beside the results
goes items-TASK.jsonl with every item's log-likelihoods, from which every figure can be had again. A few answers of both are kept
for people to read (eval/samples.py). What was measured before an interruption is not measured again (eval/ledger.py).
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval import mcq, overlap, perplexity, quant_card, samples
from eval.config import EvalConfig
from eval.ledger import Ledgers, beside
from eval.panel import panel
from eval.prepared import TASKS_OF_A_RUN, Prepared, prepare, read_tasks
from eval.scoring import BATCH_TOKENS, SEQUENCES, STEP_TOKENS, FloatArray, answer_ending, score
from eval.tasks import Passage, Question, Task
from medllama import __version__, progress
from medllama.config import input_paths
from medllama.cores import usable_cores
from medllama.errors import InputError
from medllama.files import read_json, sha256_file, write_json, write_text
from medllama.gguf_metadata import GgufMetadata, read_gguf_metadata
from medllama.llamacpp import Model
from medllama.stages import StageResult

ANSWERS = "answers.jsonl"
TRAINING, CARD = "train.jsonl", "data_card.json"
FREE_ANSWERS = "free answers"


def evaluate(config: EvalConfig) -> StageResult:
    """Measure and write the results. Raises InputError for what is no task, no GGUF, no rating, no bound, or no counterpart."""
    # What a person wrote is read before anything is measured: a slip must not show after hours.
    bounds = quant_card.parse(config.within) if config.within else []
    rated = panel(config.panel, config.seed) if config.panel else None
    tasks = read_tasks(config) if config.gguf else []
    require_other_files(config, tasks)
    ledgers = Ledgers(config.output, {"threads": config.threads or usable_cores(), "versions": _versions()})
    report = _measure(config, config.gguf, tasks, bounds, ledgers) if config.gguf else {"tasks": []}
    for result in [*report["tasks"], report.get("generation") or {"warnings": []}]:
        for warning in result["warnings"]:
            progress.message(f"warning: {result.get('task', FREE_ANSWERS)}: {warning}")
    line = "; ".join(_lines(report, rated)) or "nothing to measure"
    write_json(config.output, {"line": line, "seed": config.seed, "versions": _versions(), **report, "panel": rated})
    ledgers.remove()
    headlines = [_headline(result) for result in report["tasks"]]
    if generation := report.get("generation"):
        known = {"task": FREE_ANSWERS, "kind": "free_answers", "measured": generation["measured"]}
        headlines.append({**known, **generation["exactly_right"]})
    return StageResult(config.output, {"line": line, "tasks": headlines})


def _measure(
    config: EvalConfig, gguf: Path, tasks: Sequence[Task], bounds: Sequence[quant_card.Bound], ledgers: Ledgers
) -> dict[str, Any]:
    """Everything that is asked of files: the results but for the panel's part."""
    files = {"model": gguf} | ({"baseline": config.baseline} if config.baseline else {})
    metadata = read_gguf_metadata(gguf)
    ending = answer_ending(metadata.chat) if metadata.chat else ()
    prepared = [prepare(task, metadata, config, ending) for task in tasks]
    drawn = draw_samples(prepared, metadata, config)
    asked = [it for it in drawn if len(it.prompt) + config.max_answer_tokens <= metadata.context_length]
    require_same_tokens(files, prepared, asked)
    if any(bound.figure == "accuracy" for bound in bounds) and not _choices(prepared):
        raise InputError(
            f"--within {config.within!r}: accuracy is of multiple-choice questions, and no task has any",
            hint="name one: --task questions.jsonl",
        )
    card = _card_files(config)
    described = {role: _file(path) for role, path in files.items()}
    scores: dict[str, list[list[list[FloatArray]]]] = {}
    answers: dict[str, list[dict[str, Any]]] = {}
    for role, path in files.items():
        sha256 = described[role]["sha256"]
        with Model(path, threads=config.threads) as model:
            threads = model.threads
            scores[role] = [_score(model, it, role, sha256, ledgers) for it in prepared]
            decides = {"model": sha256, "prompts": [it.prompt for it in asked], "max_tokens": config.max_answer_tokens}
            ledger = ledgers.open(f"answers-{role}", decides)
            answers[role] = samples.answer(model, asked, config.max_answer_tokens, ledger)
    results = []
    for number, it in enumerate(prepared):
        items = it.items({role: its[number] for role, its in scores.items()})
        results.append(_result(it, items, config))
    return {
        **described,
        "chat_template_sha256": metadata.chat.sha256 if metadata.chat else None,
        "threads": threads,
        "tasks": results,
        "generation": samples.compare(asked, answers, config.seed),
        "samples": _samples(asked, answers, len(drawn) - len(asked), config),
        "quant_card": _card(config, card, prepared, bounds, ledgers),
    }


def _score(model: Model, prepared: Prepared, role: str, sha256: str, ledgers: Ledgers) -> list[list[FloatArray]]:
    """A task's scores, resumed where an earlier run was cut off."""
    batches = [BATCH_TOKENS, STEP_TOKENS, SEQUENCES]
    decides = {"model": sha256, "prompts": prepared.prompts_sha256, "families": prepared.families, "batches": batches}
    ledger = ledgers.open(f"items-{prepared.task.name}-{role}", decides)
    return score(model, prepared.prompts, prepared.task.name, prepared.families, ledger)


def draw_samples(prepared: Sequence[Prepared], metadata: GgufMetadata, config: EvalConfig) -> list[samples.Sample]:
    """The questions whose answers are kept; none of a model without a chat template."""
    if metadata.chat is None:
        return []
    held_out = {it.task.name: [record for record in it.records if isinstance(record, Passage)] for it in prepared}
    return samples.draw(
        config.examples, held_out, metadata.chat, count=max(config.samples, config.generate), seed=config.seed,
        with_domain=config.domain_prompts,
    )  # fmt: skip


def require_other_files(config: EvalConfig, tasks: Sequence[Task]) -> None:
    """Raise InputError where what is to be written would take the place of what is read."""
    names = (ANSWERS, *(f"items-{task.name}.jsonl" for task in tasks))
    written = {path.resolve() for path in (config.output, *(beside(config.output, name) for name in names))}
    read = [path for paths in input_paths(config).values() for path in paths]
    read += [Path(examples) for task in config.task if (examples := task.partition("?shots=")[2])]
    read += [config.data / name for name in (*TASKS_OF_A_RUN, TRAINING, CARD)] if config.data else []
    for path in read:
        if path.resolve() in written:
            raise InputError(
                f"{path} is read, and would be overwritten",
                hint="write the results into a folder of their own: --output results/results.json",
            )


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
            hint="medllama convert --with-base makes the base's file in the same way; measure another family's model by itself: "
            "accuracies and nats_per_byte compare",
        )


def _result(prepared: Prepared, items: list[dict[str, Any]], config: EvalConfig) -> dict[str, Any]:
    """A task's part of results.json; its items are written beside it."""
    task, kind = prepared.task, mcq if prepared.task.kind == "multiple_choice" else perplexity
    seen = _overlap(prepared, items, config)
    path = beside(config.output, f"items-{task.name}.jsonl")
    write_text(path, "".join(json.dumps(kept, ensure_ascii=False, allow_nan=False) + "\n" for kept in items))
    summary = kind.summarize(items, config.seed)
    warnings = kind.warnings(summary, len(items)) + overlap.warning(seen)
    if twice := sum(_has_its_answer_twice(record) for record in prepared.records):
        warnings.append(f"{twice:,} items have the right option twice: scored by its text that is a tie, and wrong")
    if repeated := len(items) - len({kept["id"] for kept in items}):
        warnings.append(
            f"{repeated:,} of {len(items):,} items repeat another: each counts, and the intervals take it for independent"
        )
    if prepared.left_out["too_long"]:
        warnings.append(f"{prepared.left_out['too_long']:,} records are longer than the context and were left out")
    return {
        "task": task.name,
        "kind": task.kind,
        "line": kind.line(summary),
        "file": str(task.path),
        "sha256": task.sha256,
        "records": len(items) + sum(prepared.left_out.values()),
        "measured": len(items),
        "documents": len({kept["document_id"] for kept in items}),
        "left_out": prepared.left_out,
        "prompts_sha256": prepared.prompts_sha256,
        "prompt": prepared.form,
        "shots": config.shots if task.examples else 0,
        "examples_sha256": task.examples_sha256,
        "protocol": prepared.protocol,
        **summary,
        "training_overlap": seen,
        "warnings": warnings,
        "items_file": path.name,
        "items_sha256": sha256_file(path),
    }


def _has_its_answer_twice(record: Question | Passage) -> bool:
    return isinstance(record, Question) and list(record.options.values()).count(record.options[record.answer]) > 1


def _overlap(prepared: Prepared, items: list[dict[str, Any]], config: EvalConfig) -> dict[str, Any] | None:
    """How many items share words with the training data, each marked; None where that data is not here."""
    if config.data is None or not (config.data / TRAINING).is_file():
        return None
    flags = overlap.overlaps(prepared.records, config.data / TRAINING)
    for kept, flag in zip(items, flags, strict=True):
        kept["overlaps_training"] = flag
    card = config.data / CARD
    return overlap.described(flags, config.data / TRAINING, read_json(card) if card.is_file() else None)


def _samples(
    asked: list[samples.Sample], answers: dict[str, list[dict[str, Any]]], too_long: int, config: EvalConfig
) -> dict[str, Any]:
    """The samples' part of results.json: of the held-out ones the first; all of them go to a file beside it."""
    found = samples.summarize(asked, answers, max_tokens=config.max_answer_tokens, too_long=too_long)
    path = beside(config.output, ANSWERS)
    lines = (json.dumps(kept, ensure_ascii=False) + "\n" for kept in found["items"])
    write_text(path, "".join(lines))
    held_out = [kept for kept in found["items"] if kept["expected"] is not None]
    others = {origin: [kept for kept in found["items"] if kept["origin"] == origin] for origin in ("example", "domain")}
    shown = others["example"] + held_out[: config.samples] + others["domain"]
    return found | {"items": shown, "answers_file": path.name, "answers_sha256": sha256_file(path)}


def _card_files(config: EvalConfig) -> list[Path]:
    """The files of the card; none where all are quantized and no bound asks for it: a run without F16 is a run too."""
    files = list(map(Path, config.card))
    types = quant_card.types_of(files)
    try:
        if files:
            quant_card.reference_of(types)
    except InputError as error:
        if config.within:
            raise
        progress.message(f"warning: no quant card: {error.message}")
        return []
    return files


def _card(
    config: EvalConfig,
    files: list[Path],
    prepared: Sequence[Prepared],
    bounds: Sequence[quant_card.Bound],
    ledgers: Ledgers,
) -> dict[str, Any] | None:
    """The quant card of the files that are asked for, and the smallest one within the bounds."""
    if not files or not prepared:
        return None
    # Conversations and texts are what a model is used on; questions serve where there is nothing else.
    ordered = sorted(prepared, key=lambda it: it.task.kind == "multiple_choice")
    prompts = [answers for it in ordered for answers in it.prompts]
    card = quant_card.quant_card(files, prompts, config.card_tokens, config.threads, ledgers)
    accuracies: dict[str, float] = {}
    if any(bound.figure == "accuracy" for bound in bounds):
        accuracies = {path.name: _accuracy(path, _choices(prepared)[0], config, ledgers) for path in files}
    within = quant_card.smallest_within(config.within, bounds, card, accuracies) if config.within else None
    task = _choices(prepared)[0].task.name if accuracies else None
    return card | {"accuracy": accuracies or None, "accuracy_task": task, "within": within}


def _choices(prepared: Sequence[Prepared]) -> list[Prepared]:
    return [it for it in prepared if it.task.kind == "multiple_choice"]


def _accuracy(path: Path, prepared: Prepared, config: EvalConfig, ledgers: Ledgers) -> float:
    with Model(path, threads=config.threads) as model:
        scores = _score(model, prepared, path.stem, sha256_file(path), ledgers)
    return float(mcq.summarize(prepared.items({"model": scores}))["model"]["accuracy"])


def _lines(report: dict[str, Any], rated: dict[str, Any] | None) -> Iterator[str]:
    """What people see of the results, one part at a time."""
    for result in report["tasks"]:
        yield f"{_title(result, report['tasks'])} {result['line']}"
    if (generation := report.get("generation")) and generation["line"]:
        yield f"{FREE_ANSWERS} {generation['line']}"
    if (card := report.get("quant_card")) and card["within"]:
        within = card["within"]
        file, bounds = within["file"], within["expression"]
        yield f"{file} is the smallest with {bounds}" if file else f"no file has {bounds}"
    if rated:
        yield f"panel of {rated['raters']} on {rated['items']} items"


def _file(path: Path) -> dict[str, Any]:
    return {"file": str(path), "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _versions() -> dict[str, str]:
    return {"medllama": __version__, "llama-cpp-python": importlib.metadata.version("llama-cpp-python")}


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
