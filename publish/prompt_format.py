"""What Ollama has to know of a model's prompts: the TEMPLATE and the texts that end an answer.

    format = prompt_format(chat)              from the chat template and vocabulary inside the GGUF
    modelfile_commands(runs("m.gguf"), format, ...)

Package and the flagship's Modelfile at the repository's root are made of the same two functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medllama.chat import Chat
from medllama.errors import InputError, UnsupportedError
from medllama.go_template import go_template_sha256, read_layout
from publish.modelfile import Command

# A model without a chat format continues what it is given. Left without a TEMPLATE, Ollama would wrap it in ChatML.
PLAIN_TEMPLATE = "{{ .Prompt }}"
# The first Ollama that renders the GGUF's own Jinja template; an older one would send the bare question.
RENDERS_JINJA = "0.30.0"
MAXIMUM_UNASKED_CONTEXT = 4096  # tokens: what Ollama itself takes for granted; a longer cache is memory to be asked for


@dataclass(frozen=True)
class PromptFormat:
    """`template` is the Modelfile's; None where the Jinja has no Go counterpart, with the reason in `note`.
    `derived_sha256` is that of a template derived from a chat template, as the certificate records it."""

    template: str | None
    derived_sha256: str | None
    stops: tuple[str, ...]
    note: str


def prompt_format(chat: Chat | None) -> PromptFormat:
    """The prompt format of a chat; of a model without one, prompts go in as they are."""
    if chat is None:
        return PromptFormat(PLAIN_TEMPLATE, None, (), "It has no chat format: it continues the text that it is given.")
    tokens = chat.tokenizer.vocabulary.tokens
    ends = [tokens[index] for index in (chat.end_of_turn(), chat.tokenizer.vocabulary.eos_id) if index is not None]
    try:
        layout = read_layout(chat)
    except UnsupportedError as error:
        note = f"It has no TEMPLATE ({error.message}); Ollama takes the Jinja template that is inside the GGUF."
        return PromptFormat(None, None, _unique(ends), note)
    if chat.end_of_turn() is None:
        # No control token ends an answer, so the text that follows one must.
        ends += [layout.assistant[1].strip() or (layout.between + layout.user[0]).strip()]
    template = layout.go_template()
    note = "Its TEMPLATE renders the prompt that the model was trained with."
    return PromptFormat(template, go_template_sha256(template), _unique(ends), note)


def _unique(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text))


def require_system_place(chat: Chat | None, system: str) -> None:
    """Raise InputError where a system prompt is asked for and the chat format has no place for one."""
    if not system:
        return
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "a"}]
    try:
        has_place = chat is not None and system.strip() in chat.render(messages, add_generation_prompt=True)
    except InputError:
        has_place = False
    if not has_place:
        raise InputError(
            "the model's chat format has no place for a system prompt, so Ollama would drop it",
            hint='leave it out: --system ""',
        )


def context_tokens(asked: int | None, trained: int | None, possible: int) -> int:
    """num_ctx: as asked, else the length trained with, else a modest part of what the model allows."""
    if asked is not None and not 0 < asked <= possible:
        raise InputError(
            f"num_ctx {asked} is not within the model's context of {possible} tokens",
            hint=f"leave num_ctx out, or give at most {possible}",
        )
    return asked or min(trained or MAXIMUM_UNASKED_CONTEXT, possible)


def runs(file: str, base: str = "") -> list[Command]:
    """What the Modelfile of one file runs: the file, or with `base`, a name in Ollama, that model with the adapter in the file."""
    # A path that does not exist silently becomes a model's name in Ollama; "./" at least says what was meant.
    return [Command("from", base), Command("adapter", f"./{file}")] if base else [Command("from", f"./{file}")]


def modelfile_commands(
    source: Sequence[Command],
    form: PromptFormat,
    *,
    system: str,
    temperature: float,
    num_ctx: int,
    licences: Sequence[str],
    further: Sequence[Command] = (),
) -> list[Command]:
    """The commands of a Modelfile that runs what `source` names, with `further` parameters and requirements."""
    stops = _unique([*form.stops, *(command.value for command in further if command.key == "stop")])
    commands = [*source, *(Command("parameter", stop, "stop") for stop in stops)]
    commands.append(Command("parameter", f"{temperature:g}", "temperature"))
    commands.append(Command("parameter", str(num_ctx), "num_ctx"))
    commands += [command for command in further if command.name == "parameter" and command.key != "stop"]
    if form.template is not None:
        commands.append(Command("template", form.template))
    requires = [command for command in further if command.name == "requires"]
    commands += requires if form.template is not None else [Command("requires", RENDERS_JINJA)]
    if system:
        commands.append(Command("system", system))
    return commands + [Command("license", text) for text in licences]
