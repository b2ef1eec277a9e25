"""Files are whole or not there, whatever fails and whenever the process ends."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medllama import files
from medllama.errors import InputError, ResourceError
from medllama.files import (
    atomic_directory,
    atomic_file,
    expand,
    partial_path,
    read_json,
    read_jsonl,
    read_text,
    require_disk,
    sha256_file,
    write_json,
    write_text,
)

REPOSITORY = Path(files.__file__).resolve().parent.parent


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_and_fail(path: Path, error: BaseException) -> None:
    """Begin a file, and fail before it is whole."""
    with atomic_file(path) as partial:
        partial.write_text("half")
        raise error


def fill_and_fail(path: Path, error: BaseException) -> None:
    """Begin a folder, and fail before it is whole."""
    with atomic_directory(path) as partial:
        assert names(partial) == []
        (partial / "sub").mkdir()
        (partial / "sub" / "half").touch()
        raise error


def test_a_home_is_written_out_and_nobodys_is_told() -> None:
    assert expand("~/x") == Path.home() / "x"
    with pytest.raises(InputError, match="~nobody-here/x: nobody here is called 'nobody-here'") as refused:
        expand("~nobody-here/x")
    assert refused.value.hint


def test_a_folder_where_none_can_be_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any, **options: Any) -> None:  # as /proc does
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with (
        pytest.raises(InputError, match="cannot be made: the system takes no folder there"),
        atomic_directory(tmp_path / "x"),
    ):
        pass


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.txt"
    with atomic_file(path) as partial:
        partial.write_text("half")
        assert names(path.parent) == ["x.txt.partial"]
        inode = partial.stat().st_ino
    assert names(path.parent) == ["x.txt"]
    assert path.stat().st_ino == inode, "it is renamed: a copy could be cut short"


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_failure_keeps_the_earlier_file_and_leaves_no_half_one(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "x.txt"
    path.write_text("good")
    with pytest.raises(type(error)):
        write_and_fail(path, error)
    assert (names(tmp_path), path.read_text()) == (["x.txt"], "good")


def test_a_failure_keeps_the_earlier_folder_and_leaves_no_half_one(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()
    (path / "good").touch()
    with pytest.raises(ValueError, match="half"):
        fill_and_fail(path, ValueError("half"))
    assert (names(tmp_path), names(path)) == (["data"], ["good"])


def test_a_new_folder_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with atomic_directory(tmp_path / "data") as partial:
            (partial / name).touch()
    assert (names(tmp_path), names(tmp_path / "data")) == (["data"], ["second"])


@pytest.mark.parametrize("renames", [1, 2])
def test_an_interrupt_between_the_two_renames_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    with atomic_directory(tmp_path / "data") as partial:
        (partial / "old").touch()
    replace, done = Path.replace, []

    def interrupted(source: Path, target: Path) -> Path:
        done.append(source)
        if len(done) == renames:
            raise KeyboardInterrupt
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_directory(tmp_path / "data") as partial:
        (partial / "new").touch()
    assert (names(tmp_path), names(tmp_path / "data")) == (["data"], ["old"])


def test_what_a_killed_process_left_is_cleared_away_and_its_old_folder_saved(tmp_path: Path) -> None:
    (tmp_path / "data.partial" / "half").mkdir(parents=True)
    (tmp_path / "data.old.partial" / "good").mkdir(parents=True)
    with pytest.raises(ValueError, match="again"):
        fill_and_fail(tmp_path / "data", ValueError("again"))
    assert (names(tmp_path), names(tmp_path / "data")) == (["data"], ["good"])


def test_a_folder_behind_a_link_stays_behind_it(tmp_path: Path) -> None:
    (tmp_path / "large-disk").mkdir()
    (tmp_path / "data").symlink_to("large-disk")
    for name in ("first", "second"):
        with atomic_directory(tmp_path / "data") as partial:
            (partial / name).touch()
    assert (tmp_path / "data").is_symlink()
    assert (names(tmp_path), names(tmp_path / "large-disk")) == (["data", "large-disk"], ["second"])


def test_a_device_a_folder_and_a_file_are_not_replaced_by_another_kind(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"  # as /dev/null: renaming a file onto it would remove it for everybody
    os.mkfifo(pipe)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path in (pipe, tmp_path / "folder"):
        with pytest.raises(InputError, match="is no regular file"):
            write_text(path, "x")
    with (
        pytest.raises(InputError, match="is a file, and cannot be replaced by a folder"),
        atomic_directory(tmp_path / "file"),
    ):
        raise AssertionError("not reached")
    assert pipe.is_fifo()
    assert names(tmp_path) == ["file", "folder", "pipe"]


def test_a_process_killed_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """Two states alternate in a file and in a folder of many files; whenever the process dies, each is wholly in one."""
    code = """
