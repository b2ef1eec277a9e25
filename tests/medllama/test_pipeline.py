"""A run skips what is done, redoes what changed, resumes after any end, and never takes half for whole."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medllama import rundir
from medllama.errors import InputError, RecipeError, ResourceError, UsageError
from medllama.pipeline import Finished, configure, run_alone, run_recipe
from medllama.recipe import load_recipe
from medllama.rundir import RunDirectory
from medllama.stages import BY_NAME
from tests.medllama import fake_stages
from tests.medllama.fake_stages import JOIN, SPLIT, STAGES, recipe

REPOSITORY = Path(rundir.__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an input, and a copy of the code for tests to change."""
    (tmp_path / "text.txt").write_text("gout")
    for path in ("medllama/used.py", "medllama/unused.py", "tests/medllama/fake_stages.py"):
        (tmp_path / "code" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / path).write_text("import medllama.used\n")
    monkeypatch.setattr(rundir, "CODE_ROOT", tmp_path / "code")
    fake_stages.calls.clear()
    return tmp_path


def run(folder: Path, *, force: bool = False, flags: dict[str, Any] | None = None, **sections: Any) -> list[str]:
    """Run both stages and return the names of those that worked."""
    fake_stages.calls.clear()
    finished = run_recipe(recipe(folder, **sections), folder / "runs", flags or {}, stages=STAGES, force=force)
    assert [done.stage.name for done in finished if not done.was_skipped] == fake_stages.calls
    assert (folder / "runs" / "r" / "joined.txt").read_text() == finished_text(folder, sections)
    return list(fake_stages.calls)


def finished_text(folder: Path, sections: Any) -> str:
    repeat = sections.get("split", {}).get("repeat", 1)
    between = sections.get("join", {}).get("between", "-")
    return str(between).join(letter * repeat for letter in (folder / "text.txt").read_text())


def in_run(folder: Path, name: str) -> Path:
    return folder / "runs" / "r" / name


def keep_time(path: Path, content: str) -> None:
    """Change a file's content behind an unchanged modification time."""
    status = path.stat()
    path.write_text(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_second_run_does_nothing(folder: Path) -> None:
    assert run(folder) == ["split", "join"]
    assert run(folder) == []


def test_force_does_everything_again(folder: Path) -> None:
    run(folder)
    assert run(folder, force=True) == ["split", "join"]
    assert run(folder) == []


def test_what_a_skipped_stage_made_and_cost_is_still_told(folder: Path) -> None:
    def once() -> list[Finished]:
        return run_recipe(recipe(folder), folder / "runs", {}, stages=STAGES)

    first, again = once(), once()
    assert [done.was_skipped for done in again] == [True, True]
    for before, after in zip(first, again, strict=True):
        assert after.result == before.result
        assert (after.seconds, after.peak_memory_bytes) == (before.seconds, before.peak_memory_bytes)
        assert after.peak_memory_bytes > 1e6


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda folder: (folder / "text.txt").write_text("gouty"), ["split", "join"]),
        (lambda folder: keep_time(folder / "text.txt", "gouty"), ["split", "join"]),
        (lambda folder: (folder / "code/tests/medllama/fake_stages.py").write_text("x = 2\n"), ["split", "join"]),
        (lambda folder: (folder / "code/medllama/used.py").write_text("x = 2\n"), ["split", "join"]),
        (lambda folder: (folder / "code/medllama/table.tsv").touch(), ["split", "join"]),
        (lambda folder: (folder / "code/medllama/unused.py").write_text("x = 2\n"), []),
        (lambda folder: (in_run(folder, "letters") / "1.txt").write_text("x"), ["split"]),
        (lambda folder: (in_run(folder, "letters") / "1.txt").unlink(), ["split"]),
        (lambda folder: shutil.rmtree(in_run(folder, "letters")), ["split"]),
        (lambda folder: in_run(folder, "joined.txt").write_text("g-o-u-x"), ["join"]),
        (lambda folder: in_run(folder, "joined.txt").unlink(), ["join"]),
        (lambda folder: in_run(folder, "manifests/join.json").unlink(), ["join"]),
        (lambda folder: in_run(folder, "manifests/join.json").write_text("{}"), ["join"]),
        (lambda folder: in_run(folder, "manifests/join.json").write_text("{"), ["join"]),
        (lambda folder: in_run(folder, "manifests/join.json").write_bytes(b"\xff"), ["join"]),
    ],
)
def test_a_stage_works_again_when_what_decides_it_changed_and_no_other_does(
    folder: Path, change: Callable[[Path], Any], again: list[str]
) -> None:
    """The letters come out as before when only the code changed, so `join` need not work again."""
    run(folder)
    change(folder)
    assert run(folder) == again
    assert run(folder) == []


