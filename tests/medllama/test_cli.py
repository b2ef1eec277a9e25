"""The command line as a contract: exit status, what stands on stdout and what on stderr, quick help, errors for people."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medllama import __version__, cli
from medllama.cli import main
from medllama.config import options
from medllama.errors import CheckFailed, InputError, MedllamaError, ResourceError, UnsupportedError
from medllama.recipe import RECIPES
from medllama.stages import BY_NAME, STAGES, Stage, StageResult

REPOSITORY = Path(cli.__file__).resolve().parent.parent
VERBS = [*BY_NAME, "run", "plan", "doctor", "recipes"]
PREPARE = ["prepare", "--source", "jsonl:qa.jsonl?licence=MIT", "--output-dir"]

PERMISSIONS = "change its permissions, or name another path"


@pytest.fixture(autouse=True)
def questions(alone: Path) -> None:
    """120 kB of questions and answers in the working folder."""
    lines = [json.dumps({"prompt": f"question {number}", "response": "answer " * 280}) for number in range(60)]
    (alone / "qa.jsonl").write_text("\n".join(lines))


class Shown:
    """What a command printed, and its exit status."""

    def __init__(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        self.status = main(arguments)
        self.out, self.err = capsys.readouterr()


def fails_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the next stage fail in this way."""

    def fail(config: Any) -> StageResult:
        raise error

    monkeypatch.setattr(Stage, "function", lambda stage: fail)


def test_a_stage_ends_with_the_path_of_what_it_made_as_the_only_line_on_stdout(
    alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Shown([*PREPARE, "data"], capsys)
    assert (shown.status, shown.out) == (0, "data\n")
    assert (alone / "data" / "train.jsonl").is_file()
    assert shown.err.startswith("prepare ")


def test_json_is_one_object_and_nothing_else_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Shown([*PREPARE, "data", "--json"], capsys)
    outcome = json.loads(shown.out)
    assert (outcome["stage"], outcome["path"]) == ("prepare", "data")
    assert outcome["records"]["train"] > 0


def test_what_a_library_prints_goes_to_stderr(
    alone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def talk(config: Any) -> StageResult:
        print("a library's banner")
        return StageResult(Path("made"))

    monkeypatch.setattr(Stage, "function", lambda stage: talk)
    shown = Shown([*PREPARE, "data"], capsys)
    assert shown.out == "made\n"
    assert "a library's banner\n" in shown.err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("no.txt does not exist", hint="check the path"), 1),
        (UnsupportedError("no"), 1),
        (CheckFailed("3 checks did not hold", hint="see certificate.json"), 1),
        (ResourceError("disk"), 1),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_an_error_is_one_line_and_a_hint_and_exit_status_1(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: MedllamaError,
    status: int,
    as_json: bool,
) -> None:
    fails_with(monkeypatch, error)
    shown = Shown([*PREPARE, "data", *(["--json"] if as_json else [])], capsys)
    assert shown.status == status
    assert shown.err == f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else "")
    assert shown.out == (json.dumps({"error": error.message, "hint": error.hint}) + "\n" if as_json else "")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    fails_with(monkeypatch, KeyError("bug"))
    with pytest.raises(KeyError):
        main([*PREPARE, "data"])
    fails_with(monkeypatch, FileNotFoundError(errno.ENOENT, "No such file or directory", "x"))
    with pytest.raises(FileNotFoundError):
        main([*PREPARE, "data"])


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fails_with(monkeypatch, KeyboardInterrupt())
    shown = Shown([*PREPARE, "data"], capsys)
    assert (shown.status, shown.err) == (130, "\ninterrupted; the same command resumes\n")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        OSError("1024 requested and 0 written"),  # numpy.ndarray.tofile
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors
    ],
)
def test_a_full_disk_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    fails_with(monkeypatch, error)
    shown = Shown([*PREPARE, "data"], capsys)
    assert shown.status == 1
    assert shown.err == (
        "error: the disk is full, or a file may not grow any more\n"
        "hint: free some space or write elsewhere; nothing half-written stays under a final name\n"
    )


def test_a_full_disk_names_the_file_where_numpy_tells_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = OSError("1024 requested and 0 written")
    error.filename = "/x/y"  # as atomic_file does, after which str(error) says no more
    fails_with(monkeypatch, error)
    assert Shown([*PREPARE, "data"], capsys).err.startswith(
        "error: the disk is full, or a file may not grow any more: /x/y\n"
    )


