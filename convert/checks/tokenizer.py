"""Check 4: the GGUF's tokenizer is the checkpoint's, in its table and in what it does with 20,000 strings.

The table is compared entry by entry (texts, types, scores or merges), since a fault in it may show in one string of a million.
Then llama.cpp, with the GGUF loaded, tokenizes generated strings, and every id must be that of `tokens.Table`.

Where Transformers' own ids differ from this truth (docs/fidelity.md says why), the differences are counted by kind of string and
reported in the certificate, not judged: they are what medllama's chat format avoids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.certificate import Check, failed
from convert.checks import tokens as kinds
from convert.checks.gguf_file import Header
from convert.checks.texts import strings
from convert.checks.tokens import Table
from medllama.llamacpp import Model
from medllama.tokenizer import common_prefix

REASON = "a tokenizer is exact or it is another one: training saw these ids"


def check_texts(header: Header, table: Table, rows: int) -> Check | None:
    """The first token whose text is not the tokenizer's, as a failed check. llama.cpp may stop over such a file (at two tokens
    of one text), so it is not opened."""
    texts = header.metadata["tokenizer.ggml.tokens"]
    for index, expected in enumerate(table.texts[:rows]):
        # A user-defined token is looked for in the text as it is, before spaces are marked.
        is_plain = table.types[index] == kinds.USER_DEFINED and texts[index] == expected.replace("▁", " ")
        if texts[index] != expected and not is_plain:
            return _fault(f"token {index} is {texts[index]!r}, the tokenizer's is {expected!r}", f"token {index}")
    first = {text: index for index, text in reversed(list(enumerate(texts)))}
    if twice := next((index for index, text in enumerate(texts) if first[text] != index), None):
        return _fault(f"tokens {first[texts[twice]]} and {twice} are both {texts[twice]!r}", f"token {twice}")
    return None


def check_table(header: Header, table: Table, rows: int) -> Check | None:
    """The first fault in the types, and in the scores or merges; None where they are right."""
    types = header.metadata["tokenizer.ggml.token_type"]
    for index in range(rows):
        kind = table.types[index] if index < len(table.types) else kinds.UNUSED
        if types[index] != kind and {types[index], kind} != {kinds.UNKNOWN, kinds.CONTROL}:
            text = table.texts[index] if index < len(table.texts) else "padding"
            return _fault(
                f"token {index} {text!r} has the type {types[index]}, and it is {kind} "
                "(1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte)", f"token {index}",
            )  # fmt: skip
    return _check_scores(header, table, rows) if table.model == "llama" else _check_merges(header, table)


def _check_scores(header: Header, table: Table, rows: int) -> Check | None:
    """Scores equal tokenizer.model's; without one, their order must be that of the merges."""
    stored = header.metadata.get("tokenizer.ggml.scores")
    if not isinstance(stored, list) or len(stored) != rows:
        return _fault("the scores are missing: llama.cpp merges by them", "tokenizer.ggml.scores")
    scores = np.array(stored, dtype=np.float32)
    normal = np.flatnonzero(np.isin(table.types, (kinds.NORMAL, kinds.UNUSED)))  # those that llama.cpp merges to
    if table.scores is not None:
        normal = normal[normal < table.scores.size]
        wrong = normal[scores[normal] != table.scores[normal]]
        if wrong.size:
            return _fault(
                f"{wrong.size} scores are not those of tokenizer.model; the first is {scores[wrong[0]]:g} for "
                f"{table.texts[wrong[0]]!r}, where tokenizer.model has {table.scores[wrong[0]]:g}"
                + (" (a converter that found no scores writes one number for all)" if _is_flat(scores[normal]) else ""),
                f"token {wrong[0]}",
            )
        return None
    ids = {text: index for index, text in enumerate(table.texts)}
    last = None
    for left, right in table.merges:
        made = ids.get(left + right)
        if made is None or made == last:
            continue
        if last is not None and scores[made] >= scores[last]:
            return _fault(
                f"the score of {table.texts[made]!r} is not below that of {table.texts[last]!r}, which is merged before it"
                + (" (one number for all: llama.cpp then merges from the left)" if _is_flat(scores[normal]) else ""),
                f"token {made}",
            )
        last = made
    return None


def _is_flat(scores: np.ndarray) -> bool:
    return bool(scores.size and (scores == scores[0]).all())


