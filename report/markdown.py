"""The report as Markdown: the same figures as the page, for a repository, a mail or a paper's appendix.

Figures in (`report.figures.collect`), text out. What the run has not made is said to be missing; every part names its files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from medllama.progress import duration
from report.page import size
from report.plain import headline_text, interval, percent, setting, task_rows

Figures = dict[str, Any]


def render_markdown(figures: Figures) -> str:
    """The text of report.md."""
    parts = [
        f"# {figures['run']}\n\n{headline_text(figures)}{_files(figures['headline']['source'])}",
        _section("Results", _results(figures)),
        _section("Answers against the expected ones", _generation(figures)),
        _section("What each file type loses and costs", _card(figures)),
        _section("Panel", _panel(figures)),
        _section("Samples", _samples(figures)),
        _section("Limits", [f"- {it['text']}{_files(it['source'])}" for it in figures["limits"]]),
        _section("Lessons: noted on the way", [f"- {it['text']}{_files(it['source'])}" for it in figures["notes"]]),
        _section("Data", _data(figures)),
        _section("Method", _method(figures)),
        _section("Loss", _loss(figures)),
        _section("Cost", _cost(figures)),
        _section("Certificate", _certificate(figures)),
        f"Made by medllama {figures['medllama']}. No medical device; no medical advice.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, lines: Iterable[str]) -> str:
    text = "\n".join(lines)
    return f"## {title}\n\n{text}" if text else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *cells)] if cells else []


def _from(part: Figures) -> str:
    return f"\nFrom {_named(part['source'])}."


def _files(source: Sequence[str]) -> str:
    """Behind a sentence: the files that it comes from."""
    return f" ({_named(source)})" if source else ""


def _named(source: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in source)


def _results(figures: Figures) -> list[str]:
    evaluation = figures["evaluation"]
    if not evaluation or not evaluation["tasks"]:
        return ["Not measured: `medllama eval` makes this."]
    lines = _table(("task", "n", "base", "tuned", "difference (95% interval)"), task_rows(figures))
    for task in evaluation["tasks"]:
        rows = [
            (row["subject"] or "no subject", row["items"], percent(row["baseline"]), percent(row["model"]))
            for row in task.get("by_subject", [])
            if "items" in row
        ]
        lines += (
            ["", f"{task['task']} by subject:", "", *_table(("subject", "n", "base", "tuned"), rows)] if rows else []
        )
        lines += ["", f"Protocol of {task['task']}: {task['protocol']}"]
        lines += [f"\nWarning: {warning}." for warning in task["warnings"]]
    return [*lines, _from(evaluation)]


def _generation(figures: Figures) -> list[str]:
    part = figures["generation"]
    if not part:
        return []
    roles = [role for role in ("baseline", "model") if part[role]]
    names = {"baseline": "base", "model": "tuned"}
    rows = [
        (name, *(f"{part[role][key]['score']:.1f}" for role in roles))
        for key, name in (("bleu", "BLEU"), ("chrf", "chrF"))
    ]
    rows += [
        (name, *(f"{part[role][key]['mean']:.2f}" for role in roles))
        for key, name in (
            ("rougeL", "ROUGE-L"),
            ("words", "words"),
            ("ended", "ended by itself"),
        )
    ]
    lines = _table((f"{part['measured']} answers", *(names[role] for role in roles)), rows)
    lines += [f"\nWarning: {warning}." for warning in part["warnings"]]
    return [*lines, "", part["protocol"], _from(part)]


def _card(figures: Figures) -> list[str]:
    card = figures["quant_card"]
    if not card:
        return []
    rows = []
    for row in card["files"]:
        against, cost = row["against_reference"], row["cost"]
        told = (
            (
                f"{against['kld']['mean']:.4f}",
                percent(against["same_top"]["share"]),
                f"{against['perplexity_ratio']['ratio']:.4f}",
            )
            if against
            else ("reference", "", "")
        )
        speed = (f"{cost['prompt_tokens_per_second']:.0f}", f"{cost['generated_tokens_per_second']:.0f}")
        rows.append(
            (
                row["type"],
                size(row["bytes"]),
                *told,
                *speed,
                duration(cost["load_seconds"]),
                size(cost["peak_memory_bytes"]),
            )
        )
    head = (
        "type",
        "size",
        "KLD",
        "same top",
        "perplexity ratio",
        "prompt tokens/s",
        "answer tokens/s",
        "load",
        "memory",
    )
    within = card["within"]
    chosen = [f"\nSmallest file with {within['expression']}: {within['file'] or 'none'}."] if within else []
    right = [f"{file} {percent(share)}" for file, share in (card["accuracy"] or {}).items()]
    accuracies = [f"\nRight answers of {card['accuracy_task']}: {', '.join(right)}."] if right else []
    return [*_table(head, rows), *accuracies, *chosen, "", card["protocol"], _from(card)]


def _panel(figures: Figures) -> list[str]:
    panel = figures["panel"]
    if not panel:
        return []
    lines = [f"{panel['ratings']} blind ratings of {panel['items']} items by {panel['raters']} people.", ""]
    for pair in panel["pairs"]:
        for model, its in pair["wins"].items():
            lines.append(f"- {model} preferred: {percent(its['share'])} ({interval(its['interval_95'], 100, 1)})")
        preference = pair["preference"]
        lines += [
            f"- {preference['of']} over {preference['over']}: {100 * preference['difference']:+.1f} points "
            f"({interval(preference['interval_95'], 100, 1)})",
            f"- agreement of choices (Krippendorff's alpha): {_known(pair['agreement_of_choices'])}",
            "",
        ]
        rows = [
            (
                aspect,
                *(_known((its.get(model) or {}).get("mean")) for model in pair["models"]),
                _known(its["agreement"]),
            )
            for aspect, its in pair["aspects"].items()
        ]
        lines += _table(("mean rating, 1 to 5", *pair["models"], "agreement"), rows)
    return [*lines, "", panel["protocol"], _from(panel)]


def _known(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2f}"


def _samples(figures: Figures) -> list[str]:
    samples, lines = figures["samples"], []
    for item in samples["items"] if samples else []:
        asked = " ".join(message["content"] for message in item["messages"])
        lines += [f"**{_one_line(asked)}**", ""]
        lines += [f"- expected: {_one_line(item['expected'])}"] if item["expected"] is not None else []
        for role, name in (("baseline", "base"), ("model", "tuned")):
            if said := item[role]:
                text = _one_line(said["text"]) or "(nothing)"
                lines.append(f"- {name}{'' if said['ended'] else ' (cut)'}: {text}")
        lines.append("")
    return [*lines[:-1], _from(samples)] if lines else []


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _data(figures: Figures) -> list[str]:
    data = figures["data"]
    if not data:
        return ["Missing: `medllama prepare` makes this."]
    rows = []
    for its in data["sources"]:
        counts = (f"{its['counts'][key]:,}" for key in ("read", "kept"))
        rows.append((its["name"], its["licence"] or "none stated", *counts, its["attribution"] or ""))
    return [*_table(("source", "licence", "read", "kept", "attribution"), rows), _from(data)]


def _method(figures: Figures) -> list[str]:
    training, base = figures["training"], figures["base"]
    if not training:
        return ["Missing: `medllama train` makes this."]
    told = (
        f"LoRA on {base['name']} (licence {base['licence'] or 'not recorded'}): {training['steps']:,} optimizer steps over "
        f"{training['trained_tokens']:,} tokens, {training['trainable_parameters']:,} trained parameters, on "
        f"{training['device']} in {training['dtype']}."
    )
    settings = [(name, setting(value)) for name, value in training["hyperparameters"].items()]
    return [told, "", *_table(("setting", "value"), settings), _from(training)]


def _loss(figures: Figures) -> list[str]:
    curve = figures["loss_curve"]
    if not curve or not curve["validation"]:
        return []
    rows = [(step, f"{loss:.4f}") for step, loss in curve["validation"]]
    return [*_table(("step", "validation loss, nats"), rows), _from(curve)]


def _cost(figures: Figures) -> list[str]:
    rows = [
        (its["stage"], duration(its["seconds"]), size(its["peak_memory_bytes"]), size(its["bytes_written"]))
        for its in figures["cost"]["stages"]
        if its["source"]
    ]
    return [*_table(("stage", "time", "memory", "written"), rows), _from(figures["cost"])] if rows else []


def _certificate(figures: Figures) -> list[str]:
    certificate = figures["certificate"]
    if not certificate:
        return ["There is none: `medllama verify` makes it."]
    rows = [
        (
            file["name"],
            check["name"],
            check["figure"],
            check["bound"] if check["bound"] is not None else "none",
            check["verdict"],
        )
        for file in certificate["files"]
        for check in file["checks"]
    ]
    return [*_table(("file", "check", "found", "bound", "verdict"), rows), _from(certificate)]
