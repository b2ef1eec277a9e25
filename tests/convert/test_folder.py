"""The output folder belongs to one conversion at a time, which clears away what a killed one left and nothing else."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convert import folder
from convert.config import ConvertConfig
from convert.convert import convert
from medllama.errors import InputError, ResourceError
from tests.adapters import make_adapter
from tests.checkpoints import make_llama2_checkpoint

OWN = ("m-F16.gguf", "m-base-Q8_0.gguf", "m-lora-F32.gguf", "m.imatrix.gguf", "m-safetensors/model.safetensors",
       ".m-importance/m-Q8_0.gguf")  # fmt: skip
OTHERS = ("other-F16.gguf", "m2-F16.gguf", "m-notes.gguf", "m-F16.txt", "F16.gguf")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama2_checkpoint(tmp_path_factory.mktemp("folder") / "base", num_hidden_layers=1)


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return make_adapter(base, base.parent / "adapter")


def run(base: Path, out: Path, *types: str, **settings: Any) -> None:
    convert(ConvertConfig(str(base), out, types=types, name="m", **settings))


def leave(out: Path, names: tuple[str, ...]) -> set[Path]:
    """What a process leaves that is killed while it writes files of these names."""
    found = set()
    for name in names:
        top, *inner = name.split("/")
        path = out.joinpath(f"{top}.partial", *inner)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half of it")
        found.add(out / f"{top}.partial")
    return found


@contextlib.contextmanager
def another_at_work(out: Path) -> Iterator[None]:
    out.mkdir(exist_ok=True)
    descriptor = os.open(out, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def test_what_a_killed_one_left_is_removed_whatever_types_are_asked_for_next(base: Path, tmp_path: Path) -> None:
    leave(tmp_path, OWN)
    kept = leave(tmp_path, OTHERS)
    run(base, tmp_path, "Q8_0")
    assert set(tmp_path.iterdir()) == {tmp_path / "m-Q8_0.gguf", *kept}


def test_a_checkpoint_that_a_killed_one_had_set_aside_takes_its_name_again(base: Path, tmp_path: Path) -> None:
    run(base, tmp_path, "safetensors")
    (tmp_path / "m-safetensors").rename(tmp_path / "m-safetensors.old.partial")
    run(base, tmp_path, "Q8_0")
    assert {path.name for path in tmp_path.iterdir()} == {"m-safetensors", "m-Q8_0.gguf"}
    assert (tmp_path / "m-safetensors" / "model.safetensors").is_file()


def test_nothing_of_one_at_work_is_removed(base: Path, adapter: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text(json.dumps({"text": "Gout is a disease of the joints."}))
    matrix = {"importance": "auto", "importance_data": data}
    out = tmp_path / "out"
    with another_at_work(out):
        left = leave(out, OWN)
        for types, settings in (
            (("Q8_0",), {}),
            (("Q2_K",), matrix),
            (("F16",), {"adapter": adapter, "adapter_only": True}),
        ):
            with pytest.raises(ResourceError, match=r"another medllama convert is writing into .*out"):
                run(base, out, *types, **settings)
            assert set(out.iterdir()) == left
    run(base, out, "Q2_K", **matrix)
    assert {path.name for path in out.iterdir()} == {"m-Q2_K.gguf", "m.imatrix.gguf"}


def test_without_locks_nothing_is_removed_that_may_be_at_work(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    left = leave(tmp_path, OWN)
    monkeypatch.setattr(fcntl, "flock", no_locks)
    run(base, tmp_path, "Q8_0")
    assert set(tmp_path.iterdir()) == {tmp_path / "m-Q8_0.gguf", *left}


def test_what_a_killed_one_left_makes_room_on_the_disk(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**7, 10**7, 100_000))
    with pytest.raises(ResourceError, match="convert needs"):
        run(base, tmp_path, "Q8_0")
    (tmp_path / "m-F32.gguf.partial").write_bytes(bytes(3_000_000))
    run(base, tmp_path, "Q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["m-Q8_0.gguf"]


def test_a_full_disk_is_found_before_the_folder_is_made(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the model which reads the text fits, and an adapter, is looked at as early as that the files fit."""
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": "Gout is a disease of the joints."}))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**7, 10**7, 500_000))
    for types, settings in (
        (("Q8_0",), {}),
        (("Q2_K",), {"importance": "auto", "importance_data": tmp_path}),
        (("F32", "F16"), {"adapter": make_adapter(base, tmp_path / "large", r=64), "adapter_only": True}),
    ):
        with pytest.raises(ResourceError, match=r"convert needs .* MB on the disk of .*, 0\.5 MB are free"):
            run(base, tmp_path / "out", *types, **settings)
        assert not (tmp_path / "out").exists()
    run(base, tmp_path / "out", "Q2_K")
    run(base, tmp_path / "out", "F16", adapter=adapter, adapter_only=True)


def test_what_vanishes_while_room_is_looked_for_is_no_crash(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another conversion may end just then."""
    left = tmp_path / "m-F32.gguf.partial"
    monkeypatch.setattr(folder, "unfinished", lambda path: [left] if path.name == "m-F32.gguf" else [])
    run(base, tmp_path, "Q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["m-Q8_0.gguf"]


@pytest.mark.parametrize("linked", [False, True])
def test_a_checkpoint_does_not_take_the_place_of_the_base(base: Path, tmp_path: Path, *, linked: bool) -> None:
    own = shutil.copytree(base, tmp_path / "m-safetensors")
    if linked:
        own = tmp_path / "link"
        own.symlink_to("m-safetensors")
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    with pytest.raises(InputError, match=r"m-safetensors would take the place of .*, which it is made of"):
        run(own, tmp_path, "safetensors", "Q8_0")
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before
    run(own, tmp_path, "Q8_0")


def test_a_checkpoint_does_not_take_the_place_of_the_adapter_within(base: Path, adapter: Path, tmp_path: Path) -> None:
    own = shutil.copytree(adapter, tmp_path / "m-safetensors" / "adapter")
    with pytest.raises(InputError, match="would take the place of"):
        run(base, tmp_path, "safetensors", adapter=own)
    assert (own / "adapter_config.json").is_file()


def test_a_file_does_not_take_the_place_of_the_matrix_that_it_is_made_with(base: Path, tmp_path: Path) -> None:
    matrix = tmp_path / "m-Q2_K.gguf"
    matrix.write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"m-Q2_K\.gguf would take the place of"):
        run(base, tmp_path, "Q2_K", importance=str(matrix))
    assert matrix.read_bytes() == b"GGUF"
