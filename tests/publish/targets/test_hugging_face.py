"""A repository of the hub is the package, and what `ollama run hf.co/...` reads; all of it in one commit, or nothing."""

from __future__ import annotations

import concurrent.futures
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import huggingface_hub.utils._http as hub_http
import pytest
from huggingface_hub import HfApi

from medllama.errors import InputError, MedllamaError, ResourceError
from publish.config import PublishConfig
from publish.gate import open_package
from publish.publish import publish
from tests.publish.hf_server import FakeHub, fake_hub
from tests.publish.oci_server import cutting_proxy
from tests.publish.packages import Made, repackage

# huggingface_hub 2.4 sends large files in a way that its own HTTP library calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # the hub's own store is not imitated
    monkeypatch.setattr(hub_http.time, "sleep", lambda seconds: None)
    with fake_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.url)  # read when it was imported
        monkeypatch.setenv("HF_TOKEN", running.token)
        yield running


def send(packaged: Path, to: str = "hf:ada/MedLlama", **changes: Any) -> dict[str, Any]:
    return publish(PublishConfig(**{"package": packaged, "to": to} | changes)).summary


def test_the_repository_is_the_package_and_what_ollama_reads(hub: FakeHub, packaged: Path) -> None:
    summary = send(packaged)
    files = hub.repositories["ada/MedLlama"]
    for path in packaged.iterdir():
        assert files[path.name] == path.read_bytes()
    package = open_package(packaged)
    assert files["template"].decode() == package.template
    assert files["system"] == b"Answer briefly."
    assert json.loads(files["params"]) == {"stop": ["</s>"], "temperature": 0.2, "num_ctx": 128}
    assert set(files) == {path.name for path in packaged.iterdir()} | {".gitattributes", "template", "system", "params"}
    assert summary["tags"] == {}
    assert "ollama run hf.co/ada/MedLlama:Q4_K_M" in "\n".join(summary["table"])
    assert [path for method, path in hub.log if "/commit/" in path] == ["/api/models/ada/MedLlama/commit/main"]


def test_nothing_of_an_earlier_package_is_left(hub: FakeHub, made: Callable[..., Made]) -> None:
    given = made()
    send(given.package(system="Be brief."))
    hub.repositories["ada/MedLlama"]["figure.png"] = b"their own"
    summary = send(given.package(gguf=(str(given.files[1]),)))
    files = hub.repositories["ada/MedLlama"]
    gone = {"medllama-F16.gguf", "Modelfile.f16", "system"}
    assert not gone & set(files), "people would run them under the new card"
    assert {"medllama-Q4_K_M.gguf", "Modelfile.q4_K_M", "template", "params", "figure.png", ".gitattributes"} <= set(
        files
    )
    assert "3 of an earlier package taken out" in summary["line"]


def test_what_the_hub_has_is_not_sent_again(hub: FakeHub, packaged: Path) -> None:
    send(packaged)
    hub.log.clear()
    send(packaged)
    assert not any(path.startswith("/lfs/") for _, path in hub.log)


def test_a_dry_run_lists_every_file_and_asks_nobody(hub: FakeHub, packaged: Path) -> None:
    table = send(packaged, dry_run=True)["table"]
    assert hub.log == []
    for name in [*(path.name for path in packaged.iterdir()), "template", "system", "params"]:
        assert any(line.endswith(f"  {name}") for line in table)


def test_what_the_hub_makes_of_a_package_without_a_template_is_said(
    hub: FakeHub, made: Callable[..., Made], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = tmp_path / "trims.jinja"
    template.write_text("{%- for m in messages -%}{{- bos_token + m['content'] | trim + eos_token -}}{%- endfor -%}")
    send(repackage(made(), str(template)).package())
    assert "the hub picks one that may be wrong" in capsys.readouterr().err
    assert "template" not in hub.repositories["ada/MedLlama"]


def test_another_repository_is_not_written_over(hub: FakeHub, packaged: Path) -> None:
    hub.repositories["ada/MedLlama"] = {"README.md": b"", "model.safetensors": b"years of work"}
    with pytest.raises(InputError, match="holds something that medllama did not make"):
        send(packaged)
    assert set(hub.repositories["ada/MedLlama"]) == {"README.md", "model.safetensors"}


@pytest.mark.parametrize(
    ("method", "path", "status", "error", "problem", "hint"),
    [
        ("POST", "repos/create", 401, InputError, "making the repository failed: .* says 401", "hf auth login"),
        ("POST", "repos/create", 403, InputError, "says 403", "is ada yours"),
        ("POST", "objects/batch", 413, ResourceError, "uploading failed: .* says 413", "quota"),
        ("PUT", "/lfs/", 500, ResourceError, "says 500", "not sent twice"),
        (
            "PUT",
            "/lfs/",
            400,
            ResourceError,
            "says 400",
            "run the same command again",
        ),  # what arrived is not what was sent
        ("POST", "/commit/", 500, ResourceError, "uploading failed: .* says 500", "run the same command again"),
        ("POST", "/commit/", 429, ResourceError, "says 429", "run the same command again"),
    ],
)
def test_a_fault_is_told_and_leaves_no_half_model(
    method: str,
    path: str,
    status: int,
    error: type[MedllamaError],
    problem: str,
    hint: str,
    hub: FakeHub,
    packaged: Path,
) -> None:
    hub.faults[(method, path)] = status
    with pytest.raises(error, match=problem) as refused:
        send(packaged)
    assert hint in refused.value.hint
    assert set(hub.repositories.get("ada/MedLlama", {})) <= {".gitattributes"}
    hub.faults.clear()
    send(packaged)
    assert "medllama-Q4_K_M.gguf" in hub.repositories["ada/MedLlama"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "repos/create"),
        ("GET", "/tree/"),
        ("POST", "/preupload/"),
        ("POST", "objects/batch"),
        ("POST", "/commit/"),
    ],
)
def test_another_service_in_the_hubs_place_is_told(method: str, path: str, hub: FakeHub, packaged: Path) -> None:
    hub.faults[method, path] = [7]
    with pytest.raises(ResourceError, match=f"{hub.url} does not answer as the hub does") as refused:
        send(packaged)
    assert refused.value.hint == "is HF_ENDPOINT right?"
    assert set(hub.repositories.get("ada/MedLlama", {})) <= {".gitattributes"}


