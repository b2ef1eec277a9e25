"""A Modelfile's PARAMETER lines as the JSON object that Ollama's API and its params layer hold.

Ollama does not look at the types when it takes them over: a number written as text, or a `stop` that is no list, fails when
the model is loaded. So each value is brought into the type that Ollama declares for it (Options in its api/types.go).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from medllama.errors import InputError
from publish.modelfile import Command

INTEGERS = (
    "num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread",
    "draft_num_predict",
)  # fmt: skip
FLOATS = (
    "top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip


def _bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


TYPES: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(INTEGERS, int), **dict.fromkeys(FLOATS, float), "use_mmap": _bool, "stop": str,
}  # fmt: skip


def parse_parameters(commands: Sequence[Command]) -> dict[str, Any]:
    """The parameters of a Modelfile. Raises InputError where Ollama does not know one, or takes another type."""
    found: dict[str, Any] = {}
    for command in commands:
        if command.name != "parameter":
            continue
        key = command.key.lower()
        if key not in TYPES:
            raise InputError(f"{command.key!r} is no parameter of Ollama", hint=f"known are {', '.join(TYPES)}")
        try:
            value = TYPES[key](command.value)
        except ValueError:
            raise InputError(
                f"PARAMETER {key} {command.value!r} is not of its type", hint="see Ollama's Modelfile reference"
            ) from None
        if key == "stop":
            found.setdefault(key, []).append(value)
        else:
            found[key] = value
    return found
