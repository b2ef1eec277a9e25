"""Tasks spread over processes, a few at a time, so that a stream of them never piles up.

run_all(function, ((a, b), (c, d)), workers=4)         function(a, b), function(c, d), in any order
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import Any

WAITING = 2  # tasks for each process that are at work or wait


def run_all(function: Callable[..., None], tasks: Iterable[tuple[Any, ...]], workers: int) -> None:
    """Call `function` with each of the tasks; with one worker here, else in processes. The first error ends it all."""
    if workers == 1:
        for task in tasks:
            function(*task)
        return
    # Spawned, not forked: a library that has started threads does not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running: set[Future[None]] = set()
        try:
            for task in tasks:
                running.add(pool.submit(function, *task))
                if len(running) >= WAITING * workers:
                    running = _after_one(running)
            while running:
                running = _after_one(running)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _after_one(running: set[Future[None]]) -> set[Future[None]]:
    done, left = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return left
