"""Fixtures of the core's tests: small checkpoints with their GGUF files, and a process that sees nothing but its own folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from hypothesis import settings

from convert.config import ConvertConfig
from convert.convert import convert
from medllama.llamacpp import Model
from medllama.tokenizer import Tokenizer
from medllama.vocabulary import load_vocabulary
from tests.checkpoints import make_llama2_checkpoint, make_llama3_checkpoint

settings.register_profile("core", deadline=None, print_blob=True)  # a busy machine is no fault
settings.load_profile("core")


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and an empty cache of the hub: what lies on the developer's disk must not matter."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "no-cache"))
    return folder


@pytest.fixture(scope="session")
def llama2_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama2_checkpoint(tmp_path_factory.mktemp("llama2") / "base")


@pytest.fixture(scope="session")
def llama3_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama3_checkpoint(tmp_path_factory.mktemp("llama3") / "base")


@pytest.fixture(scope="session")
def llama2_gguf(llama2_base: Path) -> Path:
    return converted(llama2_base)


@pytest.fixture(scope="session")
def llama3_gguf(llama3_base: Path) -> Path:
    return converted(llama3_base)


@pytest.fixture(scope="session")
def real_tokenizers(shared_data: Path) -> dict[str, Tokenizer]:
    """Meta's own tokenizers, by family."""
    folder = shared_data / "tokenizers"
    return {family: Tokenizer(load_vocabulary(folder / family)) for family in ("llama2", "llama3")}


@pytest.fixture(scope="session")
def llama2_words(llama2_gguf: Path) -> Iterator[Model]:
    """llama.cpp's tokenizer of the Llama 2 checkpoint."""
    with Model(llama2_gguf, vocab_only=True) as model:
        yield model


@pytest.fixture(scope="session")
def llama3_words(llama3_gguf: Path) -> Iterator[Model]:
    """llama.cpp's tokenizer of the Llama 3 checkpoint."""
    with Model(llama3_gguf, vocab_only=True) as model:
        yield model


def converted(base: Path, **options: Any) -> Path:
    """The F32 GGUF of a base, beside it."""
    config = ConvertConfig(
        base_model=str(base), output_dir=base.parent / f"{base.name}-gguf", types=("F32",), **options
    )
    convert(config)
    return config.gguf_paths()[0]