def test_a_wrong_token_is_told(hub: FakeHub, packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(InputError) as refused:
        send(packaged)
    assert "hf auth login" in refused.value.hint


def test_a_connection_that_breaks_at_any_byte_leaves_all_or_nothing(
    hub: FakeHub, packaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = random.Random(3)
    size = sum(path.stat().st_size for path in packaged.iterdir())
    broken = 0
    for number in range(10):
        hub.repositories.clear()
        hub.large.clear()
        cut = cuts.randrange(1, size if number % 3 == 0 else 3000)
        broken += _breaks(hub, packaged, monkeypatch, cut, answers=number % 2 == 0)
    assert broken, "a cut that nothing came of shows nothing"
    send(packaged)
    assert "medllama-Q4_K_M.gguf" in hub.repositories["ada/MedLlama"]


def _breaks(hub: FakeHub, packaged: Path, monkeypatch: pytest.MonkeyPatch, cut: int, *, answers: bool) -> bool:
    """Whether publishing fails where its first connection is cut after so many bytes; the repository is whole or empty."""
    direct, is_broken = hub.url, False
    with cutting_proxy(direct.removeprefix("http://"), [cut], answers=answers) as host:
        hub.url = f"http://{host}"
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        try:
            send(packaged)
        except MedllamaError:
            is_broken = True
    hub.url = direct
    monkeypatch.setenv("HF_ENDPOINT", direct)
    files = set(hub.repositories.get("ada/MedLlama", {})) - {".gitattributes"}
    assert files in (set(), whole(packaged))
    return is_broken


def test_two_publishes_at_once_end_whole(hub: FakeHub, packaged: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        both = [pool.submit(send, packaged) for _ in range(2)]
    assert all("files in hf.co/ada/MedLlama" in done.result()["line"] for done in both)
    assert whole(packaged) <= set(hub.repositories["ada/MedLlama"])


def test_interrupted_and_started_again_sends_what_is_left(
    hub: FakeHub, packaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = HfApi.create_commit

    def interrupted(self: HfApi, repository: str, operations: list[Any], **given: Any) -> None:
        self.preupload_lfs_files(repository, operations)
        raise KeyboardInterrupt

    monkeypatch.setattr(HfApi, "create_commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        send(packaged)
    assert set(hub.repositories["ada/MedLlama"]) == {".gitattributes"}
    monkeypatch.setattr(HfApi, "create_commit", commit)
    hub.log.clear()
    send(packaged)
    assert whole(packaged) <= set(hub.repositories["ada/MedLlama"])
    assert not any(path.startswith("/lfs/") for _, path in hub.log), "what arrived is not sent twice"


def whole(packaged: Path) -> set[str]:
    """What a repository of the package has."""
    return {path.name for path in packaged.iterdir()} | {"template", "system", "params"}


def test_nobody_listens(hub: FakeHub, packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ResourceError, match=r"failed at http://127\.0\.0\.1:9: .*refused"):
        send(packaged)


def test_offline_is_offline(hub: FakeHub, packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ResourceError, match="HF_HUB_OFFLINE is set"):
        send(packaged)
    assert hub.log == []


def test_llama3_asks_for_its_name_here_too(hub: FakeHub, made: Callable[..., Made]) -> None:
    folder = made("llama3").package(name="llama-med")
    with pytest.raises(InputError, match="does not begin with Llama"):
        send(folder)
    send(folder, "hf:ada/Llama-3.2-Med")
    assert list(hub.repositories) == ["ada/Llama-3.2-Med"]


@pytest.mark.parametrize("place", ["med", "", "ada/", "ada/med/x", "ada/m ed", "ada/-med"])
def test_a_wrong_name_is_told_before_the_package_is_read(place: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        publish(PublishConfig(package=tmp_path / "nothing", to=f"hf:{place}"))
    assert refused.value.hint == "write hf:USER/REPO"


def test_tags_are_told_to_mean_nothing(packaged: Path) -> None:
    with pytest.raises(InputError, match="has no tags"):
        send(packaged, tag=("v1",))
