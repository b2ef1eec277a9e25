"""A server gets models that were checked under a name that nobody uses; whatever fails, no name stands for half a model."""

from __future__ import annotations

import concurrent.futures
import json
import random
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from medllama.errors import CheckFailed, InputError, MedllamaError, ResourceError
from publish.config import PublishConfig
from publish.gate import open_package
from publish.layers import make_models
from publish.ollama_server import OllamaServer, server_url
from publish.publish import publish
from tests.publish.oci_server import cutting_proxy
from tests.publish.ollama_server import FakeOllama, Fault, fake_ollama
from tests.publish.packages import Made, repackage

pytestmark = pytest.mark.usefixtures("quick_network")

NAMES = ["ada/med:f16", "ada/med:latest", "ada/med:q4_K_M"]
FULL = "write /models/blobs/sha256-1: no space left on device"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOllama]:
    (tmp_path / "ollama").mkdir()
    with fake_ollama(tmp_path / "ollama") as fake:
        monkeypatch.setenv("OLLAMA_HOST", fake.url)
        yield fake


def send(packaged: Path, to: str = "ollama", **changes: Any) -> dict[str, Any]:
    given = {"package": packaged, "to": to} | (
        {"name": "ada/med"} if to.startswith("ollama:") or to == "ollama" else {}
    )
    return publish(PublishConfig(**given | changes)).summary


def test_a_model_is_created_as_packaged_checked_and_named(server: FakeOllama, packaged: Path) -> None:
    summary = send(packaged)
    assert sorted(server.models) == NAMES
    package = open_package(packaged)
    digests = {file.name: f"sha256:{file.sha256}" for file in package.files}
    for name, file in zip(NAMES, ("F16", "Q4_K_M", "Q4_K_M"), strict=True):
        model = server.models[name]
        assert model["digest"] == digests[f"medllama-{file}.gguf"]
        assert model["template"] == package.template
        assert model["system"] == "Answer briefly."
        assert model["parameters"] == {"stop": ["</s>"], "temperature": 0.2, "num_ctx": 128}
        assert model["license"] == "\n".join(package.licences)
    checked = {"prompts": 3, "answer_ends": True}
    assert summary["checked"] == dict.fromkeys(digests, checked)
    asked = [it["path"] for it in server.asked]
    assert asked.count("/api/create") == 2, "two tags of one file are one creation"


def test_a_blob_that_is_there_is_not_sent_again(server: FakeOllama, packaged: Path) -> None:
    send(packaged)
    server.log.clear()
    send(packaged)
    assert [method for method, path in server.log if "/blobs/" in path] == ["HEAD", "HEAD"]
    assert sorted(server.models) == NAMES


# What a server answers, and what is said of it. None of it leaves a named model.
LASTING: dict[str, tuple[Fault, type[MedllamaError], str]] = {
    "version is no answer": (Fault("GET", "version", 200), ResourceError, "is no Ollama server"),
    "digest mismatch": (Fault("POST", "blobs", 400, "digest mismatch"), CheckFailed, "refused .*: digest mismatch"),
    "500 on a blob": (Fault("POST", "blobs", 500, "boom"), ResourceError, "failed 6 times: 500 boom"),
    "413 on a blob": (Fault("POST", "blobs", 413, "too large"), ResourceError, r"takes no file of .* \(413 too large\)"),
    "disk full on a blob": (Fault("POST", "blobs", 500, FULL), ResourceError, "the disk of the server at .* is full"),
    "connection lost on a blob": (Fault("POST", "blobs", cut_after=70_000), ResourceError, "failed 6 times"),
    "500 at create": (Fault("POST", "create", 500, "boom"), ResourceError, "creating .* failed at .*: boom"),
    "an error while it streams": (
        Fault("POST", "create", lines=[{"status": "parsing GGUF"}, {"error": "invalid file magic"}]),
        ResourceError, "invalid file magic"),
    "disk full while it streams": (
        Fault("POST", "create", lines=[{"status": "parsing GGUF"}, {"error": FULL}]), ResourceError, "is full"),
    "a stream that ends early": (
        Fault("POST", "create", lines=[{"status": "parsing GGUF"}]), ResourceError, "it ended with 'parsing GGUF'"),
    "connection lost at create": (Fault("POST", "create", cut_after=0), ResourceError, "the connection was lost"),
    "500 at show": (Fault("POST", "show", 500, "boom"), ResourceError, "boom"),
    "500 at a prompt": (Fault("POST", "chat", 500, "llama runner terminated"), ResourceError, "llama runner terminated"),
    "401": (Fault("POST", "show", 401, "unauthorized"), ResourceError, "unauthorized"),
    "403": (Fault("POST", "create", 403, "forbidden"), ResourceError, "creating .* failed at .*: forbidden"),
    "429 at create": (Fault("POST", "create", 429, "busy"), ResourceError, "creating .* failed at .*: busy"),
    "a page in the place of an answer": (Fault("GET", "tags", 200, body=b"<html>"), ResourceError, "is not one of Ollama's"),
    "another service's models": (Fault("GET", "tags", 200, body=b"[]"), ResourceError, "is not one of Ollama's"),
    "another service's model": (Fault("POST", "show", 200, body=b'{"license": 7}'), ResourceError, "is not one of Ollama's"),
    "a page while it streams": (Fault("POST", "create", 200, body=b"<html>"), ResourceError, "is not one of Ollama's"),
    "a stream of something else": (Fault("POST", "create", lines=[[7]]), ResourceError, "is not one of Ollama's"),
    "500 at copy": (Fault("POST", "copy", 500, "boom"), ResourceError, "naming ada/med:latest failed"),
}  # fmt: skip


