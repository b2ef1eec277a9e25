"""llama.cpp's own converter, `convert_hf_to_gguf.py`, of the build that is installed: what tests and benchmarks compare with.

    python -m benchmarks.official_converter       # fetches it once and prints its folder

It is no Python package. It ships, with the `conversion` and `gguf-py` folders that it needs, in the source archive of
llama-cpp-python, so the version is the installed one's. `MEDLLAMA_LLAMA_CPP` names another llama.cpp folder; else the archive
(76 MB) is taken through pip, in seconds, and 2 MB of it are kept in build/. It runs in a process of its own: it brings its own
gguf-py.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from medllama.errors import InputError, MedllamaError, ResourceError
from medllama.files import atomic_directory

VARIABLE = "MEDLLAMA_LLAMA_CPP"
PACKAGE = "llama-cpp-python"
INSIDE_ARCHIVE = "vendor/llama.cpp/"
KEPT = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/gguf/", "LICENSE")
CACHE = Path(__file__).resolve().parent.parent / "build"
DOWNLOAD_SECONDS = 300

# The program calls the converter's own main for each job. A pre-tokenizer is told where its list of hashes lacks a tokenizer.
PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
import convert_hf_to_gguf
from conversion.base import TextModel
recognize = TextModel.get_vocab_base_pre
failures = []
for job in json.load(sys.stdin):
    told = job["pre_tokenizer"]
    TextModel.get_vocab_base_pre = (lambda self, tokenizer, name=told: name) if told else recognize
    sys.argv = ["convert_hf_to_gguf.py", job["base"], "--outfile", job["output"], "--outtype", job["file_type"].lower()]
    try:
        convert_hf_to_gguf.main()
        failures.append("")
    except (Exception, SystemExit) as error:
        failures.append(f"{type(error).__name__}: {error}")
json.dump(failures, sys.stdout)
"""


@dataclass(frozen=True)
class Job:
    """One call of the converter. `pre_tokenizer` is what it takes a BPE tokenizer for that it would not recognize."""

    base: str
    output: str
    file_type: str
    pre_tokenizer: str = ""


def convert_officially(source: Path, jobs: Sequence[Job]) -> list[str]:
    """Run the converter in the folder `source` on every job; for each its reason where it failed, else an empty text."""
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(source)],
        input=json.dumps([asdict(job) for job in jobs]),
        capture_output=True,
        text=True,
    )
    if finished.returncode != 0:
        raise MedllamaError(f"llama.cpp's converter in {source} does not start: {finished.stderr[-2000:]}")
    failures: list[str] = json.loads(finished.stdout)
    return failures


def find_or_fetch() -> Path:
    """The folder that holds convert_hf_to_gguf.py. Raises InputError where a named one does not, ResourceError where none can
    be had."""
    if named := os.environ.get(VARIABLE):
        folder = Path(named)
        if not (folder / KEPT[0]).is_file():
            raise InputError(
                f"{VARIABLE}={named} holds no {KEPT[0]}", hint="name the top folder of llama.cpp's sources"
            )
        return folder
    version = importlib.metadata.version(PACKAGE)
    folder = CACHE / f"llama.cpp-of-{PACKAGE}-{version}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory() as downloads, atomic_directory(folder) as partial:
            _unpack(_download(version, Path(downloads)), partial)
    return folder


def _download(version: str, folder: Path) -> Path:
    """The source archive of llama-cpp-python, which pip looks at but does not build."""
    command = [sys.executable, "-m", "pip", "--retries", "1", "--timeout", "20", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", PACKAGE, "--dest", str(folder), f"{PACKAGE}=={version}"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (error.stderr or "").strip().splitlines()[-1:] if isinstance(error.stderr, str) else []
        raise ResourceError(
            f"the source archive of {PACKAGE} {version} cannot be downloaded: {' '.join(said) or 'pip took too long'}",
            hint=f"with a network run: python -m benchmarks.official_converter; or name llama.cpp's folder in {VARIABLE}",
        ) from None
    return next(folder.glob("*.tar.gz"))


def _unpack(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as file:
        for member in file:
            _, _, name = member.name.partition(INSIDE_ARCHIVE)
            if member.isfile() and name.startswith(KEPT):
                member.name = name
                file.extract(member, target, filter="data")


if __name__ == "__main__":
    print(find_or_fetch())
