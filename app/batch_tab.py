"""The tab where a list of questions is answered by every model: progress, a table, and the table as a file.

Each question takes its own place in the line, so that others are answered between two of them. The list and the answers are in the
page and in the server's memory; a file that is opened or saved never touches the server's disk.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from html import escape
from typing import Any

import gradio

from app import batch, ratings
from app.batch import Answered
from app.conversation import Sampling
from app.desk import AT_ONCE, LONG, QUIET, Desk, messages, told
from app.engine import Waiting
from medllama.errors import InputError, MedllamaError

NOTHING = '<p class="pending">Write or open a list of questions.</p>'


class BatchTab:
    """A list of questions and its answers."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def build(self) -> None:
        """The layout, and which event calls what."""
        done = gradio.State(((), None, ""))
        questions = gradio.Textbox(
            label="Questions, one a line, or JSONL with a question in each object", lines=6, max_lines=12,
            max_length=batch.MOST_CHARACTERS + 1, elem_id="questions",
        )  # fmt: skip
        with gradio.Row(elem_classes="actions"):
            run = gradio.Button("Answer all", variant="primary", size="md", elem_id="batch-run")
            stop = gradio.Button("Stop", size="md", interactive=False, elem_id="batch-stop")
            choose = gradio.Button("Open a file", size="md")
            as_csv = gradio.Button("Save as CSV", size="md")
            as_jsonl = gradio.Button("Save as JSONL", size="md")
        progress = gradio.HTML("", elem_id="progress")
        table = gradio.HTML(NOTHING, elem_id="batch")
        exported = gradio.Textbox(visible=False)

        choose.click(self.opened, [questions], [questions], js="(before) => window.medllama.choose(before)", **QUIET)
        begun = run.click(self.begin, [questions], [run, stop], **LONG)
        answered = begun.success(self.answer, [questions, *self.desk.settings], [done, progress, table], **LONG)
        for ended in (answered.success, answered.failure):
            ended(self.finish, None, [run, stop], **AT_ONCE)
        stop.click(self.desk.stop, None, None, **AT_ONCE)
        for button, name, write in (
            (as_csv, "answers.csv", ratings.as_csv), (as_jsonl, "answers.jsonl", ratings.as_jsonl)
        ):  # fmt: skip
            button.click(functools.partial(self.export, write), [done], [exported], **AT_ONCE).success(
                None, [exported], None, js=f"(text) => window.medllama.save('{name}', text)", **QUIET
            )

    def opened(self, text: str | None) -> str:
        """The text of the file that the browser read; it has none of a file that is no text or too large."""
        if text is None:
            raise told(f"The file is no text in UTF-8, or larger than {batch.MOST_CHARACTERS:,} bytes.")
        return text

    def begin(self, text: str, request: gradio.Request) -> list[Any]:
        """Look at the whole list before anything is answered."""
        try:
            batch.read_questions(text)
        except InputError as error:
            raise told(error.sentence) from None
        self.desk.occupy(request)
        return [gradio.update(interactive=False), gradio.update(interactive=True)]

    async def answer(
        self, text: str, system: str, temperature: float, top_p: float, max_tokens: float | None, seed: float | None,
        request: gradio.Request,
    ) -> AsyncIterator[tuple[Any, str, str]]:  # fmt: skip
        """The table as it fills. A question that cannot be asked stands there with its reason."""
        questions = batch.read_questions(text)
        sampling = self.desk.sampling(temperature, top_p, max_tokens, seed)
        is_stopped = self.desk.stopping(request)
        done: list[Answered] = []
        for question in questions:
            yield self.state(done, sampling, system, len(questions), "")
            numbers = range(len(self.desk.speakers))
            state: Any = None
            try:
                async for state in self.desk.ask(
                    request, dict.fromkeys(numbers, messages((), 0, system, question)), sampling
                ):
                    if isinstance(state, Waiting):
                        yield self.state(done, sampling, system, len(questions), f", {state.ahead} of others first")
            except MedllamaError as error:
                done.append(Answered(question, (), error.sentence))
                continue
            if is_stopped():
                break
            done.append(Answered(question, tuple(state)))
        ended = " (stopped)" if is_stopped() else ""
        yield self.state(done, sampling, system, len(questions), ended)

    def state(
        self, done: list[Answered], sampling: Sampling, system: str, count: int, remark: str
    ) -> tuple[Any, str, str]:
        """What is answered so far: for saving, as progress, as a table."""
        said = f"{len(done)} of {count} answered{remark}"
        bar = f'<progress max="{count}" value="{len(done)}" aria-label="{escape(said)}"></progress>'
        shown = batch.table_of(done, self.desk.speakers)
        return (tuple(done), sampling, system), f'<p class="progress" role="status">{bar} {escape(said)}</p>', shown

    def finish(self, request: gradio.Request) -> list[Any]:
        """Let the next list be answered."""
        self.desk.free(request)
        return [gradio.update(interactive=True), gradio.update(interactive=False)]

    def export(self, write: Any, state: tuple[tuple[Answered, ...], Sampling | None, str]) -> str:
        """The answers so far as a text."""
        done, sampling, system = state
        if sampling is None:
            raise told("Answer a list of questions first.")
        names = [voice.name for voice in self.desk.engine.voices]
        return str(write(batch.records_of(done, names, sampling, system)))
