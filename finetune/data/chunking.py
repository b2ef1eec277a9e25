"""Running text in pieces that fit the model: cut by tokens, at the ends of paragraphs.

    pieces(text, limit, count_tokens) -> texts of at most `limit` tokens each

Paragraphs are packed into a piece until the next would not fit. A paragraph that alone is too long is cut after a sentence, else
between words, else anywhere. A heading stays with what it heads. Nothing but whitespace is lost, and nothing stands twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from medllama.checkpoint import find_base_here
from medllama.errors import InputError

CHARACTERS_PER_TOKEN = 4.0
SEPARATOR_TOKENS = 2  # of the blank line between two paragraphs
LONGEST_HEADING = 100  # characters
SPECIAL_TOKENS = 2  # BOS and EOS, which train adds

CountTokens = Callable[[str], int]


def pieces(text: str, limit: int, count_tokens: CountTokens) -> list[str]:
    """The text in pieces of at most `limit` tokens by `count_tokens`."""
    packed: list[list[str]] = []
    current: list[str] = []
    used = 0
    for part in _parts(text, limit, count_tokens):
        needed = count_tokens(part)
        if current and used + SEPARATOR_TOKENS + needed > limit:
            heading = _heading_at_the_end(current)
            if heading and count_tokens(heading) + SEPARATOR_TOKENS + needed <= limit:
                current.pop()
                packed.append(current)
                current, used = [heading], count_tokens(heading)
            else:
                packed.append(current)
                current, used = [], 0
        used += needed + (SEPARATOR_TOKENS if current else 0)
        current.append(part)
    found = ["\n\n".join(parts) for parts in (*packed, current) if parts]
    # Joined, paragraphs may come to a token more than the sum: what does not fit after all is cut once more.
    return [
        it
        for piece in found
        for it in ([piece] if count_tokens(piece) <= limit else _halves(piece, limit, count_tokens))
    ]


def _parts(text: str, limit: int, count_tokens: CountTokens) -> Iterator[str]:
    """The paragraphs, each cut where it alone is too long."""
    for paragraph in text.split("\n\n"):
        if paragraph := paragraph.strip("\n"):
            yield from [paragraph] if count_tokens(paragraph) <= limit else _halves(paragraph, limit, count_tokens)


def _heading_at_the_end(paragraphs: list[str]) -> str:
    """The heading that ends these paragraphs and belongs to what follows; empty where there is none, or nothing else."""
    last = paragraphs[-1]
    is_heading = len(last) <= LONGEST_HEADING and "\n" not in last and not re.search(r"[.!?:;,]\W*$", last)
    return last if is_heading and len(paragraphs) > 1 else ""


def _halves(text: str, limit: int, count_tokens: CountTokens) -> list[str]:
    """The text cut in two near its middle, again and again until every part fits."""
    if count_tokens(text) <= limit or len(text) < 2:
        return [text]
    middle = len(text) // 2
    for boundary in (r"\n\n+", r"(?<=[.!?])\s+", r"\s+"):
        cuts = [match for match in re.finditer(boundary, text) if match.start() > 0 and match.end() < len(text)]
        if cuts:
            best = min(cuts, key=lambda match: abs(match.start() - middle))
            if len(text) / 8 < best.start() < len(text) * 7 / 8:
                first, second = text[: best.start()], text[best.end() :]
                break
    else:
        first, second = text[:middle], text[middle:]
    return _halves(first, limit, count_tokens) + _halves(second, limit, count_tokens)


def estimated_tokens(text: str) -> int:
    """Tokens of English, where no tokenizer is at hand."""
    return -(-len(text) // int(CHARACTERS_PER_TOKEN))


@cache
def token_counter(folder: Path | None) -> CountTokens:
    """Counts the tokens of a text with the tokenizer in a base model's folder; estimates without one."""
    if folder is None:
        return estimated_tokens
    from medllama.tokenizer import Tokenizer
    from medllama.vocabulary import load_vocabulary

    tokenizer = Tokenizer(load_vocabulary(folder))
    return lambda text: len(tokenizer.encode_text(text))


def tokenizer_folder(name: str | None) -> Path | None:
    """The folder of the base model whose tokenizer counts; None where it is not on this disk."""
    if name is None:
        return None
    folder = find_base_here(name)
    if folder is None:
        return None
    if not any((folder / file).is_file() for file in ("tokenizer.model", "tokenizer.json")):
        raise InputError(f"{folder} holds no tokenizer.model and no tokenizer.json", hint="name a base model's folder")
    return folder
