"""The comparison page: one question, every voice answers it, streamed side by side.

Gradio brings the form and carries the updates; the conversation itself is drawn by app/render.py and computed by
app/conversation.py. A session's turns live in the server's memory until its page is closed, and nowhere else.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio

from app import render
from app.config import MOST_SEED, AppConfig
from app.conversation import Answer, Sampling, Voice, side_by_side
from app.render import Speaker, Turn
from medllama.errors import MedllamaError

REDRAW_SECONDS = 0.05
MOST_QUESTION_CHARACTERS = 4000
MOST_WAITING = 20  # people in the queue; the next one is told that it is full
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
FIXED_FONTS = ("ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
CSS = Path(__file__).parent / "page.css"


def theme() -> gradio.themes.Base:
    """Fonts of the system, so that none is fetched; grays that keep a contrast of 4.5 and more."""
    return gradio.themes.Base(
        primary_hue="teal", neutral_hue="slate", radius_size="sm", font=SYSTEM_FONTS, font_mono=FIXED_FONTS
    ).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
    )


class Page:
    """The page's events. What belongs to one person is keyed by Gradio's session or kept in its `State`."""

    def __init__(self, voices: Sequence[Voice], config: AppConfig) -> None:
        self.voices = voices
        self.config = config
        adapter = config.adapter_gguf.stem if config.adapter_gguf else None
        self.speakers: list[Speaker] = render.speakers([Path(name).stem for name in config.model], adapter)
        self._stops: dict[str, threading.Event] = {}  # of the sessions whose question is being answered or waits

    def blocks(self) -> gradio.Blocks:
        """The layout, and which event calls what."""
        config = self.config
        with gradio.Blocks(title=render.TITLE, analytics_enabled=False) as blocks:
            turns, asked = gradio.State(()), gradio.State("")
            gradio.HTML(render.heading(self.speakers))
            box = gradio.Textbox(
                label="Your question", placeholder="Type a question and press Enter", lines=1, max_lines=8, autofocus=True,
                max_length=MOST_QUESTION_CHARACTERS, elem_id="question",
            )  # fmt: skip
            with gradio.Row(elem_classes="actions"):
                ask = gradio.Button("Ask", variant="primary", size="md", elem_id="ask")
                stop = gradio.Button("Stop", size="md", interactive=False, elem_id="stop")
                clear = gradio.Button("New conversation", size="md", elem_id="clear")
            with gradio.Row(elem_classes="examples", visible=bool(config.examples)):
                examples = [gradio.Button(text, size="sm") for text in config.examples]
            newest = gradio.HTML(render.empty_html(self.speakers), elem_id="newest")
            earlier = gradio.HTML("", elem_id="earlier")
            with gradio.Accordion("Settings, the same for every model", open=False):
                system = gradio.Textbox(
                    config.system, label="System prompt", lines=2, max_lines=8, max_length=MOST_QUESTION_CHARACTERS
                )
                with gradio.Row():
                    temperature = gradio.Slider(
                        0, 2, max(0, min(config.temperature, 2)), step=0.05, label="Temperature",
                        info="0 takes the likeliest token each time",
                    )  # fmt: skip
                    top_p = gradio.Slider(
                        0.01, 1, max(0.01, config.top_p), step=0.01, label="Top-p", info="of use above temperature 0"
                    )
                with gradio.Row():
                    max_tokens = gradio.Number(
                        config.max_tokens, label="Most tokens of an answer", precision=0, minimum=1
                    )
                    seed = gradio.Number(config.seed, label="Seed", precision=0, minimum=0, maximum=MOST_SEED)
            with gradio.Accordion("The prompt, exactly as each model reads it", open=False) as prompt_accordion:
                prompts = gradio.HTML(render.prompts_html([], self.speakers), elem_id="prompts")

            quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
            at_once = quiet | {"queue": False}
            settings = [system, temperature, top_p, max_tokens, seed]
            buttons = [ask, stop, clear]
            begun = [
                source(
                    self.begin, [given, turns], [box, asked, newest, earlier, *buttons], concurrency_limit=None, **quiet
                )
                for source, given in ((ask.click, box), (box.submit, box), *((it.click, it) for it in examples))
            ]
            for event in begun:
                answered = event.success(
                    self.answer,
                    [turns, asked, *settings],
                    [turns, newest, box],
                    concurrency_limit=1,
                    concurrency_id="models",
                    **quiet,
                )
                for ended in (answered.success, answered.failure):  # a refused setting, a full queue
                    ended(self.finish, [turns], [newest, earlier, prompts, *buttons], **at_once)
            stop.click(self.stop, None, None, **at_once)
            clear.click(lambda: ((), "", render.empty_html(self.speakers), "", render.prompts_html([], self.speakers)), None,
                        [turns, box, newest, earlier, prompts], **at_once)  # fmt: skip
            prompt_accordion.expand(self.prompts, [turns], [prompts], **at_once)
            blocks.unload(self.leave)
        blocks.queue(max_size=MOST_WAITING, default_concurrency_limit=1, api_open=False)
        return blocks

    def begin(self, question: str, turns: tuple[Turn, ...], request: gradio.Request) -> list[Any]:
        """Take the question out of the box and show it, before any model has time for it."""
        question = question.strip()
        if not question:
            raise gradio.Error("Type a question first.", title="No question", print_exception=False)
        if len(question) > MOST_QUESTION_CHARACTERS:
            raise gradio.Error(
                f"A question has at most {MOST_QUESTION_CHARACTERS:,} characters.",
                title="Too long",
                print_exception=False,
            )
        if self._session(request) in self._stops:
            raise gradio.Error("Stop the answer first, or wait for it.", title="Still answering", print_exception=False)
        self._stops[self._session(request)] = threading.Event()
        waiting, past = render.waiting_html(question, self.speakers), render.earlier_html(turns, self.speakers)
        return ["", question, waiting, past, *self._buttons(is_answering=True)]

    def answer(
        self, turns: tuple[Turn, ...], asked: str, system: str, temperature: float, top_p: float, max_tokens: float | None,
        seed: float | None, request: gradio.Request,
    ) -> Iterator[tuple[Any, ...]]:  # fmt: skip
        """The answers as they grow. A conversation that does not fit is told, and the question goes back into the box."""
        stop = self._stops.setdefault(self._session(request), threading.Event())
        sampling = Sampling(temperature, top_p, int(seed or 0), int(max_tokens or self.config.max_tokens))
        streams = [
            voice.answer(messages(turns, number, system, asked), sampling, stop.is_set)
            for number, voice in enumerate(self.voices)
        ]
        drawn = 0.0
        try:
            for answers in side_by_side(streams):
                turn = Turn(asked, system, tuple(answers))
                if time.monotonic() - drawn >= REDRAW_SECONDS:
                    drawn = time.monotonic()
                    yield turns, render.turn_html(turn, self.speakers), gradio.skip()
        except Exception as error:  # whatever it is, the page stays usable and the server alive
            told = f"{escape(error.message)}. {escape(error.hint)}." if isinstance(error, MedllamaError) else ""
            if not told:
                traceback.print_exc()
            gradio.Warning(told or "The model failed; the terminal that runs medllama says why.", title="No answer")
            yield turns, render.empty_html(self.speakers), asked
        else:
            yield (*turns, turn), render.turn_html(turn, self.speakers), gradio.skip()

    def finish(self, turns: tuple[Turn, ...], request: gradio.Request) -> list[Any]:
        """Show what has become of the conversation, and let the next question be asked."""
        self._stops.pop(self._session(request), None)
        newest = render.turn_html(turns[-1], self.speakers) if turns else render.empty_html(self.speakers)
        earlier = render.earlier_html(turns[:-1], self.speakers)
        return [newest, earlier, self.prompts(turns), *self._buttons(is_answering=False)]

    def stop(self, request: gradio.Request) -> None:
        """End the answers of this session after the step that is being computed."""
        if (stop := self._stops.get(self._session(request))) is not None:
            stop.set()

    def leave(self, request: gradio.Request) -> None:
        """The page was closed: nobody reads on."""
        self.stop(request)
        self._stops.pop(self._session(request), None)

    def prompts(self, turns: tuple[Turn, ...]) -> str:
        """What each voice read for its newest answer."""
        read = []
        for number, voice in enumerate(self.voices if turns else ()):
            ids = voice.prompt(messages(turns[:-1], number, turns[-1].system, turns[-1].question))
            read.append((voice.read(ids), len(ids)))
        return render.prompts_html(read, self.speakers)

    @staticmethod
    def _buttons(*, is_answering: bool) -> list[Any]:
        """The states of Ask, Stop and New conversation."""
        states = (not is_answering, is_answering, not is_answering)
        return [gradio.update(interactive=is_usable) for is_usable in states]

    @staticmethod
    def _session(request: gradio.Request) -> str:
        return str(request.session_hash)


def messages(turns: Sequence[Turn], number: int, system: str, question: str) -> list[dict[str, str]]:
    """What voice `number` is asked: its own answers so far, and the question."""
    said = [{"role": "system", "content": system.strip()}] if system.strip() else []
    for turn in turns:
        answer: Answer = turn.answers[number]
        said += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": answer.text}]
    return [*said, {"role": "user", "content": question}]
