"""The vocabulary of a SentencePiece model file, `tokenizer.model`: its pieces, types and scores as they stand there.

Source followed: sentencepiece_model.proto.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medllama.errors import InputError, UnsupportedError
from medllama.vocabulary.table import TokenType, Vocabulary


def read_sentencepiece_model(path: Path) -> Vocabulary:
    """The vocabulary of a SentencePiece model file."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2 as proto

    model = proto.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        raise InputError(
            f"{path} is not a SentencePiece model", hint="it may be a Git LFS pointer or cut short; copy it again"
        ) from None
    if not model.pieces:
        raise InputError(f"{path} has no pieces", hint="it may be cut short; copy it again")
    _check_sentencepiece(model, path)
    kinds = {
        1: TokenType.NORMAL,
        2: TokenType.UNKNOWN,
        3: TokenType.CONTROL,
        4: TokenType.USER_DEFINED,
        5: TokenType.UNUSED,
        6: TokenType.BYTE,
    }
    trainer = model.trainer_spec
    named = {"bos_id": trainer.bos_id, "eos_id": trainer.eos_id, "unk_id": trainer.unk_id, "pad_id": trainer.pad_id}
    in_range: dict[str, Any] = {
        name: index if 0 <= index < len(model.pieces) else None for name, index in named.items()
    }
    return Vocabulary(
        model="llama",
        tokens=tuple(piece.piece for piece in model.pieces),
        types=tuple(kinds[piece.type] for piece in model.pieces),
        scores=tuple(piece.score for piece in model.pieces),
        origin=path,
        add_space_prefix=model.normalizer_spec.add_dummy_prefix,
        **in_range,
    )


def _check_sentencepiece(model: Any, path: Path) -> None:
    """Refuse what llama.cpp's SentencePiece tokenizer does not do."""
    normalizer, trainer = model.normalizer_spec, model.trainer_spec
    reasons = []
    if trainer.model_type != 2:
        reasons.append(
            f"its model type is {['', 'unigram', 'bpe', 'word', 'char'][trainer.model_type]}, llama.cpp's is bpe"
        )
    if normalizer.precompiled_charsmap and normalizer.name != "identity":
        reasons.append(f"it normalizes text ({normalizer.name or 'custom rules'}), llama.cpp takes text as it is")
    if normalizer.remove_extra_whitespaces:
        reasons.append("it removes extra white space")
    if not normalizer.escape_whitespaces:
        reasons.append("it does not mark white space")
    if trainer.treat_whitespace_as_suffix:
        reasons.append("it marks white space as a suffix")
    if not trainer.byte_fallback:
        reasons.append("it has no byte fallback")
    if reasons:
        raise UnsupportedError(
            f"{path} cannot be tokenized exactly by llama.cpp: {'; '.join(reasons)}",
            hint="use a base with Llama's own kind of tokenizer (SentencePiece BPE, byte fallback, no normalization)",
        )
