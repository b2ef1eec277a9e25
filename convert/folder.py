"""The output folder while a conversion writes into it: for one process alone, and without what a killed one left there.

    require_apart(config)                  # from what is read
    require_room(config, needed_bytes)
    with held(config):
        ...

A file has its final name when it is complete, so that a killed process leaves `NAME-TYPE.gguf.partial`. The next conversion of
that NAME removes it, whichever types it is asked for: the lock says that nobody is writing it any more. Files of another name
are not touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from convert.config import CHECKPOINT, FILE_TYPES, ConvertConfig
from medllama.errors import InputError, ResourceError
from medllama.files import make_folder, partial_path, remove_unfinished, require_disk, unfinished


def require_apart(config: ConvertConfig) -> None:
    """Raise InputError where a file of the conversion would take the place of what it reads."""
    written = [*config.gguf_paths(), config.baseline_path()]
    written += [config.checkpoint_path()] if CHECKPOINT in config.file_types else []
    named = (config.base_model, config.adapter, config.importance, config.importance_data, config.chat_template)
    for path in (Path(name) for name in named if name is not None):
        for place in written:
            if place is not None and path.resolve().is_relative_to(place.resolve()):
                raise InputError(
                    f"{place} would take the place of {path}, which it is made of",
                    hint="choose another --output-dir or --name",
                )


def require_room(config: ConvertConfig, needed_bytes: int) -> None:
    """Raise ResourceError unless the disk has room for that many bytes, what a killed conversion takes of it counted as free."""
    left_bytes = 0
    with contextlib.suppress(FileNotFoundError):  # of a conversion at work, of which `held` will tell
        for left in (part for path in _own_paths(config) for part in unfinished(path)):
            left_bytes += sum(512 * file.stat().st_blocks for file in (left, *left.rglob("*")))
    require_disk(config.output_dir, max(0, needed_bytes - left_bytes), "convert")


@contextlib.contextmanager
def held(config: ConvertConfig) -> Iterator[None]:
    """Hold the output folder for this process, without what a killed one left. The lock ends with the process."""
    folder = config.output_dir
    make_folder(folder)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            said = f"another medllama convert is writing into {folder}"
            raise ResourceError(said, hint="wait for it, or choose another --output-dir") from None
        except OSError:  # not every file system has locks: what is unfinished may be at work
            pass
        else:
            for path in _own_paths(config):
                remove_unfinished(path)
        yield
    finally:
        os.close(descriptor)


def _own_paths(config: ConvertConfig) -> list[Path]:
    """Everything that conversions of this name write, whichever types they are asked for."""
    stems = (config.name, f"{config.name}-base", f"{config.name}-lora")
    files = [config.output_dir / f"{stem}-{file_type}.gguf" for stem in stems for file_type in FILE_TYPES]
    return [*files, config.importance_path(), _reader(config), config.checkpoint_path().resolve()]


@contextlib.contextmanager
def reader_folder(config: ConvertConfig) -> Iterator[Path]:
    """An empty folder for the model that reads text for an importance matrix; gone afterwards."""
    folder = partial_path(_reader(config))
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _reader(config: ConvertConfig) -> Path:
    return config.output_dir / f".{config.name}-importance"