@pytest.mark.parametrize("name", LASTING)
def test_a_fault_that_stays_is_told_and_leaves_no_model(name: str, server: FakeOllama, packaged: Path) -> None:
    fault, error, problem = LASTING[name]
    fault.times = 10_000
    server.faults = [fault]
    with pytest.raises(error, match=problem) as refused:
        send(packaged)
    assert refused.value.hint
    assert server.models == {}, "neither a name nor what was not checked is left"
    fault.times = 0
    send(packaged)
    assert sorted(server.models) == NAMES


@pytest.mark.parametrize("fault", [Fault("POST", "blobs", 503), Fault("POST", "blobs", cut_after=50_000),
                                   Fault("HEAD", "blobs", cut_after=0), Fault("POST", "blobs", 429)])  # fmt: skip
def test_a_fault_that_passes_is_waited_for(server: FakeOllama, packaged: Path, fault: Fault) -> None:
    fault.times = 3
    server.faults = [fault]
    send(packaged)
    assert sorted(server.models) == NAMES
    assert fault.times == 0


def test_nobody_listens(packaged: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ResourceError) as refused:
        send(packaged, f"ollama:{url}")
    assert refused.value.message == f"no Ollama server answers at {url}"
    assert refused.value.hint.startswith("start it (ollama serve)")


@pytest.mark.parametrize(
    ("version", "is_taken"), [("0.5.4", False), ("0.5.5", True), ("0.0.0", True), ("0.34.0-rc1", True)]
)
def test_a_server_that_is_too_old_is_told_before_anything_is_sent(
    version: str, is_taken: bool, server: FakeOllama, packaged: Path
) -> None:
    server.version = version
    if is_taken:
        send(packaged)
        return
    with pytest.raises(ResourceError) as refused:
        send(packaged)
    assert refused.value.message == f"the Ollama server at {server.url} is 0.5.4, and 0.5.5 is needed"
    assert refused.value.hint == "update it: https://ollama.com/download"
    assert server.log == [("GET", "/api/version")]


def test_a_package_without_a_template_asks_for_a_server_that_renders_jinja(
    server: FakeOllama, made: Callable[..., Made], tmp_path: Path
) -> None:
    template = tmp_path / "trims.jinja"
    template.write_text("{%- for m in messages -%}{{- bos_token + m['content'] | trim + eos_token -}}{%- endfor -%}")
    folder = repackage(made(), str(template)).package()
    server.version = "0.29.9"
    with pytest.raises(ResourceError, match=r"is 0\.29\.9, and 0\.30\.0 is needed"):
        send(folder)
    (config,) = {model.config.source for model in make_models(open_package(folder), ["latest"])}
    assert isinstance(config, bytes)
    assert json.loads(config)["requires"] == "0.30.0"


def earlier(license: str) -> dict[str, Any]:
    return {"digest": "", "template": "", "system": "", "license": license, "parameters": {},
            "modified_at": datetime.now(UTC).isoformat()}  # fmt: skip


def test_a_model_that_medllama_did_not_make_is_not_replaced(server: FakeOllama, packaged: Path) -> None:
    server.models["ada/med:q4_K_M"] = earlier("MIT License")
    with pytest.raises(InputError) as refused:
        send(packaged)
    assert refused.value.message == f"{server.url} already has a model ada/med:q4_K_M that medllama did not make"
    assert list(server.models) == ["ada/med:q4_K_M"]
    assert not any("/blobs/" in path for _, path in server.log)


