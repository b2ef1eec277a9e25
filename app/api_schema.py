"""What the API takes and gives, in the shapes that OpenAI's clients know. Bounds stand here; what is unknown is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from app.config import MOST_SEED
from app.conversation import Answer, Sampling

MOST_MESSAGES = 200
MOST_CHARACTERS = 100_000  # of a conversation; the model's context is the nearer bound
MOST_TOKENS = 16_384
FINISHED = {"end": "stop", "stopped": "stop", "length": "length", "time": "length"}


class Part(BaseModel):
    """A part of a message; only text is understood."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a conversation. Its text is text: control tokens typed in it do nothing."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    @field_validator("content", mode="wrap")
    @classmethod
    def _is_text(cls, content: Any, read: ValidatorFunctionWrapHandler) -> Any:
        try:
            return read(content)
        except ValidationError:
            said = 'only text is understood: a string, or parts of the shape {"type": "text", "text": "..."}'
            raise ValueError(said) from None

    @property
    def plain(self) -> dict[str, str]:
        """As the chat template takes it."""
        role = "system" if self.role == "developer" else self.role
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": role, "content": text}


Messages = Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]


class Choosing(BaseModel):
    """How the tokens are chosen; what is left out is as the server was started."""

    model_config = ConfigDict(extra="forbid")
    messages: Messages
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, le=MOST_SEED)
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    user: str | None = Field(None, max_length=200, description="who asks: each has a fair place in the line")

    @model_validator(mode="before")
    @classmethod
    def _leaves_out(cls, given: Any) -> Any:
        """What is null is left out: some clients send every field that they know."""
        return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given

    @field_validator("messages")
    @classmethod
    def _is_bounded(cls, messages: list[Message]) -> list[Message]:
        length = sum(len(message.plain["content"]) for message in messages)
        if length > MOST_CHARACTERS:
            raise ValueError(f"{length:,} characters are too many, at most {MOST_CHARACTERS:,} are read")
        if any("\ud800" <= character <= "\udfff" for message in messages for character in message.plain["content"]):
            raise ValueError("half a character (a lone surrogate) is no text")
        if messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        return messages

    def conversation(self, system: str) -> list[dict[str, str]]:
        """The messages, under the server's system prompt where they bring none."""
        said = [message.plain for message in self.messages]
        return [{"role": "system", "content": system}, *said] if system and said[0]["role"] != "system" else said

    def sampling(self, usual: Sampling) -> Sampling:
        """`usual` but for what the request sets."""
        return Sampling(
            usual.temperature if self.temperature is None else self.temperature,
            usual.top_p if self.top_p is None else self.top_p,
            usual.seed if self.seed is None else self.seed,
            self.max_tokens or usual.max_tokens,
        )


class StreamOptions(BaseModel):
    """What a stream ends with."""

    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class PlainText(BaseModel):
    """How every answer comes here."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]


class CompletionRequest(Choosing):
    """POST /v1/chat/completions. What would change an answer and is not supported is refused, not ignored."""

    model: str
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = Field(None, description="texts before which the answer ends, at most 4")
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    # Without effect on an answer here.
    response_format: PlainText | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @field_validator("stop")
    @classmethod
    def _is_short(cls, stop: str | list[str] | None) -> str | list[str] | None:
        texts = [stop] if isinstance(stop, str) else stop or []
        if len(texts) > 4 or any(not 0 < len(text) <= 100 for text in texts):
            raise ValueError("at most 4 texts of 1 to 100 characters")
        return stop

    @field_validator("frequency_penalty", "presence_penalty", mode="before")
    @classmethod
    def _is_whole(cls, value: Any) -> Any:
        return 0 if value == 0 and not isinstance(value, bool) else value  # 0.0 is 0

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def sampling(self, usual: Sampling) -> Sampling:
        sampling = super().sampling(usual)
        return Sampling(
            sampling.temperature, sampling.top_p, sampling.seed, self.max_completion_tokens or sampling.max_tokens
        )


class CompareRequest(Choosing):
    """POST /compare: the same conversation to several models."""

    models: list[str] | None = Field(None, min_length=1, max_length=4, description="names of /v1/models; default: all")


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    index: int = 0
    message: CompletionMessage
    finish_reason: str
    logprobs: None = None


class Completion(BaseModel):
    """An answer as OpenAI's clients read it."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class ModelEntry(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["medllama"] = "medllama"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelEntry]


class ComparedAnswer(BaseModel):
    """An answer with its figures; `stop` is end, length, time, or failed with `error`."""

    model: str
    text: str
    stop: str
    error: str
    prompt_tokens: int
    reused_tokens: int
    tokens: int
    seconds: float
    first_token_seconds: float | None
    tokens_per_second: float | None


class Comparison(BaseModel):
    """The answers in the order of the models, and how their tokens were chosen."""

    answers: list[ComparedAnswer]
    temperature: float
    top_p: float
    seed: int
    max_tokens: int


class Health(BaseModel):
    status: Literal["ok"] = "ok"
    waiting: int


class Problem(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Every error of the API."""

    error: Problem


def usage(answer: Answer) -> Usage:
    """Prompt and answer in tokens."""
    total = answer.prompt_tokens + answer.tokens
    return Usage(prompt_tokens=answer.prompt_tokens, completion_tokens=answer.tokens, total_tokens=total)
