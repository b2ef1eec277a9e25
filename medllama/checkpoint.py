"""A base model's folder: found, and checked for what training and conversion both need. Imports neither torch nor numpy.

base = find_base("meta-llama/Llama-2-7b-hf@main")      # a folder, downloaded if it has to be
config, files = read_config(base), safetensors_files(base)
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medllama.config import looks_like_hub_id
from medllama.errors import InputError, MedllamaError, UnsupportedError
from medllama.files import read_json

NEEDED_FILES = ("*.json", "*.safetensors", "tokenizer.model", "*.jinja", "LICENSE*", "USE_POLICY*", "NOTICE*")
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def find_base(name: str) -> Path:
    """The folder of a base given as a folder or as a hub id, `id@revision` for another revision than the newest.

    Raises InputError where it is missing, gated, or cannot be reached.
    """
    folder = Path(name).expanduser()
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


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
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
        reason, hint = f"has no revision {revision}", f"look at {page}/commits"
    except RepositoryNotFoundError:
        reason, hint = "is not on the hub, or is private", f"check {page}; for a private one: hf auth login"
    except (LocalEntryNotFoundError, OSError):
        reason = "is not on this disk, and the hub cannot be reached"
        hint = (
            f"with a network: accept its licence at {page}, hf auth login, hf download {repository}; or name a folder"
        )
    raise InputError(f"the base model {name} {reason}", hint=hint)


def read_config(base: Path) -> dict[str, Any]:
    """The base's config.json."""
    path = base / "config.json"
    if not path.is_file():
        raise InputError(f"{base} has no config.json", hint="name the folder of a Hugging Face checkpoint")
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a table", hint="copy it again")
    return config


def safetensors_files(base: Path) -> list[Path]:
    """The base's weight files, all there and none cut short. A pickle is refused: loading one can run any code."""
    index, single = base / "model.safetensors.index.json", base / "model.safetensors"
    if index.is_file():
        names = sorted(set((read_json(index).get("weight_map") or {}).values()))
        missing = [name for name in names if not (base / name).is_file()]
        if missing or not names:
            raise InputError(
                f"{base} lacks {', '.join(missing) or 'its shards'}, which {index.name} names", hint="download it again"
            )
        files = [base / name for name in names]
    elif single.is_file():
        files = [single]
    else:
        raise _no_weights(base)
    for path in files:
        read_header(path)
    return files


def _no_weights(base: Path) -> MedllamaError:
    pickles = sorted(path.name for pattern in PICKLES for path in base.glob(pattern))
    if pickles:
        return UnsupportedError(
            f"{base} has its weights in a pickle ({pickles[0]}), which can run any code when it is loaded",
            hint="load it once where you trust it and save it again: model.save_pretrained(folder, safe_serialization=True)",
        )
    return InputError(f"{base} has no model.safetensors", hint="name a folder with a checkpoint in safetensors format")


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file: each tensor's `dtype`, `shape` and `data_offsets`, counted from `data_start`."""

    tensors: dict[str, dict[str, Any]]
    data_start: int


def read_header(path: Path) -> Header:
    """The header of a safetensors file; InputError where it is no such file or has another size than its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
        text = file.read(length) if 8 + length <= size else b""
    try:
        tensors = {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        needed = {
            name: math.prod(entry["shape"]) * ITEM_BYTES.get(entry["dtype"], 0) for name, entry in tensors.items()
        }
        found = {name: entry["data_offsets"][1] - entry["data_offsets"][0] for name, entry in tensors.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise InputError(
            f"{path} is no safetensors file, or is cut short", hint="copy it again and compare its size"
        ) from None
    if 8 + length + end != size:
        raise InputError(f"{path} has {size:,} bytes where its header says {8 + length + end:,}", hint="copy it again")
    for name, size_bytes in needed.items():
        if size_bytes and size_bytes != found[name]:
            raise InputError(
                f"{path}: {name} has {found[name]:,} bytes where its shape needs {size_bytes:,}", hint="copy it again"
            )
    return Header(tensors, 8 + length)
