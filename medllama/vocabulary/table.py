"""A vocabulary as llama.cpp has it: every token with its text and type, scores or merges, and the special ids."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

SPACE_MARK = "▁"  # SentencePiece's visible space, U+2581
ADDED_SCORE, UNUSED_SCORE = -1000.0, -10000.0  # no merge makes these tokens; the figures are llama.cpp's converter's


class TokenType(enum.IntEnum):
    """The token types of GGUF (`llama_token_type`)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary of `n` tokens; ids are positions.

    `scores` (n float) belongs to "llama", `merges` (pairs, best first) to "gpt2"; both are kept where known.
    `pre` is llama.cpp's name of the pre-tokenizer. `origin` is the file that is the truth.
    """

    model: Literal["llama", "gpt2"]
    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    origin: Path
    scores: tuple[float, ...] = ()
    merges: tuple[tuple[str, str], ...] = ()
    pre: str = "default"
    ignore_merges: bool = False
    add_space_prefix: bool = True
    add_bos: bool = True
    add_eos: bool = False
    bos_id: int | None = None
    eos_id: int | None = None
    unk_id: int | None = None
    pad_id: int | None = None
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def ids(self) -> dict[str, int]:
        """Token text -> id; of equal texts the first."""
        found: dict[str, int] = {}
        for index, token in enumerate(self.tokens):
            found.setdefault(token, index)
        return found

    def special(self, *types: TokenType) -> dict[str, int]:
        """The tokens of these types, longest first, as llama.cpp looks for them in a text."""
        chosen = [
            (token, index)
            for index, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if kind in types
        ]
        return dict(sorted(chosen, key=lambda pair: -len(pair[0].encode())))

    def fitted(self, rows: int) -> Vocabulary:
        """The vocabulary with exactly as many tokens as the embedding has rows, as llama.cpp demands.

        Rows past the tokens become unused tokens `[PAD12345]`. Tokens past the rows are left out, and noted: the model
        has no embedding for them, so it cannot have learned them.
        """
        if rows < len(self):
            lost = ", ".join(repr(token) for token in self.tokens[rows:][:5])
            note = f"{len(self) - rows} tokens have no row in the embedding and are left out: {lost}"
            kept: dict[str, Any] = {
                name: value if value is not None and value < rows else None
                for name, value in self._special_ids().items()
            }
            return replace(
                self, tokens=self.tokens[:rows], types=self.types[:rows], scores=self.scores[:rows],
                notes=(*self.notes, note), **kept,
            )  # fmt: skip
        taken = set(self.tokens)
        padding = []
        for index in range(len(self), rows):
            name = f"[PAD{index}]"
            while name in taken:  # equal texts end the process inside llama.cpp
                name = f"[{name}]"
            padding.append(name)
        return replace(
            self,
            tokens=(*self.tokens, *padding),
            types=self.types + (TokenType.UNUSED,) * len(padding),
            scores=self.scores + (UNUSED_SCORE,) * len(padding) if self.scores else (),
        )

    def _special_ids(self) -> dict[str, Any]:
        return {"bos_id": self.bos_id, "eos_id": self.eos_id, "unk_id": self.unk_id, "pad_id": self.pad_id}
