"""llama.cpp's own converter makes the same file where it is right; every deliberate difference stands in docs/fidelity.md.

The code is held to that page: a difference that its table does not name fails, and so does one that it names and that is gone.
Where that converter is wrong: test_official_converter_wrong.py.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch

from benchmarks.official_converter import Job, convert_officially
from convert.checks.gguf_file import read_header
from convert.checks.metadata import check_metadata
from convert.checks.subject import read_subject
from convert.config import ConvertConfig, VerifyConfig
from convert.convert import convert
from tests.checkpoints import make_llama2_checkpoint, make_llama3_checkpoint
from tests.convert.test_convert import YARN
from tests.official import (
    LINEAR,
    Case,
    llama2,
    llama3,
    table,
    two_matrices,
    with_added_tokens,
    with_model_card,
    with_old_spelling,
    with_three_ends,
)

FILE_TYPES = ("F32", "F16", "BF16")
NO_ROPE: dict[str, Any] = {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}
SMALL: dict[str, Any] = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 128}
HERE, THERE, DIFFERENT = "only here", "only there", "different"

RIGHT: dict[str, Case] = {
    "grouped-query attention": llama2(),
    "no grouping": llama2(num_key_value_heads=4, dtype=torch.bfloat16),
    "one key head": llama2(num_key_value_heads=1, dtype=torch.float16),
    "explicit head_dim": llama2(head_dim=32),
    "rows that are no multiple of 32": llama2(hidden_size=72, head_dim=18, intermediate_size=100),
    "tied": llama2(tie_word_embeddings=True),
    "tied in config.json, with two matrices": Case(two_matrices),
    "biases": llama2(attention_bias=True, mlp_bias=True),
    "linear scaling": llama2(**LINEAR),
    "linear scaling, old spelling": Case(with_old_spelling),
    "YaRN": llama2(rope_parameters=YARN),
    "padded vocabulary with tokenizer.model": llama2(vocab_size=576),
    "added tokens and a template of its own": Case(with_added_tokens),
    "a model card": Case(with_model_card),
    "Llama 3": llama3(),
    "Llama 3, bfloat16 and tied": llama3(tie_word_embeddings=True, dtype=torch.bfloat16),
    "Llama 3 without scaling": llama3(**NO_ROPE),
    "Llama 3 with a padded vocabulary": llama3(vocab_size=448),
    "Llama 3 with three end tokens": Case(with_three_ends, "llama-bpe"),
}


@dataclass(frozen=True)
class Pair:
    """The files that the two converters make of one checkpoint."""

    ours: gguf.GGUFReader
    theirs: gguf.GGUFReader


@pytest.fixture(scope="module")
def pairs(official: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Pair]:
    """Every right case in every unquantized type; the converter starts once for all."""
    folders = {name: tmp_path_factory.mktemp("case") for name in RIGHT}
    bases = {name: case.make(folders[name] / "base") for name, case in RIGHT.items()}
    wanted = [(name, file_type) for name in RIGHT for file_type in FILE_TYPES]
    jobs = [
        Job(str(bases[name]), str(folders[name] / f"{file_type}.gguf"), file_type, RIGHT[name].pre_tokenizer)
        for name, file_type in wanted
    ]
    assert convert_officially(official, jobs) == [""] * len(jobs)
    for name in RIGHT:
        convert(ConvertConfig(str(bases[name]), folders[name], types=FILE_TYPES, name="m"))
    return {
        (name, file_type): Pair(
            gguf.GGUFReader(folders[name] / f"m-{file_type}.gguf"), gguf.GGUFReader(folders[name] / f"{file_type}.gguf")
        )
        for name, file_type in wanted
    }


def test_where_it_is_right_its_tensors_are_ours_to_the_byte(pairs: dict[tuple[str, str], Pair]) -> None:
    for key, pair in pairs.items():
        ours, theirs = tensors(pair.ours), tensors(pair.theirs)
        assert ours.keys() == theirs.keys(), key
        for name in ours.keys() - {"rope_freqs.weight"}:
            assert ours[name] == theirs[name], f"{key}: {name}"
        assert ("rope_freqs.weight" in ours) == (key[0].startswith("Llama 3") and "without" not in key[0])


def test_verify_finds_no_fault_in_the_metadata_of_its_right_files(pairs: dict[tuple[str, str], Pair]) -> None:
    for (name, file_type), pair in pairs.items():
        if file_type != "F16":
            continue
        path = Path(pair.theirs.data.filename)
        subject = read_subject(VerifyConfig(str(path.parent / "base"), (), path.parent / "unused", sample=True))
        check, _ = check_metadata(read_header(path), subject.reference.weights("base"), subject.table, subject.ends)
        assert check.verdict == "pass", f"{name}: {check.likely_cause}"


def test_the_frequencies_of_llama_3_differ_in_float32s_last_digits_alone(pairs: dict[tuple[str, str], Pair]) -> None:
    pair = pairs["Llama 3", "F32"]
    ours, theirs = (
        next(tensor.data for tensor in file.tensors if tensor.name == "rope_freqs.weight")
        for file in (pair.ours, pair.theirs)
    )
    assert 0 < numpy.abs(ours / theirs - 1).max() < 1e-6


def test_the_differences_are_those_that_the_page_gives_reasons_for(pairs: dict[tuple[str, str], Pair]) -> None:
    found = {difference for pair in pairs.values() for difference in differences(pair)}
    assert found == documented_differences()


def test_real_tokenizers_make_the_same_file_but_for_what_the_page_names(
    official: Path, shared_data: Path, tmp_path: Path
) -> None:
    """Meta's own, recognized by the official converter by itself."""
    jobs = []
    for family, make, rows in (("llama2", make_llama2_checkpoint, 32000), ("llama3", make_llama3_checkpoint, 128256)):
        ends = {"bos_token_id": 128000, "eos_token_id": 128001} if family == "llama3" else {}
        base = make(tmp_path / family, vocab_size=rows, dtype=torch.bfloat16, **SMALL, **ends)
        shutil.copytree(shared_data / "tokenizers" / family, base, dirs_exist_ok=True)
        convert(ConvertConfig(str(base), tmp_path, types=("BF16",), name=family))
        jobs.append(Job(str(base), str(tmp_path / f"{family}.gguf"), "BF16"))
    assert convert_officially(official, jobs) == ["", ""]
    for family in ("llama2", "llama3"):
        pair = Pair(gguf.GGUFReader(tmp_path / f"{family}-BF16.gguf"), gguf.GGUFReader(tmp_path / f"{family}.gguf"))
        assert differences(pair) <= documented_differences()
        ours, theirs = tensors(pair.ours), tensors(pair.theirs)
        assert all(ours[name] == theirs[name] for name in ours.keys() - {"rope_freqs.weight"})


