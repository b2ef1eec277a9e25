"""Files that are either whole or not there: atomic writes, digests, and a look at the disk before the work begins.

Everything is written to `NAME.partial` and renamed, so that a final name never holds half a file, however the process
ends. Writing does not follow the usual "unlink, then write": an earlier good file stays until its successor is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medllama.errors import InputError, ResourceError

PARTIAL_SUFFIX = ".partial"


def expand(path: str | Path) -> Path:
    """`path` with ~ and ~NAME written out. Raises InputError where nobody is called NAME."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0].removeprefix("~")
        raise InputError(f"{path}: nobody here is called {user!r}", hint="write the folder out") from None


def make_folder(path: Path, *, exist_ok: bool = True) -> None:
    """Make `path` with its parents. Raises InputError where the system makes no folders, as in /proc."""
    try:
        path.mkdir(parents=True, exist_ok=exist_ok)
    except FileNotFoundError:
        raise InputError(f"{path} cannot be made: the system takes no folder there", hint="name another path") from None


def partial_path(path: Path) -> Path:
    """The name under which `path` is written until it is complete."""
    return path.with_name(path.name + PARTIAL_SUFFIX)


def _aside(path: Path) -> Path:
    """The name of an earlier folder `path` while its successor takes the place."""
    return path.with_name(path.name + ".old" + PARTIAL_SUFFIX)


def unfinished(path: Path) -> list[Path]:
    """What a process that was killed while it wrote `path`, a file or a folder, left beside it."""
    return [left for left in (partial_path(path), _aside(path)) if left.exists()]


def remove_unfinished(path: Path) -> None:
    """Remove what a killed process left of `path`. An earlier folder that it had only set aside takes its name again."""
    if (old := _aside(path)).exists() and not path.exists():
        old.replace(path)
    for left in unfinished(path):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield the partial name of `path`; on success flush it to the disk and rename it, on failure remove it."""
    if path.exists() and not path.is_file():  # renaming would replace /dev/null itself
        raise InputError(f"{path} is no regular file, and cannot be replaced by one", hint="choose another name")
    make_folder(path.parent)
    partial = partial_path(path)
    partial.unlink(missing_ok=True)
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        _name_file(error, path)
        raise


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty partial folder; on success it replaces `path`, on failure it is removed.

    The old folder is renamed aside before the new one takes its name, so the moment in which neither has the final
    name is one rename long, and no moment shows a mixture.
    """
    path = path.resolve()  # a link to a larger disk stays a link
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, and cannot be replaced by a folder", hint="choose another name")
    make_folder(path.parent)
    partial, old = partial_path(path), _aside(path)
    remove_unfinished(path)
    make_folder(partial, exist_ok=False)
    try:
        yield partial
        for entry in (*sorted(partial.rglob("*")), partial):
            if entry.is_file() or entry.is_dir():
                sync(entry)
        if path.exists():
            path.replace(old)
        partial.replace(path)
        sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        _name_file(error, path)
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not path.exists():
            old.replace(path)
        raise


def _name_file(error: BaseException, path: Path) -> None:
    """A failed write does not say which file it was: say it, for the message that people see."""
    if getattr(error, "filename", None) is None:
        with suppress(AttributeError):
            error.filename = str(path)  # type: ignore[attr-defined]


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; keys keep their order, so that the same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: Path, *, newline: str | None = None) -> str:
    """The UTF-8 text of `path`; every line end is "\n", or with `newline=""` as it is there.

    Raises InputError where it is missing, a folder, or in another encoding.
    """
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} does not exist", hint="check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not a file", hint="name the file inside it") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}",
            hint=f"convert it first, for example: iconv -f latin1 -t utf-8 {path} > {path}.utf8",
        ) from None


def read_json(path: Path) -> Any:
    """The JSON value in `path`; InputError names the line where it is malformed."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}",
            hint="the file may be cut short; copy it again",
        ) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise InputError(f"{path} is not JSON that can be read: {error}", hint="copy it again") from None


def read_jsonl(
    path: Path, hint: str = "one JSON object a line; the file may be cut short"
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of a JSONL file with its place, `file:line`; blank lines are nothing.

    Lines are read as they are asked for. Raises InputError with the place where one is no JSON object, or no text.
    """
    if not path.is_file():
        read_text(path)  # says why not
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            place = f"{path}:{number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip()
                if not line:
                    continue
                value = json.loads(line)
                json.dumps(value, ensure_ascii=False).encode()  # refuses half a surrogate pair, which is no text
            except json.JSONDecodeError as error:
                raise InputError(f"{place} is not JSON: column {error.colno}: {error.msg}", hint=hint) from None
            except UnicodeDecodeError as error:
                said = f"byte {raw[error.start]:#04x} at column {error.start + 1}"
                raise InputError(f"{place} is not UTF-8: {said}", hint=hint) from None
            except (ValueError, RecursionError) as error:
                raise InputError(f"{place} is not JSON that can be read: {error}", hint=hint) from None
            if not isinstance(value, dict):
                raise InputError(f"{place} is not a JSON object: {line[:60]}", hint=hint)
            yield place, value


def file_state(path: Path) -> dict[str, int]:
    """Size and modification time: a file whose state is what it was has not been written to since."""
    status = path.stat()
    return {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def has_state(path: Path, state: object) -> bool:
    """Whether the file is there, and as `file_state` said."""
    return path.is_file() and file_state(path) == state


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_disk(path: Path, needed_bytes: int, purpose: str) -> None:
    """Raise ResourceError unless the disk that will hold `path` has `needed_bytes` free."""
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise ResourceError(
            f"{purpose} needs {needed_bytes / 1e6:,.1f} MB on the disk of {folder}, {free_bytes / 1e6:,.1f} MB are free",
            hint="free some space, or choose another --output-dir",
        )
