"""The vocabulary of a `tokenizer.json`, of either family, where a checkpoint has nothing else.

A SentencePiece-style one has merges and no scores: they are had back from the order of the merges, a token's score being minus the
rank of the merges that make it. That is exact only when the merges that make a token stand together and are all there; otherwise
it is refused. Refused too is every step that llama.cpp does not do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medllama.errors import InputError, UnsupportedError
from medllama.files import read_json
from medllama.vocabulary.table import SPACE_MARK, TokenType, Vocabulary

# The pre-tokenizer of Llama 3: a regular expression whose llama.cpp name depends on `ignore_merges`.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_BY_IGNORE_MERGES = {True: "llama-bpe", False: "smaug-bpe"}


def read_tokenizer_json(path: Path) -> Vocabulary:
    """The vocabulary of a `tokenizer.json`, of either family."""
    data = json_table(path)
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
        tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ", 1)) for pair in model.get("merges") or []
    )
    known = set(tokens)
    for pair in merges:
        if len(pair) != 2 or "".join(pair) not in known:
            raise InputError(
                f"{path}: a merge makes {''.join(pair)!r}, which is no token, or not of two parts",
                hint="the file was edited; copy it again",
            )
    options = ["dropout", "continuing_subword_prefix", "end_of_word_suffix"]
    options += ["ignore_merges"] if model.get("byte_fallback") else []
    if used := [f"{name}={model[name]!r}" for name in options if model.get(name)]:
        random = "; with dropout its ids are random" if model.get("dropout") else ""
        raise UnsupportedError(
            f"{path}: its BPE has {', '.join(used)}, which llama.cpp has not{random}",
            hint="save the tokenizer again without" if random else "use a base with Llama's own tokenizer",
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


def json_table(path: Path) -> dict[str, Any]:
    """The table in a JSON file; empty where there is no such file."""
    table = read_json(path) if path.is_file() else {}
    if not isinstance(table, dict):
        raise InputError(f"{path} is not a table", hint="copy it again")
    return table
