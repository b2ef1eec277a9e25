"""A Modelfile's PARAMETER lines as the JSON object that Ollama's API and its params layer hold.

Ollama does not look at the types when it takes them over: a number written as text, or a `stop` that is no list, fails when
the model is loaded. So each value is brought into the type that Ollama declares for it (Options in its api/types.go).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

from medllama.errors import InputError
from publish.modelfile import COMMANDS, Command

INTEGERS = (
    "num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread",
    "draft_num_predict",
)  # fmt: skip
FLOATS = (
    "top_p", "min_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip
# What Ollama passes over, with a warning at most; and what it took once and now refuses where a model is created.
IGNORED = (
    "penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock", "mirostat", "mirostat_tau",
    "mirostat_eta",
)  # fmt: skip
REFUSED = ("typical_p",)
# Where a number makes sense, both ends included. Outside of it Ollama takes another one, or samples as nobody means.
SENSIBLE = {
    "temperature": (0, 2), "top_p": (0, 1), "min_p": (0, 1), "top_k": (-1, None), "repeat_penalty": (0.5, 2),
    "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2), "repeat_last_n": (-1, None), "num_ctx": (1, None),
    "num_batch": (1, None), "num_predict": (-2, None), "num_keep": (-1, None), "num_gpu": (-1, None),
    "main_gpu": (0, None), "num_thread": (0, None), "draft_num_predict": (0, None),
}  # fmt: skip
LARGEST_FLOAT = 3.4028234663852886e38  # Ollama reads integers of 64 bits and floats of 32


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        raise ValueError
    if not -(1 << 63) <= int(text) < 1 << 63:
        raise OverflowError
    return int(text)


def _float(text: str) -> float:
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII):
        raise ValueError
    if abs(float(text)) > LARGEST_FLOAT:  # infinity would be no JSON
        raise OverflowError
    return float(text)


def _bool(text: str) -> bool:
    if not re.fullmatch(r"1|t|T|TRUE|true|True|0|f|F|FALSE|false|False", text):
        raise ValueError
    return text[0] in "1tT"


TYPES: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(INTEGERS, _integer), **dict.fromkeys(FLOATS, _float), "use_mmap": _bool, "stop": str,
}  # fmt: skip
TYPE_NAMES: dict[Callable[[str], Any], str] = {_integer: "a whole number", _float: "a number", _bool: "true or false"}


def parse_parameters(commands: Sequence[Command]) -> dict[str, Any]:
    """The parameters of a Modelfile. Raises InputError where Ollama does not know one, or takes another type."""
    found: dict[str, Any] = {}
    for command in commands:
        if command.name != "parameter":
            continue
        value = parse_value(command)
        if command.key == "stop":
            found.setdefault("stop", []).append(value)
        else:
            found[command.key] = value
    return found


def parse_value(command: Command) -> Any:
    """The value of one PARAMETER in Ollama's type. Names count as they are written: Ollama does not know Temperature."""
    key = command.key
    if key not in TYPES:
        raise InputError(f"{key!r} is no parameter of Ollama", hint=_meant(key))
    try:
        return TYPES[key](command.value)
    except OverflowError:
        hint = "whole numbers have 64 bits there, others 32"
        raise InputError(f"PARAMETER {key} {command.value} is too large for Ollama", hint=hint) from None
    except ValueError:
        hint = "a # later in a line begins no comment" if "#" in command.value else "see Ollama's Modelfile reference"
        raise InputError(f"PARAMETER {key} {command.value!r} is not {TYPE_NAMES[TYPES[key]]}", hint=hint) from None


def sensible_range(key: str, value: Any) -> str:
    """Between which numbers a parameter makes sense, where `value` does not; else nothing."""
    lowest, highest = SENSIBLE.get(key, (None, None))
    if lowest is None or (lowest <= value and (highest is None or value <= highest)):
        return ""
    return f"{lowest} or more" if highest is None else f"{lowest} to {highest}"


def _meant(key: str) -> str:
    if not key:
        return "one space stands between PARAMETER and the name"
    if key.lower() in COMMANDS:
        return f"{key.upper()} is a command of its own: write it without PARAMETER"
    if key in REFUSED:
        return "newer versions of Ollama refuse it: leave it out"
    near = difflib.get_close_matches(key.lower(), TYPES, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(TYPES)}"
