"""The comparison page: one tab for each thing that people do, the settings of all of them below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio

from app import render
from app.batch_tab import BatchTab
from app.blind_tab import BlindTab
from app.config import MOST_SEED, AppConfig
from app.conversation_tab import ConversationTab
from app.desk import MOST_QUESTION_CHARACTERS, Desk
from app.engine import Engine
from app.results_tab import ResultsTab

MOST_EVENTS = 200  # of all pages at once; questions wait in a line of their own (app/line.py)
OLLAMA = "An Ollama server answers: it may take what is typed, such as </s>, for the end of a turn."


class Page:
    """The tabs around one desk."""

    def __init__(self, engine: Engine, config: AppConfig) -> None:
        names = [voice.name for voice in engine.voices]
        speakers = render.speakers(names, has_adapter=config.adapter_gguf is not None)
        self.desk = Desk(engine, config, speakers)
        self.notes = [f"{voice.name} cannot be asked: {voice.missing}" for voice in engine.voices if voice.missing]
        if engine.voices.take_turns:
            self.notes.append(
                "The models do not fit into memory together. They answer in turn: each is loaded before it answers."
            )
        if config.backend == "ollama":
            self.notes.append(OLLAMA)

    def blocks(self) -> gradio.Blocks:
        """The layout."""
        config = self.desk.config
        machines = [config.elsewhere, *(getattr(voice, "elsewhere", "") for voice in self.desk.engine.voices)]
        elsewhere = " and ".join(dict.fromkeys(filter(None, machines)))
        with gradio.Blocks(title=render.TITLE, analytics_enabled=False) as blocks:
            gradio.HTML(render.heading(self.desk.speakers, self.notes, elsewhere=elsewhere))
            tabs = gradio.Tabs()
            with gradio.Accordion("Settings, the same for every model", open=False):
                self.settings()
            with tabs:
                is_one = len(self.desk.speakers) == 1
                with gradio.Tab("Chat" if is_one else "Compare"):
                    ConversationTab(self.desk).build()
                if not is_one:
                    with gradio.Tab("Blind"):
                        BlindTab(self.desk).build()
                with gradio.Tab("Batch"):
                    BatchTab(self.desk).build()
                with gradio.Tab("Results"):
                    ResultsTab(config).build(blocks)
                if not is_one:
                    with gradio.Tab("Chat"):
                        ConversationTab(self.desk, prefix="chat-", label="Your message", is_picking=True).build()
            gradio.HTML('<p class="foot"><a href="docs">How programs ask the same models</a></p>')
            blocks.unload(self.desk.leave)
        blocks.queue(max_size=MOST_EVENTS, default_concurrency_limit=None, api_open=False)
        return blocks

    def settings(self) -> None:
        """How every answer is made."""
        config = self.desk.config
        system = gradio.Textbox(
            config.system, label="System prompt", lines=2, max_lines=8, max_length=MOST_QUESTION_CHARACTERS
        )
        with gradio.Row():
            temperature = gradio.Slider(
                0, 2, max(0, min(config.temperature, 2)), step=0.05, label="Temperature",
                info="0 takes the likeliest token each time",
            )  # fmt: skip
            top_p = gradio.Slider(
                0.01, 1, max(0.01, config.top_p), step=0.01, label="Top-p", info="counts above temperature 0 only"
            )
        with gradio.Row():
            max_tokens = gradio.Number(config.max_tokens, label="Most tokens of an answer", precision=0, minimum=1)
            seed = gradio.Number(config.seed, label="Seed", precision=0, minimum=0, maximum=MOST_SEED, elem_id="seed")
        self.desk.settings = [system, temperature, top_p, max_tokens, seed]
        for setting in self.desk.settings:
            setting.preprocess = told_alone(setting.preprocess)


def told_alone(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A field's own reading of what a person gave, whose refusal is no traceback on the terminal."""

    def reading(given: Any) -> Any:
        try:
            return read(given)
        except gradio.Error as error:
            error.print_exception = False
            raise

    return reading
