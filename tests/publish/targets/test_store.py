"""A store has the whole model or none, however the publish ends; a second publish writes nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from medllama.errors import CheckFailed, InputError, ResourceError
from publish.config import PublishConfig
from publish.publish import publish
from publish.targets import store as store_module
from publish.targets.store import Store

LIBRARY = Path("manifests/registry.ollama.ai/library")


def to_store(packaged: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    return publish(PublishConfig(**{"package": packaged, "to": f"store:{folder}"} | changes)).summary


def models_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifests of a store by name, each held against its blobs: digest, size, and that it is there."""
    found = {}
    for path in sorted((folder / "manifests").rglob("*")):
        if path.is_file():
            manifest = json.loads(path.read_text())
            for layer in (manifest["config"], *manifest["layers"]):
                content = (folder / "blobs" / layer["digest"].replace(":", "-")).read_bytes()
                assert f"sha256:{hashlib.sha256(content).hexdigest()}" == layer["digest"]
                assert len(content) == layer["size"]
            found[path.relative_to(folder / "manifests").as_posix()] = manifest
    return found


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError(errno.EXDEV, "cross-device link")

    monkeypatch.setattr(os, "link", refuse)


def test_every_tag_is_there_with_the_certified_digest(packaged: Path, tmp_path: Path) -> None:
    summary = to_store(packaged, tmp_path / "store")
    found = models_of(tmp_path / "store")
    assert list(found) == [f"registry.ollama.ai/library/medllama/{tag}" for tag in ("f16", "latest", "q4_K_M")]
    certified = {file["sha256"] for file in json.loads((packaged / "certificate.json").read_text())["files"]}
    for manifest in found.values():
        assert manifest["layers"][0]["digest"].removeprefix("sha256:") in certified
    assert set(summary["files"].values()) == certified
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [".medllama.lock", "blobs", "manifests"]


def test_the_gguf_is_linked_where_the_disk_can_and_copied_elsewhere(
    packaged: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    gguf = packaged / "medllama-F16.gguf"
    blob = Path("blobs") / f"sha256-{hashlib.sha256(gguf.read_bytes()).hexdigest()}"
    to_store(packaged, tmp_path / "linked")
    assert (tmp_path / "linked" / blob).samefile(gguf)
    request.getfixturevalue("no_links")
    to_store(packaged, tmp_path / "copied")
    assert not (tmp_path / "copied" / blob).samefile(gguf)
    assert models_of(tmp_path / "copied") == models_of(tmp_path / "linked")
    assert (tmp_path / "copied" / blob).stat().st_mode & 0o777 == 0o644, "the server may be another user"


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in (folder, *folder.rglob("*"))}


def test_a_second_publish_writes_nothing(packaged: Path, tmp_path: Path) -> None:
    first = to_store(packaged, tmp_path / "store")
    assert (first["written_blobs"], first["written_manifests"]) == (10, 3)
    before = state(tmp_path / "store")
    second = to_store(packaged, tmp_path / "store")
    assert (second["written_blobs"], second["written_manifests"]) == (0, 0)
    assert "nothing written" in second["line"]
    assert state(tmp_path / "store") == before


