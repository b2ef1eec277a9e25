"""Check 5: the prompt. The GGUF's own chat template, rendered as llama.cpp's server renders it and tokenized by llama.cpp, gives
the ids that training saw, over conversations with and without a system message, one to three turns, and white space at edges.

The Go TEMPLATE of the Modelfile is derived from the same template; its equality is proven in tests with Go's text/template.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

from convert.certificate import Check, failed, skipped
from convert.checks.gguf_file import Header
from medllama.chat import Chat, Message
from medllama.errors import MedllamaError
from medllama.llamacpp import Model
from medllama.template_guard import GUARD
from medllama.tokenizer import Tokenizer, common_prefix

TEMPLATE_KEY = "tokenizer.chat_template"
REASON = "one token off in the prompt and the model answers a question that it was not trained on"
EDGES = ("{}", " {}", "{} ", "\n{}\n", "\t{}", "{}\n\n", "  {}  ")
QUESTIONS = ("What is gout?", "Is 5 mg/kg of ibuprofen safe in a child?", "μ-opioid receptor: where?\n1. brain\n2. gut")
ANSWERS = ("A disease of the joints.", "Ask a doctor.", "Both.\n")
SYSTEMS = (None, "You are a careful medical assistant.", "Answer\n\nbriefly. ")


def conversations() -> list[list[Message]]:
    """Every combination of system message, number of turns and white space."""
    made: list[list[Message]] = []
    for system, turns, edge in itertools.product(SYSTEMS, (1, 2, 3), EDGES):
        messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        for turn in range(turns):
            messages.append({"role": "user", "content": edge.format(QUESTIONS[turn])})
            if turn < turns - 1:
                messages.append({"role": "assistant", "content": edge.format(ANSWERS[turn])})
        made.append(messages)
        made.append([*messages, {"role": "assistant", "content": edge.format(ANSWERS[turns - 1])}])
    return made


def check_prompts(model: Model, header: Header, chat: Chat | None) -> Check:
    """The template's text, and the ids of every conversation."""
    stored = header.metadata.get(TEMPLATE_KEY)
    if chat is None:
        if stored is None:
            return skipped("prompts", "this model has no chat template, and the file has none")
        return failed(
            "prompts", "the model was trained without a chat template, and the file carries one", where=TEMPLATE_KEY,
            figure="a template", bound="no template", reason=REASON,
        )  # fmt: skip
    if not isinstance(stored, str):
        return failed("prompts", "the chat template is missing: every program would guess another", where=TEMPLATE_KEY,
                      figure="no template", bound="the template", reason=REASON)  # fmt: skip
    try:
        inside = Chat(stored, cast(Tokenizer, _SpecialTexts(header)))
    except MedllamaError as error:
        return failed("prompts", f"the file's template cannot be used: {error.message}", where=TEMPLATE_KEY,
                      figure="not usable", bound="the template", reason=REASON)  # fmt: skip
    wrong, tried, first = 0, 0, ""
    for messages in conversations():
        is_prompt = messages[-1]["role"] == "user"
        try:
            truth = chat.encode(messages, add_generation_prompt=is_prompt)
        except MedllamaError:
            continue  # a template may refuse a role; what it refuses is no prompt
        tried += 1
        found = _ids_of(model, inside, messages, is_prompt)
        if found != truth:
            wrong += 1
            first = first or _difference(messages, found, truth)
    figure = f"{wrong} of {tried} prompts differ"
    if wrong:
        return failed("prompts", _cause(stored, chat.template), where=first, figure=figure, bound="0", reason=REASON)
    if stored != chat.template:
        return failed("prompts", _cause(stored, chat.template), where=TEMPLATE_KEY, figure=figure + ", but not the template's text",
                      bound="0, and the same template", reason=REASON)  # fmt: skip
    return Check("prompts", "pass", figure, "0", REASON, details={"chat_template_sha256": chat.sha256})


class _SpecialTexts:
    """The file's own BOS and EOS, which its template may write: as much of a tokenizer as rendering needs."""

    def __init__(self, header: Header) -> None:
        tokens = header.metadata.get("tokenizer.ggml.tokens") or []
        ids = [header.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")]
        bos, eos = (index if isinstance(index, int) and 0 <= index < len(tokens) else None for index in ids)
        self.vocabulary = SimpleNamespace(tokens=tokens, bos_id=bos, eos_id=eos)


def _ids_of(model: Model, inside: Chat, messages: Sequence[Message], is_prompt: bool) -> list[int] | str:
    try:
        return model.tokenize(inside.render(messages, add_generation_prompt=is_prompt), parse_special=True)
    except MedllamaError as error:
        return error.message


def _difference(messages: Sequence[Message], found: list[int] | str, truth: list[int]) -> str:
    roles = "-".join(message["role"] for message in messages)
    if isinstance(found, str):
        return f"{roles}: {found}"
    start = common_prefix(found, truth)
    return f"{roles}: token {start} is {found[start : start + 3]}, and training had {truth[start : start + 3]}"


def _cause(stored: str, template: str) -> str:
    if stored == template:
        return "the template is right, and llama.cpp tokenizes what it renders otherwise: see the tokenizer check"
    if template == GUARD + stored:
        return (
            "Ollama could take this chat template for one that it knows: the guard before it is missing, convert again"
        )
    at = next((i for i, pair in enumerate(zip(stored, template, strict=False)) if pair[0] != pair[1]), 0)
    shown, right = stored[at : at + 24], template[at : at + 24]
    return f"the file's chat template is another one: from character {at} {shown!r} where {right!r} is right"
