"""Where a real Ollama server is named (MEDLLAMA_TEST_OLLAMA=http://127.0.0.1:11434), its prompts are held against the trained ones.

It gets one model under a tag of its own, which is removed again. Nothing is generated: the tests' models are random.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable

import pytest

from medllama.gguf_metadata import read_gguf_metadata
from publish.gate import open_package
from publish.install import check_prompts, conversations
from publish.layers import make_models
from publish.ollama_server import OllamaServer
from publish.reference import parse_name
from tests.publish.packages import Made

PLACE = "MEDLLAMA_TEST_OLLAMA"


@pytest.mark.server
@pytest.mark.skipif(PLACE not in os.environ, reason=f"no real Ollama server is named in {PLACE}")
@pytest.mark.parametrize("family", ["llama2", "llama3"])
def test_a_real_server_renders_the_trained_prompts(family: str, made: Callable[..., Made]) -> None:
    package = open_package(made(family).package(name="llama-test"))
    (model,) = make_models(package, ["latest"])
    name = parse_name(f"medllama-test/llama:{secrets.token_hex(4)}")
    chat = read_gguf_metadata(package.path(package.default)).chat
    assert chat is not None
    with OllamaServer(os.environ[PLACE]) as server:
        server.require_version()
        server.upload(model.layers[0], model.file.name)
        server.create(package, model, name)
        try:
            assert check_prompts(server, package, chat, name) == len(conversations(chat))
        finally:
            server.client.delete(str(name))
