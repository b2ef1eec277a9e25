"""The merged model as a Hugging Face checkpoint, for people who go on from there.

    medllama convert --base-model DIR --adapter DIR --types safetensors --output-dir OUT

Every tensor keeps the dtype that it has in the base, rounded once after a float32 merge; untouched tensors are the base's bytes.
It is written in the pass that writes the GGUF files, in shards of at most 5 GB. The tokenizer is the adapter's where it has one,
else the base's.

Source followed: the safetensors format; transformers' sharded checkpoints (model.safetensors.index.json).
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.config import CHECKPOINT
from convert.output import room, write_at
from convert.slab import Slab
from convert.source import Source
from convert.tensors import Target
from convert.weights import StoredTensor
from medllama.files import read_json

SHARD_BYTES = 5_000_000_000
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja",
)  # fmt: skip
BASE_FILES = ("generation_config.json", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", "USE_POLICY.md")


@dataclass(frozen=True)
class Shard:
    """A file to be written: its header, and the byte at which each tensor (Hugging Face name) begins."""

    header: bytes
    places: dict[str, int]
    size_bytes: int


@dataclass(frozen=True)
class CheckpointPlan:
    """The dtype of each tensor (Hugging Face name -> "F32", "F16" or "BF16"), and the files by name."""

    dtypes: dict[str, str]
    shards: dict[str, Shard]

    @property
    def data_bytes(self) -> int:
        return sum(shard.size_bytes for shard in self.shards.values())


@dataclass
class CheckpointOutput:
    """Open files with complete headers; `places` gives the descriptor and the first byte of each tensor."""

    dtypes: dict[str, str]
    places: dict[str, tuple[int, int]]
    file_type: str = CHECKPOINT

    def write(self, slab: Slab) -> None:
        """Write rows of a tensor where they belong. Safe from several threads."""
        dtype, (descriptor, first) = self.dtypes[slab.target.source], self.places[slab.target.source]
        row_bytes = math.prod(slab.target.shape[1:]) * ITEM_BYTES[dtype]
        write_at(descriptor, first + slab.rows.start * row_bytes, slab.values(dtype))


def plan_checkpoint(source: Source) -> CheckpointPlan:
    """What the files will hold: every tensor in its own dtype of the base; in the embedding's where its values are not the
    stored ones."""
    dtypes = {
        target.source: stored.dtype if type(stored) is StoredTensor else source.stored_type
        for target in source.targets
        for stored in [source.stored.get(target.stored)]
    }
    parts = _parts(source.targets, dtypes)
    names = [f"model-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)]
    names = names if len(parts) > 1 else ["model.safetensors"]
    return CheckpointPlan(dtypes, {name: _shard(part, dtypes) for name, part in zip(names, parts, strict=True)})


@contextlib.contextmanager
def open_checkpoint(
    plan: CheckpointPlan, source: Source, adapter: Path | None, folder: Path
) -> Iterator[CheckpointOutput]:
    """Write config, tokenizer and headers into an empty folder, take the room for the weights, and yield it open."""
    with contextlib.ExitStack() as files:
        places: dict[str, tuple[int, int]] = {}
        for name, shard in plan.shards.items():
            (folder / name).write_bytes(shard.header)
            descriptor = files.enter_context(room(folder / name, shard.size_bytes))
            places |= {tensor: (descriptor, place) for tensor, place in shard.places.items()}
        _write_index(folder, plan, source.targets)
        _write_config(folder, source.targets, source.base)
        _copy_files(folder, source.base, adapter)
        yield CheckpointOutput(plan.dtypes, places)


def _write_index(folder: Path, plan: CheckpointPlan, targets: list[Target]) -> None:
    if len(plan.shards) == 1:
        return
    weight_map = {name: file for file, shard in plan.shards.items() for name in shard.places}
    total = sum(_size(target, plan.dtypes) for target in targets)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _write_config(folder: Path, targets: list[Target], base: Path) -> None:
    config = read_json(base / "config.json")
    config.pop("quantization_config", None)
    names = {target.source for target in targets}
    rows = next(target.shape[0] for target in targets if target.name == "token_embd.weight")
    config |= {"vocab_size": rows, "tie_word_embeddings": "lm_head.weight" not in names}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _copy_files(folder: Path, base: Path, adapter: Path | None) -> None:
    files = {name: base / name for name in (*BASE_FILES, *TOKENIZER_FILES)}
    if adapter is not None:
        files |= {name: adapter / name for name in TOKENIZER_FILES if (adapter / name).is_file()}
    for name, path in files.items():
        if path.is_file():
            shutil.copyfile(path, folder / name)


def _parts(targets: list[Target], dtypes: dict[str, str]) -> list[list[Target]]:
    """The tensors of each shard."""
    parts: list[list[Target]] = [[]]
    filled = 0
    for target in targets:
        size = _size(target, dtypes)
        if parts[-1] and filled + size > SHARD_BYTES:
            parts.append([])
            filled = 0
        parts[-1].append(target)
        filled += size
    return parts


def _shard(targets: list[Target], dtypes: dict[str, str]) -> Shard:
    described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begins, end = {}, 0
    for target in targets:
        begins[target.source], end = end, end + _size(target, dtypes)
        described[target.source] = {
            "dtype": dtypes[target.source],
            "shape": list(target.shape),
            "data_offsets": [begins[target.source], end],
        }
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % 8)
    header = struct.pack("<Q", len(text)) + text
    return Shard(header, {name: len(header) + begin for name, begin in begins.items()}, len(header) + end)


def _size(target: Target, dtypes: dict[str, str]) -> int:
    return math.prod(target.shape) * ITEM_BYTES[dtypes[target.source]]
