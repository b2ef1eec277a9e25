"""The vocabulary of a Llama checkpoint, as llama.cpp needs it: token texts, types, scores or merges, special ids.

Two families exist. "llama" is SentencePiece BPE with byte fallback (Llama 2): llama.cpp merges the pair whose result has
the highest score. "gpt2" is byte-level BPE (Llama 3): llama.cpp merges by the rank of a list of merges.

Where the checkpoint has `tokenizer.model`, its scores are taken. Where it has only a SentencePiece-style
`tokenizer.json`, the scores are had back from the order of its merges: a token's score is minus the rank of the merges that make
it. That is exact only when the merges that make a token stand together and are all there; otherwise it is refused.

Source followed: `llama_vocab::impl` in llama.cpp's src/llama-vocab.cpp (build 0c1e570), sentencepiece_model.proto.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from medllama.errors import InputError, UnsupportedError
from medllama.files import read_json, read_text

SPACE_MARK = "▁"  # SentencePiece's visible space, U+2581

# The pre-tokenizer of Llama 3: a regular expression whose llama.cpp name depends on `ignore_merges`.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_BY_IGNORE_MERGES = {True: "llama-bpe", False: "smaug-bpe"}

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
            scores=self.scores + (-1000.0,) * len(padding) if self.scores else (),
        )

    def _special_ids(self) -> dict[str, Any]:
        return {"bos_id": self.bos_id, "eos_id": self.eos_id, "unk_id": self.unk_id, "pad_id": self.pad_id}


@dataclass(frozen=True)
class AddedToken:
    """A token that was added beside the tokenizer's own model."""

    content: str
    is_special: bool


def load_vocabulary(base: Path, adapter: Path | None = None) -> Vocabulary:
    """The vocabulary of a checkpoint folder, with the tokens that an adapter's tokenizer added.

    Raises InputError where there is no tokenizer, UnsupportedError where llama.cpp could not tokenize like it.
    """
    model_path, json_path = base / "tokenizer.model", base / "tokenizer.json"
    if model_path.is_file():
        vocabulary = _from_sentencepiece(model_path, base)
    elif json_path.is_file():
        vocabulary = _from_tokenizer_json(json_path, base)
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
    for text, index in _table(folder / "added_tokens.json").items():
        found[int(index)] = AddedToken(text, text in specials)
    for entry in _table(folder / "tokenizer.json").get("added_tokens") or []:
        found[int(entry["id"])] = AddedToken(entry["content"], bool(entry["special"]))
    for index, entry in (_table(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}).items():
        found[int(index)] = AddedToken(entry["content"], bool(entry.get("special", False)))
    return found


def _special_contents(folder: Path) -> set[str]:
    """The texts that a folder's special tokens map calls special."""
    flat: list[Any] = []
    for value in _table(folder / "special_tokens_map.json").values():
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
            scores.append(-1000.0)
    for index, token in added.items():
        if tokens[index] != token.content:
            raise InputError(
                f"{vocabulary.origin}: id {index} is {tokens[index]!r}, but the added tokens call it {token.content!r}",
                hint="the tokenizer files are of different versions; copy them again from one place",
            )
        if types[index] is not TokenType.UNKNOWN:
            types[index] = TokenType.CONTROL if token.is_special else TokenType.USER_DEFINED
    for index, text in enumerate(tokens):
        if text in FORCED_CONTROL and types[index] is not TokenType.UNKNOWN:
            types[index] = TokenType.CONTROL
    return replace(vocabulary, tokens=tuple(tokens), types=tuple(types), scores=tuple(scores))


def _with_special_ids(vocabulary: Vocabulary, folder: Path) -> Vocabulary:
    """The ids of BOS, EOS, UNK and PAD as tokenizer_config.json names them, else as config.json numbers them."""
    settings, config = _table(folder / "tokenizer_config.json"), _table(folder / "config.json")
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


def _table(path: Path) -> dict[str, Any]:
    """The table in a JSON file; empty where there is no such file."""
    table = read_json(path) if path.is_file() else {}
    if not isinstance(table, dict):
        raise InputError(f"{path} is not a table", hint="copy it again")
    return table


def _from_sentencepiece(path: Path, folder: Path) -> Vocabulary:
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


