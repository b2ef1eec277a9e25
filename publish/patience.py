"""How long to go on trying: faults of a connection or a busy server pass, and a long upload must not end with the first.

    patience = Patience("uploading medllama-Q4_K_M.gguf to localhost:5000")
    while True:
        try:
            return attempt()
        except FAULTS as fault:
            patience.wait(fault, done_bytes)     sleeps, or raises ResourceError

Each fault doubles the pause, from half a second to half a minute; what a server asks for (Retry-After) is kept to. Progress
counts: only faults without any progress between them use up the attempts.
"""

from __future__ import annotations

import random
import time

import httpx

from medllama import progress
from medllama.errors import ResourceError

ATTEMPTS = 6
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, LONGEST_ASKED_SECONDS = 0.5, 30.0, 600.0
PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)


class Passing(Exception):
    """A fault that may pass: what happened, and how long the server asks to wait."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


FAULTS = (Passing, httpx.RequestError, httpx.InvalidURL)  # what an attempt raises that may go better another time


class Patience:
    """Counts the faults of one piece of work."""

    def __init__(self, work: str, hint: str = "") -> None:
        self.work = work
        self.hint = hint or "run the same command again: what arrived is not sent twice"
        self.faults = 0
        self.done = -1

    def wait(self, fault: Exception, done: int = 0) -> None:
        """Pause after a fault. Raises ResourceError where too many came without progress in `done`."""
        if done > self.done:
            self.done, self.faults = done, 0
        self.faults += 1
        reason = str(fault) or type(fault).__name__
        asked = fault.wait_seconds if isinstance(fault, Passing) else None
        if self.faults >= ATTEMPTS or (asked or 0) > LONGEST_ASKED_SECONDS:
            raise ResourceError(f"{self.work} failed {self.faults} times: {reason}", hint=self.hint) from None
        backoff = min(FIRST_WAIT_SECONDS * 2 ** (self.faults - 1), LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1.0)
        seconds = backoff if asked is None else asked
        progress.message(f"{self.work}: {reason}; trying again in {progress.duration(seconds)}")
        time.sleep(seconds)


def raise_if_passing(response: httpx.Response, reason: str) -> None:
    """Raise Passing where the answer's status says that a later try may succeed."""
    if response.status_code not in PASSING_STATUS:
        return
    asked = response.headers.get("retry-after", "")
    raise Passing(f"{response.status_code} {reason}".strip(), float(asked) if asked.isdigit() else None)
