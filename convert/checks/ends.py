"""Check 9: generation ends. Every end id of generation_config.json (else config.json) and of the chat template ends generation in
llama.cpp with this file loaded. An end that is none is a model that never stops talking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.certificate import Check, failed
from convert.checks.tokens import Table
from medllama.files import read_json
from medllama.llamacpp import Model

# Hugging Face's name of a token that neither begins nor ends a text -> GGUF's.
OTHERS = {"unk": "unknown", "pad": "padding", "sep": "seperator", "cls": "cls", "mask": "mask"}
REASON = "llama.cpp, and Ollama on top of it, stop at these ids and at no other"


@dataclass(frozen=True)
class Ends:
    """The ids that begin and end a text, as the checkpoint's files say; `others` by the names that GGUF has for them."""

    bos: int | None
    eos: int | None
    all_ends: tuple[int, ...]
    add_bos: bool
    add_eos: bool
    others: Mapping[str, int | None]


def check_ends(model: Model, ends: Ends) -> Check:
    """Every end id is one of llama.cpp's, and BOS is none."""
    count, missing = len(ends.all_ends), [index for index in ends.all_ends if not model.is_end(index)]
    if missing:
        return failed(
            "ends", "the model would go on past its own end: eos_token_id or eot_token_id is wrong in the file",
            where=", ".join(f"token {index}" for index in missing), figure=f"{len(missing)} of {count} do not end",
            bound="0", reason=REASON,
        )  # fmt: skip
    if ends.bos is not None and ends.bos not in ends.all_ends and model.is_end(ends.bos):
        cause = "generation ends with BOS, which begins every prompt"
        return failed("ends", cause, where=f"token {ends.bos}", figure="BOS ends", bound="0", reason=REASON)
    return Check("ends", "pass", f"{count} of {count} end", "all", REASON, details={"ids": list(ends.all_ends)})


def read_ends(base: Path, config: Any, table: Table, end_of_turn: int | None) -> Ends:
    """BOS, EOS and every end id. The tokenizer's settings name tokens by text, and win; config.json numbers them."""
    settings, generation = _json(base / "tokenizer_config.json"), _json(base / "generation_config.json")
    ids = {text: index for index, text in reversed(list(enumerate(table.texts)))}

    def named(name: str) -> list[int]:
        text = settings.get(f"{name}_token")
        text = text.get("content") if isinstance(text, dict) else text
        return [ids[text]] if isinstance(text, str) and text in ids else []

    in_config = {name: _numbers(getattr(config, f"{name}_token_id", None)) for name in ("bos", "eos", *OTHERS)}
    ends = _numbers(generation.get("eos_token_id")) or in_config["eos"]
    bos = [*named("bos"), *in_config["bos"]]
    eos = [*named("eos"), *in_config["eos"], *ends]
    every = dict.fromkeys([*ends, *([] if end_of_turn is None else [end_of_turn]), *eos[:1]])
    add_bos, add_eos = _added_at_ends(base, settings)
    in_range = tuple(index for index in every if 0 <= index < len(table.texts))
    own = {"unk": _numbers(table.unknown), "pad": _numbers(table.pad)}
    others: dict[str, int | None] = {}
    for name, name_in_gguf in OTHERS.items():
        known = [*named(name), *own.get(name, []), *in_config[name]]
        others[name_in_gguf] = next((index for index in known[:1] if 0 <= index < len(table.texts)), None)
    return Ends(bos[0] if bos else None, eos[0] if eos else None, in_range, add_bos, add_eos, others)


def _numbers(value: Any) -> list[int]:
    """An id, a list of ids or nothing, as a list."""
    return [part for part in (value if isinstance(value, list) else [value]) if isinstance(part, int)]


def _added_at_ends(base: Path, settings: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether BOS and EOS are written around a text: as the settings say, else as tokenizer.json does, else as Llama 2 does."""
    add_bos, add_eos = True, False
    path = base / "tokenizer.json"
    if path.is_file() and not (base / "tokenizer.model").is_file():
        add_bos = add_eos = False
        step = read_json(path).get("post_processor") or {}
        for part in step.get("processors") or [step]:
            if part.get("type") == "TemplateProcessing":
                kinds = ["SpecialToken" in entry for entry in part["single"]]
                add_bos, add_eos = kinds[0], kinds[-1]
    return bool(settings.get("add_bos_token", add_bos)), bool(settings.get("add_eos_token", add_eos))


def _json(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {}
