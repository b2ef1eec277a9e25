"""Text to token ids, exactly as llama.cpp does it with the GGUF that `convert` writes.

`Tokenizer` holds a vocabulary and does what llama.cpp's `tokenize` does, in its order: control tokens (of a template only) and
user-defined tokens are cut out of the text, longest first; every piece of text between them is tokenized by itself. For
SentencePiece vocabularies each such piece gets a space before it, which is why `<s>[INST]` is [1, 518] here and in llama.cpp,
and not [1, 29961] as in Transformers 5.

The merging itself is done by Hugging Face's `tokenizers`, with merges sorted by SentencePiece score. Tests hold the ids
against llama.cpp and SentencePiece. What a person types is never parsed for control tokens: see `medllama.chat`. One
exception is known: Llama 3's ids may differ from llama.cpp's beside the 4,382 letters and digits that Unicode 16 added
in 2024, which `tokenizers` 0.23 knows and llama.cpp does not.

Source followed: `llama_vocab::impl::tokenize` and `tokenizer_st_partition` in llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from medllama.vocabulary import LLAMA3_PATTERN, SPACE_MARK, TokenType, Vocabulary

MERGEABLE = (TokenType.NORMAL, TokenType.UNUSED)


class Tokenizer:
    """A vocabulary with its encoder and decoder."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.control = vocabulary.special(TokenType.CONTROL, TokenType.UNKNOWN)
        self.user_defined = vocabulary.special(TokenType.USER_DEFINED)
        self._template_tokens = vocabulary.special(TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
        self._backend = _backend(vocabulary)

    def encode_text(self, text: str) -> list[int]:
        """The ids of plain text: no control token is recognized, BOS is not added."""
        return self._encode(text, self.user_defined, mark="")

    def encode_rendered(self, text: str, *, mark: str = "") -> list[int]:
        """The ids of a rendered template: control tokens are recognized, BOS is not added.

        `mark` is a character that `chat` puts inside what looks like a control token in somebody's text; it keeps the
        text from being recognized and is dropped.
        """
        return self._encode(text, self._template_tokens, mark=mark)

    def _encode(self, text: str, special: dict[str, int], *, mark: str) -> list[int]:
        ids: list[int] = []
        for part in _partition(text, special):
            if isinstance(part, int):
                ids.append(part)
            elif plain := part.replace(mark, "") if mark else part:
                ids += self._backend.encode(plain, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int], *, show_control: bool = False) -> str:
        """The text of token ids; bytes that are no UTF-8 become U+FFFD. Control tokens are left out unless asked for."""
        return b"".join(self._piece(index, show_control) for index in ids).decode("utf-8", errors="replace")

    def _piece(self, index: int, show_control: bool) -> bytes:
        token, kind = self.vocabulary.tokens[index], self.vocabulary.types[index]
        if kind in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.UNUSED):
            return token.encode() if show_control else b""
        if kind is TokenType.USER_DEFINED:
            return token.encode()
        if kind is TokenType.BYTE:
            return bytes([int(token[3:5], 16)])
        if self.vocabulary.model == "gpt2":
            return bytes(_byte_of_character()[character] for character in token)
        return token.replace(SPACE_MARK, " ").encode()


def _partition(text: str, special: dict[str, int]) -> list[str | int]:
    """Cut special tokens out of a text, one token at a time and the longest first: llama.cpp's order."""
    parts: list[str | int] = [text] if text else []
    for token, index in special.items():
        if token not in text:
            continue
        cut: list[str | int] = []
        for part in parts:
            if isinstance(part, int):
                cut.append(part)
                continue
            for position, piece in enumerate(part.split(token)):
                if position:
                    cut.append(index)
                if piece:
                    cut.append(piece)
        parts = cut
    return parts


def _backend(vocabulary: Vocabulary, *, with_special: bool = False) -> Backend:
    """A `tokenizers` pipeline for plain text: `with_special`, special tokens have their ids but no merge makes them."""
    kinds = tuple(TokenType) if with_special else (*MERGEABLE, TokenType.BYTE)
    typed = zip(vocabulary.tokens, vocabulary.types, strict=True)
    vocab = {token: index for index, (token, kind) in enumerate(typed) if kind in kinds}
    if vocabulary.model == "llama":
        backend = Backend(
            models.BPE(vocab=vocab, merges=merges_by_score(vocabulary), byte_fallback=True, fuse_unk=True)
        )
        steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", SPACE_MARK)]
        if vocabulary.add_space_prefix:
            steps.insert(0, normalizers.Prepend(SPACE_MARK))
        backend.normalizer = normalizers.Sequence(steps)
        return backend
    backend = Backend(models.BPE(vocab=vocab, merges=list(vocabulary.merges), ignore_merges=vocabulary.ignore_merges))
    if vocabulary.pre == "gpt-2":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    else:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    return backend


def merges_by_score(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every way to make a token of two tokens, the highest score first: what SentencePiece merges, as a ranked list."""
    scores = {
        token: score
        for token, kind, score in zip(vocabulary.tokens, vocabulary.types, vocabulary.scores, strict=True)
        if kind in MERGEABLE
    }
    ways = [
        (-score, index, (token[:cut], token[cut:]))
        for index, (token, score) in enumerate(scores.items())
        for cut in range(1, len(token))
        if token[:cut] in scores and token[cut:] in scores
    ]
    ways.sort(key=lambda way: way[:2])
    return [pair for _, _, pair in ways]


def hugging_face_backend(vocabulary: Vocabulary) -> Backend:
    """The same tokenizer as one `tokenizers` object with its special tokens: what `train` saves beside an adapter.

    Wrapped in `PreTrainedTokenizerFast` it gives llama.cpp's ids for a rendered template in plain Transformers
    (`LlamaTokenizer` would overwrite the normalizer on load).
    """
    backend = _backend(vocabulary, with_special=True)
    for token in vocabulary.special(TokenType.CONTROL, TokenType.UNKNOWN):
        backend.add_special_tokens([AddedToken(token, normalized=False, special=True)])
    for token in vocabulary.special(TokenType.USER_DEFINED):
        backend.add_tokens([AddedToken(token, normalized=False, special=False)])
    if vocabulary.add_bos and vocabulary.bos_id is not None:
        bos = vocabulary.tokens[vocabulary.bos_id]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocabulary.bos_id)]
        )
    if vocabulary.model == "llama":
        steps = [decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
        if vocabulary.add_space_prefix:
            steps.append(decoders.Strip(" ", 1, 0))
        backend.decoder = decoders.Sequence(steps)
    else:
        backend.decoder = decoders.ByteLevel()
    return backend


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's byte alphabet: printable bytes stand for themselves, the others for characters from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + position): byte for position, byte in enumerate(others)}


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading ids two sequences share."""
    length = min(len(first), len(second))
    return next((position for position in range(length) if first[position] != second[position]), length)
