"""The table that ends a run, and the commands to try next."""

from __future__ import annotations

import shlex
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
    if not any(done.stage.name == "package" for done in finished):
        return [f"Next:  medllama run {recipe.path}"]
    place = "" if str(folder.parent) == "runs" else f" --runs-dir {shlex.quote(str(folder.parent))}"
    commands = {
        f"{folder}/report.html": "the report: open it in a browser",
        f"less {folder}/package/README.md": "the model card",
        f"medllama app {recipe.called}{place}": "base and tuned side by side on a page of this machine",
        f"medllama chat {recipe.called}{place}": "a conversation in the terminal",
        f"medllama verify {recipe.called}{place} --force": "the certificate's checks, with figures",
        f"medllama publish {recipe.called}{place} --to store:DIR --dry-run": "what would be published, and nothing is",
        f"ollama create {recipe.name} -f {folder}/package/Modelfile": f"then: ollama run {recipe.name}",
    }
    width = max(map(len, commands))
    return ["Next:", *(f"  {command:<{width}}   {what}" for command, what in commands.items())]
