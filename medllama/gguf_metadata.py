"""What a GGUF says of itself: its chat template with the vocabulary that it belongs to, and its context length.

Packaging and evaluation ask the file rather than the base's folder: it is what people run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from medllama.chat import Chat
from medllama.errors import InputError, UnsupportedError
from medllama.tokenizer import Tokenizer
from medllama.vocabulary import TokenType, Vocabulary


@dataclass(frozen=True)
class GgufMetadata:
    """A GGUF's tokenizer, its chat (None where it has no template) and the longest context that it allows, in tokens."""

    tokenizer: Tokenizer
    chat: Chat | None
    context_length: int


def read_gguf_metadata(path: Path) -> GgufMetadata:
    """Read a GGUF. Raises InputError where it is none, or where a key that every GGUF has is missing."""
    if not path.is_file():
        raise InputError(f"{path} does not exist", hint="medllama convert makes GGUF files")
    try:
        fields = gguf.GGUFReader(path).fields
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise InputError(
            f"{path} is no GGUF, or it is cut short: {error}", hint="copy it again; medllama verify names the fault"
        ) from None

    def value(key: str, default: Any = None) -> Any:
        return fields[key].contents() if key in fields else default

    def required(key: str) -> Any:
        if key not in fields:
            raise InputError(f"{path} has no {key} in its metadata", hint="convert it again with medllama convert")
        return value(key)

    context_length = int(required(f"{required('general.architecture')}.context_length"))
    template = value("tokenizer.chat_template")
    model = required("tokenizer.ggml.model")
    if model not in ("llama", "gpt2"):
        raise UnsupportedError(f"{path}: the tokenizer is {model!r}; Llama's are 'llama' and 'gpt2'")
    is_sentencepiece = model == "llama"
    vocabulary = Vocabulary(
        model=model,
        tokens=tuple(required("tokenizer.ggml.tokens")),
        types=tuple(TokenType(kind) for kind in required("tokenizer.ggml.token_type")),
        scores=tuple(required("tokenizer.ggml.scores")) if is_sentencepiece else (),
        merges=() if is_sentencepiece else tuple(_pair(merge) for merge in required("tokenizer.ggml.merges")),
        origin=path,
        pre=value("tokenizer.ggml.pre", "default"),
        ignore_merges=value("tokenizer.ggml.pre") == "llama-bpe",
        add_space_prefix=bool(value("tokenizer.ggml.add_space_prefix", is_sentencepiece)),
        add_bos=bool(value("tokenizer.ggml.add_bos_token", is_sentencepiece)),
        add_eos=bool(value("tokenizer.ggml.add_eos_token", False)),
        bos_id=value("tokenizer.ggml.bos_token_id"),
        eos_id=value("tokenizer.ggml.eos_token_id"),
        unk_id=value("tokenizer.ggml.unknown_token_id"),
        pad_id=value("tokenizer.ggml.padding_token_id"),
    )
    tokenizer = Tokenizer(vocabulary)
    return GgufMetadata(tokenizer, None if template is None else Chat(template, tokenizer), context_length)


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right
