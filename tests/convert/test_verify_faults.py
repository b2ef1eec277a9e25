"""Every planted fault is caught, and by the check that is named for it; the right files that they are planted in pass."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from convert.certificate import Check, FileReport
from convert.checks.subject import Subject, read_subject
from convert.config import ConvertConfig, VerifyConfig
from convert.convert import convert
from convert.verify import check_model_file
from tests.adapters import make_adapter
from tests.checkpoints import make_llama2_checkpoint, make_llama3_checkpoint
from tests.convert.faults import FAULTS, Fault, Gguf, read, write

pytestmark = pytest.mark.slow  # a minute: whole certificates of many files

MAKERS: dict[str, Callable[..., Path]] = {"llama2": make_llama2_checkpoint, "llama3": make_llama3_checkpoint}
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_K_M")
CASES = [
    pytest.param(entry, family, id=f"{family}-{entry.name}")
    for entry in FAULTS
    for family in (MAKERS if entry.family == "both" else (entry.family,))
]


@pytest.fixture(scope="session")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each family a base, an adapter, GGUF files of the base, and one of the merged model."""
    torch.set_num_threads(1)  # the models are so small that threads only wait for each other
    folder = tmp_path_factory.mktemp("right")
    for family, make in MAKERS.items():
        base = make(folder / family)
        make_adapter(base, folder / f"{family}-adapter", r=8, lora_alpha=8)
        convert(ConvertConfig(str(base), folder / "gguf", types=TYPES, name=family))
        convert(
            ConvertConfig(
                str(base), folder / "gguf", folder / f"{family}-adapter", types=("F16",), name=f"{family}-merged"
            )
        )
    return folder


def file_of(right: Path, family: str, kind: str) -> Path:
    return right / "gguf" / (f"{family}-merged-F16.gguf" if kind == "merged" else f"{family}-{kind}.gguf")


@pytest.fixture(scope="session")
def check(right: Path) -> Callable[..., FileReport]:
    """Check a file against its family's model, which is read once and looked at with --sample, as faults show there too."""

    @functools.cache
    def subject(family: str, merged: bool) -> Subject:
        adapter = right / f"{family}-adapter" if merged else None
        return read_subject(VerifyConfig(str(right / family), (), Path("unused"), adapter, sample=True))

    return lambda path, family, kind: check_model_file(subject(family, kind == "merged"), path)


@pytest.fixture(scope="session")
def contents(right: Path) -> Callable[[str, str], Gguf]:
    """Right files in memory, read once."""

    @functools.cache
    def known(family: str, kind: str) -> Gguf:
        base = {"merged": "F16", "BF16": "F32"}.get(kind)
        return read(file_of(right, family, kind), file_of(right, family, base) if base else None)

    return lambda family, kind: copy.deepcopy(known(family, kind))


def failures(report: FileReport) -> dict[str, Check]:
    return {check.name: check for check in report.checks if check.verdict == "fail"}


def test_there_are_at_least_forty_faults() -> None:
    assert len({entry.name for entry in FAULTS}) >= 40


@pytest.mark.parametrize(("entry", "family"), CASES)
def test_a_planted_fault_is_caught_and_named(
    entry: Fault, family: str, check: Callable[..., FileReport], contents: Callable[[str, str], Gguf], tmp_path: Path
) -> None:
    content = contents(family, entry.kind)
    entry.plant(content)
    write(content, tmp_path / "wrong.gguf")
    found = failures(check(tmp_path / "wrong.gguf", family, entry.kind))
    assert entry.check in found, f"{sorted(found)} failed, and {entry.check} should have"
    assert found[entry.check].likely_cause
    assert found[entry.check].where


@pytest.mark.parametrize("family", MAKERS)
@pytest.mark.parametrize("kind", [*TYPES, "merged"])
def test_the_way_in_which_faults_are_planted_adds_none(
    kind: str, family: str, check: Callable[..., FileReport], contents: Callable[[str, str], Gguf], tmp_path: Path
) -> None:
    write(contents(family, kind), tmp_path / "again.gguf")
    report = check(tmp_path / "again.gguf", family, kind)
    assert {entry.verdict for entry in report.checks} == {"pass"}


@pytest.mark.parametrize("family", MAKERS)
@pytest.mark.parametrize("share", [0.999, 0.5, 0.01])
def test_a_truncated_file_is_caught_before_llama_cpp_opens_it(
    share: float, family: str, right: Path, check: Callable[..., FileReport], tmp_path: Path
) -> None:
    data = file_of(right, family, "F16").read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[: int(len(data) * share)])
    report = check(path, family, "F16")
    assert list(failures(report)) == ["file"]
    assert {entry.verdict for entry in report.checks[1:]} == {"skipped"}
