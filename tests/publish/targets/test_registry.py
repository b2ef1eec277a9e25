"""A registry gets the whole model or no manifest, whatever happens on the way; a pull brings the same bytes into a store."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from medllama.errors import CheckFailed, InputError, MedllamaError, ResourceError
from publish import oci, registry_auth
from publish.config import PublishConfig, PullConfig
from publish.layers import Layer
from publish.publish import publish
from publish.pull import pull
from tests.publish.oci_server import Fault, FaultyRegistry, cutting_proxy
from tests.publish.targets.test_store import models_of

pytestmark = pytest.mark.usefixtures("quick_network")

TAGS = ["f16", "latest", "q4_K_M"]
UPLOAD, MODEL_BLOB = r"/blobs/uploads/u\d+$", "/blobs/sha256:"


@pytest.fixture(scope="module")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real docker-registry on loopback."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed (Debian: docker-registry): only the tests' own registry is asked")
    folder = tmp_path_factory.mktemp("docker-registry")
    with socket.create_server(("127.0.0.1", 0)) as free:
        host = f"127.0.0.1:{free.getsockname()[1]}"
    config = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": host},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("w") as log, subprocess.Popen(
        [program, "serve", str(folder / "config.yml")], stdout=log, stderr=log
    ) as process:  # fmt: skip
        for _ in range(100):
            try:
                httpx.get(f"http://{host}/v2/").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield host
        process.terminate()


def send(packaged: Path, host: str, name: str = "ada/medllama", **changes: Any) -> dict[str, Any]:
    return publish(PublishConfig(**{"package": packaged, "to": f"registry:{host}/{name}"} | changes)).summary


def fetch(host: str, store: Path, source: str = "ada/medllama:f16", **changes: Any) -> dict[str, Any]:
    return pull(PullConfig(**{"source": f"registry:{host}/{source}", "to": f"store:{store}"} | changes)).summary


def bytes_of(packaged: Path, type: str) -> bytes:
    return (packaged / f"medllama-{type}.gguf").read_bytes()


@pytest.mark.server
def test_a_real_registry_takes_a_package_and_gives_it_back(
    docker_registry: str, packaged: Path, tmp_path: Path
) -> None:
    sent = send(packaged, docker_registry, "ada/whole")
    assert (sent["sent_blobs"], sent["sent_manifests"]) == (10, 3)
    again = send(packaged, docker_registry, "ada/whole")
    assert (again["sent_blobs"], again["sent_manifests"]) == (0, 0)
    listed = httpx.get(f"http://{docker_registry}/v2/ada/whole/tags/list").json()["tags"]
    assert sorted(listed) == TAGS
    for tag in TAGS:
        fetch(docker_registry, tmp_path / "store", f"ada/whole:{tag}")
    found = models_of(tmp_path / "store")
    assert list(found) == [f"{docker_registry}/ada/whole/{tag}" for tag in TAGS]
    certified = {file["sha256"] for file in json.loads((packaged / "certificate.json").read_text())["files"]}
    assert {manifest["layers"][0]["digest"].removeprefix("sha256:") for manifest in found.values()} == certified


@pytest.mark.server
def test_a_real_registry_gets_it_through_a_connection_that_breaks(
    docker_registry: str, packaged: Path, tmp_path: Path
) -> None:
    """docker-registry gives an upload up after a piece that was cut: that blob begins again, and ends whole."""
    size = len(bytes_of(packaged, "F16"))
    cuts = [random.Random(5).randrange(1, size // 5) for _ in range(4)]
    with cutting_proxy(docker_registry, cuts) as host:
        send(packaged, host, "ada/broken")
    with cutting_proxy(docker_registry, cuts, answers=True) as host:
        fetch(host, tmp_path / "store", "ada/broken:f16", name="medllama")
    assert list(models_of(tmp_path / "store")) == ["registry.ollama.ai/library/medllama/f16"]


@pytest.mark.server
def test_an_image_of_another_kind_is_not_written_over(docker_registry: str, packaged: Path) -> None:
    """docker-registry answers 404 for an OCI image to a client that does not ask for one."""
    place = f"http://{docker_registry}/v2/ada/image"
    config = b"{}"
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    opened = httpx.post(f"{place}/blobs/uploads/").headers["location"]
    httpx.put(httpx.URL(opened).copy_merge_params({"digest": digest}), content=config).raise_for_status()
    kind = "application/vnd.oci.image.manifest.v1+json"
    described = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": len(config)}
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": described, "layers": []}
    httpx.put(f"{place}/manifests/latest", json=manifest, headers={"Content-Type": kind}).raise_for_status()
    with pytest.raises(InputError, match="ada/image:latest is taken"):
        send(packaged, docker_registry, "ada/image")


def test_two_publishes_at_once_end_whole(registry: FaultyRegistry, packaged: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        both = [pool.submit(send, packaged, registry.host) for _ in range(2)]
    assert all(done.result()["name"] == f"{registry.host}/ada/medllama" for done in both)
    assert sorted(registry.manifests) == TAGS


def test_a_cut_upload_goes_on_from_the_byte_that_arrived(registry: FaultyRegistry, packaged: Path) -> None:
    cuts = random.Random(1)
    registry.faults = [Fault("PATCH", UPLOAD, cut_after=cuts.randrange(2, 128 << 10)) for _ in range(12)]
    send(packaged, registry.host, tag=("f16",))
    digest = hashlib.sha256(bytes_of(packaged, "F16")).hexdigest()
    assert registry.blobs[f"sha256:{digest}"] == bytes_of(packaged, "F16")
    assert not any(fault.times for fault in registry.faults)
    assert registry.received_bytes == sum(map(len, registry.blobs.values())), "no byte twice"


@pytest.mark.parametrize("cut", [0, 1])
def test_a_place_that_cannot_be_told_from_zero_begins_again(registry: FaultyRegistry, packaged: Path, cut: int) -> None:
    registry.faults = [Fault("PATCH", UPLOAD, cut_after=cut)]
    send(packaged, registry.host)
    assert sorted(registry.manifests) == TAGS
    assert sum(path.endswith("/uploads/") for _, path, _ in registry.log) == 11


def test_a_registry_that_sends_in_circles_is_told(registry: FaultyRegistry, packaged: Path) -> None:
    registry.faults = [Fault("GET", "manifests", 307, {"Location": "/v2/ada/medllama/manifests/latest"}, times=10_000)]
    with pytest.raises(ResourceError, match="failed 6 times: Exceeded maximum allowed redirects"):
        send(packaged, registry.host)


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "GET"])
def test_an_answer_that_is_lost_is_asked_for_again(registry: FaultyRegistry, packaged: Path, method: str) -> None:
    registry.faults = [Fault(method, "/", cut_after=0, times=3)]
    send(packaged, registry.host)
    assert sorted(registry.manifests) == TAGS


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize(
    ("method", "path"), [("HEAD", MODEL_BLOB), ("POST", "uploads/$"), ("PATCH", UPLOAD), ("PUT", UPLOAD), ("PUT", "manifests")]
)  # fmt: skip
def test_a_fault_that_passes_is_waited_for(
    registry: FaultyRegistry, packaged: Path, method: str, path: str, status: int
) -> None:
    registry.faults = [Fault(method, path, status, times=3)]
    send(packaged, registry.host)
    assert sorted(registry.manifests) == TAGS
    assert registry.faults[0].times == 0


def test_a_server_that_asks_to_wait_is_obeyed(
    registry: FaultyRegistry, packaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    registry.faults = [Fault("PATCH", UPLOAD, 429, {"Retry-After": "7"})]
    send(packaged, registry.host)
    assert slept == [7.0]
    registry.blobs.clear()
    registry.manifests.clear()
    registry.faults = [Fault("PATCH", UPLOAD, 429, {"Retry-After": "86400"})]
    with pytest.raises(ResourceError, match="429"):
        send(packaged, registry.host)


# What a registry answers for good, and what is said of it.
LASTING: dict[str, tuple[Fault, type[MedllamaError], str, str]] = {
    "500 for ever": (Fault("PATCH", UPLOAD, 500), ResourceError, "failed 6 times: 500 UNKNOWN", "run the same command again"),
    "cut for ever": (Fault("PATCH", UPLOAD, cut_after=0), ResourceError, "failed 6 times: ", "run the same command again"),
    "401": (Fault("POST", "uploads/$", 401, error="UNAUTHORIZED"), InputError, r"says 401 \(UNAUTHORIZED", "docker login"),
    "403": (Fault("POST", "uploads/$", 403, error="DENIED"), InputError, "you may not write to ada/medllama", "namespace"),
    "405": (Fault("POST", "uploads/$", 405), InputError, "the registry is read-only", "another"),
    "404": (Fault("POST", "uploads/$", 404, error="NAME_UNKNOWN"), ResourceError, "says 404", "the name right"),
    "413": (Fault("PATCH", UPLOAD, 413), ResourceError, "even 65,536 bytes are too much", "client_max_body_size"),
    "507": (Fault("PATCH", UPLOAD, 507), ResourceError, "its disk is full", "free some space"),
    "digest": (Fault("PUT", UPLOAD, 400, error="DIGEST_INVALID"), CheckFailed, "what arrived is not what was sent", "again"),
    "no place": (Fault("PATCH", UPLOAD, 202, {"Location": "http://a:port"}), ResourceError, "Invalid port", "run the same"),
    "manifest refused": (Fault("PUT", "manifests", 400, error="MANIFEST_INVALID"), ResourceError, "MANIFEST_INVALID", "OCI"),
}  # fmt: skip


@pytest.mark.parametrize("name", LASTING)
def test_a_fault_that_stays_is_told_and_leaves_no_model(name: str, registry: FaultyRegistry, packaged: Path) -> None:
    fault, error, problem, hint = LASTING[name]
    fault.times = 10_000
    registry.faults = [fault]
    with pytest.raises(error, match=problem) as refused:
        send(packaged, registry.host)
    assert registry.manifests == {}
    assert hint in refused.value.hint
    fault.times = 0
    send(packaged, registry.host)
    assert sorted(registry.manifests) == TAGS


def test_a_proxy_with_a_small_limit_gets_smaller_pieces(registry: FaultyRegistry, packaged: Path) -> None:
    registry.faults = [Fault("PATCH", UPLOAD, 413, body_over=70_000, times=10_000)]
    send(packaged, registry.host)
    assert sorted(registry.manifests) == TAGS


def test_interrupted_and_started_again_sends_what_is_left(
    registry: FaultyRegistry, packaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = oci.Repository.put_manifest

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(oci.Repository, "put_manifest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        send(packaged, registry.host)
    assert registry.manifests == {}
    monkeypatch.setattr(oci.Repository, "put_manifest", put)
    again = send(packaged, registry.host)
    assert (again["sent_blobs"], again["sent_manifests"]) == (0, 3)


def test_nothing_listens(packaged: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        host = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ResourceError, match=r"failed 6 times: .*Connection refused") as refused:
        send(packaged, host)
    assert f"is {host} running" in refused.value.hint


@pytest.mark.parametrize("uses_tokens", [True, False])
def test_a_registry_that_asks_who_it_is_is_told(
    registry: FaultyRegistry, packaged: Path, monkeypatch: pytest.MonkeyPatch, uses_tokens: bool, tmp_path: Path
) -> None:
    registry.user, registry.uses_tokens = ("ada", "p:w"), uses_tokens
    with pytest.raises(InputError, match="401") as refused:
        send(packaged, registry.host)
    assert refused.value.hint == (
        f"log in with docker login {registry.host}, or set MEDLLAMA_REGISTRY_USER and MEDLLAMA_REGISTRY_PASSWORD"
    )
    monkeypatch.setenv(registry_auth.USER, "ada")
    monkeypatch.setenv(registry_auth.PASSWORD, "p:w")
    send(packaged, registry.host)
    assert sorted(registry.manifests) == TAGS
    if uses_tokens:
        assert registry.token_asks[-1] == {"service": ["lab"], "scope": ["repository:ada/medllama:pull,push"]}
    monkeypatch.delenv(registry_auth.USER)
    (tmp_path / "docker").mkdir()
    auth = "YWRhOnA6dw=="  # ada:p:w in base64, as `docker login` stores it
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
    fetch(registry.host, tmp_path / "store")
    assert len(models_of(tmp_path / "store")) == 1


def test_a_password_never_goes_in_the_clear_to_another_machine() -> None:
    auth = registry_auth.RegistryAuth("lab.example")
    flow = auth.sync_auth_flow(httpx.Request("GET", "https://lab.example/v2/"))
    next(flow)
    with pytest.raises(InputError, match="without encryption"):
        flow.send(httpx.Response(401, headers={"WWW-Authenticate": 'Bearer realm="http://tokens.example/"'}))
    request = httpx.Request("GET", "http://lab.example/v2/")
    auth.header = "Bearer sesame"
    assert "Authorization" not in next(auth.sync_auth_flow(request)).headers, (
        "the registry's own name without encryption"
    )
    assert oci.Repository("lab.example", "ada/med").url.scheme == "https"
    assert oci.Repository("localhost:5000", "ada/med").url.scheme == "http"
    assert oci.Repository("[::1]:5000", "ada/med").url.scheme == "http"


@pytest.mark.parametrize("content", [b"no JSON", b"[]", b"{}", b'{"token": 7}'])
def test_a_token_server_that_gives_no_token_is_as_if_it_had_refused(content: bytes) -> None:
    assert registry_auth.read_token(200, content) is None
    assert registry_auth.read_token(401, b'{"token": "sesame"}') is None


def test_an_upload_stays_encrypted_where_the_registry_names_an_unencrypted_place() -> None:
    layer = Layer("any", "sha256:0", 0, b"")
    upload = oci._Upload(oci.Repository("lab.example", "ada/med"), layer, "any")
    request = httpx.Request("POST", "https://lab.example/v2/ada/med/blobs/uploads/")
    upload._follow(httpx.Response(202, headers={"Location": "http://lab.example/v2/1?state=a"}, request=request))
    assert str(upload.location) == "https://lab.example/v2/1?state=a"


def test_a_tag_of_somebody_else_is_not_taken_over(registry: FaultyRegistry, packaged: Path) -> None:
    registry.manifests["latest"] = b'{"schemaVersion": 2, "layers": []}'
    with pytest.raises(InputError, match="ada/medllama:latest is taken by something that medllama did not make"):
        send(packaged, registry.host)
    assert registry.blobs == {}
    assert list(registry.manifests) == ["latest"]


def test_a_tag_that_differs_in_case_alone_is_refused(registry: FaultyRegistry, packaged: Path) -> None:
    send(packaged, registry.host, tag=("q4_K_M",))
    registry.blobs.clear()
    with pytest.raises(InputError, match=f"{registry.host} has the tag q4_K_M, and Q4_K_M differs") as refused:
        send(packaged, registry.host, tag=("Q4_K_M",))
    assert refused.value.hint.endswith(f"write {registry.host}/ada/medllama:q4_K_M")
    assert registry.blobs == {}


@pytest.mark.parametrize("status", [403, 404, 405, 501])
def test_a_registry_that_lists_no_tags_is_published_to(registry: FaultyRegistry, packaged: Path, status: int) -> None:
    registry.faults = [Fault("GET", "tags/list", status)]
    send(packaged, registry.host)
    assert sorted(registry.manifests) == TAGS


@pytest.mark.parametrize(
    "manifest",
    [b"{", b"[]", b'{"layers": [7]}', b'{"layers": [{"mediaType": 7, "digest": 7, "size": 7}]}', b"[" * 9999],
)
def test_what_is_no_manifest_of_ours_is_not_taken_over(
    registry: FaultyRegistry, packaged: Path, manifest: bytes
) -> None:
    registry.manifests["latest"] = manifest
    with pytest.raises(InputError, match="is taken by something that medllama did not make"):
        send(packaged, registry.host)


def test_a_registry_that_keeps_another_manifest_is_caught(registry: FaultyRegistry, packaged: Path) -> None:
    registry.forgets_manifests = True
    with pytest.raises(CheckFailed, match="is not what was sent"):
        send(packaged, registry.host)


def test_a_dry_run_asks_nobody(registry: FaultyRegistry, packaged: Path) -> None:
    summary = send(packaged, registry.host, dry_run=True)
    assert registry.log == []
    assert f"{registry.host}/ada/medllama:latest  (medllama-Q4_K_M.gguf)" in summary["table"]


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("localhost:5000/med", "does not name host, namespace and model"),
        ("med", "does not name host, namespace and model"),
        ("localhost:5000/Ada/med", "has upper case"),
        ("localhost:5000/ada/med-", "cannot stand in a registry's path"),
        ("registry.ollama.ai/ada/med", "from an Ollama server's key only"),
        ("localhost:5000/ada/med:", "cannot be a tag"),
    ],
)
def test_a_wrong_name_is_told_before_the_package_is_read(place: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=problem) as refused:
        publish(PublishConfig(package=tmp_path / "nothing", to=f"registry:{place}"))
    assert refused.value.hint
