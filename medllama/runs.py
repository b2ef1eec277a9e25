"""`medllama runs`: what lies in the folder of the runs, and how to remove one of them.

    medllama runs
    medllama runs remove NAME

A run is a folder that `medllama run` or a stage with a recipe has made: it holds a `.lock` or a stage's manifest. Nothing else is
listed, and nothing else can be removed. Sizes are those on the disk: a file with two names (package/ and gguf/) counts once.
"""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medllama.errors import InputError, UsageError
from medllama.files import read_json
from medllama.rundir import RunDirectory
from medllama.stages import BY_NAME, STAGES


def list_runs(runs_dir: Path) -> dict[str, Any]:
    """Print a table of the runs on stderr, the newest first, and return them."""
    if runs_dir.exists() and not runs_dir.is_dir():
        raise InputError(f"{runs_dir} is a file, not a folder of runs", hint="name the folder: --runs-dir runs")
    folders = [folder for folder in sorted(runs_dir.iterdir()) if is_run(folder)] if runs_dir.is_dir() else []
    runs = sorted(map(describe_run, folders), key=lambda run: str(run["date"]), reverse=True)
    if not runs:
        print(f"{runs_dir} holds no run; medllama run tiny makes one", file=sys.stderr)
        return {"path": str(runs_dir), "runs": []}
    width = max(len("run"), *(len(run["name"]) for run in runs))
    print(f"{'run':<{width}}  {'last stage':<17}  {'size':>9}  {'certificate':<11}  accuracy", file=sys.stderr)
    for run in runs:
        print(
            f"{run['name']:<{width}}  {_local(run['date']):<17}  {run['bytes'] / 1e6:>6,.1f} MB  "
            f"{run['certificate']:<11}  {_accuracy(run['accuracy'])}",
            file=sys.stderr,
        )
    return {"path": str(runs_dir), "runs": runs}


def remove_run(name: str | None, runs_dir: Path) -> dict[str, Any]:
    """Remove one run. Raises InputError for what is no run, ResourceError while a process is at work in it."""
    if not name:
        raise UsageError("medllama runs remove needs the NAME of a run", hint="medllama runs lists them")
    folder = runs_dir / name
    if Path(name).name != name or name == "..":
        raise InputError(f"{name} is no name of a run but a path", hint="name the folder: --runs-dir DIR")
    if folder.is_symlink():
        raise InputError(f"{folder} is a link to {folder.readlink()}", hint="remove it by hand")
    if not is_run(folder):
        raise InputError(f"{folder} is no run", hint="medllama runs lists them")
    run = describe_run(folder)
    with RunDirectory(folder).locked():
        shutil.rmtree(folder)
    print(f"removed {folder}: {run['bytes'] / 1e6:,.1f} MB", file=sys.stderr)
    return {"path": str(folder), "removed": run}


def is_run(folder: Path) -> bool:
    """Whether medllama made this folder as a run."""
    return (folder / ".lock").is_file() or any(
        (folder / "manifests" / f"{stage.name}.json").is_file() for stage in STAGES
    )


def describe_run(folder: Path) -> dict[str, Any]:
    """Name, date of the newest manifest, size, the certificate's verdict and the accuracies, as far as the run has come."""
    run = RunDirectory(folder)
    written = [path.stat().st_mtime for stage in STAGES if (path := run.manifest_path(stage)).is_file()]
    return {
        "name": folder.name,
        "date": datetime.fromtimestamp(max(written), UTC).isoformat(timespec="seconds") if written else None,
        "bytes": disk_bytes(folder),
        "certificate": _verdict(run),
        "accuracy": _measured(run),
    }


def disk_bytes(folder: Path) -> int:
    """What the folder takes on the disk, each file once."""
    files = [path.lstat() for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    return sum({(status.st_dev, status.st_ino): status.st_blocks * 512 for status in files}.values())


def _verdict(run: RunDirectory) -> str:
    """What the certificate says, "passed" or "failed"; "none" where there is no certificate that can be read."""
    try:
        certificate = read_json(run.folder / "certificate.json")
    except InputError:
        return "none"
    verdict = certificate.get("verdict") if isinstance(certificate, dict) else None
    return {"pass": "passed", "fail": "failed"}.get(str(verdict), "none")


def _measured(run: RunDirectory) -> dict[str, Any] | None:
    """The first multiple-choice result of eval: the tuned model's accuracy and, where it was measured, the base's."""
    manifest = run.manifest(BY_NAME["eval"])
    tasks = manifest["summary"].get("tasks", []) if manifest else []
    task = next((task for task in tasks if task.get("kind") == "multiple_choice"), None)
    if task is None:
        return None
    figures = {"task": task["task"], "tuned": task["model"]["accuracy"]}
    return figures | ({"base": task["baseline"]["accuracy"]} if "baseline" in task else {})


def _accuracy(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "not measured"
    return f"{figures['tuned']:.1%}" + (f" against {figures['base']:.1%} of the base" if "base" in figures else "")


def _local(date: str | None) -> str:
    """A date in the time of this machine."""
    return f"{datetime.fromisoformat(date).astimezone():%Y-%m-%d %H:%M}" if date else "unfinished"