@pytest.mark.parametrize(
    ("sections", "again"),
    [
        ({"split": {"repeat": 2}}, ["split", "join"]),
        ({"join": {"between": "+"}}, ["join"]),
        ({"split": {"pause_seconds": 0.001}}, ["split"]),
    ],
)
def test_another_configuration_works_again(folder: Path, sections: Any, again: list[str]) -> None:
    run(folder)
    assert run(folder, **sections) == again
    assert run(folder, **sections) == []


def test_touching_changes_nothing(folder: Path) -> None:
    run(folder)
    for path in (folder / "text.txt", in_run(folder, "letters/1.txt"), in_run(folder, "joined.txt")):
        os.utime(path, ns=(1, 1))
    assert run(folder) == []


def test_hidden_and_partial_files_are_no_outputs_and_other_new_files_are(folder: Path) -> None:
    run(folder)
    for name in (".DS_Store", "9.txt.partial"):
        (in_run(folder, "letters") / name).touch()
    fake_stages.calls.clear()
    run_recipe(recipe(folder), folder / "runs", {}, stages=(SPLIT,))
    assert fake_stages.calls == []
    (in_run(folder, "letters") / "9.txt").touch()
    run_recipe(recipe(folder), folder / "runs", {}, stages=(SPLIT,))
    assert fake_stages.calls == ["split"]


def test_inputs_in_a_hidden_folder_are_watched(folder: Path) -> None:
    letter = folder / ".cache" / "letters" / "0.txt"
    letter.parent.mkdir(parents=True)
    for expected in ("a", "b"):
        letter.write_text(expected)
        run_recipe(recipe(folder), folder / "runs", {"data": str(letter.parent)}, stages=(JOIN,))
        assert in_run(folder, "joined.txt").read_text() == expected


