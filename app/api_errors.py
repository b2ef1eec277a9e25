"""The server's errors: JSON of the one shape that OpenAI's clients read, whoever raises them."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException  # FastAPI raises this one, too, where a body cannot be parsed

from app.line import LineFull
from medllama.errors import MedllamaError

RETRY_SECONDS = 10
# Where the page's script names a part of the page by its number.
ASKING_PARTS = ("/gradio_api/queue/join", "/gradio_api/run/")
SAID = {"extra_forbidden": "not supported here"}  # where pydantic's words are for programmers


class ApiError(Exception):
    """What a request is told instead of an answer."""

    def __init__(
        self, status: int, message: str, *, kind: str = "invalid_request_error", param: str | None = None,
        code: str | None = None, headers: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.body = error_body(message, kind=kind, param=param, code=code)


def error_body(
    message: str, *, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """`{"error": {...}}`."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def told(request: Request, error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, error.status, headers=error.headers)


async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return JSONResponse(error_body(f"this is no JSON: {first['ctx']['error']}"), 400)
    if first["loc"] == ("body",):  # none, or another kind of JSON
        return JSONResponse(error_body("the body must be a JSON object: see /docs"), 400)
    param = ".".join(str(part) for part in first["loc"] if part != "body") or None
    said = SAID.get(first["type"], str(first["msg"]).removeprefix("Value error, "))
    message = f"{param}: {said}" if param else said
    return JSONResponse(error_body(message, param=param), 400)


async def full(request: Request, error: LineFull) -> JSONResponse:
    body = error_body(error.sentence, kind="rate_limit_error", code="line_full")
    return JSONResponse(body, 429, headers={"Retry-After": str(RETRY_SECONDS)})


async def refused(request: Request, error: MedllamaError) -> JSONResponse:
    return JSONResponse(error_body(error.sentence, param="messages"), 400)


async def http(request: Request, error: HTTPException) -> JSONResponse:
    is_absent = error.status_code in (404, 405)
    message = f"there is no {request.method} {request.url.path}: see /docs" if is_absent else str(error.detail)
    return JSONResponse(error_body(message), error.status_code, headers=error.headers)


async def of_gradio(request: Request, error: HTTPException) -> JSONResponse:
    """An error of the page's own paths. The page's script reads `detail`, so that it stays beside."""
    message = error.detail if isinstance(error.detail, str) else HTTPStatus(error.status_code).phrase
    body = error_body(message) | {"detail": error.detail}
    return JSONResponse(body, error.status_code, headers=error.headers)


async def no_such_part(request: Request, error: Exception) -> JSONResponse:
    """The page asks for a part that it does not have, as one does that was opened before the server was started anew."""
    if not request.url.path.startswith(ASKING_PARTS):
        raise error
    return await of_gradio(request, HTTPException(404, "the page has no such part: open it anew"))


async def broken(request: Request, error: Exception) -> JSONResponse:  # the server writes it to the terminal
    message = "the server failed; the terminal that runs medllama says why"
    return JSONResponse(error_body(message, kind="server_error"), 500)


OF_API: dict[Any, Callable[..., Any]] = {
    ApiError: told, RequestValidationError: invalid, LineFull: full, MedllamaError: refused, HTTPException: http,
    Exception: broken,
}  # fmt: skip
OF_PAGE = OF_API | {HTTPException: of_gradio}
