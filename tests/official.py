"""Checkpoints that llama.cpp's converter and ours are both given, and what docs/fidelity.md says of the two files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tests.checkpoints import make_llama2_checkpoint, make_llama3_checkpoint
from tests.conftest import REPOSITORY

LINEAR: dict[str, Any] = {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}


@dataclass(frozen=True)
class Case:
    """A checkpoint; `pre_tokenizer` is told to the official converter, which knows real tokenizers by a hash alone."""

    make: Callable[[Path], Path]
    pre_tokenizer: str = ""


def llama2(**settings: Any) -> Case:
    return Case(lambda folder: make_llama2_checkpoint(folder, **settings))


def llama3(**settings: Any) -> Case:
    return Case(lambda folder: make_llama3_checkpoint(folder, **settings), "llama-bpe")


def with_old_spelling(folder: Path) -> Path:
    base = make_llama2_checkpoint(folder, **LINEAR)
    change_json(base / "config.json", lambda config: config.update(rope_scaling=config.pop("rope_parameters")))
    change_json(base / "config.json", lambda config: config.update(rope_theta=config["rope_scaling"].pop("rope_theta")))
    return base


def with_added_tokens(folder: Path) -> Path:
    base = make_llama2_checkpoint(folder, vocab_size=516)
    added = {"512": {"content": "<pad>", "special": True}, "513": {"content": "<dose>", "special": False}}
    change_json(base / "tokenizer_config.json", lambda data: data.update(added_tokens_decoder=added, pad_token="<pad>"))
    (base / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    return base


def with_model_card(folder: Path) -> Path:
    base = make_llama2_checkpoint(folder, num_hidden_layers=1)
    (base / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\ntags: [medical]\n---\n# A base\n")
    return base


def with_three_ends(folder: Path) -> Path:
    base = make_llama3_checkpoint(folder)
    for name in ("config.json", "generation_config.json"):
        change_json(base / name, lambda data: data.update(eos_token_id=[376, 381, 382]))
    return base


def only_lm_head(folder: Path) -> Path:
    base = make_llama2_checkpoint(folder, tie_word_embeddings=True)
    path = base / "model.safetensors"
    held = load_file(path)
    held["lm_head.weight"] = held.pop("model.embed_tokens.weight")
    save_file(held, path, metadata={"format": "pt"})
    return base


def two_matrices(folder: Path) -> Path:
    base = make_llama2_checkpoint(folder)
    change_json(base / "config.json", lambda config: config.update(tie_word_embeddings=True))
    return base


def with_named_end(folder: Path) -> Path:
    base = make_llama2_checkpoint(folder)
    change_json(base / "generation_config.json", lambda data: data.update(eos_token_id=[2, 300]))
    return base


def table(heading: str) -> list[list[str]]:
    """The rows of the first table after a heading of docs/fidelity.md."""
    _, _, after = (REPOSITORY / "docs" / "fidelity.md").read_text().partition(f"### {heading}\n")
    lines = [line for line in after.partition("\n#")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def change_json(path: Path, how: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    how(value)
    path.write_text(json.dumps(value))
