"""Models to talk with: small random ones of both families, and the embedded base, whose answers end by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.conversation import Voice
from app.voices import open_voices
from convert.config import ConvertConfig
from convert.convert import convert
from tests.adapters import make_adapter
from tests.checkpoints import make_llama2_checkpoint, make_llama3_checkpoint

MAKERS = {"llama2": make_llama2_checkpoint, "llama3": make_llama3_checkpoint}


@pytest.fixture(scope="session", params=sorted(MAKERS))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random base of each family in turn."""
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param) / "base", num_hidden_layers=1)


@pytest.fixture(scope="session")
def random_ggufs(base: Path) -> dict[str, Path]:
    """The base, the base with an adapter merged into it, and that adapter by itself, all in float32."""
    adapter = make_adapter(base, base.parent / "adapter", strength=0.1)
    made = {}
    for name, given in (("base", None), ("merged", adapter)):
        config = ConvertConfig(str(base), base.parent / "gguf", adapter=given, types=("F32",), name=name)
        convert(config)
        made[name] = config.gguf_paths()[0]
    config = ConvertConfig(
        str(base), base.parent / "gguf", adapter=adapter, types=("F32",), name="tuned", adapter_only=True
    )
    convert(config)
    made["adapter"] = config.gguf_paths()[0]
    return made


@pytest.fixture
def voice(random_ggufs: dict[str, Path]) -> Iterator[Voice]:
    """A random model with an empty cache. It goes on until it is cut."""
    with open_voices([random_ggufs["base"]], context_tokens=4096, threads=1) as voices:
        yield voices[0]


@pytest.fixture(scope="session")
def embedded(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The embedded base as two files, quantized and not: two models that answer alike, and end."""
    config = ConvertConfig(str(tiny_base), tmp_path_factory.mktemp("embedded"), types=("F16", "Q4_K_M"), name="tiny")
    convert(config)
    return config.gguf_paths()
