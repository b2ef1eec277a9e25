"""A package installed on an Ollama server: created, checked, and only then given its name.

    install(server, package, models, name)

A model is created under a tag that nobody asks for and held against the package: what show says, the ids of rendered prompts,
one answer that ends by itself. Then it is copied to its name. So a name never stands for a model that was not checked,
and an earlier model of that name stays until its successor is whole.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import ollama

from medllama import progress
from medllama.chat import Chat, Message
from medllama.errors import CheckFailed, InputError
from medllama.gguf_metadata import read_gguf_metadata
from publish.gate import Package
from publish.layers import Model
from publish.ollama_server import OllamaServer
from publish.reference import ModelName, check_case
from publish.targets import MARK

UNCHECKED = "unchecked-"
LEFT_BEHIND = timedelta(hours=1)
LONGEST_ANSWER_TOKENS = 1024
QUESTION: Message = {"role": "user", "content": "What is asthma?"}


def install(server: OllamaServer, package: Package, models: Sequence[Model], name: ModelName) -> dict[str, Any]:
    """Create, check and name every tag; return by file what was checked. Where a check fails, no name has changed."""
    installed = server.told("asking for its models", server.client.list).models
    _require_free(server, [name.with_tag(model.tag) for model in models], [entry.model or "" for entry in installed])
    _remove_left_behind(server, name, installed)
    chat = read_gguf_metadata(package.path(package.default)).chat  # one model, whatever its files' types
    created: dict[str, ModelName] = {}
    checked = {}
    try:
        for model in models:
            if model.file.name not in created:
                server.upload(model.layers[0], model.file.name)
                created[model.file.name] = unchecked = name.with_tag(UNCHECKED + secrets.token_hex(4))
                server.create(package, model, unchecked)
                checked[model.file.name] = check(server, package, chat, unchecked)
        for model in models:
            server.copy(created[model.file.name], name.with_tag(model.tag))
    finally:
        for unchecked in created.values():
            _remove(server, str(unchecked))
    return checked


def _require_free(server: OllamaServer, names: Iterable[ModelName], installed: Iterable[str]) -> None:
    """Raise InputError where a model of that name is there that medllama did not make."""
    for name in names:
        before = str(name.with_tag("")) + ":"
        check_case(name, [it.removeprefix(before) for it in installed if it.startswith(before)], server.url)
        shown = server.show(name)
        if shown is not None and MARK not in (shown.license or ""):
            raise InputError(
                f"{server.url} already has a model {name} that medllama did not make",
                hint=f"publish under another name, or remove that one: ollama rm {name}",
            )


def _remove_left_behind(server: OllamaServer, name: ModelName, installed: Iterable[ollama.ListResponse.Model]) -> None:
    """What a killed publish left under an unchecked tag, so long ago that it is not at work any more."""
    for entry in installed:
        is_unchecked = (entry.model or "").startswith(str(name.with_tag(UNCHECKED)))
        if is_unchecked and entry.modified_at and datetime.now(UTC) - entry.modified_at > LEFT_BEHIND:
            _remove(server, entry.model or "")


def _remove(server: OllamaServer, name: str) -> None:
    # It was never created, or the server is gone: a later publish removes it.
    with contextlib.suppress(ollama.ResponseError, httpx.HTTPError, ConnectionError):
        server.client.delete(name)


def check(server: OllamaServer, package: Package, chat: Chat | None, name: ModelName) -> dict[str, Any]:
    """Hold what the server has against the package. Raises CheckFailed where it differs."""
    shown = server.show(name)
    if shown is None:
        raise CheckFailed(f"{server.url} does not have what it created", hint="the server's log says more")
    if package.template is not None and shown.template != package.template:
        raise CheckFailed(f"{server.url} has another TEMPLATE than the package", hint="update the server")
    lost = [key for key in package.parameters if key not in (shown.parameters or "").split()]
    if lost or MARK not in (shown.license or ""):
        raise CheckFailed(f"{server.url} has lost {', '.join(lost) or 'the licence'}", hint="update the server")
    if chat is None:  # it goes on with any text, and has no end of its own
        return {"prompts": 0, "answer_ends": None}
    prompts = check_prompts(server, package, chat, name)
    _check_end(server, name)
    return {"prompts": prompts, "answer_ends": True}


def check_prompts(server: OllamaServer, package: Package, chat: Chat, name: ModelName) -> int:
    """How many rendered prompts gave the ids that the model was trained with; 0 where the server does not tell them."""
    asked = conversations(chat)
    for messages in asked:
        rendered = server.rendered_prompt(name, messages)
        if rendered is None:
            progress.message(f"note: {server.url} does not show its prompts, so they are not compared here")
            return 0
        # The server puts the model's own system message before a conversation that has none.
        system: list[Message] = [{"role": "system", "content": package.system}] if package.system else []
        whole = messages if messages[0]["role"] == "system" else [*system, *messages]
        if prompt_ids(chat, rendered) != chat.encode(whole, add_generation_prompt=True):
            raise CheckFailed(
                f"{server.url} makes another prompt than the model was trained with: {rendered!r}",
                hint="update the server; where the package has no TEMPLATE the server guessed one: publish to store:DIR",
            )
    return len(asked)


def _check_end(server: OllamaServer, name: ModelName) -> None:
    progress.update("asking it a question")
    options = {"num_predict": LONGEST_ANSWER_TOKENS, "temperature": 0, "seed": 0}
    answer = server.told(
        "asking it a question", lambda: server.client.chat(str(name), messages=[QUESTION], options=options)
    )
    if answer.done_reason != "stop":
        raise CheckFailed(
            f"an answer did not end within {LONGEST_ANSWER_TOKENS} tokens ({answer.done_reason or 'no reason given'})",
            hint="the model does not end its turn: see the certificate's check 'ends', and train longer",
        )


def conversations(chat: Chat) -> list[list[Message]]:
    """What the prompt is compared on: one turn, several turns with edges, and a system message where there is a place for one."""
    answered: list[Message] = [QUESTION, {"role": "assistant", "content": "A disease of the airways."}]
    with_system: list[Message] = [{"role": "system", "content": "Be kind."}, QUESTION]
    asked = [[QUESTION], [*answered, {"role": "user", "content": ' And 100% "sure"?\n'}]]
    try:
        chat.render(with_system, add_generation_prompt=True)
    except InputError:
        return asked
    return [*asked, with_system]


def prompt_ids(chat: Chat, rendered: str) -> list[int]:
    """The ids that the server makes of a prompt: BOS where the vocabulary asks for it, control tokens recognized."""
    vocabulary = chat.tokenizer.vocabulary
    bos = [vocabulary.bos_id] if vocabulary.add_bos and vocabulary.bos_id is not None else []
    return bos + chat.tokenizer.encode_rendered(rendered)
