"""The server around the page: where it listens, whom it answers, what it forbids the browser, and how it ends."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from app.serve import listen
from medllama.cli import main
from medllama.errors import InputError, ResourceError
from tests.app.serving import Server, served


def ask(
    server: Server, path: str, method: str = "GET", body: str = "", **headers: str
) -> tuple[int, http.client.HTTPMessage, str]:
    """Status, headers and text of one request."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    found = answer.status, answer.headers, answer.read().decode(errors="replace")
    connection.close()
    return found


def test_the_server_answers_this_machine_alone_and_ends_at_ctrl_c_with_status_0(embedded: list[Path]) -> None:
    with served("--model", str(embedded[0])) as server:
        status, headers, page = ask(server, "/")
        assert status == 200
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        config = json.loads(ask(server, "/config")[2])
        assert config["analytics_enabled"] is False
        assert "https://fonts" not in page
        assert ask(server, "/", Host="evil.example")[0] == 421, "a name that was given this machine's address"
        upload = '--a\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nsome text\r\n--a--\r\n'
        found = ask(server, "/gradio_api/upload", "POST", upload, Content_Type="multipart/form-data; boundary=a")
        assert found[0] == 404, "the page takes text, not files"
        assert ask(server, "/monitoring")[0] == 403
        assert server.interrupt() == 0
        assert server.beyond() == []
        assert "Traceback" not in server.log.read_text()
        assert server.process.stdout is not None
        assert server.process.stdout.read() == b""


def test_with_a_password_nothing_is_shown_without_it(embedded: list[Path], tmp_path: Path) -> None:
    (tmp_path / "password").write_text("correct horse\nnot this line\n")
    given = ["--model", str(embedded[0]), "--host", "0.0.0.0", "--password-file", str(tmp_path / "password")]
    with served(*given) as server:
        server.url = server.url.replace("0.0.0.0", "127.0.0.1")
        for path in ("/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=a"):
            assert ask(server, path)[0] == 401
        joining = json.dumps({"fn_index": 0, "data": ["Gout?", None], "session_hash": "a"})
        assert ask(server, "/gradio_api/queue/join", "POST", joining, Content_Type="application/json")[0] == 401
        form = {"Content_Type": "application/x-www-form-urlencoded"}
        for password, status in (("wrong", 400), ("not this line", 400), ("correct horse", 200)):
            body = urlencode({"username": "medllama", "password": password})
            found, headers, _ = ask(server, "/login", "POST", body, **form)
            assert found == status
        cookie = "; ".join(it.partition(";")[0] for it in headers.get_all("set-cookie", []))
        assert ask(server, "/config", Cookie=cookie)[0] == 200
        assert "correct horse" not in server.log.read_text()


def test_a_port_that_is_taken_gives_the_next_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with listen("127.0.0.1", port) as listener:
            assert port < listener.getsockname()[1] < port + 20
    with listen("127.0.0.1", 0) as one, listen("localhost", 0) as other:
        assert one.getsockname()[1] != other.getsockname()[1]


def test_an_address_that_is_not_this_machines_is_told() -> None:
    with pytest.raises(ResourceError, match=r"no port of 192\.0\.2\.1 from 0 to 0 can be used"):
        listen("192.0.2.1", 0)
    with pytest.raises(InputError, match="no such host is no address of this machine"):
        listen("no such host", 0)


def test_what_is_wrong_with_a_model_shows_before_the_server_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.gguf").write_text("no GGUF")
    assert main(["app", "--model", str(tmp_path / "text.gguf"), "--port", "0"]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {tmp_path}/text.gguf is no GGUF, or it is cut short")
    assert "http://" not in shown.err
    assert main(["app", "--model", "a.gguf", "--host", "0.0.0.0"]) == 2
    assert "needs a --password-file" in capsys.readouterr().err
