"""A base model's folder: found, and checked for what training and conversion both need. Imports neither torch nor numpy.

    base = find_base("meta-llama/Llama-2-7b-hf@main")      # a folder, downloaded if it has to be
    config, files = read_config(base), safetensors_files(base)

Everything that can be wrong with the files shows here, before anything heavy starts: only the first bytes of each file are read.
"""

from __future__ import annotations

import errno
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medllama.base_values import BaseValues, require_values
from medllama.config import looks_like_hub_id
from medllama.errors import InputError, MedllamaError, UnsupportedError
from medllama.files import expand, file_state, read_json, sha256_file

NEEDED_FILES = (
    "*.json", "*.safetensors", "tokenizer.model", "*.jinja", "README.md", "LICENSE*", "LICENCE*", "COPYING*", "NOTICE*",
    "USE_POLICY*", "USE-POLICY*", "ACCEPTABLE_USE*",
)  # fmt: skip
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1}
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
LFS_POINTER = b"version https://git-lfs"


def find_base(name: str) -> Path:
    """The folder of a base given as a folder or as a hub id, `id@revision` for another revision than the newest.

    Raises InputError where it is missing, gated, or cannot be reached.
    """
    folder = expand(name)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(
            f"{name} is a file, not the folder of a base model", hint="name the folder that holds config.json"
        )
    if not looks_like_hub_id(name):
        raise InputError(
            f"the base model {name} does not exist",
            hint="name a folder with config.json and *.safetensors, or a hub id",
        )
    return _download(name)


def find_base_here(name: str) -> Path | None:
    """The folder of a base that is on this disk already, in the hub's cache if need be; None where it would be a download."""
    folder = expand(name)
    if folder.is_dir():
        return folder
    if not looks_like_hub_id(name):
        return None
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, local_files_only=True))
    except (OSError, ValueError):  # what the hub's library raises for what it has not, and for names that are none
        return None


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = name.partition("@")
    page = f"https://huggingface.co/{repository}"
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(NEEDED_FILES)))
    except GatedRepoError:
        reason, hint = "is gated", f"accept its licence at {page}, then: hf auth login"
    except RevisionNotFoundError:
        reason, hint = f"has no revision {revision or 'main'}", f"look at {page}/commits"
    except RepositoryNotFoundError:
        reason, hint = "is not on the hub, or is private", f"check {page}; for a private one: hf auth login"
    except HFValidationError:
        reason, hint = "is no folder here, and cannot be a hub id", "name a folder, or a hub id such as org/model"
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
            raise
        reason = "is no folder here and not in the hub's cache, and the hub cannot be reached"
        hint = (
            f"with a network: accept its licence at {page}, hf auth login, hf download {repository}; or name a folder"
        )
    raise InputError(f"the base model {name} {reason}", hint=hint)


def read_config(base: Path) -> dict[str, Any]:
    """The base's config.json."""
    path = base / "config.json"
    if not path.is_file():
        is_adapter = (base / "adapter_config.json").is_file()
        raise InputError(
            f"{base} has no config.json" + (": it is an adapter, not a base" if is_adapter else ""),
            hint="name the folder of the base that it was trained from"
            if is_adapter
            else "name the folder of a Hugging Face checkpoint",
        )
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a table", hint="copy it again")
    return config


def require_llama(config: dict[str, Any], base: Path, values: BaseValues = "stored") -> None:
    """Raise UnsupportedError unless `config` describes a LlamaForCausalLM with these values, InputError where it lacks a number."""
    names = config.get("architectures") or []
    names = names if isinstance(names, list) else [names]
    if config.get("model_type") != "llama" or (names and names != ["LlamaForCausalLM"]):
        raise UnsupportedError(
            f"{base / 'config.json'}: {', '.join(map(str, names)) or config.get('model_type')} is not LlamaForCausalLM",
            hint="medllama works on Llama checkpoints and on what has their architecture",
        )
    require_values(config, base, values)
    numbers = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    if missing := [name for name in numbers if type(config.get(name)) is not int or config[name] < 1]:
        raise InputError(
            f"{base / 'config.json'} gives no number for {', '.join(missing)}", hint="copy the base's config.json again"
        )
    require_token_ids(config, base)


def require_token_ids(config: dict[str, Any], base: Path) -> None:
    """Raise InputError where config.json or generation_config.json names a token that the embedding has no row for."""
    generation = base / "generation_config.json"
    tables = {base / "config.json": config, generation: read_json(generation) if generation.is_file() else {}}
    for path, table in tables.items():
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = table.get(name) if isinstance(table, dict) else None
            for number in value if isinstance(value, list) else [value]:
                is_none = number is None or (name == "pad_token_id" and number == -1)  # as the first Llamas had it
                if not is_none and (not isinstance(number, int) or not 0 <= number < config["vocab_size"]):
                    raise InputError(
                        f"{path}: {name} is {value!r}, and the vocabulary has {config['vocab_size']} tokens",
                        hint="correct it, or copy the file again from where the weights are from",
                    )


