"""What FROM and ADAPTER name, as Ollama finds it: a path relative to the Modelfile, else a model's name."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import gguf

from medllama.errors import InputError
from medllama.files import expand

MAGIC, SAFETENSORS = b"GGUF", ".safetensors"
FILE_ENDINGS = (".gguf", ".bin", SAFETENSORS)


def resolve(value: str, folder: Path) -> Path:
    """The path that Ollama looks at first, whatever is meant."""
    with suppress(InputError):  # nobody of that name is known: then it is no path of theirs
        return folder / expand(value)
    return folder / value


def looks_like_path(value: str) -> bool:
    """Whether a value is meant as a file rather than as a model's name."""
    return value.startswith(("./", "../", "/", "~", ".\\")) or any(ending in value.lower() for ending in FILE_ENDINGS)


def kind_of_file(path: Path) -> str:
    """`general.type` of a GGUF, "model" where it says none; empty where the file is no GGUF."""
    return _look_into(path)[0]


def bos_of_file(path: Path) -> str | None:
    """The text that a server puts before every prompt of a GGUF; empty where it puts none, None where the file does not say."""
    return _look_into(path)[1]


@functools.cache
def _look_into(path: Path) -> tuple[str, str | None]:
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return "", None
    try:
        fields = gguf.GGUFReader(path).fields
    except (ValueError, IndexError, KeyError, OverflowError):
        return "", None
    kind = fields.get("general.type")
    return str(kind.contents()) if kind is not None else "model", _bos(fields)


def _bos(fields: Mapping[str, gguf.ReaderField]) -> str | None:
    adds = fields.get("tokenizer.ggml.add_bos_token")
    if adds is not None and not adds.contents():
        return ""
    try:
        return str(fields["tokenizer.ggml.tokens"].contents(int(fields["tokenizer.ggml.bos_token_id"].contents())))
    except (KeyError, IndexError, ValueError):
        return None