def _from_tokenizer_json(path: Path, folder: Path) -> Vocabulary:
    """The vocabulary of a `tokenizer.json`, of either family."""
    data = _table(path)
    model = data.get("model") or {}
    if model.get("type") not in ("BPE", None) or not isinstance(model.get("vocab"), dict):
        raise UnsupportedError(
            f"{path}: the tokenizer is {model.get('type')}, and llama.cpp's Llama models use BPE",
            hint="use a base with Llama's own tokenizer",
        )
    size = len(model["vocab"])
    by_id = {index: text for text, index in model["vocab"].items()}
    added = {int(entry["id"]): entry["content"] for entry in data.get("added_tokens") or []}
    while size not in by_id and size in added:
        by_id[size] = added[size]
        size += 1
    if sorted(by_id)[:size] != list(range(size)):
        raise InputError(
            f"{path}: the token ids are not 0 to {size - 1}", hint="the file was edited by hand; copy it again"
        )
    tokens = tuple(by_id[index] for index in range(size))
    merges = tuple(
        (pair[0], pair[1]) if isinstance(pair, list) else tuple(pair.split(" ", 1))
        for pair in model.get("merges") or []
    )
    add_bos, add_eos = _post_processor_ends(data.get("post_processor"))
    common: dict[str, Any] = {
        "tokens": tokens,
        "merges": merges,
        "origin": path,
        "add_bos": add_bos,
        "add_eos": add_eos,
    }
    if model.get("byte_fallback"):
        return _sentencepiece_style(data, common)
    return _byte_level(data, common)


def _sentencepiece_style(data: dict[str, Any], common: dict[str, Any]) -> Vocabulary:
    tokens, path = common["tokens"], common["origin"]
    model = data["model"]
    if (
        model.get("dropout")
        or model.get("continuing_subword_prefix")
        or model.get("end_of_word_suffix")
        or model.get("ignore_merges")
    ):
        raise UnsupportedError(
            f"{path}: its BPE options (dropout, affixes, ignore_merges) have no counterpart in llama.cpp"
        )
    types = tuple(TokenType.BYTE if re.fullmatch(r"<0x[0-9A-F]{2}>", token) else TokenType.NORMAL for token in tokens)
    unknown = model.get("unk_token")
    ids = {token: index for index, token in enumerate(tokens)}
    unk_id = ids.get(unknown) if unknown else ids.get("<unk>")
    if unk_id is not None:
        types = (*types[:unk_id], TokenType.UNKNOWN, *types[unk_id + 1 :])
    return Vocabulary(
        model="llama",
        types=types,
        scores=scores_from_merges(tokens, common["merges"], path),
        add_space_prefix=_adds_space_prefix(data, path),
        unk_id=unk_id,
        **common,
    )


def scores_from_merges(tokens: tuple[str, ...], merges: Iterable[tuple[str, str]], path: Path) -> tuple[float, ...]:
    """Scores whose order makes llama.cpp merge like the ranked merges: minus the rank of the merges that make the token.

    The ranks are counted in tokens, not in merges, so that they stay exact in float32. Tokens that no merge makes
    (single characters) never win a comparison and get 0, as in Llama 2. Raises UnsupportedError where no scores can
    do that: the merges of one token do not stand together, or a way to make it is missing.
    """
    ids = {token: index for index, token in enumerate(tokens)}
    ways: dict[str, set[tuple[str, str]]] = {}
    last = None
    for left, right in merges:
        made = left + right
        if made != last and made in ways:
            raise _undetermined(path, f"the merges that make {made!r} do not stand together")
        ways.setdefault(made, set()).add((left, right))
        last = made
    for made, found in ways.items():
        for cut in range(1, len(made)):
            pair = (made[:cut], made[cut:])
            if pair not in found and pair[0] in ids and pair[1] in ids:
                raise _undetermined(
                    path, f"{made!r} can also be made of {pair[0]!r} and {pair[1]!r}, which is no merge"
                )
    scores = [0.0] * len(tokens)
    for rank, made in enumerate(ways, start=1):
        if made not in ids:
            raise InputError(
                f"{path}: a merge makes {made!r}, which is no token", hint="the file was edited; copy it again"
            )
        scores[ids[made]] = float(-rank)
    return tuple(scores)


