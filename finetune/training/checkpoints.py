"""The folder beside the output in which a training leaves what it needs to go on after it was cut short.

    adapter.checkpoints.partial/
      fingerprint.json             what the checkpoints belong to: settings, base, data, versions
      PHASE/checkpoint-STEP/       Transformers': adapter, optimizer, schedule, random states; trainer_state.json is written last
      PHASE/metrics.jsonl          the log so far
      PHASE/tensorboard/           the same for TensorBoard
      PHASE/finished/              the adapter that the phase ended with, and its figures

A training with another fingerprint begins anew. The folder goes when the adapter is complete, and when a setting was at fault.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from finetune.train_config import TrainConfig
from medllama import progress
from medllama.config import as_json
from medllama.errors import InputError
from medllama.files import PARTIAL_SUFFIX, read_json, sha256_file, write_json
from medllama.rundir import versions

PREFIX = "checkpoint-"
STATE = "trainer_state.json"
TENSORBOARD = "tensorboard"
NOT_OF_THE_RESULT = ("output_dir", "reporters", "base_model", "data")  # base and data count by their contents


class Checkpoints:
    """The checkpoints of the training whose output is `output_dir`."""

    def __init__(self, output_dir: Path) -> None:
        self.folder = output_dir.with_name(f"{output_dir.name}.checkpoints{PARTIAL_SUFFIX}").absolute()

    def begin(self, fingerprint: dict[str, Any]) -> None:
        """Keep what an interrupted training of the same fingerprint left, and nothing of another."""
        path = self.folder / "fingerprint.json"
        if self.folder.exists() and _read(path) != fingerprint:
            progress.message(f"note: {self.folder.name} is of a training with other settings or data, and is replaced")
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            write_json(path, fingerprint)

    def last(self, phase: str, *, remove: bool) -> tuple[Path, int] | None:
        """The newest complete checkpoint of a phase, and its step; `remove` one that was being written."""
        found = []
        for path in (self.folder / phase).glob(f"{PREFIX}*"):
            if _read(path / STATE) is not None:
                found.append((int(path.name.removeprefix(PREFIX)), path))
            elif remove:
                shutil.rmtree(path)
        if not found:
            return None
        step, path = max(found)
        return path, step

    def collect_logs(self, phases: list[str], folder: Path) -> None:
        """The phases' logs into the adapter's folder: one metrics.jsonl, TensorBoard's files by phase."""
        with (folder / "metrics.jsonl").open("wb") as file:
            for name in phases:
                file.write((self.folder / name / "metrics.jsonl").read_bytes())
        for name in phases:
            if (events := self.folder / name / TENSORBOARD).is_dir():
                shutil.copytree(events, folder / TENSORBOARD / name)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def fingerprint(
    config: TrainConfig, digests: dict[str, str], chat_sha256: str | None, processes: int
) -> dict[str, Any]:
    """What decides the bytes of an adapter; as JSON, so that two can be compared by eye."""
    settings = {key: value for key, value in as_json(config).items() if key not in NOT_OF_THE_RESULT}
    data = {path.name: sha256_file(path) for path in sorted(config.data.glob("*.jsonl"))}
    made_of = {
        "base": digests, "data": data, "chat_template_sha256": chat_sha256, "versions": versions(), "processes": processes,
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps([settings, made_of], sort_keys=True).encode()).hexdigest()
    return {"sha256": digest, "settings": settings, **made_of}


def _read(path: Path) -> Any:
    """The JSON of a file; None where it is not there or cut short."""
    try:
        return read_json(path)
    except InputError:
        return None
