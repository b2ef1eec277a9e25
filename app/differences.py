"""Where two answers differ, word by word: what only the first says, what only the other says, and what both say."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from html import escape

from app.render import Speaker, Turn

MOST_WORDS = 2000  # a comparison takes the square of it: at worst a second


def differences_html(turn: Turn | None, voices: Sequence[Speaker]) -> str:
    """The first voice's answer against each other one's."""
    if turn is None or len(turn.answers) < 2:
        return '<p class="pending">Ask a question first: this shows where the answers differ.</p>'
    first = turn.answers[0].text
    shown = []
    for answer, voice in zip(turn.answers[1:], voices[1:], strict=True):
        if silent := [whose.role for said, whose in ((turn.answers[0], voices[0]), (answer, voice)) if not said.text]:
            shown.append(f'<p class="pending">{escape(" and ".join(silent))} gave no answer.</p>')
            continue
        base = escape(voices[0].role)
        legend = f"<del>only {base}</del> <ins>only {escape(voice.role)}</ins> both"
        if max(len(words(it.text)) for it in (turn.answers[0], answer)) > MOST_WORDS:
            legend += f"; the first {MOST_WORDS:,} words and marks of each"
        shown.append(f'<p class="legend">{legend}</p><p class="difference">{marked(first, answer.text)}</p>')
    return "".join(shown)


def marked(before: str, after: str) -> str:
    """Both texts as one, with `<del>` around what only `before` has and `<ins>` around what only `after` has."""
    one, other = words(before)[:MOST_WORDS], words(after)[:MOST_WORDS]
    parts = []
    # `autojunk` makes no frequent word of a long answer an anchor: without it a model that repeats itself 500 times takes 3 seconds
    # here, and 1,000 times 17.
    for kind, i, j, k, m in difflib.SequenceMatcher(None, one, other, autojunk=True).get_opcodes():
        removed, added = escape("".join(one[i:j])), escape("".join(other[k:m]))
        if kind == "equal":
            parts.append(removed)
        else:
            parts += [f"<del>{removed}</del>"] * bool(removed) + [f"<ins>{added}</ins>"] * bool(added)
    return "".join(parts)


def words(text: str) -> list[str]:
    """The words with the white space after them, and punctuation by itself: joined they are the text."""
    return re.findall(r"\s+|\w+\s*|[^\w\s]\s*", text)
