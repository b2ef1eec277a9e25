"""A pull brings the registry's bytes into a store, all of them verified, or no model."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import shutil
import socket
from pathlib import Path

import pytest

from medllama import cli
from medllama.errors import CheckFailed, InputError, ResourceError
from publish.config import PullConfig
from publish.pull import pull
from publish.targets.store import Store
from tests.publish.oci_server import Fault, FaultyRegistry, cutting_proxy
from tests.publish.targets.test_registry import bytes_of, fetch, send
from tests.publish.targets.test_store import models_of

pytestmark = pytest.mark.usefixtures("quick_network")


def test_a_cut_download_goes_on_and_ends_whole(registry: FaultyRegistry, packaged: Path, tmp_path: Path) -> None:
    send(packaged, registry.host)
    with cutting_proxy(registry.host, [300, 5_000, 60_000, 100_001], answers=True) as host:
        fetch(host, tmp_path / "store", name="medllama")
    assert list(models_of(tmp_path / "store")) == ["registry.ollama.ai/library/medllama/f16"]
    registry.ignores_range = True
    with cutting_proxy(registry.host, [60_000], answers=True) as host:
        fetch(host, tmp_path / "other", name="medllama")
    assert len(models_of(tmp_path / "other")) == 1


def test_a_pull_that_was_given_up_goes_on_where_it_ended(
    registry: FaultyRegistry, packaged: Path, tmp_path: Path
) -> None:
    send(packaged, registry.host)
    with (
        cutting_proxy(registry.host, [100_000, *[150] * 5], answers=True) as host,
        pytest.raises(ResourceError, match=r"downloading model .* failed 6 times"),
    ):
        fetch(host, tmp_path / "store", name="medllama")
    assert models_of(tmp_path / "store") == {}
    assert list((tmp_path / "store" / "blobs").iterdir()) == []
    partial = next((tmp_path / "store" / ".medllama.partial").iterdir()).stat().st_size
    assert partial > 50_000
    registry.log.clear()
    fetch(registry.host, tmp_path / "store", name="medllama")
    assert len(models_of(tmp_path / "store")) == 1
    assert not (tmp_path / "store" / ".medllama.partial").exists()


def test_a_disk_that_is_too_small_is_told_before_anything_is_pulled(
    registry: FaultyRegistry, packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(packaged, registry.host)
    registry.log.clear()
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match=r"pulling .* needs .* are free") as refused:
        fetch(registry.host, tmp_path / "store")
    assert refused.value.hint == "free some space (ollama list, ollama rm), or name another store"
    assert [path for _, path, _ in registry.log] == ["/v2/ada/medllama/manifests/f16"]
    assert models_of(tmp_path / "store") == {}


def test_a_blob_that_is_given_out_wrong_is_refused(registry: FaultyRegistry, packaged: Path, tmp_path: Path) -> None:
    send(packaged, registry.host)
    registry.corrupts = f"sha256:{hashlib.sha256(bytes_of(packaged, 'F16')).hexdigest()}"
    with pytest.raises(CheckFailed, match="is not what its digest says"):
        fetch(registry.host, tmp_path / "store")
    assert models_of(tmp_path / "store") == {}
    registry.corrupts = None
    fetch(registry.host, tmp_path / "store")
    assert len(models_of(tmp_path / "store")) == 1


@pytest.mark.parametrize(
    "manifest",
    [b"{", b"[]", b'{"layers": [], "config": {}}', b'{"mediaType": "application/vnd.oci.image.manifest.v1+json"}'],
)
def test_what_is_no_model_is_not_pulled(manifest: bytes, registry: FaultyRegistry, tmp_path: Path) -> None:
    registry.manifests["latest"] = manifest
    with pytest.raises(InputError, match="is no Ollama model"):
        fetch(registry.host, tmp_path / "store", "ada/medllama")


@pytest.mark.parametrize("size", [-1, "many", None, float("inf")])
def test_a_manifest_with_a_size_that_is_none_is_not_pulled(
    size: object, registry: FaultyRegistry, packaged: Path, tmp_path: Path
) -> None:
    send(packaged, registry.host)
    manifest = json.loads(registry.manifests["f16"])
    manifest["layers"][0]["size"] = size
    registry.manifests["f16"] = json.dumps(manifest).encode()
    with pytest.raises(InputError, match="is no Ollama model"):
        fetch(registry.host, tmp_path / "store")


def test_an_empty_blob_is_pulled_like_any_other(registry: FaultyRegistry, packaged: Path, tmp_path: Path) -> None:
    send(packaged, registry.host)
    manifest = json.loads(registry.manifests["f16"])
    digest = f"sha256:{hashlib.sha256(b'').hexdigest()}"
    manifest["layers"].append(manifest["layers"][1] | {"digest": digest, "size": 0})
    registry.blobs[digest] = b""
    registry.manifests["f16"] = json.dumps(manifest).encode()
    fetch(registry.host, tmp_path / "store")
    assert len(models_of(tmp_path / "store")) == 1


def test_a_manifest_with_a_path_for_a_digest_is_not_pulled(
    registry: FaultyRegistry, packaged: Path, tmp_path: Path
) -> None:
    send(packaged, registry.host)
    manifest = json.loads(registry.manifests["f16"])
    manifest["config"]["digest"] = "sha256:../../../evil"
    registry.manifests["f16"] = json.dumps(manifest).encode()
    with pytest.raises(InputError, match="is no Ollama model"):
        fetch(registry.host, tmp_path / "store")


BLOB = "/blobs/sha256:"
PASSING = [Fault("GET", BLOB, status, times=3) for status in (408, 429, 500, 503)]
PASSING += [Fault("GET", "/manifests/", 503, times=3), Fault("GET", BLOB, cut_after=0, times=3)]
LASTING = {
    "401": (Fault("GET", BLOB, 401), InputError, "says 401", "docker login"),
    "403": (Fault("GET", BLOB, 403), InputError, "you may not read ada/medllama", "ask who runs the registry"),
    "404": (Fault("GET", BLOB, 404), ResourceError, "says 404", "the name right"),
    "429": (Fault("GET", BLOB, 429), ResourceError, "failed 6 times: 429", "it goes on from there"),
    "500": (Fault("GET", BLOB, 500), ResourceError, "failed 6 times: 500", "it goes on from there"),
    "cut": (Fault("GET", BLOB, cut_after=0), ResourceError, "failed 6 times", "it goes on from there"),
    "401 at the door": (Fault("GET", "/manifests/", 401), InputError, "says 401", "docker login"),
}


@pytest.mark.parametrize("fault", PASSING, ids=str)
def test_a_fault_that_passes_is_waited_for(
    fault: Fault, registry: FaultyRegistry, packaged: Path, tmp_path: Path
) -> None:
    send(packaged, registry.host)
    registry.faults = [dataclasses.replace(fault)]
    fetch(registry.host, tmp_path / "store")
    assert len(models_of(tmp_path / "store")) == 1
    assert registry.faults[0].times == 0


@pytest.mark.parametrize("name", LASTING)
def test_a_fault_that_stays_is_told_and_leaves_no_model(
    name: str, registry: FaultyRegistry, packaged: Path, tmp_path: Path
) -> None:
    fault, error, problem, hint = LASTING[name]
    send(packaged, registry.host)
    registry.faults = [dataclasses.replace(fault, times=10_000)]
    with pytest.raises(error, match=problem) as refused:
        fetch(registry.host, tmp_path / "store")
    assert hint in refused.value.hint
    assert models_of(tmp_path / "store") == {}
    registry.faults = []
    fetch(registry.host, tmp_path / "store")
    assert len(models_of(tmp_path / "store")) == 1


def test_nothing_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        host = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ResourceError, match=r"failed 6 times: .*Connection refused"):
        fetch(host, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_two_pulls_at_once_end_whole(registry: FaultyRegistry, packaged: Path, tmp_path: Path) -> None:
    send(packaged, registry.host)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        both = [pool.submit(fetch, registry.host, tmp_path / "store") for _ in range(2)]
    assert sorted(done.result()["fetched_blobs"] for done in both)[-1] == 8
    assert len(models_of(tmp_path / "store")) == 1


def test_interrupted_and_started_again_fetches_what_is_left(
    registry: FaultyRegistry, packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(packaged, registry.host)
    commit = Store.commit

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(registry.host, tmp_path / "store")
    assert models_of(tmp_path / "store") == {}
    monkeypatch.setattr(Store, "commit", commit)
    registry.log.clear()
    fetch(registry.host, tmp_path / "store")
    assert len(models_of(tmp_path / "store")) == 1
    assert not any(BLOB in path for _, path, _ in registry.log), "what came is not fetched twice"


def test_a_model_that_medllama_did_not_make_is_not_replaced(
    registry: FaultyRegistry, packaged: Path, tmp_path: Path
) -> None:
    send(packaged, registry.host)
    taken = tmp_path / "store/manifests/registry.ollama.ai/library/med/f16"
    taken.parent.mkdir(parents=True)
    taken.write_text("{}")
    registry.log.clear()
    with pytest.raises(InputError, match="already has a model med:f16 that medllama did not make"):
        fetch(registry.host, tmp_path / "store", name="med")
    with pytest.raises(InputError, match="has the tag f16, and F16 differs from it"):
        fetch(registry.host, tmp_path / "store", name="med:F16")
    assert taken.read_text() == "{}"
    assert not any(BLOB in path for _, path, _ in registry.log)


def test_a_tag_that_is_not_there(registry: FaultyRegistry, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{registry.host} has no ada/medllama:v9"):
        fetch(registry.host, tmp_path / "store", "ada/medllama:v9")


@pytest.mark.parametrize(
    ("source", "to"),
    [("ada/med", "store:x"), ("registry:localhost:5000/ada/med", "x"), ("registry:localhost:5000/Ada/med", "store:x")],
)
def test_other_kinds_of_places_are_told_the_right_form(source: str, to: str) -> None:
    with pytest.raises(InputError) as refused:
        pull(PullConfig(source=source, to=to))
    assert refused.value.hint.startswith("write ")


def test_pull_takes_its_source_without_a_flag(
    registry: FaultyRegistry, packaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    send(packaged, registry.host)
    capsys.readouterr()
    arguments = [f"registry:{registry.host}/ada/medllama", "--to", f"store:{tmp_path / 'store'}"]
    assert cli.main(["pull", *arguments, "--name", "ada/med:v1"]) == 0
    out, told = capsys.readouterr()
    assert out == f"{tmp_path / 'store'}\n"
    assert "ollama run ada/med:v1" in told
    assert cli.main(["pull"]) == 2
    assert "medllama pull needs --source, --to" in capsys.readouterr().err