def test_what_is_missing_or_cut_is_written_again_and_nothing_else(packaged: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    to_store(packaged, store)
    manifest = models_of(store)["registry.ollama.ai/library/medllama/f16"]
    licence, config = (
        store / "blobs" / it["digest"].replace(":", "-") for it in (manifest["layers"][3], manifest["config"])
    )
    licence.unlink()
    config.write_bytes(b"{")
    again = to_store(packaged, store)
    assert (again["written_blobs"], again["written_manifests"]) == (2, 0)
    models_of(store)


def test_a_dry_run_lists_all_and_touches_nothing(packaged: Path, tmp_path: Path) -> None:
    summary = to_store(packaged, tmp_path / "store", dry_run=True, name="ada/med")
    assert not (tmp_path / "store").exists()
    text = "\n".join(summary["table"])
    to_store(packaged, tmp_path / "store", name="ada/med")
    for name, manifest in models_of(tmp_path / "store").items():
        assert f"ada/med:{name.rpartition('/')[2]}  (" in text
        for layer in (manifest["config"], *manifest["layers"]):
            assert layer["digest"] in text
            assert f"{layer['size']:,} B" in text or f"{layer['size'] / 1e6:,.1f} MB" in text


def test_tags_can_be_chosen(packaged: Path, tmp_path: Path) -> None:
    to_store(packaged, tmp_path / "store", name="medllama:v1", tag=("f16",))
    found = models_of(tmp_path / "store")
    assert list(found) == [f"registry.ollama.ai/library/medllama/{tag}" for tag in ("f16", "v1")]


def test_a_model_that_medllama_did_not_make_is_not_replaced(packaged: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    to_store(packaged, store)
    path = store / LIBRARY / "medllama" / "latest"
    manifest = json.loads(path.read_text())
    manifest["layers"] = [layer for layer in manifest["layers"] if not layer["mediaType"].endswith("license")]
    path.write_text(json.dumps(manifest))
    before = state(store)
    with pytest.raises(InputError) as refused:
        to_store(packaged, store)
    assert refused.value.message == f"{store} already has a model medllama:latest that medllama did not make"
    assert "--name" in refused.value.hint
    assert {path: it for path, it in state(store).items() if ".medllama" not in path and path != str(store)} == {
        path: it for path, it in before.items() if ".medllama" not in path and path != str(store)
    }


@pytest.mark.parametrize("content", ["", "[]", '{"layers": null}', '{"layers": [7, {}]}'])
def test_a_broken_manifest_is_nobodys_and_not_replaced(content: str, packaged: Path, tmp_path: Path) -> None:
    taken = tmp_path / "store" / LIBRARY / "medllama" / "latest"
    taken.parent.mkdir(parents=True)
    taken.write_text(content)
    with pytest.raises(InputError, match="already has a model medllama:latest") as refused:
        to_store(packaged, tmp_path / "store")
    assert "ollama rm medllama:latest" in refused.value.hint
    assert taken.read_text() == content


def test_an_earlier_version_of_ours_is_replaced(packaged: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    to_store(packaged, store, tag=("f16",))
    before = models_of(store)["registry.ollama.ai/library/medllama/f16"]
    (store / LIBRARY / "medllama" / "f16").rename(store / LIBRARY / "medllama" / "latest")
    to_store(packaged, store, tag=("latest",))
    assert models_of(store)["registry.ollama.ai/library/medllama/latest"] != before


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("", "names no folder"),
        ("~nobody-here/models", r"~nobody-here/models: nobody here is called 'nobody-here'"),
        ("home", "is no Ollama store"),
        ("home/notes.txt", "is a file, not a folder"),
    ],
)
def test_what_is_no_store_is_refused_before_the_package_is_read(
    place: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home" / "models").mkdir(parents=True)
    (tmp_path / "home" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=problem) as refused:
        publish(PublishConfig(package=tmp_path / "nothing", to=f"store:{place}"))
    assert refused.value.hint
    if place == "home":
        assert refused.value.hint == "did you mean home/models?"


def test_a_place_where_no_folder_can_be_is_told(packaged: Path) -> None:
    if not Path("/proc").is_dir():
        pytest.skip("there is no /proc here, in which nothing can be made")
    with pytest.raises(InputError, match="/proc/store/blobs cannot be made") as refused:
        to_store(packaged, Path("/proc/store"))
    assert refused.value.hint


def test_a_tag_that_differs_in_case_alone_is_refused(packaged: Path, tmp_path: Path) -> None:
    to_store(packaged, tmp_path / "store")
    before = state(tmp_path / "store" / "manifests")
    with pytest.raises(InputError) as refused:
        to_store(packaged, tmp_path / "store", tag=("Q4_K_M",))
    assert refused.value.message == (
        f"{tmp_path / 'store'} has the tag q4_K_M, and Q4_K_M differs from it in upper and lower case alone"
    )
    assert refused.value.hint == "to Ollama they are one name: write medllama:q4_K_M"
    assert state(tmp_path / "store" / "manifests") == before
    with pytest.raises(InputError, match="the command has the tag V1, and v1 differs"):
        to_store(packaged, tmp_path / "other", tag=("v1", "V1"))
    assert not (tmp_path / "other").exists()


def test_an_unknown_target_is_told_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        publish(PublishConfig(package=tmp_path, to="ftp:host"))
    assert "store:DIR" in refused.value.hint


@pytest.mark.usefixtures("no_links")
def test_a_disk_that_is_too_small_is_told_before_anything_is_copied(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=50_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match=r"publishing medllama-.*\.gguf needs .* 0\.1 MB are free"):
        to_store(packaged, tmp_path / "store")
    assert models_of(tmp_path / "store") == {}
    assert list((tmp_path / "store" / "blobs").iterdir()) == []
    assert not (tmp_path / "store" / ".medllama.partial").exists()


@pytest.mark.usefixtures("no_links")
def test_a_copy_that_fails_leaves_nothing_of_those_before_it(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = store_module._copy

    def fail_at_the_second(source: Path, target: Path, total_bytes: int) -> str:
        if "F16" in source.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        return copy(source, target, total_bytes)

    monkeypatch.setattr(store_module, "_copy", fail_at_the_second)
    with pytest.raises(OSError, match="No space left"):
        to_store(packaged, tmp_path / "store")
    assert models_of(tmp_path / "store") == {}
    assert not (tmp_path / "store" / ".medllama.partial").exists(), "gigabytes that nobody would ever see"


def test_room_for_all_is_asked_for_before_the_first_copy(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/shm").is_dir() or Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second disk at /dev/shm to copy to")
    total = sum(path.stat().st_size for path in packaged.glob("*.gguf"))
    usage = shutil.disk_usage(tmp_path)._replace(free=total - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        with pytest.raises(ResourceError, match="publishing medllama needs"):
            to_store(packaged, Path(folder) / "store")
        assert list(Path(folder).rglob("sha256-*")) == []


@pytest.mark.usefixtures("no_links")
def test_a_file_that_changes_meanwhile_is_caught(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = store_module._copy

    def copy_another(source: Path, target: Path, total_bytes: int) -> str:
        other = tmp_path / source.name
        other.write_bytes(source.read_bytes()[:-1] + b"x")
        return copy(other, target, total_bytes)

    monkeypatch.setattr(store_module, "_copy", copy_another)
    with pytest.raises(CheckFailed, match="changed while it was published"):
        to_store(packaged, tmp_path / "store")
    assert models_of(tmp_path / "store") == {}
    assert list((tmp_path / "store" / "blobs").iterdir()) == []


def child(program: str, packaged: Path, store: Path) -> subprocess.Popen[str]:
    """`medllama publish` in a process of its own, after a few lines that prepare its fault."""
    lines = f"{program}\nfrom medllama.cli import main\nsys.exit(main(sys.argv[1:]))"
    arguments = ["publish", "--package", str(packaged), "--to", f"store:{store}"]
    prefix = "import os, sys, errno\ndef refuse(*paths): raise OSError(errno.EXDEV, 'no link')\nos.link = refuse\n"
    return subprocess.Popen([sys.executable, "-c", prefix + lines, *arguments], stderr=subprocess.PIPE, text=True)


def test_a_full_disk_leaves_no_half_published_model(packaged: Path, tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))"
    process = child(limit, packaged, tmp_path / "store")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1, told
    assert "error: the disk is full, or a file may not grow any more" in told
    assert "Traceback" not in told
    assert models_of(tmp_path / "store") == {}
    assert not (tmp_path / "store" / ".medllama.partial").exists()
    to_store(packaged, tmp_path / "store")
    assert len(models_of(tmp_path / "store")) == 3


@pytest.mark.parametrize("moment", [1, 4, 9, 13, 15])
def test_killed_at_any_moment_it_leaves_whole_models_and_goes_on(moment: int, packaged: Path, tmp_path: Path) -> None:
    """10 blobs and 3 manifests are flushed to the disk one by one: die before the one that `moment` counts."""
    program = f"""
import signal
from publish.targets import store
left, sync = {moment}, store.sync
def dying(path):
    global left
    left -= 1
    if left == 0: os.kill(os.getpid(), signal.SIGKILL)
    sync(path)
store.sync = dying
"""
    process = child(program, packaged, tmp_path / "store")
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert len(models_of(tmp_path / "store")) < 3, "whatever is there is whole"
    to_store(packaged, tmp_path / "store")
    assert len(models_of(tmp_path / "store")) == 3
    assert not (tmp_path / "store" / ".medllama.partial").exists()


def test_two_at_once_wait_for_each_other(packaged: Path, tmp_path: Path) -> None:
    slow = "import time\nfrom publish.targets import store\nsync = store.sync\n"
    slow += "def slowly(path): time.sleep(0.02); sync(path)\nstore.sync = slowly"
    both = [child(slow, packaged, tmp_path / "store") for _ in range(2)]
    told = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert len(models_of(tmp_path / "store")) == 3
    with Store(tmp_path / "store").locked():
        assert list((tmp_path / "store" / ".medllama.partial").iterdir()) == []
