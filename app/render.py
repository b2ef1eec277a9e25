"""What the page shows of a conversation, as HTML. Every text of a person or a model is escaped: it is text, whatever it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from app.conversation import Answer, Reading
from app.notice import NOTICE

TITLE = "medllama: base and tuned, side by side"


@dataclass(frozen=True)
class Speaker:
    """What a voice is called on the page: its part in the comparison, its file, and what has to be said about it."""

    role: str
    file: str
    remark: str = ""


@dataclass(frozen=True)
class Turn:
    """A question, the system prompt that stood above it, and the answer of every voice."""

    question: str
    system: str
    answers: tuple[Answer, ...]


def speakers(files: Sequence[str], *, has_adapter: bool = False) -> list[Speaker]:
    """The names of the voices: the first of several is the base, the second of two is tuned."""
    if has_adapter:
        remark = (
            "The base's weights with the adapter on top. On a quantized base this is not the certified merged file, "
            "and answers a little differently."
        )
        return [Speaker("Base", files[0]), Speaker("Base with adapter", files[1], remark)]
    if len(files) == 1:
        return [Speaker("Model", files[0])]
    roles = (
        ["Base", "Tuned"] if len(files) == 2 else ["Base", *(f"Model {number}" for number in range(2, len(files) + 1))]
    )
    return [Speaker(role, file) for role, file in zip(roles, files, strict=True)]


def heading(voices: Sequence[Speaker], notes: Sequence[str] = (), *, elsewhere: str = "") -> str:
    """The top of the page; `notes` say what is unusual about the models, `elsewhere` on which other machine they are."""
    whose = " and ".join(voice.role.lower() for voice in voices) if len(voices) == 2 else f"{len(voices)} models"
    what = "One model" if len(voices) == 1 else f"{whose}, side by side"
    where = f"Questions go to {elsewhere}" if elsewhere else "It runs offline"
    told = "".join(f'<p class="notice" role="note">{escape(note)}</p>' for note in (NOTICE, *notes))
    return f"""
      <header class="top">
        <h1>medllama</h1>
        <p>{escape(what[0].upper() + what[1:])}. {escape(where)}, and no question is kept here unless you say so.</p>
        {told}
      </header>"""


def turn_html(turn: Turn, voices: Sequence[Speaker]) -> str:
    """A question with its answers beside each other."""
    return _turn(turn.question, "".join(map(_answer, turn.answers, voices)))


def waiting_html(question: str, voices: Sequence[Speaker], ahead: int = 0) -> str:
    """A question that no voice has begun to answer, because `ahead` others are answered first."""
    if not ahead:
        return turn_html(Turn(question, "", tuple(Answer() for _ in voices)), voices)
    first = "one question is" if ahead == 1 else f"{ahead} questions are"
    cards = "".join(_card(voice, f'<p class="pending">Waiting: {first} answered first.</p>', "") for voice in voices)
    return _turn(question, cards)


def empty_html(voices: Sequence[Speaker]) -> str:
    """The page before the first question."""
    cards = "".join(_card(voice, '<p class="pending">Ask a question above.</p>', "") for voice in voices)
    return f'<section class="turn"><h2 class="hidden">Answers</h2><div class="answers">{cards}</div></section>'


def earlier_html(turns: Sequence[Turn], voices: Sequence[Speaker]) -> str:
    """The turns before the newest one, the latest first."""
    if not turns:
        return ""
    shown = "".join(turn_html(turn, voices) for turn in reversed(turns))
    return f'<div class="earlier"><h2 class="divider">Earlier in this conversation</h2>{shown}</div>'


def prompts_html(prompts: Sequence[Reading], voices: Sequence[Speaker]) -> str:
    """What each voice reads, its control tokens marked."""
    if not prompts:
        return '<p class="pending">Ask a question first: this shows what each model read for the newest answer.</p>'
    shown = []
    for reading, voice in zip(prompts, voices, strict=True):
        text = "".join(f"<mark>{escape(it)}</mark>" if is_control else escape(it) for it, is_control in reading.pieces)
        label = escape(f"The prompt that {voice.role} read")
        body = f'<pre tabindex="0" role="region" aria-label="{label}">{text}</pre>'
        count = "" if reading.tokens is None else f"{reading.tokens:,} tokens; marked are control tokens"
        shown.append(_card(voice, body, count))
    return f'<div class="answers">{"".join(shown)}</div>'


def _turn(question: str, cards: str) -> str:
    return f"""
      <section class="turn">
        <h2 class="question"><span class="hidden">Question: </span>{escape(question)}</h2>
        <div class="answers">{cards}</div>
      </section>"""


def _answer(answer: Answer, voice: Speaker) -> str:
    copy = ""
    if answer.text:
        body = f'<p class="text">{escape(answer.text)}</p>'
        if answer.stop:
            copy = f'<button type="button" data-copy aria-label="Copy the answer of {escape(voice.role)}">Copy</button>'
    elif answer.stop and not answer.error:
        body = '<p class="pending">(no text)</p>'
    elif answer.stop:
        body = ""
    else:
        body = '<p class="pending">Waiting for the first word …</p>'
    if answer.error:
        body += f'<p class="failure" role="alert">{escape(answer.error)}</p>'
    return _card(voice, body, answer.figures, copy)


def _card(voice: Speaker, body: str, footer: str, copy: str = "") -> str:
    kind = "card base" if voice.role == "Base" else "card"
    remark = f'<p class="remark">{escape(voice.remark)}</p>' if voice.remark else ""
    return f"""
      <article class="{kind}" aria-label="{escape(voice.role)}">
        <h3>{escape(voice.role)} <span class="file">{escape(voice.file)}</span></h3>
        {body}{remark}
        <footer><span>{escape(footer)}</span>{copy}</footer>
      </article>"""
