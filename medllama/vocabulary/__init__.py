"""The vocabulary of a Llama checkpoint, as llama.cpp needs it: token texts, types, scores or merges, special ids.

    vocabulary = load_vocabulary(base, adapter)

Two families exist. "llama" is SentencePiece BPE with byte fallback (Llama 2): llama.cpp merges the pair whose result has
the highest score. "gpt2" is byte-level BPE (Llama 3): llama.cpp merges by the rank of a list of merges. Where the checkpoint has
`tokenizer.model`, that is the truth (sentencepiece_model.py), else its `tokenizer.json` (tokenizer_json.py). Tokens that were
added beside either, and the special ids, are read here.

Source followed: `llama_vocab::impl` in llama.cpp's src/llama-vocab.cpp (build 0c1e570).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medllama.errors import InputError, UnsupportedError
from medllama.files import read_text
from medllama.vocabulary.sentencepiece_model import read_sentencepiece_model
from medllama.vocabulary.table import ADDED_SCORE, SPACE_MARK, TokenType, Vocabulary
from medllama.vocabulary.tokenizer_json import LLAMA3_PATTERN, json_table, read_tokenizer_json, scores_from_merges

__all__ = [
    "FORCED_CONTROL", "LLAMA3_PATTERN", "SPACE_MARK", "AddedToken", "TokenType", "Vocabulary", "load_vocabulary",
    "read_added_tokens", "read_chat_template", "scores_from_merges",
]  # fmt: skip

# Names that llama.cpp turns into control tokens whatever type the file gives them (end of turn, fill-in-the-middle).
FORCED_CONTROL = frozenset(
    [
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<eos>",
        "<turn|>",
        "<|tool_response>",
    ]
)


@dataclass(frozen=True)
class AddedToken:
    """A token that was added beside the tokenizer's own model. `flags` are what it does to the text around it."""

    content: str
    is_special: bool
    flags: tuple[str, ...] = ()

    @classmethod
    def read(cls, entry: dict[str, Any]) -> AddedToken:
        """From its entry in tokenizer.json or tokenizer_config.json."""
        flags = tuple(name for name in ("single_word", "lstrip", "rstrip") if entry.get(name))
        return cls(entry["content"], bool(entry.get("special", False)), flags)


def load_vocabulary(base: Path, adapter: Path | None = None) -> Vocabulary:
    """The vocabulary of a checkpoint folder, with the tokens that an adapter's tokenizer added.

    Raises InputError where there is no tokenizer, UnsupportedError where llama.cpp could not tokenize like it.
    """
    try:
        return _load_vocabulary(base, adapter)
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:  # not the JSON that a tokenizer writes
        raise InputError(
            f"the tokenizer files of {base} are not as Transformers writes them: {type(error).__name__}: {error}",
            hint="they were edited by hand or are damaged; copy them again from one place",
        ) from error


def _load_vocabulary(base: Path, adapter: Path | None) -> Vocabulary:
    model_path, json_path = base / "tokenizer.model", base / "tokenizer.json"
    if model_path.is_file():
        vocabulary = read_sentencepiece_model(model_path)
    elif json_path.is_file():
        vocabulary = read_tokenizer_json(json_path)
    else:
        raise InputError(
            f"{base} has neither tokenizer.model nor tokenizer.json",
            hint="copy the base's tokenizer files beside its weights",
        )
    added = read_added_tokens(base)
    if adapter is not None:
        added |= {index: token for index, token in read_added_tokens(adapter).items() if index >= len(vocabulary)}
    vocabulary = _with_special_ids(_with_added(vocabulary, added), base)
    _check_texts(vocabulary)
    _check_typed(vocabulary)
    return vocabulary


def _check_texts(vocabulary: Vocabulary) -> None:
    """Refuse equal texts, which end the process inside llama.cpp, and empty ones, which it renames."""
    first = vocabulary.ids
    for index, token in enumerate(vocabulary.tokens):
        if not token or first[token] != index:
            reason = f"is {token!r} like token {first[token]}" if token else "has no text"
            raise UnsupportedError(
                f"{vocabulary.origin}: token {index} {reason}, and llama.cpp tells tokens apart by their texts",
                hint="give every added token a text of its own",
            )


def _check_typed(vocabulary: Vocabulary) -> None:
    """Refuse a SentencePiece vocabulary in which llama.cpp merges typed text into a token that its tokenizer never makes.

    llama.cpp takes every token for the result of a merge, control and byte tokens included.
    """
    if vocabulary.model != "llama":
        return
    known = set(vocabulary.tokens)
    mergeable = {left + right for left, right in vocabulary.merges}
    for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True):
        is_made = token in mergeable if vocabulary.merges else kind in (TokenType.NORMAL, TokenType.UNUSED)
        if is_made or kind is TokenType.USER_DEFINED:
            continue
        for cut in range(1, len(token)):
            if token[:cut] in known and token[cut:] in known:
                raise UnsupportedError(
                    f"{vocabulary.origin}: llama.cpp would merge a typed {token[:cut]!r} and {token[cut:]!r} into {token!r}",
                    hint="rename that token, or make it an ordinary one",
                )