def _undetermined(path: Path, reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"{path}: its merges do not determine scores: {reason}",
        hint="llama.cpp's SentencePiece tokenizer needs one score per token; put the original tokenizer.model beside the weights",
    )


def _adds_space_prefix(data: dict[str, Any], path: Path) -> bool:
    """Whether a SentencePiece-style tokenizer.json writes a space before the text, which is all llama.cpp can say of it.

    Raises UnsupportedError where it does anything to a text but that and marking its spaces.
    """
    marks_spaces = adds_prefix = False
    for step in _flat(data.get("normalizer")) + _flat(data.get("pre_tokenizer")):
        if step["type"] == "Prepend" and step["prepend"] == SPACE_MARK:
            adds_prefix = True
        elif step["type"] == "Replace" and (step["pattern"], step["content"]) == ({"String": " "}, SPACE_MARK):
            marks_spaces = True
        elif step["type"] == "Metaspace" and step["replacement"] == SPACE_MARK and not step.get("split", True):
            marks_spaces = True
            adds_prefix = adds_prefix or step.get("prepend_scheme", "always") != "never"
        else:
            settings = {name: value for name, value in step.items() if name != "type"}
            raise _does_otherwise(path, f"uses {step['type']} {settings or ''}".rstrip())
    if not marks_spaces:
        raise _does_otherwise(path, "does not mark spaces")
    return adds_prefix


def _does_otherwise(path: Path, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"{path}: the tokenizer {what}, and llama.cpp's SentencePiece tokenizer does not",
        hint="use a base with Llama's own kind of tokenizer",
    )


def _byte_level(data: dict[str, Any], common: dict[str, Any]) -> Vocabulary:
    path, model = common["origin"], data["model"]
    steps = _flat(data.get("pre_tokenizer"))
    splits = [step for step in steps if step["type"] == "Split"]
    levels = [step for step in steps if step["type"] == "ByteLevel"]
    pattern = (splits[0].get("pattern") or {}).get("Regex") if len(splits) == 1 else None
    is_llama3 = pattern == LLAMA3_PATTERN and len(steps) == 2 and len(levels) == 1 and not levels[0].get("use_regex")
    is_gpt2 = (
        len(steps) == 1
        and len(levels) == 1
        and levels[0].get("use_regex", True)
        and not levels[0].get("add_prefix_space")
    )
    if _flat(data.get("normalizer")) or not (is_llama3 or is_gpt2):
        shown = pattern or ", ".join(step["type"] for step in steps) or "no pre-tokenizer"
        raise UnsupportedError(
            f"{path}: llama.cpp has no name for this pre-tokenizer that medllama knows: {shown[:120]}",
            hint="Llama 3's and GPT-2's are known; for another family use llama.cpp's own converter and verify its file",
        )
    ignore_merges = bool(model.get("ignore_merges"))
    if is_gpt2 and ignore_merges:
        raise UnsupportedError(f"{path}: GPT-2's pre-tokenizer with ignore_merges has no counterpart in llama.cpp")
    return Vocabulary(
        model="gpt2",
        types=(TokenType.NORMAL,) * len(common["tokens"]),
        pre=PRE_BY_IGNORE_MERGES[ignore_merges] if is_llama3 else "gpt-2",
        ignore_merges=ignore_merges,
        add_space_prefix=False,
        **common,
    )


def _flat(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A normalizer or pre-tokenizer as a flat list of steps."""
    if not step:
        return []
    if step["type"] == "Sequence":
        inner = step.get("normalizers") or step.get("pretokenizers") or step.get("processors") or []
        return [part for entry in inner for part in _flat(entry)]
    return [step]


def _post_processor_ends(step: dict[str, Any] | None) -> tuple[bool, bool]:
    """Whether a post-processor puts a token before and after the text."""
    for part in _flat(step):
        if part["type"] == "TemplateProcessing":
            kinds = ["SpecialToken" in entry for entry in part["single"]]
            return bool(kinds and kinds[0]), bool(kinds and kinds[-1])
    return False, False


def read_chat_template(folder: Path) -> str | None:
    """The chat template that a folder's tokenizer carries: chat_template.jinja, else tokenizer_config.json."""
    if (path := folder / "chat_template.jinja").is_file():
        return read_text(path)
    template = _table(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    return template if isinstance(template, str) else None