def safetensors_files(base: Path) -> list[Path]:
    """The base's weight files, all there and none cut short: one file before shards, as Transformers loads them. A pickle is
    refused: loading one can run any code."""
    index, single = base / "model.safetensors.index.json", base / "model.safetensors"
    if single.is_file():
        read_header(single)
        return [single]
    if index.is_file():
        return _shards(index)
    raise _no_weights(base)


def _shards(index: Path) -> list[Path]:
    """The files that an index names, each holding the tensors that the index says it holds."""
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not weight_map or not isinstance(weight_map, dict):
        raise InputError(f"{index} names no weights", hint="copy it again")
    names = sorted(set(map(str, weight_map.values())))
    if missing := [name for name in names if Path(name).name != name or not (index.parent / name).is_file()]:
        raise InputError(
            f"{index.parent} lacks {', '.join(missing)}, which {index.name} names", hint="copy what is missing"
        )
    tensors = {name: read_header(index.parent / name).tensors for name in names}
    for tensor, name in weight_map.items():
        if tensor not in tensors[name]:
            raise InputError(
                f"{index.parent / name} has no {tensor}, which {index.name} places there",
                hint="the shards are of different versions; copy them again from one place",
            )
    return [index.parent / name for name in names]


def _no_weights(base: Path) -> MedllamaError:
    pickles = sorted(path.name for pattern in PICKLES for path in base.glob(pattern))
    if pickles:
        return UnsupportedError(
            f"{base} has its weights in a pickle ({pickles[0]}), which can run any code when it is loaded",
            hint="load it once where you trust it, with Transformers' from_pretrained, and save_pretrained it: "
            "that writes safetensors",
        )
    if shards := sorted(path.name for path in base.glob("model-*-of-*.safetensors")):
        return InputError(
            f"{base} has no model.safetensors.index.json beside {shards[0]}",
            hint="copy it from where the shards are from",
        )
    return InputError(f"{base} has no model.safetensors", hint="name a folder with a checkpoint in safetensors format")


def base_files(base: Path) -> list[Path]:
    """config.json and every weight file: what an adapter is trained on."""
    return [base / "config.json", *safetensors_files(base)]


def base_digests(base: Path) -> dict[str, str]:
    """File name -> SHA-256 of each of the base's files. Reads all of them."""
    return {path.name: sha256_file(path) for path in base_files(base)}


def base_states(base: Path) -> dict[str, dict[str, int]]:
    """File name -> size and modification time of each of the base's files. Taken before the digests, it tells when they hold."""
    return {path.name: file_state(path) for path in base_files(base)}


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file: each tensor's `dtype`, `shape` and `data_offsets`, counted from `data_start`."""

    tensors: dict[str, dict[str, Any]]
    data_start: int


def read_header(path: Path) -> Header:
    """The header of a safetensors file; InputError where it is no such file or has another size than its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start.ljust(8, b"\0"))[0]
        text = file.read(length) if 8 + length <= size else b""
    if LFS_POINTER.startswith(start) and start:
        raise InputError(f"{path} is a Git LFS pointer, not the weights", hint="fetch the file itself: git lfs pull")
    try:
        tensors = {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}
        places = sorted(((*_place(entry), name) for name, entry in tensors.items()), key=lambda place: place[:2])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(
            f"{path} is no safetensors file, or is cut short", hint="copy it again and compare its size"
        ) from None
    reached = 0
    for begin, end, needed, name in places:
        if begin != reached:
            raise InputError(f"{path}: {name} does not begin where the tensor before it ends", hint="copy it again")
        if needed is not None and end - begin != needed:
            raise InputError(
                f"{path}: {name} has {end - begin:,} bytes where its shape needs {needed:,}", hint="copy it again"
            )
        reached = end
    if 8 + length + reached != size:
        raise InputError(
            f"{path} has {size:,} bytes where its header says {8 + length + reached:,}", hint="copy it again"
        )
    return Header(tensors, 8 + length)


def _place(entry: dict[str, Any]) -> tuple[int, int, int | None]:
    """Where a tensor begins and ends, and how many bytes its shape needs; None for a dtype that is not known here."""
    begin, end = entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (begin, end, *entry["shape"])) or end < begin:
        raise ValueError("no place")
    item_bytes = ITEM_BYTES.get(entry["dtype"])
    return begin, end, None if item_bytes is None else math.prod(entry["shape"]) * item_bytes
