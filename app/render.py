"""What the page shows of a conversation, as HTML. Every text of a person or a model is escaped: it is text, whatever it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from app.conversation import Answer
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


def speakers(files: Sequence[str], adapter: str | None) -> list[Speaker]:
    """The names of the voices: the first of several is the base, the second of two is tuned."""
    if adapter is not None:
        remark = "The base with the adapter on top. The certificate is about the merged file, which answers a little differently."
        return [Speaker("Base", files[0]), Speaker("Base with adapter", adapter, remark)]
    if len(files) == 1:
        return [Speaker("Model", files[0])]
    roles = (
        ["Base", "Tuned"] if len(files) == 2 else ["Base", *(f"Model {number}" for number in range(2, len(files) + 1))]
    )
    return [Speaker(role, file) for role, file in zip(roles, files, strict=True)]


def heading(voices: Sequence[Speaker]) -> str:
    """The top of the page."""
    what = (
        "One model" if len(voices) == 1 else " and ".join(voice.role.lower() for voice in voices[:2]) + ", side by side"
    )
    return f"""
      <header class="top">
        <h1>medllama</h1>
        <p>{escape(what[0].upper() + what[1:])}. It runs offline, and no question is kept.</p>
        <p class="notice" role="note">{escape(NOTICE)}</p>
      </header>"""


def turn_html(turn: Turn, voices: Sequence[Speaker]) -> str:
    """A question with its answers beside each other."""
    columns = "".join(map(_answer, turn.answers, voices))
    return f"""
      <section class="turn">
        <h2 class="question"><span class="hidden">Question: </span>{escape(turn.question)}</h2>
        <div class="answers">{columns}</div>
      </section>"""


def waiting_html(question: str, voices: Sequence[Speaker]) -> str:
    """A question that no voice has begun to answer."""
    return turn_html(Turn(question, "", tuple(Answer() for _ in voices)), voices)


def empty_html(voices: Sequence[Speaker]) -> str:
    """The page before the first question."""
    cards = "".join(_card(voice, '<p class="pending">Ask a question above.</p>', "") for voice in voices)
    return f'<section class="turn"><div class="answers">{cards}</div></section>'


def earlier_html(turns: Sequence[Turn], voices: Sequence[Speaker]) -> str:
    """The turns before the newest one, the latest first."""
    if not turns:
        return ""
    shown = "".join(turn_html(turn, voices) for turn in reversed(turns))
    return f'<div class="earlier"><h2 class="divider">Earlier in this conversation</h2>{shown}</div>'


def prompts_html(prompts: Sequence[tuple[Sequence[tuple[str, bool]], int]], voices: Sequence[Speaker]) -> str:
    """What each voice reads, its control tokens marked: `prompts` holds per voice (text, is a control token) and the tokens."""
    if not prompts:
        return '<p class="pending">Ask a question first: this shows what each model read for the newest answer.</p>'
    shown = []
    for (parts, tokens), voice in zip(prompts, voices, strict=True):
        text = "".join(f"<mark>{escape(part)}</mark>" if is_control else escape(part) for part, is_control in parts)
        label = escape(f"The prompt that {voice.role} read")
        body = f'<pre tabindex="0" role="region" aria-label="{label}">{text}</pre>'
        shown.append(_card(voice, body, f"{tokens:,} tokens; marked are control tokens"))
    return f'<div class="answers">{"".join(shown)}</div>'


def _answer(answer: Answer, voice: Speaker) -> str:
    if answer.text:
        body = f'<p class="text">{escape(answer.text)}</p>'
    elif answer.stop:
        body = '<p class="pending">(no text)</p>'
    else:
        body = '<p class="pending">Reading the question …</p>'
    return _card(voice, body, answer.figures)


def _card(voice: Speaker, body: str, footer: str) -> str:
    role = voice.role.partition(" ")[0].lower()
    remark = f'<p class="remark">{escape(voice.remark)}</p>' if voice.remark else ""
    return f"""
      <article class="card {escape(role)}" aria-label="{escape(voice.role)}">
        <h3>{escape(voice.role)} <span class="file">{escape(voice.file)}</span></h3>
        {body}{remark}
        <footer>{escape(footer)}</footer>
      </article>"""