def test_the_input_of_a_stage_is_what_it_was_when_it_began(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody edits the file while the stage works for an hour: the result is of the old text, and the next run sees it."""
    work = fake_stages.split

    def disturbed(config: fake_stages.SplitConfig) -> Any:
        result = work(config)
        (folder / "text.txt").write_text("goutier")
        return result

    monkeypatch.setattr(fake_stages, "split", disturbed)
    run_recipe(recipe(folder), folder / "runs", {}, stages=STAGES)
    monkeypatch.setattr(fake_stages, "split", work)
    assert run(folder) == ["split", "join"]


def test_a_failure_leaves_no_manifest_and_no_half_result(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder)
    before = in_run(folder, "joined.txt").read_text()

    def fail(config: Any) -> Any:
        fake_stages.write_text(config.output.with_name("notes.partial"), "half")
        raise InputError("no")

    monkeypatch.setattr(fake_stages, "join", fail)
    with pytest.raises(InputError):
        run_recipe(recipe(folder, join={"between": "+"}), folder / "runs", {}, stages=STAGES)
    assert not in_run(folder, "manifests/join.json").exists(), "the old manifest must not vouch for a new beginning"
    assert in_run(folder, "manifests/split.json").exists()
    assert in_run(folder, "joined.txt").read_text() == before


def test_the_manifest_is_written_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[str]] = {}
    write = rundir.write_json

    def watched(path: Path, value: Any) -> None:
        seen[path.stem] = sorted(
            str(file.relative_to(folder / "runs" / "r")) for file in in_run(folder, "").rglob("*.txt")
        )
        write(path, value)

    monkeypatch.setattr(rundir, "write_json", watched)
    run(folder)
    assert seen["split"] == [f"letters/{number}.txt" for number in range(4)]
    assert seen["join"] == ["joined.txt", *seen["split"]]


def test_a_manifest_says_what_went_in_what_came_out_and_what_it_cost(folder: Path) -> None:
    run(folder)
    manifest = json.loads(in_run(folder, "manifests/split.json").read_text())
    assert manifest["config"] == {
        "source": f"{folder}/text.txt", "output_dir": "{run}/letters", "repeat": 1, "pause_seconds": 0.0,
    }  # fmt: skip
    assert list(manifest["inputs"]) == [f"{folder}/text.txt"]
    assert list(manifest["outputs"]) == [f"{{run}}/letters/{number}.txt" for number in range(4)]
    assert manifest["outputs"]["{run}/letters/0.txt"]["sha256"] == (
        "cd0aa9856147b6c5b4ff2b7dfee5da20aa38253099ef1b4a64aced233c9afe29"
    )
    assert manifest["summary"] == {"line": "letters -> {run}/letters", "letters": 4}
    assert manifest["seconds"] >= 0
    assert manifest["versions"]["torch"]
    assert len(manifest["code_sha256"]) == 64


def test_a_moved_run_is_still_done_and_names_its_new_place(folder: Path) -> None:
    run(folder)
    (folder / "runs").rename(folder / "elsewhere")
    fake_stages.calls.clear()
    finished = run_recipe(recipe(folder), folder / "elsewhere", {}, stages=STAGES)
    assert fake_stages.calls == []
    assert finished[0].result.path == folder / "elsewhere" / "r" / "letters"
    assert finished[0].result.summary["line"] == f"letters -> {folder}/elsewhere/r/letters"


def test_a_copied_run_is_still_done(folder: Path) -> None:
    """A copy has other modification times: the contents decide."""
    run(folder)
    shutil.copytree(folder / "runs", folder / "elsewhere", copy_function=shutil.copyfile)
    fake_stages.calls.clear()
    run_recipe(recipe(folder), folder / "elsewhere", {}, stages=STAGES)
    assert fake_stages.calls == []


def test_a_run_in_a_folder_with_commas_spaces_and_other_letters_is_like_any_other(folder: Path) -> None:
    place = folder / 'a,b "Ménière" {run}'
    for expected in (["split", "join"], []):
        fake_stages.calls.clear()
        run_recipe(recipe(folder), place, {}, stages=STAGES)
        assert fake_stages.calls == expected


def test_a_typo_in_the_last_section_costs_no_work(folder: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        run_recipe(recipe(folder, split={"repeat": 0}, join={"betwen": "+"}), folder / "runs", {}, stages=STAGES)
    assert caught.value.problems == [
        "split: repeat: expected at least 1, found 0",
        "join: unknown key 'betwen'; did you mean 'between'?",
    ]
    assert fake_stages.calls == []
    assert not (folder / "runs").exists()


def test_flags_win_over_the_recipe_and_the_recipe_over_the_run_directory(folder: Path) -> None:
    sections: dict[str, Any] = {"split": {"repeat": 2}}
    run(folder, **sections)
    fake_stages.calls.clear()
    flags = {"repeat": "3", "output": str(folder / "own.txt")}
    finished = run_recipe(recipe(folder, **sections), folder / "runs", flags, stages=STAGES)
    assert finished[1].result.path == folder / "own.txt"
    assert (folder / "own.txt").read_text() == "ggg-ooo-uuu-ttt"


def test_a_stage_runs_alone_without_a_run_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    result = run_alone(SPLIT, {"source": "text.txt", "output_dir": "out"})
    assert (result.path, result.summary["letters"]) == (Path("out"), 4)
    assert sorted(path.name for path in folder.iterdir()) == ["code", "out", "text.txt"]
    with pytest.raises(UsageError) as caught:
        run_alone(JOIN, {"between": "+"})
    assert caught.value.message == "medllama join needs --data, --output"
    with pytest.raises(UsageError, match="medllama split: repeat: expected a whole number, found 'x'"):
        run_alone(SPLIT, {"source": "text.txt", "output_dir": "out", "repeat": "x"})


# ----------------------------------------------------------------------------------------------------------------------
# Other processes
# ----------------------------------------------------------------------------------------------------------------------

WORK = """
import sys
from pathlib import Path
from medllama.errors import MedllamaError
from medllama.pipeline import run_recipe
from tests.medllama.fake_stages import STAGES, recipe
folder = Path(sys.argv[1])
slow = {"pause_seconds": float(sys.argv[2])}
print("ready", flush=True)
try:
    run_recipe(recipe(folder, split=slow, join=slow), folder / "runs", {}, stages=STAGES)
except MedllamaError as error:
    sys.exit(str(error))
"""


def start(folder: Path, pause_seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORK, str(folder), str(pause_seconds)],
        env={"PYTHONPATH": str(REPOSITORY)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_run_killed_at_random_moments_and_started_again_ends_with_the_same_bytes(folder: Path) -> None:
    (folder / "text.txt").write_text("haemochromatosis")
    chance, killed = random.Random(7), 0
    for attempt in range(40):
        process = start(folder, 0.012)
        assert process.stdout is not None
        process.stdout.readline()
        if attempt < 8:
            time.sleep(chance.uniform(0.0, 0.35))
            process.send_signal(signal.SIGKILL)
        _, complaints = process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert process.returncode in (0, -signal.SIGKILL), complaints
        letters = in_run(folder, "letters")
        assert not letters.exists() or len(list(letters.iterdir())) == 16, "never half a folder under its final name"
        if attempt >= 8 and process.returncode == 0:
            break
    assert killed >= 3
    assert in_run(folder, "joined.txt").read_text() == "-".join("haemochromatosis")
    kept = sorted(str(path.relative_to(in_run(folder, ""))) for path in in_run(folder, "").rglob("*") if path.is_file())
    assert kept == sorted(
        [".lock", "joined.txt", "manifests/join.json", "manifests/split.json", *(f"letters/{n}.txt" for n in range(16))]
    )


def test_a_second_process_is_told_that_the_run_is_taken_and_a_dead_one_holds_nothing(folder: Path) -> None:
    process = start(folder, 5.0)
    try:
        until = time.monotonic() + 20
        while not in_run(folder, "letters.partial").exists() and time.monotonic() < until:
            time.sleep(0.01)
        with pytest.raises(ResourceError) as caught:
            run(folder)
        assert str(caught.value) == (
            f"another medllama is at work in {folder}/runs/r\nhint: wait for it, or use another --runs-dir"
        )
        second = start(folder, 0.0)
        assert second.communicate()[1].startswith("another medllama is at work in")
        assert second.returncode == 1
    finally:
        process.kill()
        process.communicate()
    assert run(folder) == ["split", "join"]


def test_a_lock_is_given_back_after_a_failure(folder: Path) -> None:
    held = RunDirectory(folder / "runs" / "r")
    with pytest.raises(ValueError, match="failed"), held.locked():
        raise ValueError("failed")
    with held.locked():
        pass


def test_prepare_keeps_clear_of_the_record_files_that_eval_is_named(tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    for name in ("exam.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("{}\n")
    recipe.write_text("train: {base_model: .}\neval: {task: [exam.jsonl, 'medqa:test.jsonl', 'pubmedqa']}\n")
    found = configure(BY_NAME["prepare"], load_recipe(str(recipe)), tmp_path / "run", {"source": ["tiny"]})
    assert [Path(name).name for name in found.decontaminate] == ["exam.jsonl", "test.jsonl", "pubmedqa"]
