"""The one chat format: messages to a prompt, and the prompt to the ids that llama.cpp gives for it.

`Chat` joins a Jinja chat template with a tokenizer. Training, the certificate, evaluation and the app all take their ids
from `Chat.encode`, never from Transformers' `apply_chat_template`, whose ids differ from llama.cpp's for Llama 2.

A template's control tokens are recognized; the same letters typed by a person or found in a data set are plain text. To
tell them apart, a character that occurs nowhere in the conversation is put inside each such text before rendering, and
dropped when the pieces are tokenized.

The families' templates are written here, since a base model has none of its own. They do not trim: what Ollama's Go
TEMPLATE cannot do, training must not do either. The Llama 2 layout is that of Meta's `llama/generation.py`, the Llama 3 layout
that of its model card.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from medllama.errors import InputError
from medllama.files import read_text
from medllama.tokenizer import Tokenizer, common_prefix
from medllama.vocabulary import load_vocabulary, read_chat_template

Message = Mapping[str, str]
IGNORED_LABEL = -100  # what PyTorch's cross entropy leaves out

LLAMA2_TEMPLATE = """\
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{%- set ns.system = '<<SYS>>\\n' + message['content'] + '\\n<</SYS>>\\n\\n' -%}
{%- elif message['role'] == 'user' -%}
{{- bos_token + '[INST] ' + ns.system + message['content'] + ' [/INST]' -}}
{%- set ns.system = '' -%}
{%- elif message['role'] == 'assistant' -%}
{{- ' ' + message['content'] + ' ' + eos_token -}}
{%- else -%}
{{- raise_exception('unknown role ' + message['role']) -}}
{%- endif -%}
{%- endfor -%}
"""

LLAMA3_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""

# Llama 3.1's own template writes today's date into the prompt where the renderer has a clock. A trained prompt must not
# change from day to day, so the date that the template falls back to is set before it.
PINNED_DATE = "{%- set date_string = '26 Jul 2024' -%}\n"

FAMILY_TEMPLATES = {"llama2": LLAMA2_TEMPLATE, "llama3": LLAMA3_TEMPLATE}


@dataclass(frozen=True)
class Labelled:
    """Ids for training: `labels` (n,) equals `input_ids` (n,) where the model learns, and -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]


class Chat:
    """A chat template with the tokenizer that it belongs to."""

    def __init__(self, template: str, tokenizer: Tokenizer) -> None:
        self.template = template
        self.tokenizer = tokenizer
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _raise_exception
        environment.filters["tojson"] = _tojson
        try:
            self._compiled = environment.from_string(template)
        except jinja2.TemplateError as error:
            raise InputError(
                f"the chat template is not Jinja: {error}", hint="check the file given to --chat-template"
            ) from None

    @property
    def sha256(self) -> str:
        """The SHA-256 of the template's text."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The prompt as text. Raises InputError where the template refuses the conversation."""
        vocabulary = self.tokenizer.vocabulary
        names = {
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
            "bos_token": _token(vocabulary.tokens, vocabulary.bos_id),
            "eos_token": _token(vocabulary.tokens, vocabulary.eos_id),
            "tools": None,
            "documents": None,
        }
        try:
            return self._compiled.render(names)
        except Exception as error:  # a template is somebody's program: whatever it raises is its refusal
            raise InputError(
                f"the chat template refuses a conversation of roles {', '.join(m['role'] for m in messages)}: {error}",
                hint="roles alternate between user and assistant, after an optional system message",
            ) from None

    def encode(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> list[int]:
        """The ids of the rendered prompt, equal to llama.cpp's, with everybody's text taken as plain text."""
        mark = _absent_character("".join(message["content"] for message in messages) + self.template)
        guarded = [{**message, "content": self._guard(message["content"], mark)} for message in messages]
        return self.tokenizer.encode_rendered(
            self.render(guarded, add_generation_prompt=add_generation_prompt), mark=mark
        )

    def encode_for_training(self, messages: Sequence[Message]) -> Labelled:
        """The ids of a conversation with labels on every answer and the end token after it, and on nothing else.

        What an answer is follows from the template: the ids by which a conversation with the answer is longer than the
        prompt for it, up to the last control token, which ends the turn; all of them where it ends by text alone. An answer
        that begins with line breaks may share its first token with the prompt, which is then learned as a whole.
        """
        input_ids = self.encode(messages)
        labels = [IGNORED_LABEL] * len(input_ids)
        for position, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            start = common_prefix(input_ids, self.encode(messages[:position], add_generation_prompt=True))
            end = common_prefix(input_ids, self.encode(messages[: position + 1]))
            ends = [place + 1 for place in range(start, end) if self._is_control(input_ids[place])]
            end = ends[-1] if ends else end
            labels[start:end] = input_ids[start:end]
        return Labelled(input_ids, labels)

    def end_of_turn(self) -> int | None:
        """The control token that ends an answer in this template; None where the template ends it by text alone."""
        labels = self.encode_for_training(
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        ).labels
        last = next((label for label in reversed(labels) if label != IGNORED_LABEL), None)
        return last if last is not None and self._is_control(last) else None

    def _is_control(self, index: int) -> bool:
        return self.tokenizer.vocabulary.tokens[index] in self.tokenizer.control

    def _guard(self, text: str, mark: str) -> str:
        for token in self.tokenizer.control:
            if token in text:
                text = text.replace(token, token[0] + mark + token[1:])
        return text


def load_chat(base: Path, adapter: Path | None = None, choice: str = "auto") -> Chat | None:
    """The chat of a model: `choice` names a family or a Jinja file, "none", or "auto" (the adapter's own template, else
    the base's, else its family's). None where there is no template: such a model continues plain text."""
    tokenizer = Tokenizer(load_vocabulary(base, adapter))
    template = choose_template(tokenizer, base, adapter, choice)
    return None if template is None else Chat(template, tokenizer)


def choose_template(tokenizer: Tokenizer, base: Path, adapter: Path | None, choice: str) -> str | None:
    """The text of the chat template that `choice` means for this model, its date pinned where it would ask for one."""
    template = _find_template(tokenizer, base, adapter, choice)
    if template is not None and "strftime_now" in template and not template.startswith(PINNED_DATE):
        return PINNED_DATE + template
    return template


def _find_template(tokenizer: Tokenizer, base: Path, adapter: Path | None, choice: str) -> str | None:
    if choice == "none":
        return None
    if choice in FAMILY_TEMPLATES:
        return FAMILY_TEMPLATES[choice]
    if choice != "auto":
        return read_text(Path(choice))
    for folder in (adapter, base):
        if folder is not None and (template := read_chat_template(folder)) is not None:
            return template
    family = family_of(tokenizer)
    return FAMILY_TEMPLATES[family] if family else None


def family_of(tokenizer: Tokenizer) -> str | None:
    """The family whose chat format a base without a template was made for, as its vocabulary shows."""
    if {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"} <= tokenizer.control.keys():
        return "llama3"
    return "llama2" if tokenizer.vocabulary.model == "llama" else None


def _token(tokens: Sequence[str], index: int | None) -> str:
    return "" if index is None else tokens[index]


def _absent_character(text: str) -> str:
    """A private-use character that does not occur in `text`."""
    return next(character for code in range(0xE000, 0x10FFFE) if (character := chr(code)) not in text)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
