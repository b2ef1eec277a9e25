"""Keeps Ollama from taking a chat template for one of its built-in ones.

    chat = guarded(chat)        where Go's templates cannot say it, its text begins with GUARD; it renders the same

Where a Modelfile has no TEMPLATE, `ollama create` compares the GGUF's chat template with those that it knows, by the number of
characters that would have to be changed (Levenshtein), and takes the nearest one if that is less than 100. The prompts are
then another model's, without a word. A TEMPLATE that was derived is always written, so this concerns the others: without a
match the server renders the GGUF's own.

The guard is a comment with 100 characters that stand in no template: each of them has to be changed or taken out, whatever the
other text is. The newline after it belongs to it (Jinja's trim_blocks, as Transformers and llama.cpp render), so the first
line of the template stays a first line. Source followed: Named in Ollama's template/template.go.
"""

from __future__ import annotations

from medllama.chat import Chat
from medllama.errors import InputError, UnsupportedError
from medllama.go_template import read_layout

NEAREST_TAKEN = 100  # from so many changed characters on, Ollama takes no built-in template
GUARD = "{#" + "~" * NEAREST_TAKEN + " keeps Ollama from taking this for a template that it knows #}\n"


def guarded(chat: Chat) -> Chat:
    """The chat with the guard in its template, where no TEMPLATE can be derived from it and it has none yet."""
    if chat.template.startswith(GUARD):
        return chat
    try:
        read_layout(chat)
    except (InputError, UnsupportedError):
        return Chat(GUARD + chat.template, chat.tokenizer)
    return chat