def tensors(file: gguf.GGUFReader) -> dict[str, tuple[int, tuple[int, ...], bytes]]:
    """Type, shape and bytes of each tensor."""
    return {
        tensor.name: (int(tensor.tensor_type), tuple(tensor.shape), tensor.data.tobytes()) for tensor in file.tensors
    }


def differences(pair: Pair) -> set[tuple[str, str]]:
    """Every metadata key and tensor in which two files differ, and how; "order of tensors" is one."""
    found = set()
    ours, theirs = metadata(pair.ours), metadata(pair.theirs)
    for key in ours.keys() | theirs.keys():
        if key not in theirs:
            found.add((key, HERE))
        elif key not in ours:
            found.add((key, THERE))
        elif ours[key] != theirs[key]:
            found.add((key, DIFFERENT))
    ours_data, theirs_data = tensors(pair.ours), tensors(pair.theirs)
    found |= {(name, DIFFERENT) for name in ours_data if ours_data[name] != theirs_data.get(name)}
    if list(ours_data) != list(theirs_data):
        found.add(("order of tensors", DIFFERENT))
    return found


def metadata(file: gguf.GGUFReader) -> dict[str, tuple[Any, Any]]:
    """Types and value of each key."""
    return {key: (field.types, field.contents()) for key, field in file.fields.items() if not key.startswith("GGUF.")}


def documented_differences() -> set[tuple[str, str]]:
    """The first table of the page: | key | here | there | why |, with "not written" where a side has none."""
    found = set()
    for keys, here, there, why in table("Where both files are right"):
        assert why
        kind = HERE if there == "not written" else THERE if here == "not written" else DIFFERENT
        found |= {(key, kind) for key in re.findall("`([^`]+)`", keys) or [keys]}
    return found
