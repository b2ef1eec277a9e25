"""Every value of a right file's metadata is held against its truth: changed, one at a time, each is found."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

from convert.certificate import Check
from convert.checks.gguf_file import read_header
from convert.checks.metadata import check_metadata
from convert.checks.subject import Subject, read_subject
from convert.checks.tokenizer import check_table, check_texts
from convert.config import ConvertConfig, VerifyConfig
from convert.convert import convert
from tests.checkpoints import make_llama2_checkpoint, make_llama3_checkpoint
from tests.convert.faults import Gguf, read, write

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}
# Where the model comes from, for people: nothing in the checkpoint says it, and nothing is computed with it.
PROVENANCE = ("general.name", "general.size_label", "general.license", "general.base_model.")
OF_OTHER_CHECKS = ("tokenizer.chat_template",)  # the prompts check's: see faults.py


def llama2(folder: Path) -> Path:
    base = make_llama2_checkpoint(folder, rope_parameters=YARN | {"attention_factor": 1.3})
    settings = json.loads((base / "tokenizer_config.json").read_text()) | {"pad_token": "</s>"}
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    (base / "README.md").write_text("---\nlicense: llama2\n---\n")
    return base


MAKERS: dict[str, Callable[[Path], Path]] = {"llama2": llama2, "llama3": make_llama3_checkpoint}


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Subject, Gguf]]:
    """The model of a family as verify reads it, and a right file of it in memory."""

    @functools.cache
    def made(family: str) -> tuple[Subject, Gguf]:
        folder = tmp_path_factory.mktemp(family)
        base = MAKERS[family](folder / "base")
        convert(ConvertConfig(str(base), folder, types=("F16",), name="right"))
        subject = read_subject(VerifyConfig(str(base), (), folder / "unused", sample=True))
        return subject, read(folder / "right-F16.gguf")

    return made


def faults_of(subject: Subject, content: Gguf, path: Path) -> str:
    """What the checks of metadata and tokens say of a file: where and why."""
    write(content, path)
    header, weights = read_header(path), subject.reference.weights("base")
    metadata, may_open = check_metadata(header, weights, subject.table, subject.ends)
    found: list[Check | None] = [metadata]
    if may_open:
        found += [check(header, subject.table, weights.vocabulary_rows) for check in (check_texts, check_table)]
    return "; ".join(f"{one.where}: {one.likely_cause}" for one in found if one is not None and one.verdict == "fail")


def changes(content: Gguf, key: str) -> list[Any]:
    """Values near the right one, of its type."""
    value = content.get(key)
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, *([value - 1] if value else [])]
    if isinstance(value, float):
        return [value * 1.001]
    if isinstance(value, str):
        return [f"{value}x"]
    place = 300  # an ordinary token of either vocabulary
    if key.endswith("merges"):
        return [[*value[:30], value[31], value[30], *value[32:]], value[:-1]]
    changed = {"tokens": f"{value[place]}x", "scores": -0.5, "token_type": 3}[key.rpartition(".")[2]]
    return [[*value[:place], changed, *value[place + 1 :]], value[:-1]]


@pytest.mark.parametrize("family", MAKERS)
def test_every_value_that_is_changed_is_found(
    family: str, right: Callable[[str], tuple[Subject, Gguf]], tmp_path: Path
) -> None:
    subject, content = right(family)
    assert faults_of(subject, content, tmp_path / "right.gguf") == ""
    missed = []
    for key in content.values:
        for value in changes(content, key):
            wrong = copy.deepcopy(content)
            wrong.set(key, value)
            if not faults_of(subject, wrong, tmp_path / "wrong.gguf"):
                missed.append(key)
    assert {key for key in missed if not key.startswith((*PROVENANCE, *OF_OTHER_CHECKS))} == set()
    assert len(content.values) > 25


def test_a_model_too_narrow_for_blocks_keeps_the_name_of_its_type(tmp_path: Path) -> None:
    """llama.cpp makes every matrix F16 there, and says what was asked for."""
    base = make_llama2_checkpoint(tmp_path / "base", hidden_size=24, num_attention_heads=3, num_key_value_heads=3,
                                  intermediate_size=100)  # fmt: skip
    convert(ConvertConfig(str(base), tmp_path, types=("F16", "Q5_K_S"), name="m"))
    subject = read_subject(VerifyConfig(str(base), (), tmp_path / "unused", sample=True))
    for file_type in ("F16", "Q5_K_S"):
        assert faults_of(subject, read(tmp_path / f"m-{file_type}.gguf"), tmp_path / "same.gguf") == ""
    wrong = read(tmp_path / "m-F16.gguf")
    wrong.set("general.file_type", 32)
    assert "its matrices are F16" in faults_of(subject, wrong, tmp_path / "wrong.gguf")


STRING, NUMBER, BOOL = gguf.GGUFValueType.STRING, gguf.GGUFValueType.UINT32, gguf.GGUFValueType.BOOL
ADDED = {
    "general.sampling.top_k": (7, NUMBER),
    "general.quantization_version": (1, NUMBER),
    "llama.expert_count": (8, NUMBER),
    "tokenizer.ggml.add_sep_token": (True, BOOL),
    "tokenizer.ggml.cls_token_id": (4, NUMBER),
    "tokenizer.ggml.eom_token_id": (5, NUMBER),
    "tokenizer.ggml.padding_token_id": (6, NUMBER),
    "tokenizer.ggml.prefix_token_id": (9, NUMBER),
    "tokenizer.ggml.add_space_prefix": (None, BOOL),
    "tokenizer.ggml.pre": ("smaug-bpe", STRING),
    "tokenizer.ggml.remove_extra_whitespaces": (True, BOOL),
}


@pytest.mark.parametrize("family", MAKERS)
@pytest.mark.parametrize("key", ADDED)
def test_a_value_that_the_model_does_not_have_is_found(
    key: str, family: str, right: Callable[[str], tuple[Subject, Gguf]], tmp_path: Path
) -> None:
    subject, content = right(family)
    value, kind = ADDED[key]
    wrong = copy.deepcopy(content)
    wrong.set(key, family == "llama3" if value is None else value, kind)
    assert key in faults_of(subject, wrong, tmp_path / "wrong.gguf")


RIGHT = {
    "tokenizer.ggml.add_sep_token": (False, BOOL),  # llama.cpp's converter writes it
    "general.sampling.top_p": (0.9, gguf.GGUFValueType.FLOAT32),
    "general.sampling.temp": (0.6, gguf.GGUFValueType.FLOAT32),
    "general.url": ("https://example.org", STRING),
}


@pytest.mark.parametrize("key", RIGHT)
def test_a_right_value_that_convert_does_not_write_is_no_fault(
    key: str, right: Callable[[str], tuple[Subject, Gguf]], tmp_path: Path
) -> None:
    subject, content = right("llama3")
    path = subject.base / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"top_p": 0.9, "temperature": 0.6}))
    more = copy.deepcopy(content)
    more.set(key, *RIGHT[key])
    assert faults_of(subject, more, tmp_path / "more.gguf") == ""


@pytest.mark.parametrize("name", ["llama3", "llama-v3"])
def test_other_names_of_the_same_pre_tokenizer_are_right(
    name: str, right: Callable[[str], tuple[Subject, Gguf]], tmp_path: Path
) -> None:
    subject, content = right("llama3")
    if "llama-bpe" not in subject.table.pre:
        pytest.fail(f"the checkpoint's pre-tokenizer is {subject.table.pre}")
    more = copy.deepcopy(content)
    more.set("tokenizer.ggml.pre", name)
    assert faults_of(subject, more, tmp_path / "more.gguf") == ""
