"""`medllama runs`: what it says of each run, and that it removes a run and nothing but a run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from medllama import runs
from medllama.cli import main
from medllama.errors import InputError, ResourceError, UsageError
from medllama.files import write_json
from medllama.rundir import MANIFEST_TYPES, RunDirectory
from medllama.runs import describe_run, disk_bytes, is_run, list_runs, remove_run
from medllama.stages import BY_NAME

MULTIPLE_CHOICE = {
    "task": "multiple_choice", "kind": "multiple_choice", "model": {"accuracy": 0.9}, "baseline": {"accuracy": 0.5},
}  # fmt: skip
PERPLEXITY = {"task": "test", "kind": "perplexity", "model": {"perplexity": 2.0}}


def make_run(folder: Path, tasks: list[dict[str, Any]] | None = None, verdict: str | None = "pass") -> Path:
    """A run as far as `medllama runs` looks at it: a lock, manifests, a certificate."""
    with RunDirectory(folder).locked():
        pass
    manifest = {key: kind() for key, kind in MANIFEST_TYPES.items() if isinstance(kind, type)} | {
        "seconds": 1, "peak_memory_bytes": 1,
    }  # fmt: skip
    path = RunDirectory(folder).manifest_path(BY_NAME["eval"])
    write_json(path, manifest | {"summary": {"tasks": [PERPLEXITY, MULTIPLE_CHOICE] if tasks is None else tasks}})
    os.utime(path, (1_700_000_000, 1_700_000_000))
    if verdict:
        write_json(folder / "certificate.json", {"verdict": verdict})
    return folder


def test_a_run_is_told_with_size_date_verdict_and_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "mine")
    (tmp_path / "no-run").mkdir()
    (tmp_path / "file").touch()
    (told,) = list_runs(tmp_path)["runs"]
    assert told == {
        "name": "mine",
        "date": "2023-11-14T22:13:20+00:00",
        "bytes": disk_bytes(tmp_path / "mine"),
        "certificate": "passed",
        "accuracy": {"task": "multiple_choice", "tuned": 0.9, "base": 0.5},
    }
    line = capsys.readouterr().err.splitlines()[1]
    assert line.startswith("mine  2023-11-1")
    assert line.endswith("passed       90.0% against 50.0% of the base")


@pytest.mark.parametrize(("verdict", "said"), [("pass", "passed"), ("fail", "failed"), (None, "none"), ("odd", "none")])
def test_the_verdict_is_the_certificates(tmp_path: Path, verdict: str | None, said: str) -> None:
    assert describe_run(make_run(tmp_path / "mine", verdict=verdict))["certificate"] == said
    if verdict is None:
        (tmp_path / "mine" / "certificate.json").write_text("{")
        assert describe_run(tmp_path / "mine")["certificate"] == "none"


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ([MULTIPLE_CHOICE | {"baseline": {"accuracy": 0.25}}], "90.0% against 25.0% of the base"),
        ([{key: value for key, value in MULTIPLE_CHOICE.items() if key != "baseline"}], "90.0%"),
        ([PERPLEXITY], "not measured"),
        ([], "not measured"),
    ],
)
def test_the_accuracy_is_the_first_multiple_choice_of_eval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tasks: list[dict[str, Any]], said: str
) -> None:
    make_run(tmp_path / "mine", tasks)
    list_runs(tmp_path)
    assert capsys.readouterr().err.splitlines()[1].endswith(f"  {said}")


def test_a_run_that_only_began_is_listed_first_and_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a")
    with RunDirectory(tmp_path / "b").locked():
        assert [run["name"] for run in list_runs(tmp_path)["runs"]] == ["b", "a"]
    assert "b    unfinished " in capsys.readouterr().err


def test_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "gguf").write_bytes(b"x" * 1_000_000)
    alone = disk_bytes(tmp_path)
    assert 1_000_000 <= alone < 1_100_000
    (tmp_path / "package").hardlink_to(tmp_path / "gguf")
    (tmp_path / "link").symlink_to("/")
    assert alone <= disk_bytes(tmp_path) < alone + 10_000


def test_no_runs_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_runs(tmp_path / "nowhere")["runs"] == []
    assert capsys.readouterr().err == f"{tmp_path}/nowhere holds no run; medllama run tiny makes one\n"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is a file, not a folder of runs"):
        list_runs(tmp_path / "file")


def test_a_run_is_removed_and_nothing_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "mine")
    make_run(tmp_path / "other")
    (tmp_path / "mine" / "link").symlink_to(tmp_path / "other")
    removed = remove_run("mine", tmp_path)
    assert removed["removed"]["name"] == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert (tmp_path / "other" / "certificate.json").is_file()
    assert capsys.readouterr().err.startswith(f"removed {tmp_path}/mine: ")


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../runs/mine", "/tmp", "mine/", "mine/."])
def test_a_path_is_no_name(tmp_path: Path, name: str) -> None:
    make_run(tmp_path / "runs" / "mine")
    with pytest.raises(InputError, match="is no name of a run but a path"):
        remove_run(name, tmp_path / "runs")
    assert is_run(tmp_path / "runs" / "mine")


def test_what_is_no_run_stays(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").touch()
    make_run(tmp_path / "elsewhere" / "mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "mine")
    for name, reason in (("photos", "is no run"), ("absent", "is no run"), ("link", "is a link to ")):
        with pytest.raises(InputError, match=reason):
            remove_run(name, tmp_path)
    with pytest.raises(UsageError, match="needs the NAME of a run"):
        remove_run(None, tmp_path)
    assert (tmp_path / "photos" / "1.jpg").is_file()
    assert is_run(tmp_path / "elsewhere" / "mine")
    assert not (tmp_path / "absent").exists()


def test_a_run_at_work_is_not_removed(tmp_path: Path) -> None:
    make_run(tmp_path / "mine")
    with RunDirectory(tmp_path / "mine").locked(), pytest.raises(ResourceError, match="another medllama is at work in"):
        remove_run("mine", tmp_path)
    assert is_run(tmp_path / "mine")


def test_the_verb_speaks_json_and_takes_no_stray_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "mine")
    given = ["--runs-dir", str(tmp_path), "--json"]
    assert main(["runs", *given]) == 0
    assert [run["name"] for run in json.loads(capsys.readouterr().out)["runs"]] == ["mine"]
    assert main(["runs", "list", "mine", *given]) == 2
    assert "takes no name: mine" in json.loads(capsys.readouterr().out)["error"]
    assert main(["runs", "remove", "mine", *given]) == 0
    assert json.loads(capsys.readouterr().out)["removed"]["certificate"] == "passed"
    assert main(["runs", "remove", "mine", "--runs-dir", str(tmp_path)]) == 1
    assert capsys.readouterr().out == ""
    assert runs.is_run(tmp_path / "mine") is False
