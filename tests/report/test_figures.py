"""report.json: its numbers are those of the run's files, its verdict follows from them, and what is missing is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medllama.errors import InputError
from medllama.files import sha256_file
from report.figures import collect
from report.records import PURPOSE
from tests.report import runs
from tests.report.runs import change

RESULTS, CERTIFICATE = "eval/results.json", "certificate.json"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_numbers_are_those_of_the_runs_files(run: Path) -> None:
    figures, results, certificate = collect(run), read(run / RESULTS), read(run / CERTIFICATE)
    for ours, theirs in zip(figures["evaluation"]["tasks"], results["tasks"], strict=True):
        assert all(ours[key] == value for key, value in theirs.items() if key != "by_subject")
    assert figures["samples"]["items"] == results["samples"]["items"]
    assert figures["certificate"]["files"] == certificate["files"]
    assert figures["certificate"]["counts"] == {"pass": 2, "fail": 0, "skipped": 0}
    assert figures["data"]["sources"] == read(run / "data/data_card.json")["sources"]
    assert figures["training"]["hyperparameters"] == read(run / "adapter/training.json")["hyperparameters"]
    assert figures["loss_curve"]["training"] == [[10, 2.25], [20, 0.0625]]
    assert figures["loss_curve"]["validation"] == [[0, 4.321], [20, 0.0734]]


def test_the_cost_is_the_sum_and_the_peak_of_the_manifests(run: Path) -> None:
    cost = collect(run)["cost"]
    assert [stage["seconds"] for stage in cost["stages"]] == [1.5, 3.0, 4.5, 6.0, 7.5, 9.0]
    assert (cost["seconds"], cost["peak_memory_bytes"]) == (31.5, 600_000_000)
    written = [
        sum(it["bytes"] for it in read(run / f"manifests/{name}.json")["outputs"].values()) for name in runs.STAGES
    ]
    assert [stage["bytes_written"] for stage in cost["stages"]] == written
    assert cost["bytes_written"] == sum(written)


def test_every_record_is_named_with_its_digest(run: Path) -> None:
    files = collect(run)["files"]
    assert files == {name: sha256_file(run / name) for name in files}
    assert files.keys() == {*PURPOSE, *(f"manifests/{stage}.json" for stage in runs.STAGES)}


def test_where_a_model_lay_on_somebodys_disk_is_not_told(run: Path) -> None:
    figures = collect(run)
    assert figures["base"]["name"] == "small-base"
    assert figures["evaluation"]["model"]["file"] == "tiny-Q4_K_M.gguf"
    assert "somebody" not in json.dumps(figures)
    change(run / "adapter/training.json", lambda it: it["base"].update(name="meta-llama/Llama-2-7b-hf"))
    assert collect(run)["base"]["name"] == "meta-llama/Llama-2-7b-hf"


@pytest.mark.parametrize(
    ("edit", "verdict"),
    [
        (lambda tasks: None, "better"),
        (lambda tasks: tasks[0]["difference"].update(interval_95=[-0.01, 0.2]), "unclear"),
        (lambda tasks: tasks[0]["difference"].update(interval_95=[-0.2, -0.01]), "worse"),
        (lambda tasks: tasks[0].pop("difference"), "not compared"),
        (lambda tasks: tasks.pop(0), "better"),
        (lambda tasks: tasks.reverse(), "better"),
        (lambda tasks: (tasks.pop(0), tasks[0]["answer_text"]["difference"].update(interval_95=[0.1, 0.2])), "worse"),
        (
            lambda tasks: (tasks.pop(0), tasks[0]["answer_text"]["difference"].update(interval_95=[-0.1, 0.2])),
            "unclear",
        ),
        (lambda tasks: (tasks.pop(0), tasks[0]["answer_text"]["difference"].update(interval_95=None)), "unclear"),
        (lambda tasks: tasks.clear(), "not measured"),
    ],
)
def test_the_verdict_follows_from_the_interval(run: Path, edit: Callable[[Any], Any], verdict: str) -> None:
    change(run / RESULTS, lambda results: edit(results["tasks"]))
    found = collect(run)["headline"]
    assert found["verdict"] == verdict
    tasks = [task["task"] for task in read(run / RESULTS)["tasks"]]
    assert found["task"] == ("multiple_choice" if "multiple_choice" in tasks else "test" if tasks else None)


@pytest.mark.parametrize("name", PURPOSE)
def test_a_missing_record_is_said_to_be_missing(run: Path, name: str) -> None:
    (run / name).unlink()
    what, verb = PURPOSE[name]
    assert collect(run)["missing"] == [{"file": name, "what": what, "made_by": f"medllama {verb}"}]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no run: it has none of data/data_card\.json"):
        collect(tmp_path)
    with pytest.raises(InputError, match="gone is no folder"):
        collect(tmp_path / "gone")


@pytest.mark.parametrize("name", [*(name for name in PURPOSE if name != "data/NOTICE"), "manifests/train.json"])
def test_a_damaged_record_is_named(run: Path, name: str) -> None:
    whole = (run / name).read_text()
    for damaged in (whole[: len(whole) // 2], "[]", "{}", "\x00", '{"a": NaN}'):
        if name.endswith(".jsonl") and damaged == whole[: len(whole) // 2]:
            damaged = whole[:-5]
        (run / name).write_text(damaged)
        with pytest.raises(InputError, match=name):
            collect(run)


@pytest.mark.parametrize(
    ("name", "edit", "place"),
    [
        (RESULTS, lambda it: it["tasks"][0]["model"].update(accuracy="high"), "tasks.0.model.accuracy is 'high'"),
        (RESULTS, lambda it: it["tasks"][0]["model"].update(accuracy=True), "tasks.0.model.accuracy is True"),
        (RESULTS, lambda it: it["tasks"][0]["model"].update(accuracy=float("nan")), "tasks.0.model.accuracy is nan"),
        (RESULTS, lambda it: it["tasks"][0]["model"].update(interval_95=[0.1]), "interval_95 is no list of 2"),
        (RESULTS, lambda it: it["tasks"][0].update(kind="essay"), "tasks.0.kind is 'essay'"),
        (RESULTS, lambda it: it.update(samples=[]), "samples is no table"),
        (CERTIFICATE, lambda it: it["files"][0].pop("sha256"), "files.0.sha256 is missing"),
        (CERTIFICATE, lambda it: it["files"][0]["checks"][0].update(figure=float("inf")), "figure is inf"),
        ("adapter/training.json", lambda it: it.update(steps=1.5), "steps is 1.5"),
    ],
)
def test_a_field_that_is_not_what_it_should_be_is_named(
    run: Path, name: str, edit: Callable[[Any], Any], place: str
) -> None:
    change(run / name, edit)
    with pytest.raises(InputError) as error:
        collect(run)
    assert str(run / name) in error.value.message
    assert place in error.value.message


def swap_measured(run: Path) -> None:
    change(run / RESULTS, lambda it: it["model"].update(sha256="00" * 32))


def swap_training_data(run: Path) -> None:
    change(run / "manifests/train.json", lambda it: it["inputs"]["{run}/data/train.jsonl"].update(sha256="00" * 32))


@pytest.mark.parametrize(
    ("fault", "claim"),
    [
        (swap_measured, "the measured file passed the certificate"),
        (swap_training_data, "the training data is what prepare wrote"),
        (
            lambda run: change(run / CERTIFICATE, lambda it: it["adapter"].update(sha256="00" * 32)),
            "the certified adapter is the one that was trained",
        ),
        (
            lambda run: change(run / CERTIFICATE, lambda it: it["base"].update(config_sha256="00" * 32)),
            "the certified base has the shape of the one trained on",
        ),
        (
            lambda run: change(run / RESULTS, lambda it: it["tasks"][1].update(sha256="00" * 32)),
            "every test of the run's own data is a file that prepare wrote",
        ),
        (
            lambda run: change(run / "manifests/package.json", lambda it: it["summary"]["files"].update(x="00" * 32)),
            "every packaged file passed the certificate",
        ),
    ],
)
def test_parts_that_do_not_belong_together_are_told_first(run: Path, fault: Callable[[Path], None], claim: str) -> None:
    assert [link["holds"] for link in collect(run)["links"]] == [True] * 6
    fault(run)
    figures = collect(run)
    assert [link["claim"] for link in figures["links"] if not link["holds"]] == [claim]
    assert claim in figures["limits"][0]["text"]
    assert figures["limits"][0]["first"]


def test_a_measured_file_that_failed_is_not_a_certified_one(run: Path) -> None:
    change(run / CERTIFICATE, lambda it: it["files"][0].update(verdict="fail"))
    assert not next(link for link in collect(run)["links"] if link["claim"].startswith("the measured"))["holds"]
