"""Fixtures of packaging and publishing: bases are converted once, and copied for each test that may spoil them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from convert.config import ConvertConfig
from convert.convert import convert
from publish import oci, patience, registry_auth
from tests.checkpoints import make_llama2_checkpoint, make_llama3_checkpoint
from tests.publish.oci_server import FaultyRegistry, faulty_registry
from tests.publish.packages import Made, certificate
from tests.publish.test_licences import LLAMA2, LLAMA32


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Per family: a base with a licence, and a folder of its GGUF files."""
    folder = tmp_path_factory.mktemp("bases")
    made = {}
    for family, make, licence in (
        ("llama2", make_llama2_checkpoint, LLAMA2),
        ("llama3", make_llama3_checkpoint, LLAMA32),
    ):
        base = make(folder / family, num_hidden_layers=1)
        (base / "LICENSE.txt").write_text(licence, encoding="utf-8")
        (base / "USE_POLICY.md").write_text("no\u00a0harm\n", encoding="utf-8")
        convert(ConvertConfig(base_model=str(base), output_dir=folder / f"{family}-gguf", types=("F16", "Q4_K_M")))
        made[family] = (base, folder / f"{family}-gguf")
    return made


@pytest.fixture
def made(bases: dict[str, tuple[Path, Path]], tmp_path: Path) -> Callable[..., Made]:
    def make(family: str = "llama2") -> Made:
        base, gguf = (shutil.copytree(path, tmp_path / path.name) for path in bases[family])
        files = [gguf / "medllama-F16.gguf", gguf / "medllama-Q4_K_M.gguf"]
        path = tmp_path / "certificate.json"
        path.write_text(json.dumps(certificate(base, files)))
        return Made(base, files, path, tmp_path / "package")

    return make


@pytest.fixture(scope="session")
def packaged(bases: dict[str, tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that nobody spoils: llama2's files F16 and Q4_K_M, under the name medllama."""
    folder = tmp_path_factory.mktemp("packaged")
    base, gguf = bases["llama2"]
    files = [gguf / "medllama-F16.gguf", gguf / "medllama-Q4_K_M.gguf"]
    path = folder / "certificate.json"
    path.write_text(json.dumps(certificate(base, files)))
    return Made(base, files, path, folder / "package").package(system="Answer briefly.")


@pytest.fixture
def quick_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No pauses to speak of, small pieces, and nobody's password."""
    monkeypatch.setattr(patience, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(patience, "LONGEST_WAIT_SECONDS", 0.002)
    monkeypatch.setattr(oci, "CHUNK_BYTES", 128 << 10)
    for name in (registry_auth.USER, registry_auth.PASSWORD):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with faulty_registry() as running:
        yield running