def _check_merges(header: Header, table: Table) -> Check | None:
    stored = header.metadata.get("tokenizer.ggml.merges")
    if not isinstance(stored, list):
        return _fault("the merges are missing", "tokenizer.ggml.merges")
    expected = [" ".join(pair) for pair in table.merges]
    if stored == expected:
        return None
    first = next(
        (i for i, pair in enumerate(zip(stored, expected, strict=False)) if pair[0] != pair[1]),
        min(len(stored), len(expected)),
    )
    return _fault(
        f"the file has {len(stored)} merges and the tokenizer {len(expected)}; they part at merge {first}",
        f"merge {first}",
    )


def _fault(cause: str, where: str) -> Check:
    return failed("tokenizer", cause, where=where, figure="the token list differs", bound="equal", reason=REASON)


@dataclass(frozen=True)
class Case:
    """A generated string with its true ids; `with_control` says that control tokens in it are tokens."""

    kind: str
    text: str
    with_control: bool
    ids: list[int]


def make_cases(table: Table, seed: int, count: int) -> list[Case]:
    """`count` strings with the ids that the checkpoint's own tokenizer gives."""
    control = list(table.special(kinds.CONTROL, kinds.UNKNOWN))
    cases = []
    for kind, text in strings(seed, count, control):
        with_control = kind == "control as tokens"
        cases.append(Case(kind, text, with_control, table.encode(text, with_control=with_control)))
    return cases


def check_tokenizer(model: Model, header: Header, table: Table, rows: int, cases: Sequence[Case]) -> Check:
    """The table, then every generated string through llama.cpp."""
    if (fault := check_table(header, table, rows)) is not None:
        return fault
    control_ids = {index for index, kind in enumerate(table.types) if kind in (kinds.CONTROL, kinds.UNKNOWN)}
    wrong: list[tuple[Case, list[int]]] = []
    merged_by_llama_cpp = 0
    for case in cases:
        found = model.tokenize(case.text, parse_special=case.with_control)
        if found == case.ids:
            continue
        if not case.with_control and not control_ids.isdisjoint(found):
            # llama.cpp merges the letters of a typed control token into it where the vocabulary has its two halves.
            # No GGUF can prevent that; medllama's own chat feeds ids and is not concerned.
            merged_by_llama_cpp += 1
        else:
            wrong.append((case, found))
    details: dict[str, Any] = {"strings": dict(Counter(case.kind for case in cases))}
    if merged_by_llama_cpp:
        details["control_text_merged_by_llama_cpp"] = merged_by_llama_cpp
    figure = f"{len(wrong)} of {len(cases)} strings differ"
    if not wrong:
        return Check("tokenizer", "pass", figure, "0", REASON, details=details)
    by_kind = Counter(case.kind for case, _ in wrong)
    case, found = wrong[0]
    where = f"{case.kind}: {case.text!r}: the file gives {_parting(found, case.ids)}"
    details["different"] = dict(by_kind)
    return Check("tokenizer", "fail", figure, "0", REASON, _cause(by_kind, header), where, details)


def transformers_differences(base: Path, cases: Sequence[Case]) -> dict[str, int] | str:
    """How many strings of each kind Transformers' own tokenizer gives other ids; a reason where it cannot be asked."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        raw = tokenizer([case.text for case in cases], add_special_tokens=False)["input_ids"]
    except Exception as error:  # a third party's reading of a third party's file: whatever it raises is the reason
        return f"Transformers cannot tokenize with this checkpoint: {error}"
    counts = Counter(case.kind for case, ids in zip(cases, raw, strict=True) if list(ids) != case.ids)
    return {kind: counts[kind] for kind in dict.fromkeys(case.kind for case in cases)}


def _parting(found: Sequence[int], truth: Sequence[int]) -> str:
    start = common_prefix(found, truth)
    return f"{list(found[start : start + 4])} where {list(truth[start : start + 4])} is right (from token {start})"


def _cause(wrong: Counter[str], header: Header) -> str:
    if header.metadata.get("tokenizer.ggml.model") == "gpt2":
        return f"the pre-tokenizer {header.metadata.get('tokenizer.ggml.pre', 'default')!r} is not this tokenizer's"
    if set(wrong) == {"control as tokens"}:
        return "control tokens are not recognized as the tokenizer does, or the space after them is not written"
    return "add_space_prefix or the byte tokens are wrong"
