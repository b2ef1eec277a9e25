"""The tab that shows what the run measured: evaluation, files with their quantization error, and the certificate.

It reads `eval/results.json` and `certificate.json` as they are; what is missing is named with the verb that makes it.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio

from app.config import AppConfig
from app.desk import whole
from app.plots import intervals_svg, table_html
from app.preferences import Z_95
from medllama.errors import MedllamaError
from medllama.files import read_json


class ResultsTab:
    """Three sections, read again each time the page is opened."""

    def __init__(self, config: AppConfig) -> None:
        self.config = config

    def build(self, blocks: gradio.Blocks) -> None:
        """The layout."""
        shown = gradio.HTML("", elem_id="results")
        blocks.load(self.html, None, [shown], show_progress="hidden", api_visibility="private", queue=False)

    def html(self) -> str:
        """All of it."""
        return (
            section("Evaluation", self.config.evaluation, "--evaluation", "medllama eval", evaluation_html)
            + section("Quantization", self.config.certificate, "--certificate", "medllama verify", quantization_html)
            + section("Certificate", self.config.certificate, "--certificate", "medllama verify", certificate_html)
        )


def section(title: str, path: Path | None, flag: str, verb: str, draw: Any) -> str:
    """A section, or what names or makes its file where that is missing or cannot be read."""
    if path is None:
        body = f'<p class="pending">No file was named: medllama app takes one of {escape(verb)} as {escape(flag)}.</p>'
    elif not path.exists():
        body = f'<p class="pending">{escape(str(path))} is not there yet: {escape(verb)} makes it.</p>'
    else:
        try:
            body = draw(read_json(path))
        except MedllamaError as error:
            body = f'<p class="failure">{escape(error.sentence)}</p>'
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            what = f"it has no {error}" if isinstance(error, KeyError) else "what it holds is of another kind"
            told = f"{path} is none that {verb} of this version writes: {what}. {verb} makes it anew."
            body = f'<p class="failure">{escape(told)}</p>'
    return f'<section class="result"><h2>{escape(title)}</h2>{whole(body)}</section>'


def evaluation_html(found: dict[str, Any]) -> str:
    """Accuracy with intervals as a plot; every task's line; perplexity as a table."""
    plotted, lines, rows = [], [], []
    for task in [*found["tasks"], *free_answers(found)]:
        lines.append([task["task"], task["measured"], task["line"]])
        for who, name in (("baseline", "base"), ("model", "tuned")):
            if "accuracy" in (task.get(who) or {}):
                low, high = task[who]["interval_95"]
                plotted.append((f"{task['task']}, {name}", task[who]["accuracy"], (low, high)))
            text = (task.get("answer_text") or {}).get(who)
            if text:
                limits = [f"{limit:.2f}" for limit in text["perplexity_interval_95"] or ()]
                perplexity = "beyond measure" if text["perplexity"] is None else f"{text['perplexity']:.2f}"
                figure = f"{perplexity} ({' to '.join(limits) or 'no interval'})"
                rows.append([task["task"], name, figure, f"{task['answer_text']['tokens']:,}"])
    parts = [f"<p>{escape(found['line'])}</p>", table_html(["task", "measured", "result"], lines)]
    if plotted:
        parts.append(intervals_svg("Accuracy with its 95% interval", plotted))
    if rows:
        parts.append(table_html(["task", "model", "perplexity of the answers, 95% interval", "tokens"], rows))
    if card := found.get("quant_card"):
        parts.append(quant_card_html(card))
    return "".join(parts)


def free_answers(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers that are word for word the expected ones, in the shape of a task, where any is."""
    if not (generation := found.get("generation")) or not generation.get("line"):
        return []
    return [{"task": "free answers", **generation, **generation["exactly_right"]}]


def quant_card_html(card: dict[str, Any]) -> str:
    """What each type of the model loses against the widest file, and what it costs here."""
    rows, plotted = [], []
    for file in card["files"]:
        against, cost = file["against_reference"], file["cost"]
        lost = ["it is the reference", "", ""]
        if against is not None:
            top, error = against["same_top"]["share"], against["same_top"]["standard_error"]
            lost = [f"{against['kld']['mean']:.4g}", f"{top:.1%}", f"{against['perplexity_ratio']['ratio']:.4f}"]
            if error is not None:
                plotted.append((file["file"], top, (max(0.0, top - Z_95 * error), min(1.0, top + Z_95 * error))))
        speed, memory = cost["generated_tokens_per_second"], cost["peak_memory_bytes"]
        rows.append([file["file"], f"{file['bytes'] / 1e6:,.1f} MB", *lost, f"{speed:,.1f}", f"{memory / 1e6:,.0f} MB"])
    head = [
        "file", "size", "mean KL divergence, nats", "same likeliest token", "perplexity, times the reference's", "tokens/s",
        "peak memory",
    ]  # fmt: skip
    table = table_html(head, rows, caption=f"The quant card, against {card['reference']}")
    title = "The same likeliest token as the reference, with its 95% interval"
    return table + (intervals_svg(title, plotted) if plotted else "")


def quantization_html(found: dict[str, Any]) -> str:
    """The files: size, error of the tensors and of the logits as the certificate measured them."""
    rows = []
    for file in found["files"]:
        checks = {check["name"]: check for check in file["checks"]}
        rows.append([
            file["name"], file["type"], f"{file['bytes'] / 1e6:,.1f} MB", figure(checks.get("logits")),
            figure(checks.get("tensors")), file["sha256"][:16],
        ])  # fmt: skip
    head = [
        "file",
        "type",
        "size",
        "mean KL divergence of the logits, nats",
        "tensor error, share of its bound",
        "SHA-256",
    ]
    return table_html(head, rows)


def certificate_html(found: dict[str, Any]) -> str:
    """The verdict, and every check of every file with its figure, its bound and its reason."""
    rows = [
        [file["name"], check["name"], check["verdict"], figure(check), bound(check), check["reason"]]
        for file in found["files"]
        for check in file["checks"]
    ]
    verdict = escape(str(found["verdict"]))
    return f"<p>Verdict: <strong>{verdict}</strong></p>" + table_html(
        ["file", "check", "verdict", "figure", "bound", "why"], rows
    )


def figure(check: dict[str, Any] | None) -> str:
    """A check's figure: a number in four places, or its words."""
    value = None if check is None else check["figure"]
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def bound(check: dict[str, Any]) -> str:
    """What the figure may be at most."""
    value = check["bound"]
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
