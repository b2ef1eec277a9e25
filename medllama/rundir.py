"""The run directory: what each stage made, and the manifest that says so.

    runs/NAME/
      data/ adapter/ gguf/ certificate.json eval/ package/ report.html    what the stages made
      manifests/STAGE.json                                                written last: if it is there, the stage finished

A manifest records the configuration, the SHA-256 of every input and output, the hash of the code, versions, seconds and
peak memory. A stage whose configuration, inputs and code are unchanged, and whose outputs are still the recorded bytes, is skipped.
Unchanged files are recognized by size and modification time, so that a 13 GB base is not hashed at every start. Paths
inside the run are written as `{run}/...`, so that a run can be moved.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medllama import __version__
from medllama.config import as_json, input_paths, options
from medllama.errors import InputError, ResourceError
from medllama.files import PARTIAL_SUFFIX, file_state, read_json, sha256_file, write_json
from medllama.source_files import source_files
from medllama.stages import Stage, StageResult

CODE_ROOT = Path(__file__).resolve().parent.parent
RECORDED_PACKAGES = (
    "torch", "transformers", "peft", "trl", "datasets", "tokenizers", "sentencepiece", "safetensors", "gguf",
    "llama-cpp-python", "numpy",
)  # fmt: skip
MEASURED = ("seconds", "peak_memory_bytes")
MANIFEST_TYPES: dict[str, Any] = {
    "stage": str, "path": str, "config": dict, "inputs": dict, "outputs": dict, "code_sha256": str, "summary": dict,
    **dict.fromkeys(MEASURED, int | float),
}  # fmt: skip
RUN_MARK = "{run}/"


class RunDirectory:
    """One run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for one process; a second one is told so. The lock ends with the process, however it ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ResourceError(
                    f"another medllama is at work in {self.folder}", hint="wait for it, or use another --runs-dir"
                ) from None
            yield

    def manifest_path(self, stage: Stage) -> Path:
        return self.folder / "manifests" / f"{stage.name}.json"

    def manifest(self, stage: Stage) -> dict[str, Any] | None:
        """The manifest of a finished stage; None where there is none, or none that can be read."""
        try:
            manifest = read_json(self.manifest_path(stage))
        except InputError:
            return None
        is_whole = isinstance(manifest, dict) and all(
            isinstance(manifest.get(key), kind) for key, kind in MANIFEST_TYPES.items()
        )
        return manifest if is_whole else None

    def finished(self, stage: Stage, config: Any) -> tuple[StageResult, dict[str, float]] | None:
        """What the stage made and what it cost, where it finished with this configuration, these inputs and this code, and its
        outputs still stand; else None."""
        manifest = self.manifest(stage)
        if manifest is None or not manifest["outputs"]:
            return None
        if any(manifest[key] != value for key, value in self.begun(stage, config, manifest["inputs"]).items()):
            return None
        if manifest["outputs"] != self.digests(_outputs(config), manifest["outputs"]):
            return None
        made = self.absolute({"path": manifest["path"], "summary": manifest["summary"]})
        return StageResult(Path(made["path"]), made["summary"]), {key: manifest[key] for key in MEASURED}

    def forget(self, stage: Stage) -> None:
        """Remove the manifest before the stage starts, so that nothing unfinished ever looks finished."""
        self.manifest_path(stage).unlink(missing_ok=True)

    def begun(self, stage: Stage, config: Any, known: dict[str, Any]) -> dict[str, Any]:
        """What decides the result, as it is when the stage begins: what changes while it works is no longer its input."""
        return {
            "stage": stage.name,
            "config": self.relative(as_json(config)),
            "inputs": self.digests(_inputs(config), known),
            "code_sha256": code_sha256(stage),
        }

    def record(
        self, begun: dict[str, Any], stage: Stage, config: Any, result: StageResult, cost: dict[str, float]
    ) -> None:
        """Write the manifest of a stage that has just finished."""
        made = self.relative({"path": str(result.path), "summary": result.summary})
        outputs = self.digests(_outputs(config), {})
        write_json(self.manifest_path(stage), {**begun, **made, "outputs": outputs, "versions": versions(), **cost})

    def relative(self, value: Any) -> Any:
        """`value` with the run's own folder written as `{run}`."""
        return json.loads(json.dumps(value).replace(self._as_json_text(), RUN_MARK))

    def absolute(self, value: Any) -> Any:
        """The inverse of `relative`."""
        return json.loads(json.dumps(value).replace(RUN_MARK, self._as_json_text()))

    def _as_json_text(self) -> str:
        return json.dumps(f"{self.folder}/")[1:-1]

    def digests(self, files: list[Path], known: dict[str, Any]) -> dict[str, Any]:
        """Size, modification time and SHA-256 of each file; `known` digests are kept where size and time agree."""
        found = {}
        for path in files:
            name = str(self.relative(str(path)))
            entry: dict[str, Any] = file_state(path)
            old = known.get(name, {})
            if any(old.get(key) != value for key, value in entry.items()):
                entry["sha256"] = sha256_file(path)
                if old.get("sha256") != entry["sha256"]:
                    old = entry
            found[name] = old
        return found


def is_main_process() -> bool:
    """Whether this process is the only one or, of several that `accelerate launch` started, the one that writes and prints."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def measuring(measured: dict[str, float]) -> Iterator[None]:
    """Fill `measured` with the seconds and the peak resident memory of the block."""
    _reset_peak_memory()
    started = time.monotonic()
    yield
    measured["seconds"] = round(time.monotonic() - started, 3)
    measured["peak_memory_bytes"] = peak_memory_bytes()


def peak_memory_bytes() -> int:
    """The highest resident memory of this process since `measuring` began (since its start, where Linux can't reset it)."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        scale = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _reset_peak_memory() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _files(path: Path) -> list[Path]:
    """A file, or the files in a folder but for hidden and partial ones."""
    if path.is_file():
        return [path]
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file()
        and not any(part.startswith(".") or part.endswith(PARTIAL_SUFFIX) for part in file.relative_to(path).parts)
    )


def _inputs(config: Any) -> list[Path]:
    named = [path for paths in input_paths(config).values() for path in paths]
    return sorted({file for path in (*named, *getattr(config, "implied_inputs", list)()) for file in _files(path)})


def _outputs(config: Any) -> list[Path]:
    named = [getattr(config, entry.name) for entry in options(type(config)) if entry.kind == "output"]
    places = [Path(place) for place in (*named, *getattr(config, "implied_outputs", list)()) if place is not None]
    return sorted({file for place in places if place.exists() for file in _files(place)})


def code_sha256(stage: Stage) -> str:
    """The hash of the source files that the stage uses, its own and the core's: other code may give another result."""
    digest = hashlib.sha256()
    for file in source_files(CODE_ROOT, (stage.config_path.partition(":")[0], stage.function_path.partition(":")[0])):
        digest.update(str(file.relative_to(CODE_ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """The versions of medllama and of the libraries that decide what a stage makes."""
    found = {"medllama": __version__, "python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
