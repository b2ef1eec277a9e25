"""Two small stages for the tests of run directory and pipeline: text -> letters/ -> joined.txt."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from medllama.config import option
from medllama.files import atomic_directory, read_text, write_text
from medllama.recipe import Recipe
from medllama.stages import Stage, StageResult

calls: list[str] = []


@dataclass(frozen=True)
class SplitConfig:
    """A text in, a folder with one file per letter out."""

    source: Path = option(help="the text", kind="path")
    output_dir: Path = option(help="the folder", kind="output")
    repeat: int = option(1, help="how often each letter is written")
    pause_seconds: float = option(0.0, help="the time that each letter takes")

    def problems(self) -> list[str]:
        return [] if self.repeat > 0 else [f"repeat: expected at least 1, found {self.repeat}"]


def split(config: SplitConfig) -> StageResult:
    calls.append("split")
    with atomic_directory(config.output_dir) as partial:
        for number, letter in enumerate(read_text(config.source)):
            (partial / f"{number}.txt").write_text(letter * config.repeat)
            time.sleep(config.pause_seconds)
    return StageResult(config.output_dir, {"line": f"letters -> {config.output_dir}", "letters": number + 1})


@dataclass(frozen=True)
class JoinConfig:
    """The folder of letters in, one file out."""

    data: Path = option(help="the folder", kind="path")
    output: Path = option(help="the file", kind="output")
    between: str = option("-", help="what stands between two letters")
    pause_seconds: float = option(0.0, help="the time that each letter takes")


def join(config: JoinConfig) -> StageResult:
    calls.append("join")
    letters = []
    for path in sorted(config.data.iterdir(), key=lambda path: int(path.stem)):
        letters.append(path.read_text())
        time.sleep(config.pause_seconds)
    write_text(config.output, config.between.join(letters))
    return StageResult(config.output, {"letters": len(letters)})


HERE = "tests.medllama.fake_stages"
SPLIT = Stage("split", "", f"{HERE}:SplitConfig", f"{HERE}:split", {"output_dir": "{run}/letters"})
JOIN = Stage("join", "", f"{HERE}:JoinConfig", f"{HERE}:join", {"data": "{run}/letters", "output": "{run}/joined.txt"})
STAGES = (SPLIT, JOIN)


def recipe(folder: Path, **sections: dict[str, object]) -> Recipe:
    """A recipe that splits `folder`/text.txt."""
    given = {"split": {"source": str(folder / "text.txt")}, "join": {}}
    return Recipe(folder / "r.yaml", "r", "", sections={name: given[name] | sections.get(name, {}) for name in given})
