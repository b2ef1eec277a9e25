"""The tab where a person judges two answers without knowing whose they are.

Two models are drawn and their sides shuffled for every question; both answers are shown when both have ended, so that neither a name
nor a speed tells them apart. Then better, worse, tie or both bad, and three scales; the names come after the rating is saved.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gradio

from app import preferences, ratings, render
from app.conversation import Answer, Sampling
from app.desk import AT_ONCE, LONG, MOST_TYPED_CHARACTERS, QUIET, Desk, messages, told, warn, whole
from app.engine import Waiting
from app.preferences_view import preferences_html
from app.ratings import RatedAnswer, Rating, Ratings
from app.render import Speaker, Turn
from medllama import __version__
from medllama.errors import MedllamaError
from medllama.files import file_state, has_state, sha256_file

SCALES = ("relevance", "accuracy", "coherence")
CHOICES = [("A is better", "a"), ("B is better", "b"), ("Tie", "tie"), ("Both are bad", "both_bad")]
SIDES = (Speaker("Answer A", ""), Speaker("Answer B", ""))
MOST_NAME_CHARACTERS = 60
MOST_COMMENT_CHARACTERS = 2000
EVERYBODY = "everybody"
sha256_of = functools.cache(sha256_file)


@dataclass(frozen=True)
class Blind:
    """A question with two answers: `numbers` are the voices of A and B. `is_rated` from when the names are known."""

    question: str
    system: str
    sampling: Sampling
    numbers: tuple[int, int]
    answers: tuple[Answer, ...]
    is_rated: bool = False

    @property
    def messages(self) -> list[dict[str, str]]:
        return messages((), 0, self.system, self.question)


class BlindTab:
    """Asking, judging, and what the judgements say."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.store = Ratings(desk.config.ratings)
        files = [*map(Path, desk.config.model), *filter(None, [desk.config.adapter_gguf])]
        is_ours = desk.config.backend == "llama.cpp"
        self.opened = {file: file_state(file) for file in files if is_ours and file.is_file()}

    def build(self) -> None:
        """The layout, and which event calls what."""
        blind, asked = gradio.State(None), gradio.State("")
        box = gradio.Textbox(
            label="Question to judge", placeholder="Type a question and press Enter", lines=1, max_lines=8,
            max_length=MOST_TYPED_CHARACTERS, elem_id="blind-question",
        )  # fmt: skip
        with gradio.Row(elem_classes="actions"):
            ask = gradio.Button("Ask both", variant="primary", size="md", elem_id="blind-ask")
            stop = gradio.Button("Stop", size="md", interactive=False, elem_id="blind-stop")
        with gradio.Row(elem_classes="examples", visible=bool(self.desk.config.examples)):
            examples = [gradio.Button(text, size="sm") for text in self.desk.config.examples]
        shown = gradio.HTML(render.empty_html(SIDES), elem_id="blind")
        with gradio.Column(visible=False, elem_id="judgement") as form:
            choice, scales, rater, comment, keep, save = self.form()
        with gradio.Accordion("What the ratings say", open=False) as accordion:
            who = gradio.Dropdown([EVERYBODY], value=EVERYBODY, label="Ratings of", elem_id="raters")
            results = gradio.HTML("", elem_id="ratings")
            with gradio.Row(elem_classes="actions"):
                as_jsonl = gradio.Button("Save as JSONL", size="md")
                as_csv = gradio.Button("Save as CSV", size="md")
            exported = gradio.Textbox(visible=False)

        buttons = [ask, stop]
        for source, given in ((ask.click, box), (box.submit, box), *((it.click, it) for it in examples)):
            begun = source(self.begin, [given, *self.desk.settings], [box, asked, shown, form, *buttons], **LONG)
            answered = begun.success(
                self.answer, [asked, *self.desk.settings],
                [blind, shown, box, form, choice, *scales, comment, keep], **LONG,
            )  # fmt: skip
            for ended in (answered.success, answered.failure):
                ended(self.finish, None, buttons, **AT_ONCE)
        stop.click(self.desk.stop, None, None, **AT_ONCE)
        saved = save.click(self.save, [blind, choice, *scales, rater, comment, keep], [blind, shown, form], **QUIET)
        for event in (saved.success, accordion.expand, who.change):
            event(self.results, [who], [who, results], **AT_ONCE)
        for button, name, write in (
            (as_jsonl, "ratings.jsonl", ratings.as_jsonl), (as_csv, "ratings.csv", ratings.as_csv)
        ):  # fmt: skip
            button.click(functools.partial(self.export, write), None, [exported], **AT_ONCE).success(
                None, [exported], None, js=f"(text) => window.medllama.save('{name}', text)", **QUIET
            )

    def form(self) -> tuple[Any, list[Any], Any, Any, Any, Any]:
        """The judgement: which is better, how good each is, by whom, and whether the question may be kept."""
        choice = gradio.Radio(
            CHOICES,
            label="Which answer is better?",
            info="The scales and the comment may be left out.",
            elem_id="choice",
        )
        scales = []
        for name in SCALES:
            with gradio.Row():
                scales += [
                    gradio.Radio([1, 2, 3, 4, 5], label=f"{name.capitalize()} of {side}, 5 is best")
                    for side in ("A", "B")
                ]
        with gradio.Row():
            rater = gradio.Textbox(label="Your name or initials", max_length=MOST_NAME_CHARACTERS)
            comment = gradio.Textbox(label="Comment", max_length=MOST_COMMENT_CHARACTERS)
        keep = gradio.Checkbox(label="Keep the question and both answers with the rating", value=False)
        save = gradio.Button("Save the rating", variant="primary", size="md")
        return choice, scales, rater, comment, keep, save

    def begin(self, question: str, request: gradio.Request, *settings: Any) -> list[Any]:
        """Take the question out of the box, once two models can be asked and Gradio has found nothing wrong with the settings."""
        self.draw()
        question = self.desk.begin(question, request)
        return ["", question, render.waiting_html(question, SIDES), gradio.update(visible=False), *_buttons(True)]

    async def answer(
        self, asked: str, system: str, temperature: float, top_p: float, max_tokens: float | None, seed: float | None,
        request: gradio.Request,
    ) -> AsyncIterator[tuple[Any, ...]]:  # fmt: skip
        """Both answers, when both have ended; then the empty form: who let one question be kept has said nothing of the next."""
        numbers = self.draw()
        sampling = self.desk.sampling(temperature, top_p, max_tokens, seed)
        blind = Blind(asked, system, sampling, numbers, ())
        conversation = dict.fromkeys(sorted(numbers), blind.messages)  # who computes first is not whose side it is
        nothing = [gradio.skip()] * (3 + len(SCALES) * 2)
        state: Any = None
        try:
            async for state in self.desk.ask(request, conversation, sampling):
                if isinstance(state, Waiting):
                    yield None, render.waiting_html(asked, SIDES, state.ahead), gradio.skip(), gradio.skip(), *nothing
        except MedllamaError as error:
            warn(error)
            yield None, render.empty_html(SIDES), asked, gradio.skip(), *nothing
            return
        by_number = dict(zip(sorted(numbers), state, strict=True))
        blind = replace(blind, answers=tuple(by_number[number] for number in numbers))
        can_be_rated = all(answer.stop in ("end", "length") for answer in blind.answers)
        yield (
            blind, blind_html(blind, SIDES), gradio.skip() if can_be_rated else asked, gradio.update(visible=can_be_rated),
            None, *[None] * (len(SCALES) * 2), "", False,
        )  # fmt: skip

    def draw(self) -> tuple[int, int]:
        """Two of the models that can be asked, in any order."""
        there = [number for number, voice in enumerate(self.desk.engine.voices) if not voice.missing]
        if len(there) < 2:
            raise told("Only one model can be asked.")
        one, other = secrets.SystemRandom().sample(there, 2)
        return one, other

    def finish(self, request: gradio.Request) -> list[Any]:
        """Let the next question be asked."""
        self.desk.free(request)
        return _buttons(False)

    def save(self, blind: Blind | None, choice: Any, *given: Any) -> list[Any]:
        """Store the judgement, and show whose answers they were."""
        *scales, rater, comment, keep = given
        if blind is None or blind.is_rated:
            raise told("Ask a question first.")
        if choice not in [value for _, value in CHOICES]:
            raise told("Say which answer is better.")
        if not rater.strip():
            raise told("Type your name or initials: the results are also shown by rater.")
        voices = [self.desk.engine.voices[number] for number in blind.numbers]
        names = [f"{scale}_{side}" for scale in SCALES for side in "ab"]
        versions = {"medllama": __version__, "llama-cpp-python": version("llama-cpp-python")}
        try:
            self.store.add(
                Rating(
                    self.store.item_id(blind.messages), whole(rater.strip()), voices[0].name, voices[1].name, choice,
                    comment=whole(comment.strip()), **dict(zip(names, scales, strict=True)),
                ),
                [self.rated(number, answer) for number, answer in zip(blind.numbers, blind.answers, strict=True)],
                messages=blind.messages if keep else None,
                sampling=asdict(blind.sampling) | {"threads": self.desk.config.threads},
                versions=versions,
            )  # fmt: skip
        except MedllamaError as error:
            raise told(error.sentence) from None
        gradio.Success(f"The rating is saved, {'with' if keep else 'without'} the question.")
        rated = replace(blind, is_rated=True)
        sides = [
            replace(side, role=f"{side.role}: {self.desk.speakers[number].role}", file=self.desk.speakers[number].file)
            for side, number in zip(SIDES, blind.numbers, strict=True)
        ]
        return [rated, blind_html(rated, sides), gradio.update(visible=False)]

    def rated(self, number: int, answer: Answer) -> RatedAnswer:
        """What repeats this answer: the files' digests, and how it ended."""
        config, voice = self.desk.config, self.desk.engine.voices[number]
        adapter = config.adapter_gguf if number == len(config.model) else None
        file = config.model[0 if adapter else number]
        digest = self.digest(Path(file)) if config.backend == "llama.cpp" else getattr(voice, "digest", None)
        return RatedAnswer(
            voice.name, file, digest, str(adapter) if adapter else None,
            self.digest(adapter) if adapter else None, voice.context_tokens, str(answer.stop), answer.tokens, answer.text,
        )  # fmt: skip

    def digest(self, file: Path) -> str | None:
        """The SHA-256 of a file that answers; None where another one has taken its place since it was opened."""
        return sha256_of(file) if has_state(file, self.opened.get(file)) else None

    def results(self, who: str) -> list[Any]:
        """What the ratings say, of everybody or of one rater."""
        rows = self.rows()
        raters = sorted({row["rater"] for row in rows})
        chosen = [row for row in preferences.latest(rows) if who in (EVERYBODY, row["rater"])]
        models = [voice.name for voice in self.desk.engine.voices]
        models += sorted({row[side] for row in rows for side in ("model_a", "model_b")} - set(models))
        pairs = preferences.versus(chosen, models)
        return [gradio.update(choices=[EVERYBODY, *raters]), preferences_html(pairs, chosen, SCALES)]

    def export(self, write: Any) -> str:
        """Every rating as a text."""
        return str(write(self.rows()))

    def rows(self) -> list[dict[str, Any]]:
        """Every rating. What is wrong with their file is told."""
        try:
            return self.store.panel()
        except MedllamaError as error:
            raise told(error.sentence) from None


def blind_html(blind: Blind, sides: Any) -> str:
    """The two answers without their figures: a speed would tell whose they are."""
    plain = tuple(replace(answer, tokens=0, first_token_seconds=None) for answer in blind.answers)
    return render.turn_html(Turn(blind.question, blind.system, plain), sides)


def _buttons(is_answering: bool) -> list[Any]:
    """The states of Ask and Stop."""
    return [gradio.update(interactive=not is_answering), gradio.update(interactive=is_answering)]
