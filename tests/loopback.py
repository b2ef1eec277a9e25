"""What the servers of the tests share: a real socket on loopback, for as long as a test needs it.

    with serving(Handler, hub=hub) as host:

`host` is 127.0.0.1:PORT, and every request finds `self.hub`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class LoopbackHandler(BaseHTTPRequestHandler):
    """A handler that says nothing, and takes it as it comes when a client goes away."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are written apart, which would cost 40 ms an answer

    def log_message(self, *arguments: object) -> None:
        pass

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):
            super().handle_one_request()

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        length = {} if status == 204 else {"Content-Length": str(len(body))}
        self.send_response(status)
        for key, value in {**length, **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serving(handler: type[LoopbackHandler], **state: Any) -> Iterator[str]:
    """A server with `handler`, whose requests have `state` as attributes; yields its host and port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), state))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
