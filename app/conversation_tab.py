"""The tab where people ask: every voice at once ("Compare"), or one of them full width ("Chat").

Gradio brings the form and carries the updates; what is seen is drawn by app/render.py and computed by app/engine.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import gradio

from app import render
from app.config import MOST_SEED
from app.desk import AT_ONCE, LONG, MOST_TURNS, MOST_TYPED_CHARACTERS, QUIET, Desk, messages, told, warn
from app.differences import differences_html
from app.engine import Waiting
from app.render import Speaker, Turn
from medllama.errors import MedllamaError


class ConversationTab:
    """A conversation with all voices, or with one that the person picks. `prefix` keeps the ids of two tabs apart."""

    def __init__(self, desk: Desk, *, prefix: str = "", label: str = "Your question", is_picking: bool = False) -> None:
        self.desk = desk
        self.prefix = prefix
        self.label = label
        self.is_picking = is_picking

    def speakers(self, picked: int) -> list[Speaker]:
        """The voices of this conversation."""
        return [self.desk.speakers[picked]] if self.is_picking else self.desk.speakers

    def numbers(self, picked: int) -> Sequence[int]:
        """Their numbers in the engine."""
        return [picked] if self.is_picking else range(len(self.desk.speakers))

    def build(self) -> None:
        """The layout, and which event calls what."""
        first = len(self.desk.speakers) - 1 if self.is_picking else 0
        turns, followed, asked = gradio.State(()), gradio.State(()), gradio.State("")
        picked = gradio.Radio(
            [(f"{voice.role}: {voice.file}", number) for number, voice in enumerate(self.desk.speakers)],
            value=first, label="Model", visible=self.is_picking,
        )  # fmt: skip
        box = gradio.Textbox(
            label=self.label, placeholder="Type a question and press Enter", lines=1, max_lines=8,
            autofocus=not self.prefix, max_length=MOST_TYPED_CHARACTERS, elem_id=self.prefix + "question",
        )  # fmt: skip
        with gradio.Row(elem_classes="actions"):
            ask = gradio.Button("Ask", variant="primary", size="md", elem_id=self.prefix + "ask")
            stop = gradio.Button("Stop", size="md", interactive=False, elem_id=self.prefix + "stop")
            again = gradio.Button("Regenerate", size="md", interactive=False, elem_id=self.prefix + "again")
            clear = gradio.Button("New conversation", size="md", elem_id=self.prefix + "clear")
        with gradio.Row(elem_classes="examples", visible=bool(self.desk.config.examples)):
            examples = [gradio.Button(text, size="sm") for text in self.desk.config.examples]
        newest = gradio.HTML(render.empty_html(self.speakers(first)), elem_id=self.prefix + "newest")
        is_compared = len(self.speakers(first)) > 1
        with gradio.Accordion(
            "Where the answers differ", open=False, visible=is_compared, elem_id=self.prefix + "differ"
        ) as difference_accordion:
            differences = gradio.HTML(differences_html(None, self.speakers(first)), elem_id=self.prefix + "differences")
        earlier = gradio.HTML("", elem_id=self.prefix + "earlier")
        with gradio.Accordion("The prompt, exactly as each model reads it", open=False) as prompt_accordion:
            prompts = gradio.HTML(render.prompts_html([], self.speakers(first)), elem_id=self.prefix + "prompts")

        seed = self.desk.settings[4]
        buttons = [ask, stop, again, clear, picked]
        shown = [newest, earlier, differences, prompts]
        given_to, made = [turns, picked, *self.desk.settings], [followed, asked, newest, earlier, *buttons]
        begun = [
            source(self.begin, [given, *given_to], [box, *made], **LONG)
            for source, given in ((ask.click, box), (box.submit, box), *((it.click, it) for it in examples))
        ]
        begun.append(again.click(self.begin_again, given_to, made, **LONG))
        for event in begun:
            answered = event.success(
                self.answer, [turns, followed, asked, picked, *self.desk.settings], [turns, newest, box, seed], **LONG
            )
            for ended in (answered.success, answered.failure):  # a refused setting
                ended(self.finish, [turns, picked], [*shown, *buttons], **AT_ONCE)
        stop.click(self.desk.stop, None, None, **AT_ONCE)
        clear.click(self.clear, [picked], [turns, box, *shown, again], **AT_ONCE)
        picked.change(self.clear, [picked], [turns, box, *shown, again], **AT_ONCE)
        prompt_accordion.expand(self.prompts, [turns, picked], [prompts], **QUIET)
        difference_accordion.expand(self.differences, [turns, picked], [differences], **AT_ONCE)

    def begin(
        self, question: str, turns: tuple[Turn, ...], picked: int, request: gradio.Request, *settings: Any
    ) -> list[Any]:
        """Take the question out of the box and show it after the turns that it follows, before any model has time for it. The
        settings are there for Gradio to refuse them now, not when the question is gone."""
        if len(turns) >= MOST_TURNS:
            raise told(f"A conversation has at most {MOST_TURNS} questions.")
        question = self.desk.begin(question, request)
        voices = self.speakers(picked)
        waiting, past = render.waiting_html(question, voices), render.earlier_html(turns, voices)
        return ["", turns, question, waiting, past, *_buttons(is_answering=True)]

    def begin_again(
        self, turns: tuple[Turn, ...], picked: int, system: str, temperature: float, top_p: float,
        max_tokens: float | None, seed: float | None, request: gradio.Request,
    ) -> list[Any]:  # fmt: skip
        """Ask the newest question once more. Its turn stays in the conversation until it has another answer."""
        if not turns:
            raise told("Ask a question first.")
        if temperature == 0:
            gradio.Info("At temperature 0 the answer stays the same. The settings have the temperature.")
        _, *rest = self.begin(turns[-1].question, turns[:-1], picked, request)
        return rest

    async def answer(
        self, turns: tuple[Turn, ...], followed: tuple[Turn, ...], asked: str, picked: int, system: str, temperature: float,
        top_p: float, max_tokens: float | None, seed: float | None, request: gradio.Request,
    ) -> AsyncIterator[tuple[Any, ...]]:  # fmt: skip
        """The answers as they grow. What cannot be asked is told, and the question goes back into the box, unless it stands with
        an answer in the conversation: asked again it takes the next seed, which the settings show once there is another answer."""
        voices = self.speakers(picked)
        conversations = {
            number: messages(followed, place, system, asked) for place, number in enumerate(self.numbers(picked))
        }
        is_again = len(followed) < len(turns)
        if is_again:
            seed = (int(seed or 0) + 1) % (MOST_SEED + 1)
        nothing, turn = gradio.skip(), None
        try:
            async for state in self.desk.ask(
                request, conversations, self.desk.sampling(temperature, top_p, max_tokens, seed)
            ):
                if isinstance(state, Waiting):
                    yield nothing, render.waiting_html(asked, voices, state.ahead), nothing, nothing
                else:
                    turn = Turn(asked, system, tuple(state))
                    yield nothing, render.turn_html(turn, voices), nothing, nothing
        except MedllamaError as error:
            warn(error)
            yield nothing, nothing, nothing if is_again else asked, nothing
            return
        assert turn is not None, "the engine gives answers or raises"
        if is_again and all(answer.stop == "stopped" and not answer.text for answer in turn.answers):
            return  # stopped before its first word: the answer from before stays
        has_failed = all(answer.stop == "failed" for answer in turn.answers)
        yield (
            (*followed, turn), render.turn_html(turn, voices), asked if has_failed else nothing, seed if is_again else nothing,
        )  # fmt: skip

    def finish(self, turns: tuple[Turn, ...], picked: int, request: gradio.Request) -> list[Any]:
        """Show what has become of the conversation, and let the next question be asked."""
        self.desk.free(request)
        voices = self.speakers(picked)
        newest = render.turn_html(turns[-1], voices) if turns else render.empty_html(voices)
        return [
            newest, render.earlier_html(turns[:-1], voices), self.differences(turns, picked), self.prompts(turns, picked),
            *_buttons(is_answering=False, can_repeat=bool(turns)),
        ]  # fmt: skip

    def clear(self, picked: int) -> list[Any]:
        """An empty conversation."""
        voices = self.speakers(picked)
        emptied = [render.empty_html(voices), "", differences_html(None, voices), render.prompts_html([], voices)]
        return [(), "", *emptied, gradio.update(interactive=False)]

    def prompts(self, turns: tuple[Turn, ...], picked: int) -> str:
        """What each voice read for its newest answer."""
        if not turns:
            return render.prompts_html([], self.speakers(picked))
        read = [
            self.desk.engine.voices[number].read(messages(turns[:-1], place, turns[-1].system, turns[-1].question))
            for place, number in enumerate(self.numbers(picked))
        ]
        return render.prompts_html(read, self.speakers(picked))

    def differences(self, turns: tuple[Turn, ...], picked: int) -> str:
        """Where the newest answers differ."""
        return differences_html(turns[-1] if turns else None, self.speakers(picked))


def _buttons(*, is_answering: bool, can_repeat: bool = False) -> list[Any]:
    """The states of Ask, Stop, Regenerate, New conversation and of the choice of a model."""
    states = (not is_answering, is_answering, can_repeat, not is_answering, not is_answering)
    return [gradio.update(interactive=is_usable) for is_usable in states]
