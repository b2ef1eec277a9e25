"""The API beside the page: what OpenAI's clients expect of chat completions, and a comparison of all models in one request.

    curl http://127.0.0.1:7860/v1/models
    curl http://127.0.0.1:7860/compare -H 'Content-Type: application/json' \\
         -d '{"messages": [{"role": "user", "content": "What is gout?"}]}'

Requests stand in the same line as the page's questions (app/line.py). Every error is JSON of one shape. A client that goes away
ends its answer. /docs describes it all; nothing of it comes from elsewhere.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, StreamingResponse

from app.api_docs import docs_html
from app.api_errors import ApiError, error_body
from app.api_schema import (
    FINISHED,
    Choice,
    ComparedAnswer,
    CompareRequest,
    Comparison,
    Completion,
    CompletionMessage,
    CompletionRequest,
    ErrorAnswer,
    Health,
    ModelEntry,
    ModelList,
    usage,
)
from app.conversation import Answer, Sampling
from app.engine import Engine, Waiting

RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": description}
    for status, description in (
        (400, "the request is not understood, or the conversation is too long for the model"),
        (401, "the password is missing or wrong"),
        (404, "there is no such model"),
        (413, "the request is too large"),
        (429, "too many wait already, or too many passwords were wrong: try again"),
        (500, "the model failed"),
        ("default", "every other error has this shape, too"),
    )
}


def router(engine: Engine, usual: Sampling, system: str) -> APIRouter:
    """The routes. `usual` and `system` hold where a request does not say otherwise."""
    routes = APIRouter(responses=RESPONSES)
    started = int(time.time())

    @routes.get("/v1/models", summary="The models", tags=["OpenAI"])
    async def models() -> ModelList:
        return ModelList(
            data=[ModelEntry(id=voice.name, created=started) for voice in engine.voices if not voice.missing]
        )

    @routes.get("/v1/models/{model:path}", summary="One model", tags=["OpenAI"])
    async def model(model: str) -> ModelEntry:
        return ModelEntry(id=engine.voices[number_of(engine, model)].name, created=started)

    @routes.post("/v1/chat/completions", summary="An answer of one model", response_model=Completion, tags=["OpenAI"])
    async def completions(asked: CompletionRequest, request: Request) -> Any:
        """With `stream` the answer comes as server-sent events, one JSON object each, and `[DONE]` at the end."""
        number = number_of(engine, asked.model)
        states = engine.ask(who(request, asked.user), {number: asked.conversation(system)}, asked.sampling(usual))
        head: dict[str, Any] = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": asked.model,
        }
        if asked.stream:
            first = await anext(states)  # what is wrong with the request shows here, while there is a status to set
            return StreamingResponse(events(first, states, asked, head), media_type="text/event-stream")
        (answer,) = await last(states, request, asked.stops)
        text, is_cut = cut(answer.text, asked.stops)
        choice = Choice(
            message=CompletionMessage(content=text), finish_reason="stop" if is_cut else FINISHED[str(answer.stop)]
        )
        return Completion(**head, choices=[choice], usage=usage(answer))

    @routes.post("/compare", summary="The answers of several models to the same conversation", tags=["comparison"])
    async def compare(asked: CompareRequest, request: Request) -> Comparison:
        """All models, or those that are named. One that fails says so in its answer, and the others answer."""
        numbers = [number_of(engine, name, may_be_missing=True) for name in asked.models or names(engine)]
        sampling = asked.sampling(usual)
        conversation = asked.conversation(system)
        states = engine.ask(who(request, asked.user), dict.fromkeys(numbers, conversation), sampling)
        answers = await last(states, request, (), may_fail=True)
        return Comparison(
            answers=[compared(engine.voices[n].name, it) for n, it in zip(dict.fromkeys(numbers), answers, strict=True)],
            temperature=sampling.temperature, top_p=sampling.top_p, seed=sampling.seed, max_tokens=sampling.max_tokens,
        )  # fmt: skip

    @routes.get("/openapi.json", include_in_schema=False)
    async def schema(request: Request) -> Any:
        return request.app.openapi()

    @routes.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(docs_html(request.app.openapi(), str(request.base_url)))

    return routes


def health_router(engine: Engine) -> APIRouter:
    """The one route that needs no password: it says nothing of the models."""
    routes = APIRouter()

    @routes.head("/healthz", include_in_schema=False)
    @routes.get(
        "/healthz", summary="Whether the server lives, and how many questions wait or are answered", tags=["server"]
    )
    async def healthz() -> Health:
        return Health(waiting=len(engine.line))

    return routes


def names(engine: Engine) -> list[str]:
    """What the models are called."""
    return [voice.name for voice in engine.voices]


def number_of(engine: Engine, name: str, *, may_be_missing: bool = False) -> int:
    """The model of this name."""
    for number, voice in enumerate(engine.voices):
        if voice.name == name:
            if voice.missing and not may_be_missing:
                raise ApiError(404, voice.missing, param="model", code="model_not_found")
            return number
    raise ApiError(
        404, f"there is no model {name!r}: there are {', '.join(names(engine))}", param="model", code="model_not_found"
    )


def who(request: Request, user: str | None) -> str:
    """Whom a place in the line belongs to: the user that is named, else the machine that asks."""
    return f"user {user}" if user else f"address {request.client.host if request.client else ''}"


async def last(
    states: AsyncIterator[Waiting | list[Answer]], request: Request, stops: Sequence[str], *, may_fail: bool = False
) -> list[Answer]:
    """The answers when they have ended. Raises ApiError where the only one failed, and stops where nobody listens."""
    answers: list[Answer] = []
    async with aclosing(states):  # type: ignore[type-var]
        async for state in states:
            if await request.is_disconnected():
                raise ApiError(499, "the client has gone", code="client_gone")
            if isinstance(state, list):
                answers = state
                if stops and cut(answers[0].text, stops)[1]:
                    break
    if answers[0].stop == "failed" and not may_fail:
        raise ApiError(500, answers[0].error, kind="server_error", code="model_failed")
    return answers


async def events(
    first: Waiting | list[Answer], states: AsyncIterator[Waiting | list[Answer]], asked: CompletionRequest,
    head: dict[str, Any],
) -> AsyncIterator[str]:  # fmt: skip
    """An answer as server-sent events: each has what is new of the text. While others are first, comments keep the line open."""

    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return event({**head, "object": "chat.completion.chunk", "choices": [choice]})

    yield chunk({"role": "assistant", "content": ""})
    shown, answer, is_cut = "", Answer(), False
    async with aclosing(states):  # type: ignore[type-var]
        async for state in chained(first, states):
            if isinstance(state, Waiting):
                yield f": {state.ahead} first\n\n"
                continue
            (answer,) = state
            text, is_cut = cut(answer.text, asked.stops)
            ready = text if is_cut or answer.stop else held_back(text, asked.stops)
            if len(ready) > len(shown):
                yield chunk({"content": ready[len(shown) :]})
                shown = ready
            if is_cut:
                break
    if answer.stop == "failed":
        yield event(error_body(answer.error, kind="server_error", code="model_failed"))
    else:
        yield chunk({}, "stop" if is_cut else FINISHED[str(answer.stop)])
        if asked.stream_options and asked.stream_options.include_usage:
            counted = usage(answer).model_dump()
            yield event({**head, "object": "chat.completion.chunk", "choices": [], "usage": counted})
    yield "data: [DONE]\n\n"


async def chained(first: Any, rest: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """`first`, then the rest."""
    yield first
    async for item in rest:
        yield item


def event(value: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of the stop texts, and whether there was one."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def held_back(text: str, stops: Sequence[str]) -> str:
    """The text without an end that may become a stop text."""
    begun = (size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size]))
    return text[: len(text) - max(begun, default=0)]


def compared(model: str, answer: Answer) -> ComparedAnswer:
    """An answer with its figures."""
    return ComparedAnswer(
        model=model, text=answer.text, stop=str(answer.stop), error=answer.error, prompt_tokens=answer.prompt_tokens,
        reused_tokens=answer.reused_tokens, tokens=answer.tokens, seconds=answer.seconds,
        first_token_seconds=answer.first_token_seconds, tokens_per_second=answer.tokens_per_second,
    )  # fmt: skip