def test_a_tag_that_differs_in_case_alone_is_refused(server: FakeOllama, packaged: Path) -> None:
    send(packaged, tag=("q4_K_M",))
    server.log.clear()
    with pytest.raises(InputError, match=f"{server.url} has the tag q4_K_M, and Q4_K_M differs") as refused:
        send(packaged, tag=("Q4_K_M",))
    assert refused.value.hint == "to Ollama they are one name: write ada/med:q4_K_M"
    assert list(server.models) == ["ada/med:q4_K_M"]
    assert not any("/blobs/" in path for _, path in server.log)


def test_an_earlier_model_of_ours_stays_until_the_new_one_is_checked(server: FakeOllama, packaged: Path) -> None:
    server.models["ada/med:latest"] = before = earlier("converted to GGUF by medllama")
    server.done_reason = "length"
    with pytest.raises(CheckFailed, match=r"an answer did not end within 1024 tokens \(length\)"):
        send(packaged)
    assert server.models == {"ada/med:latest": before}
    server.done_reason = "stop"
    send(packaged)
    assert server.models["ada/med:latest"]["digest"] != ""


def test_another_prompt_than_the_trained_one_is_caught(
    server: FakeOllama, packaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.publish.ollama_server.layout_of", lambda path: ("another template", None))
    with pytest.raises(CheckFailed, match=r"makes another prompt than the model was trained with: '<\|im_start\|>"):
        send(packaged)
    assert server.models == {}


def test_a_lost_template_is_caught(server: FakeOllama, packaged: Path) -> None:
    server.template_is_lost = True
    with pytest.raises(CheckFailed, match="has another TEMPLATE"):
        send(packaged)
    assert server.models == {}


def test_a_server_that_does_not_show_prompts_is_said(
    server: FakeOllama, packaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.shows_prompts = False
    assert send(packaged)["checked"]["medllama-F16.gguf"] == {"prompts": 0, "answer_ends": True}
    assert "does not show its prompts" in capsys.readouterr().err


def test_llama3_prompts_are_compared_too(server: FakeOllama, made: Callable[..., Made]) -> None:
    summary = send(made("llama3").package(name="llama-med"), name="ada/llama-med")
    assert summary["checked"]["medllama-F16.gguf"] == {"prompts": 3, "answer_ends": True}


def test_what_a_killed_publish_left_is_removed_once_it_is_old(server: FakeOllama, packaged: Path) -> None:
    old = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    server.models["ada/med:unchecked-aaaa"] = earlier("") | {"modified_at": old}
    server.models["ada/med:unchecked-bbbb"] = earlier("")  # somebody may be at work
    server.models["bob/med:unchecked-cccc"] = earlier("") | {"modified_at": old}
    send(packaged)
    assert sorted(server.models) == sorted([*NAMES, "ada/med:unchecked-bbbb", "bob/med:unchecked-cccc"])


def test_a_dry_run_asks_nobody(server: FakeOllama, packaged: Path) -> None:
    assert "ada/med:latest  (medllama-Q4_K_M.gguf)" in send(packaged, dry_run=True)["table"]
    send(packaged, "ollama-hub:ada/med", dry_run=True)
    assert server.log == []


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("lab", "http://lab:11434"),
        ("lab:80", "http://lab"),
        ("http://lab", "http://lab"),
        ("https://lab:1234/", "https://lab:1234"),
        ("0.0.0.0:11434", "http://127.0.0.1:11434"),
    ],
)
def test_addresses_are_read_as_ollama_reads_them(place: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    assert server_url(place) == url
    monkeypatch.setenv("OLLAMA_HOST", place)
    assert server_url("") == url


@pytest.mark.parametrize("place", ["ftp://lab", "http://", "http://lab:port"])
def test_what_is_no_address_is_refused(place: str) -> None:
    with pytest.raises(InputError, match="is no address of a server"):
        server_url(place)


def test_a_push_sends_every_tag_to_the_hub(server: FakeOllama, packaged: Path) -> None:
    server.account = {"name": "ada"}
    send(packaged, "ollama-hub:ada/med")
    assert sorted(server.hub) == NAMES
    server.hub.clear()
    send(packaged, "ollama-hub:ada/med:v2")
    assert sorted(server.hub) == ["ada/med:v2"]


def test_who_is_not_signed_in_learns_where_the_key_goes(server: FakeOllama, packaged: Path) -> None:
    server.account = None
    with pytest.raises(InputError) as refused:
        send(packaged, "ollama-hub:ada/med")
    assert refused.value.message == f"the Ollama server at {server.url} may not push: the hub does not know its key"
    for part in ("https://ollama.com/connect?name=here", "~/.ollama/id_ed25519.pub", "/usr/share/ollama/.ollama/",
                 "https://ollama.com/settings/keys"):  # fmt: skip
        assert part in refused.value.hint
    assert server.models == {}
    assert not any("/blobs/" in path for _, path in server.log), "nothing was uploaded"


@pytest.mark.parametrize(
    ("told", "error", "problem"),
    [
        ("you are not authorized to push to this namespace", InputError, "the hub does not know its key"),
        ("unauthorized", InputError, "the hub does not know its key"),
        ("push access denied: access denied", InputError, "the hub refuses ada/med:latest: push access denied"),
    ],
)
def test_what_the_hub_refuses_is_not_tried_again(
    told: str, error: type[MedllamaError], problem: str, server: FakeOllama, packaged: Path
) -> None:
    server.faults = [Fault("POST", "push", lines=[{"status": "retrieving manifest"}, {"error": told}], times=10)]
    with pytest.raises(error, match=problem):
        send(packaged, "ollama-hub:ada/med")
    assert server.faults[0].times == 9
    assert server.hub == {}


@pytest.mark.parametrize("lines", [
    [{"status": "retrieving manifest"}, {"error": "max retries exceeded: http status 502 Bad Gateway: sha256:401403"}],
    [{"status": "pushing 0123", "digest": "sha256:0123", "total": 9, "completed": 5}],
])  # fmt: skip
def test_a_push_that_breaks_is_gone_on_with(lines: list[dict[str, Any]], server: FakeOllama, packaged: Path) -> None:
    server.faults = [Fault("POST", "push", lines=lines, times=3), Fault("POST", "push", cut_after=0, times=2)]
    send(packaged, "ollama-hub:ada/med")
    assert sorted(server.hub) == NAMES
    server.faults = [Fault("POST", "push", lines=lines, times=1000)]
    with pytest.raises(ResourceError, match=r"pushing ada/med:latest failed \d+ times") as refused:
        send(packaged, "ollama-hub:ada/med")
    assert refused.value.hint == "run the same command again: what arrived is not sent twice"


def test_another_account_is_refused_before_anything_is_uploaded(server: FakeOllama, packaged: Path) -> None:
    server.account = {"name": "Bob"}
    with pytest.raises(InputError) as refused:
        send(packaged, "ollama-hub:ada/med")
    assert refused.value.message == "the server is signed in as Bob, and may not push to ada"
    assert "ollama-hub:bob/med" in refused.value.hint
    assert not any("/blobs/" in path for _, path in server.log)
    send(packaged, "ollama-hub:bob/med")
    assert sorted(server.hub) == ["bob/med:f16", "bob/med:latest", "bob/med:q4_K_M"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "push", 413, "request entity too large"),
        Fault("POST", "push", 404, "model not found"),
        Fault("POST", "push", lines=[{"error": "http status 413 Request Entity Too Large"}]),
    ],
)
def test_what_a_push_cannot_mend_by_trying_again_is_told_at_once(
    fault: Fault, server: FakeOllama, packaged: Path
) -> None:
    fault.times = 10
    server.faults = [fault]
    with pytest.raises(ResourceError, match="pushing ada/med:latest failed at"):
        send(packaged, "ollama-hub:ada/med")
    assert fault.times == 9
    assert server.hub == {}


