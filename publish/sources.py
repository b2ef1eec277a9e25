"""What FROM and ADAPTER name, as Ollama finds it: a path relative to the Modelfile, else a model's name."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import gguf

MAGIC, SAFETENSORS = b"GGUF", ".safetensors"
FILE_ENDINGS = (".gguf", ".bin", SAFETENSORS)


def resolve(value: str, folder: Path) -> Path:
    """The path that Ollama looks at first, whatever is meant."""
    with suppress(RuntimeError):  # nobody of that name is known: then it is no path of theirs
        return folder / Path(value).expanduser()
    return folder / value


def looks_like_path(value: str) -> bool:
    """Whether a value is meant as a file rather than as a model's name."""
    return value.startswith(("./", "../", "/", "~", ".\\")) or any(ending in value.lower() for ending in FILE_ENDINGS)


def kind_of_file(path: Path) -> str:
    """`general.type` of a GGUF, "model" where it says none; empty where the file is no GGUF."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return ""
    try:
        field = gguf.GGUFReader(path).fields.get("general.type")
    except (ValueError, IndexError, KeyError, OverflowError):
        return ""
    return str(field.contents()) if field is not None else "model"
