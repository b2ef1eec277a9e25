"""`medllama app` as its own process that is watched: an attempt to reach beyond this machine is refused and written down.

with served("--model", "a.gguf") as server:
    server.url, server.beyond()
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
BEYOND = "BEYOND THIS MACHINE:"
# Runs before anything of medllama is imported.
WATCHED = f"""
import socket, sys, time
LOCAL = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "", None)
def watch(name, place):
    real = getattr(*place)
    def watched(*arguments, **given):
        address = next((it for it in arguments if isinstance(it, (tuple, str))), None)
        host = address[0] if isinstance(address, tuple) else address
        if host not in LOCAL and not str(host).startswith(("127.", "/")):
            print({BEYOND!r}, name, host, file=sys.stderr, flush=True)
            raise OSError("refused by the test")
        return real(*arguments, **given)
    setattr(*place, watched)
for name in ("connect", "connect_ex"):
    watch(name, (socket.socket, name))
for name in ("getaddrinfo", "gethostbyname"):
    watch(name, (socket, name))
from medllama import llamacpp
from medllama.cli import main
exec(sys.argv.pop(1))
sys.exit(main())
"""
# What a test may do to the server: a small model as slow as a large one, so that an answer takes minutes; a model that breaks at
# its fifth step; and a machine whose memory holds the larger one of the two embedded files.
SHORT_OF_MEMORY = """
import psutil
memory = psutil.virtual_memory()
psutil.virtual_memory = lambda: memory._replace(available=11_000_000)
"""
_SLOW = """
real_decode = llamacpp.Context.decode
def slow(self, ids, **given):
    time.sleep(SECONDS)
    return real_decode(self, ids, **given)
llamacpp.Context.decode = slow
"""
SLOW, VERY_SLOW = (_SLOW.replace("SECONDS", seconds) for seconds in ("0.1", "1"))
BROKEN = """
steps = []
real_decode = llamacpp.Context.decode
def breaking(self, ids, **given):
    steps.append(ids)
    if len(steps) == 5:
        raise RuntimeError("broken by the test")
    return real_decode(self, ids, **given)
llamacpp.Context.decode = breaking
"""


def held(gate: Path) -> str:
    """A model that computes nothing before this file is there."""
    return f"""
import pathlib
real_decode = llamacpp.Context.decode
def held(self, ids, **given):
    while not pathlib.Path({str(gate)!r}).exists():
        time.sleep(0.02)
    return real_decode(self, ids, **given)
llamacpp.Context.decode = held
"""


@dataclass
class Server:
    """A running server; what it writes to stderr stands in `log`."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def beyond(self) -> list[str]:
        """The attempts to reach another machine."""
        return [line for line in self.log.read_text().splitlines() if BEYOND in line]

    def interrupt(self) -> int:
        """Press Ctrl-C and wait for the end: the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=20)


@contextlib.contextmanager
def served(*arguments: str, prepare: str = "") -> Iterator[Server]:
    """`medllama app` with these arguments, from the moment it says where it is; `prepare` is Python that runs first."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "stderr.txt"
        command = [sys.executable, "-c", WATCHED, prepare, "app", "--port", "0", "--threads", "1"]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [*command, *arguments], stdout=subprocess.PIPE, stderr=stderr, cwd=folder, env=environment
            )
        try:
            yield Server(process, _url(process, log), log)
        finally:
            process.kill()
            process.communicate()


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(1200):
        text = log.read_text()
        if process.poll() is not None:
            break
        if "(Ctrl-C ends)" in text:
            return next(word for word in text.split() if word.startswith("http://"))
        time.sleep(0.1)
    raise AssertionError(f"the server did not start: {text}")