@pytest.mark.parametrize(
    ("error", "line", "hint"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "Permission denied: /x/y", PERMISSIONS),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/x/y"), "Not a directory: /x/y", "name another path"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "Read-only file system: /x", PERMISSIONS),
    ],
)
def test_a_path_that_cannot_be_used_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, line: str, hint: str
) -> None:
    fails_with(monkeypatch, error)
    shown = Shown([*PREPARE, "data"], capsys)
    assert (shown.status, shown.err) == (1, f"error: {line}\nhint: {hint}\n")


def test_a_stage_on_a_disk_without_room_leaves_nothing_under_a_final_name(alone: Path) -> None:
    """The system itself refuses to let a file grow past 64 kB: what writing to a full disk looks like to a program."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)); "
        f"from medllama.cli import main; sys.exit(main({[*PREPARE, 'data']!r}))"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code], cwd=alone, env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True
    )
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert outcome.stderr.splitlines()[-2].startswith("error: the disk is full, or a file may not grow any more")
    assert "Traceback" not in outcome.stderr
    # What is read already stays under a partial name: the same command resumes.
    assert [path.name for path in alone.iterdir() if not path.name.endswith(".partial")] == ["qa.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ([], "the following arguments are required: VERB", "medllama --help"),
        (["rnu", "tiny"], "argument VERB: invalid choice: 'rnu'", "medllama --help"),
        (["run"], "the following arguments are required: RECIPE", "medllama run --help"),
        (["run", "tiny", "--epohcs", "3"], "unrecognized arguments: --epohcs 3", "did you mean --epochs?"),
        (["run", "tiny", "--epoch", "3"], "unrecognized arguments: --epoch 3", "did you mean --epochs?"),
        (["run", "tiny", "--output-dir", "x"], "unrecognized arguments: --output-dir x", "medllama run --help"),
        (["train", "--rank"], "argument --rank: expected one argument", "medllama train --help"),
        (["doctor", "--force"], "unrecognized arguments: --force", "medllama doctor --help"),
        (["train", "--rank", "8"], "medllama train needs --base-model, --data, --output-dir", "or name a recipe"),
        ([*PREPARE, "d", "--seed", "x"], "medllama prepare: seed: expected a whole number, found 'x'", "the flags"),
        (["train", "tiny", "--rank", "x"], "medllama: train: rank: expected a whole number, found 'x'", "the keys"),
        (["run", "tiny", "--rank", "0"], "medllama: train: rank: expected at least 1, found 0", "the keys"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_wrong_command_line_is_exit_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, hint: str, as_json: bool
) -> None:
    shown = Shown(arguments + (["--json"] if as_json else []), capsys)
    assert shown.status == 2
    error, advice = shown.err.splitlines()
    assert error.startswith(f"error: {message}")
    assert advice.startswith(f"hint: {hint}")
    if as_json:
        assert json.loads(shown.out) == {"error": error[len("error: ") :], "hint": advice[len("hint: ") :]}
    else:
        assert shown.out == ""


def test_a_wrong_recipe_is_exit_status_1_in_full_words(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (alone / "mine.yaml").write_text("prepare: {source: [tiny]}\ntrain: {base_modle: x}\n")
    shown = Shown(["prepare", "mine.yaml"], capsys)
    assert (shown.status, shown.out) == (1, "")
    assert shown.err == (
        "error: mine.yaml: train: unknown key 'base_modle'; did you mean 'base_model'?\n"
        "hint: the keys and flags are listed by medllama STAGE --help\n"
    )


def test_a_missing_recipe_is_exit_status_1_in_full_words(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Shown(["run", "tyni"], capsys)
    assert (shown.status, shown.out) == (1, "")
    assert shown.err == (
        "error: there is no recipe 'tyni'\n"
        "hint: name a YAML file, or one of: llama2-7b-qlora, llama2-7b, llama3.2-1b, medquad, tiny\n"
    )


@pytest.mark.parametrize("verb", ["train", "convert", "verify", "eval", "package", "report", "app", "chat", "publish"])
def test_what_needs_a_run_says_how_to_make_it_and_leaves_nothing(
    alone: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    shown = Shown([verb, "tiny", *(["--to", "store:there"] if verb == "publish" else [])], capsys)
    assert (shown.status, shown.out) == (1, "")
    assert shown.err == (
        f"error: there is no run {alone}/runs/tiny, so there is nothing for {verb} to work on\n"
        "hint: make it: medllama run tiny\n"
    )
    assert not (alone / "runs").exists()


def test_the_flagship_without_its_gated_weights_is_exit_status_1_and_says_how_to_get_them(
    alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Shown(["run", "llama2-7b", "--source", "tiny"], capsys)
    page = "https://huggingface.co/meta-llama/Llama-2-7b-hf"
    assert (shown.status, shown.out) == (1, "")
    assert shown.err == (
        f"error: {RECIPES}/llama2-7b.yaml: the base model meta-llama/Llama-2-7b-hf is no folder here and not in the hub's "
        "cache, and the hub cannot be reached\n"
        f"hint: with a network: accept its licence at {page}, hf auth login, hf download meta-llama/Llama-2-7b-hf; "
        "or name a folder\n"
    )
    # What is read already stays under a partial name: the same command resumes.
    assert [path.name for path in alone.iterdir() if not path.name.endswith(".partial")] == ["qa.jsonl"]


def test_a_flag_of_run_reaches_its_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def keep(recipe: Any, runs_dir: Path, flags: dict[str, Any], **_: Any) -> Any:
        given.update(flags, runs_dir=runs_dir)
        raise InputError("enough")

    monkeypatch.setattr("medllama.pipeline.run_recipe", keep)
    line = "run --rank 8 tiny --types F16,Q8_0 --no-gradient-checkpointing --runs-dir elsewhere --source tiny"
    assert main(line.split()) == 1
    assert given == {
        "rank": "8", "types": ["F16,Q8_0"], "gradient_checkpointing": False, "runs_dir": Path("elsewhere"), "source": ["tiny"],
    }  # fmt: skip


def test_fields_of_one_name_are_of_one_kind_in_every_stage_and_none_is_called_like_a_common_flag() -> None:
    kinds: dict[str, set[tuple[bool, bool]]] = {}
    for stage in STAGES:
        for entry in options(stage.config_class()):
            kinds.setdefault(entry.name, set()).add((entry.is_list, entry.plain_type is bool))
    of_run = {entry.name for entry in cli._fields_of_run()}
    assert {name for name in of_run if len(kinds[name]) > 1} == set(), "`run` gives all of them one flag"
    assert not kinds.keys() & set(cli.COMMON)
    assert not of_run & {"output_dir", "output", "data", "gguf", "adapter", "certificate"}, (
        "the run directory decides these"
    )


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert (caught.value.code, capsys.readouterr().out) == (0, f"medllama {__version__}\n")


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_is_quick_and_imports_nothing_heavy(verb: str) -> None:
    code = f"""
