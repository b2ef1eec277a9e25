"""The tokenizer that a checkpoint means, computed without the converter and without llama.cpp.

Where there is `tokenizer.model`, the truth of plain text is SentencePiece itself; where there is only `tokenizer.json`, it is
the `tokenizers` library with that file's own merges and steps. Text is first cut at control tokens (where they are asked for) and
at user-defined tokens, the longest first, and each piece stands for itself: that is the one chat format (medllama/chat.py).

`Table` is what the GGUF's token list must say: texts, types, and scores or merges.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medllama.files import read_json
from medllama.vocabulary import FORCED_CONTROL, LLAMA3_PATTERN

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# llama.cpp's names of a pre-tokenizer, of which those of one tuple do the same (src/llama-vocab.cpp). Llama 3's takes a word that is
# a token as it is (ignore_merges), or merges it like any other.
LLAMA3_NAMES = (
    "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano",
)  # fmt: skip
LLAMA3_MERGING_NAMES = ("smaug-bpe", "dbrx")
GPT2_NAMES = (
    "gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum", "mpt", "olmo",
)  # fmt: skip
SENTENCEPIECE_NAMES = ("default",)


@dataclass
class Table:
    """The tokens of a checkpoint by id. `plain` gives the ids of text without control tokens. `scores` are float32 and only
    there for `tokenizer.model`; `merges` belong to tokenizer.json, best first. `pre` are llama.cpp's names of the
    pre-tokenizer, none where they are not known; `pad` is the id that tokenizer.model calls so."""

    model: str
    texts: list[str]
    types: list[int]
    plain: Callable[[str], list[int]]
    scores: np.ndarray | None = None
    merges: list[tuple[str, str]] = field(default_factory=list)
    pre: tuple[str, ...] = SENTENCEPIECE_NAMES
    pad: int | None = None

    @property
    def unknown(self) -> int | None:
        """The id of the unknown token."""
        return self.types.index(UNKNOWN) if UNKNOWN in self.types else None

    @functools.cached_property
    def adds_space(self) -> bool:
        """Whether a space is written before a text."""
        return self.model == "llama" and self.texts[self.plain("a")[0]].startswith(("▁", "<0xE2>"))

    def special(self, *types: int) -> dict[str, int]:
        """The tokens of these types, longest first."""
        found = {
            text: index for index, (text, kind) in enumerate(zip(self.texts, self.types, strict=True)) if kind in types
        }
        return dict(sorted(found.items(), key=lambda entry: -len(entry[0].encode())))

    @functools.cached_property
    def user_defined(self) -> dict[str, int]:
        return self.special(USER_DEFINED)

    @functools.cached_property
    def user_defined_and_control(self) -> dict[str, int]:
        return self.special(USER_DEFINED, CONTROL, UNKNOWN)

    def encode(self, text: str, *, with_control: bool) -> list[int]:
        """The ids of a text; `with_control` recognizes control tokens in it."""
        pieces: list[str | int] = [text]
        for token, index in (self.user_defined_and_control if with_control else self.user_defined).items():
            if token in text:
                cut = [_cut(piece, token, index) if isinstance(piece, str) else [piece] for piece in pieces]
                pieces = [part for parts in cut for part in parts]
        ids: list[int] = []
        for piece in pieces:
            ids += [piece] if isinstance(piece, int) else self.plain(piece) if piece else []
        return ids

    def fitted(self, rows: int) -> Table:
        """The table without tokens that the embedding has no row for."""
        scores = None if self.scores is None else self.scores[:rows]
        return replace(self, texts=self.texts[:rows], types=self.types[:rows], scores=scores)


def _cut(piece: str, token: str, index: int) -> list[str | int]:
    parts: list[str | int] = []
    for position, part in enumerate(piece.split(token)):
        parts += [index, part] if position else [part]
    return parts


def read_table(base: Path, adapter: Path | None) -> Table:
    """The token table of a checkpoint, with the tokens that the adapter's tokenizer added past its end."""
    path = base / "tokenizer.model"
    table = _from_sentencepiece(path) if path.is_file() else _from_json(base / "tokenizer.json")
    added = _added_tokens(base)
    if adapter is not None:
        added |= {index: entry for index, entry in _added_tokens(adapter).items() if index >= len(table.texts)}
    texts, types, scores = list(table.texts), list(table.types), table.scores
    for index in sorted(added):
        content, is_special = added[index]
        if index == len(texts):
            texts.append(content)
            types.append(NORMAL)
        if index < len(texts) and types[index] != UNKNOWN:
            types[index] = CONTROL if is_special else USER_DEFINED
    for index, text in enumerate(texts):
        if text in FORCED_CONTROL and types[index] != UNKNOWN:
            types[index] = CONTROL
    return replace(table, texts=texts, types=types, scores=scores)


