"""A small server that speaks enough of Ollama's API for the app: it answers in counted words, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.loopback import LoopbackHandler, serving

MODELS = ("base", "tuned", "far")
FAR = "https://models.example:443"  # who computes the last of them


class OllamaServer:
    """`asked` are the bodies of /api/chat, `left` those whose client went away before the end. A question to stall is answered once
    `gate` is open."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.left: list[str] = []
        self.gate = threading.Event()
        self.url = ""


class Handler(LoopbackHandler):
    ollama: OllamaServer
    protocol_version = "HTTP/1.0"  # an answer ends with its connection

    def do_GET(self) -> None:
        models = [{"name": f"{it}:latest", "model": f"{it}:latest", "digest": it * 16} for it in MODELS]
        self.tell(200, {"models": models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if body["model"] not in MODELS:
            self.tell(404, {"error": f"model '{body['model']}' not found"})
        elif self.path == "/api/show":
            remote = {"remote_host": FAR} if body["model"] == "far" else {}
            self.tell(200, {"template": "", "details": {}, "model_info": {}} | remote)
        elif body.get("_debug_render_only") and "old" not in body["messages"][-1]["content"]:
            rendered = "".join(f"<{it['role']}>{it['content']}" for it in body["messages"])
            self.tell(200, {"model": body["model"], "_debug_info": {"rendered_template": rendered}})
        else:
            self.ollama.asked.append(body)
            self.speak(body)

    def speak(self, body: dict[str, Any]) -> None:
        """Words until the limit, or what the question asks for: to break, to be endless, to be cut."""
        question = body["messages"][-1]["content"]
        if "stall" in question and not self.ollama.gate.wait(30):
            return
        self.send_response(200)
        self.send_header("content-type", "application/x-ndjson")
        self.end_headers()
        words = 10_000 if "endless" in question else 5
        limit = body["options"]["num_predict"]
        try:
            for number in range(1, min(words, limit) + 1):
                if "break" in question and number == 3:
                    self.line({"error": "the model runner stopped"})
                    return
                if "vanish" in question and number == 3:
                    return
                if "babble" in question and number == 3:
                    self.wfile.write(b"<html>\n")
                    return
                self.line({"message": {"role": "assistant", "content": f" {body['model']}{number}"}, "done": False})
                if words > 5:
                    time.sleep(0.01)
            done = {"done": True, "done_reason": "stop" if words <= limit else "length"}
            self.line(
                done
                | {"message": {"role": "assistant", "content": ""}, "eval_count": 5, "prompt_eval_count": 12}
                | {"eval_duration": 250_000_000}
            )
        except OSError:
            self.ollama.left.append(question)

    def line(self, value: dict[str, Any]) -> None:
        self.wfile.write(json.dumps({"model": "m", "created_at": "2026-01-01T00:00:00Z", **value}).encode() + b"\n")
        self.wfile.flush()

    def tell(self, status: int, value: dict[str, Any]) -> None:
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


@contextmanager
def ollama_server() -> Iterator[OllamaServer]:
    """The server, running."""
    ollama = OllamaServer()
    with serving(Handler, ollama=ollama) as host:
        ollama.url = f"http://{host}"
        yield ollama