def read_added_tokens(folder: Path) -> dict[int, AddedToken]:
    """The added tokens that any of a folder's tokenizer files names, by id."""
    found: dict[int, AddedToken] = {}
    specials = _special_contents(folder)
    for text, index in json_table(folder / "added_tokens.json").items():
        found[int(index)] = AddedToken(text, text in specials)
    for entry in json_table(folder / "tokenizer.json").get("added_tokens") or []:
        found[int(entry["id"])] = AddedToken.read(entry)
    for index, entry in (json_table(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}).items():
        found[int(index)] = AddedToken.read(entry)
    return found


def _special_contents(folder: Path) -> set[str]:
    """The texts that a folder's special tokens map calls special."""
    flat: list[Any] = []
    for value in json_table(folder / "special_tokens_map.json").values():
        flat += value if isinstance(value, list) else [value]
    return {entry["content"] if isinstance(entry, dict) else str(entry) for entry in flat}


def _with_added(vocabulary: Vocabulary, added: dict[int, AddedToken]) -> Vocabulary:
    """The vocabulary with added tokens in their places and every token's true type."""
    size = max([len(vocabulary), *(index + 1 for index in added)])
    if size - len(vocabulary) > len(added):
        raise InputError(
            f"{vocabulary.origin}: added tokens go up to id {size - 1}, but the ids before it are not all named",
            hint="the tokenizer files are of different versions; copy them again from one place",
        )
    tokens, types = list(vocabulary.tokens), list(vocabulary.types)
    scores = list(vocabulary.scores)
    for index in range(len(tokens), size):
        if index not in added:
            raise InputError(f"{vocabulary.origin}: no token has the id {index}", hint="copy the tokenizer files again")
        tokens.append(added[index].content)
        types.append(TokenType.NORMAL)
        if scores:
            scores.append(ADDED_SCORE)
    for index, token in added.items():
        if tokens[index] != token.content:
            raise InputError(
                f"{vocabulary.origin}: id {index} is {tokens[index]!r}, but the added tokens call it {token.content!r}",
                hint="the tokenizer files are of different versions; copy them again from one place",
            )
        if token.flags and not token.is_special:
            raise UnsupportedError(
                f"{vocabulary.origin}: the added token {token.content!r} has {', '.join(token.flags)}, which llama.cpp does not do",
                hint="add it again without, as tokenizer.add_tokens does",
            )
        if types[index] is not TokenType.UNKNOWN:
            types[index] = TokenType.CONTROL if token.is_special else TokenType.USER_DEFINED
    for index, text in enumerate(tokens):
        if text in FORCED_CONTROL and types[index] is not TokenType.UNKNOWN:
            types[index] = TokenType.CONTROL
    return replace(vocabulary, tokens=tuple(tokens), types=tuple(types), scores=tuple(scores))


def _with_special_ids(vocabulary: Vocabulary, folder: Path) -> Vocabulary:
    """The ids of BOS, EOS, UNK and PAD as tokenizer_config.json names them, else as config.json numbers them."""
    settings, config = json_table(folder / "tokenizer_config.json"), json_table(folder / "config.json")
    ids = vocabulary.ids
    found: dict[str, Any] = {}
    for name in ("bos", "eos", "unk", "pad"):
        text = settings.get(f"{name}_token")
        text = text.get("content") if isinstance(text, dict) else text
        number = config.get(f"{name}_token_id")
        number = number[0] if isinstance(number, list) else number
        index = ids.get(text) if isinstance(text, str) else None
        known = getattr(vocabulary, f"{name}_id")
        if index is None:
            index = known if known is not None else number
        found[f"{name}_id"] = index if isinstance(index, int) and 0 <= index < len(vocabulary) else None
    add_bos = settings.get("add_bos_token")
    add_eos = settings.get("add_eos_token")
    return replace(
        vocabulary,
        add_bos=vocabulary.add_bos if add_bos is None else bool(add_bos),
        add_eos=vocabulary.add_eos if add_eos is None else bool(add_eos),
        **found,
    )


def read_chat_template(folder: Path) -> str | None:
    """The chat template that a folder's tokenizer carries: chat_template.jinja, else tokenizer_config.json."""
    if (path := folder / "chat_template.jinja").is_file():
        return read_text(path)
    template = json_table(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
