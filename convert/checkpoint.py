"""The merged model as a Hugging Face checkpoint, for people who go on from there.

    medllama convert --base-model DIR --adapter DIR --types safetensors --output-dir OUT

Every tensor keeps the dtype that it has in the base, rounded once after a float32 merge; untouched tensors are the base's bytes.
Shards of at most 5 GB are written tensor by tensor. The tokenizer is the adapter's where it has one, else the base's.

Source followed: the safetensors format; transformers' sharded checkpoints (model.safetensors.index.json).
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import numpy.typing

from convert.tensors import Target
from medllama.files import read_json

Array = numpy.typing.NDArray[Any]
SHARD_BYTES = 5_000_000_000
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja",
)  # fmt: skip
BASE_FILES = ("generation_config.json", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", "USE_POLICY.md")


def write_checkpoint(
    folder: Path,
    targets: list[Target],
    dtypes: dict[str, str],
    tensor: Callable[[Target], Array],
    base: Path,
    adapter: Path | None,
) -> None:
    """Write config, tokenizer and weights into an empty folder. `tensor` gives a target's values, row order as in
    Transformers, in its dtype of `dtypes` (Hugging Face name -> "F32", "F16" or "BF16")."""
    by_name = {target.source: target for target in targets}
    shards = _shards(targets, dtypes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(folder / file, [by_name[name] for name in names], dtypes, tensor)
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(_size(target, dtypes) for target in targets)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    _write_config(folder, targets, base)
    files = {name: base / name for name in (*BASE_FILES, *TOKENIZER_FILES)}
    if adapter is not None:
        files |= {name: adapter / name for name in TOKENIZER_FILES if (adapter / name).is_file()}
    for name, path in files.items():
        if path.is_file():
            shutil.copyfile(path, folder / name)


def _write_config(folder: Path, targets: list[Target], base: Path) -> None:
    config = read_json(base / "config.json")
    config.pop("quantization_config", None)
    names = {target.source for target in targets}
    rows = next(target.shape[0] for target in targets if target.name == "token_embd.weight")
    config |= {"vocab_size": rows, "tie_word_embeddings": "lm_head.weight" not in names}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _shards(targets: list[Target], dtypes: dict[str, str]) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for target in targets:
        size = _size(target, dtypes)
        if shards[-1] and filled + size > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(target.source)
        filled += size
    return shards


def _write_shard(path: Path, targets: list[Target], dtypes: dict[str, str], tensor: Callable[[Target], Array]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for target in targets:
        size = _size(target, dtypes)
        header[target.source] = {
            "dtype": dtypes[target.source],
            "shape": list(target.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for target in targets:
            numpy.ascontiguousarray(tensor(target)).tofile(file)


def _size(target: Target, dtypes: dict[str, str]) -> int:
    return math.prod(target.shape) * ITEM_BYTES[dtypes[target.source]]