def _added_tokens(folder: Path) -> dict[int, tuple[str, bool]]:
    """Added tokens by id: text, and whether they are special. Of the three files that may say so the newest format wins."""
    found: dict[int, tuple[str, bool]] = {}
    if (path := folder / "added_tokens.json").is_file():
        special = _named_special(folder / "special_tokens_map.json")
        found |= {int(index): (text, text in special) for text, index in read_json(path).items()}
    if (path := folder / "tokenizer.json").is_file():
        entries = read_json(path).get("added_tokens") or []
        found |= {entry["id"]: (entry["content"], bool(entry["special"])) for entry in entries}
    if (path := folder / "tokenizer_config.json").is_file():
        decoder = read_json(path).get("added_tokens_decoder") or {}
        found |= {int(index): (entry["content"], bool(entry.get("special"))) for index, entry in decoder.items()}
    return found


def _named_special(path: Path) -> set[str]:
    """The texts that special_tokens_map.json names."""
    values = read_json(path).values() if path.is_file() else []
    flat = [part for value in values for part in (value if isinstance(value, list) else [value])]
    return {part["content"] if isinstance(part, dict) else part for part in flat}


def _from_sentencepiece(path: Path) -> Table:
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    pieces = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes()).pieces
    # The types of SentencePiece's pieces have the numbers that GGUF took over.
    texts, types = [piece.piece for piece in pieces], [int(piece.type) for piece in pieces]
    scores = np.array([piece.score for piece in pieces], dtype=np.float32)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    pad = processor.pad_id() if processor.pad_id() >= 0 else None
    return Table("llama", texts, types, processor.encode, scores, pad=pad)


def _from_json(path: Path) -> Table:
    """A tokenizer.json without its added tokens and its post-processor: plain text by that file's own steps."""
    from tokenizers import Tokenizer

    data: dict[str, Any] = read_json(path)
    model, added = data["model"], data.get("added_tokens") or []
    is_byte_level = not model.get("byte_fallback")
    steps = data | {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    backend = Tokenizer.from_str(json.dumps(steps if is_byte_level else _with_llama_cpp_spaces(steps)))
    by_id = {index: text for text, index in model["vocab"].items()} | {entry["id"]: entry["content"] for entry in added}
    size = next(index for index in range(len(by_id) + 1) if index not in by_id)
    texts = [by_id[index] for index in range(size)]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ", 1)) for pair in model["merges"]]
    types = [
        BYTE if not is_byte_level and re.fullmatch(r"<0x[0-9A-F]{2}>", text)
        else UNKNOWN if text == model.get("unk_token") else NORMAL
        for text in texts
    ]  # fmt: skip
    return Table(
        "gpt2" if is_byte_level else "llama", texts, types,
        lambda text: backend.encode(text, add_special_tokens=False).ids, None, merges,
        _pre_tokenizer_names(data) if is_byte_level else SENTENCEPIECE_NAMES,
    )  # fmt: skip


def _pre_tokenizer_names(data: dict[str, Any]) -> tuple[str, ...]:
    """llama.cpp's names of a byte-level tokenizer.json's pre-tokenizer; none where it is another than Llama 3's and GPT-2's."""
    step = data.get("pre_tokenizer") or {}
    first = (step.get("pretokenizers") or [step])[0]
    if first.get("type") == "ByteLevel":
        return GPT2_NAMES
    if (first.get("pattern") or {}).get("Regex") != LLAMA3_PATTERN:
        return ()
    return LLAMA3_NAMES if data["model"].get("ignore_merges") else LLAMA3_MERGING_NAMES


def _with_llama_cpp_spaces(data: dict[str, Any]) -> dict[str, Any]:
    """The one step of a SentencePiece-style file that is not its own: the space before a text is written always, as
    SentencePiece and llama.cpp do, where Transformers' Metaspace leaves it out before a text that begins with a space."""
    step = data.get("pre_tokenizer") or {}
    if step.get("type") != "Metaspace" or step.get("split", True):
        return data
    spaces = [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    prefix = [] if step.get("prepend_scheme") == "never" else [{"type": "Prepend", "prepend": "▁"}]
    return data | {"pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": [*prefix, *spaces]}}