import itertools, sys
from pathlib import Path
from medllama.files import atomic_directory, write_text
print("ready", flush=True)
for number in itertools.count():
    write_text(Path("one.txt"), str(number) * 50_000)
    with atomic_directory(Path("many")) as partial:
        for name in range(20):
            (partial / str(name)).write_text(str(number) * 500)
"""
    chance = random.Random(0)
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)}, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0.01, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (tmp_path / "one.txt").exists():
            text = (tmp_path / "one.txt").read_text()
            assert text == text[: len(text) // 50_000] * 50_000
        if (tmp_path / "many").exists():
            contents = {path.name: path.read_text() for path in (tmp_path / "many").iterdir()}
            assert len(contents) == 20
            assert len(set(contents.values())) == 1
    assert {name.removesuffix(".partial").removesuffix(".old") for name in names(tmp_path)} <= {"one.txt", "many"}


def test_a_partial_name_is_beside_the_final_one(tmp_path: Path) -> None:
    assert partial_path(tmp_path / "a.gguf") == tmp_path / "a.gguf.partial"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Ménière".encode("latin-1"), "is not UTF-8: byte 0xe9 at offset 1"),
        ("Ménière".encode("utf-16"), "is not UTF-8: byte 0xff at offset 0"),
        (b"cut \xe2\x82", "is not UTF-8: byte 0xe2 at offset 4"),
    ],
)
def test_text_in_another_encoding_is_refused_with_the_place_and_the_way_out(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_text(path)
    assert caught.value.message == f"{path} {message}"
    assert caught.value.hint == f"convert it first, for example: iconv -f latin1 -t utf-8 {path} > {path}.utf8"


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffgout".encode())
    assert read_text(path) == "gout"


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "no", tmp_path / "file" / "inside"):
        with pytest.raises(InputError, match="does not exist"):
            read_text(path)
    with pytest.raises(InputError, match="is a folder, not a file"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n "b": }', "is not JSON: line 2, column 7: Expecting value"),
        ("", "is not JSON: line 1, column 1: Expecting value"),
        ("[" * 100_000, "is not JSON that can be read: maximum recursion depth"),
        ("9" * 5000, "is not JSON that can be read: Exceeds the limit"),
    ],
)
def test_malformed_json_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert caught.value.message.startswith(f"{path} {message}")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60) | st.text(alphabet='[]{}":,0123456789.eE+-nulltruefase \\u\n', max_size=60).map(str.encode)
)
def test_any_bytes_are_json_or_one_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    try:
        value = read_json(path)
    except InputError:
        return
    assert json.dumps(value) == json.dumps(json.loads(content.decode("utf-8-sig")))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])), st.lists
    )
)
def test_what_is_written_as_json_is_read_back_from_the_same_bytes(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "x.json"
    write_json(path, value)
    before = path.read_bytes()
    assert read_json(path) == value
    write_json(path, value)
    assert path.read_bytes() == before


def test_a_number_that_is_none_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert names(tmp_path) == []


def test_a_digest_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 1_000_000)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


def test_a_disk_without_room_is_told_before_the_work_begins(tmp_path: Path) -> None:
    require_disk(tmp_path / "not" / "there" / "yet", 1000, "convert")
    with pytest.raises(
        ResourceError, match=r"convert needs 1,000,000,000,000\.0 MB on the disk of .*, [\d,.]+ MB are free"
    ):
        require_disk(tmp_path / "not" / "there", 10**18, "convert")
    assert names(tmp_path) == []


def test_the_objects_of_a_jsonl_file_come_with_their_places(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n  \r\n{"b": "\xc3\xa9"}\r\n')
    assert list(read_jsonl(path)) == [(f"{path}:1", {"a": 1}), (f"{path}:4", {"b": "é"})]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"b": }', ":2 is not JSON: column 7: Expecting value"),
        (b'{"b"', ":2 is not JSON: column 5"),
        (b"[1]", ":2 is not a JSON object: [1]"),
        (b'{"b": "\xe9"}', ":2 is not UTF-8: byte 0xe9 at column 8"),
        (b'{"b": "\\ud800"}', ":2 is not JSON that can be read"),
        (b"[" * 100_000, ":2 is not JSON that can be read"),
    ],
)
def test_a_line_that_is_no_object_is_named_with_its_place(line: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(InputError, match=re.escape(f"{path}{said}")):
        list(read_jsonl(path))