import sys
from medllama.cli import main
try:
    main({[*([verb] if verb else []), "--help"]!r})
except SystemExit as ended:
    assert ended.code == 0
heavy = {{"torch", "numpy", "transformers", "gguf", "llama_cpp", "tokenizers", "datasets", "gradio"}} & set(sys.modules)
sys.exit(f"imports {{heavy}}" if heavy else 0)
"""
    seconds = []
    for _ in range(3):  # the processor's seconds, the best of three: the machine may be busy
        started = processor_seconds_of_children()
        outcome = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True
        )
        seconds.append(processor_seconds_of_children() - started)
        assert (outcome.returncode, outcome.stderr) == (0, "")
        assert outcome.stdout.startswith(f"usage: medllama {verb}".rstrip())
        if seconds[-1] < 0.5:
            break
    assert min(seconds) < 0.5


def processor_seconds_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def test_python_dash_m_is_the_command() -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "medllama", "recipes"],
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert (outcome.returncode, outcome.stdout) == (0, f"{RECIPES}\n")


def test_doctor_looks_and_never_fails(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Shown(["doctor", "--json"], capsys)
    findings = {finding["what"]: finding for finding in json.loads(shown.out)["findings"]}
    assert shown.status == 0
    assert findings["torch"]["state"] == "ok"
    assert {"python", "C++ compiler", "CPU", "memory", "GPU", "Ollama", "disk"} <= findings.keys()
    assert all(finding["state"] in ("ok", "note", "missing") for finding in findings.values())
