"""The processor's cores that this process may use: fewer than the machine has under `taskset`, Slurm or a pinned container."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
