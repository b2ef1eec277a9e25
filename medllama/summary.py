"""The table that ends a run, and the commands to try next."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from medllama.pipeline import Finished, describe
from medllama.progress import duration
from medllama.recipe import Recipe


def print_run_table(recipe: Recipe, folder: Path, finished: Sequence[Finished]) -> None:
    """One row per stage: what it made, its time and its peak memory. Goes to stderr, as everything for people does."""
    rows = [
        (
            done.stage.name,
            "unchanged" if done.was_skipped else duration(done.seconds),
            f"{done.peak_memory_bytes / 1e9:.2f} GB",
            describe(done.result),
        )
        for done in finished
    ]
    lines = ["", f"{'stage':<9} {'time':>9} {'memory':>8}  made"]
    lines += [f"{name:<9} {time:>9} {memory:>8}  {made}" for name, time, memory, made in rows]
    lines += ["", *next_commands(recipe, folder, finished)]
    print("\n".join(lines), file=sys.stderr)


def next_commands(recipe: Recipe, folder: Path, finished: Sequence[Finished]) -> list[str]:
    """What a person can do with the run now."""
    package = next((done.result.path for done in finished if done.stage.name == "package"), None)
    if package is None:
        return [f"Next:  medllama run {recipe.path}"]
    return [
        "Next:",
        f"  less {package}/README.md                              the model card",
        f"  less {folder}/certificate.json                        each check with its figure and bound",
        f"  ollama create {recipe.name} -f {package}/Modelfile && ollama run {recipe.name}",
    ]