@pytest.mark.parametrize("body", [b"<html>", b"[7]", b'{"status": 7}'])
def test_a_push_that_is_answered_with_something_else_is_told(body: bytes, server: FakeOllama, packaged: Path) -> None:
    server.faults = [Fault("POST", "push", 200, body=body, times=10_000)]
    with pytest.raises(ResourceError, match="pushing ada/med:latest failed 6 times"):
        send(packaged, "ollama-hub:ada/med")


def test_the_hub_needs_a_server_and_one_that_is_new_enough(
    server: FakeOllama, packaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.version = "0.5.4"
    with pytest.raises(ResourceError, match=r"is 0\.5\.4, and 0\.5\.5 is needed"):
        send(packaged, "ollama-hub:ada/med")
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(ResourceError, match="no Ollama server answers at"):
        send(packaged, "ollama-hub:ada/med")
    assert server.hub == server.models == {}


def test_two_pushes_at_once_end_whole(server: FakeOllama, packaged: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        both = [pool.submit(send, packaged, "ollama-hub:ada/med") for _ in range(2)]
    assert [done.result()["name"] for done in both] == ["ada/med", "ada/med"]
    assert sorted(server.hub) == sorted(server.models) == NAMES


def test_a_push_that_was_interrupted_goes_on_with_what_is_there(
    server: FakeOllama, packaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = OllamaServer.push
    interrupt_the_second(monkeypatch, "push")
    with pytest.raises(KeyboardInterrupt):
        send(packaged, "ollama-hub:ada/med")
    assert list(server.hub) == ["ada/med:latest"]
    monkeypatch.setattr(OllamaServer, "push", push)
    server.log.clear()
    send(packaged, "ollama-hub:ada/med")
    assert sorted(server.hub) == NAMES
    assert not any(method == "POST" and "/blobs/" in path for method, path in server.log), "nothing is sent twice"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_push_to_a_busy_server_is_tried_again(status: int, server: FakeOllama, packaged: Path) -> None:
    server.faults = [Fault("POST", "push", status, "busy", times=3)]
    send(packaged, "ollama-hub:ada/med")
    assert sorted(server.hub) == NAMES


def is_whole(server: FakeOllama, packaged: Path) -> bool:
    """Whether every model that has a name is a file of the package with its template, whichever of them there are."""
    package = open_package(packaged)
    digests = {f"sha256:{file.sha256}" for file in package.files}
    named = {name: it for name, it in server.models.items() if "unchecked-" not in name}
    return set(named) <= set(NAMES) and all(
        it["digest"] in digests and it["template"] == package.template for it in named.values()
    )


@pytest.mark.parametrize("answers", [False, True])
def test_a_connection_that_breaks_at_any_byte_leaves_whole_models(
    answers: bool, server: FakeOllama, packaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cuts, broken = random.Random(2), 0
    size = 300 if answers else sum(path.stat().st_size for path in packaged.glob("*.gguf"))
    for number in range(6):
        server.models.clear()
        for path in server.folder.iterdir():
            path.unlink()
        # The first connection carries the files, the second everything that the client library asks.
        cut = [cuts.randrange(1, size)] if number % 2 else [1 << 30, cuts.randrange(1, 300 if answers else 3000)]
        with cutting_proxy(server.url.removeprefix("http://"), cut, answers=answers) as host:
            try:
                send(packaged, f"ollama:http://{host}")
            except MedllamaError:
                broken += 1
        broken += "trying again" in capsys.readouterr().err
        assert is_whole(server, packaged)
    assert broken >= 3, "cuts that nothing came of show nothing"
    send(packaged)
    assert set(NAMES) <= set(server.models)


def test_two_publishes_at_once_end_whole(server: FakeOllama, packaged: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        both = [pool.submit(send, packaged) for _ in range(2)]
    assert [done.result()["name"] for done in both] == ["ada/med", "ada/med"]
    assert sorted(server.models) == NAMES


def interrupt_the_second(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """The first call of a method goes through, the second ends as with Ctrl-C."""
    real, left = getattr(OllamaServer, method), [1]

    def interrupted(*arguments: Any) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        real(*arguments)

    monkeypatch.setattr(OllamaServer, method, interrupted)


def test_interrupted_and_started_again(server: FakeOllama, packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = OllamaServer.copy
    interrupt_the_second(monkeypatch, "copy")
    with pytest.raises(KeyboardInterrupt):
        send(packaged)
    assert list(server.models) == ["ada/med:latest"], "whole, and what was not checked is gone"
    monkeypatch.setattr(OllamaServer, "copy", copy)
    server.log.clear()
    send(packaged)
    assert sorted(server.models) == NAMES
    assert not any(method == "POST" and "/blobs/" in path for method, path in server.log), "nothing is sent twice"


@pytest.mark.parametrize(
    ("place", "hint"),
    [
        ("med", "write ollama-hub:USER/NAME[:TAG]"),
        ("Ada/Med", "write ada/med"),
        ("lab:5000/ada/med", "write ollama-hub:USER/NAME[:TAG]"),
    ],
)
def test_a_wrong_name_is_told_before_the_package_is_read(place: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        publish(PublishConfig(package=tmp_path / "nothing", to=f"ollama-hub:{place}"))
    assert refused.value.hint == hint


def test_progress_is_told_as_one_json_object(
    server: FakeOllama, packaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from medllama import cli

    assert cli.main(["publish", "--package", str(packaged), "--to", "ollama", "--name", "ada/med", "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert (out["name"], list(out["tags"])) == ("ada/med", ["latest", "f16", "q4_K_M"])
    server.faults = [Fault("POST", "create", 500, "boom")]
    assert cli.main(["publish", "--package", str(packaged), "--to", "ollama", "--name", "ada/med"]) == 1
    assert "error: creating medllama-Q4_K_M.gguf failed at" in capsys.readouterr().err
