"""report.html: its numbers are those of report.json, each names its file, and nothing in it can run or reach out."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import lxml.html
import pytest

from medllama.cli import main
from medllama.errors import InputError
from medllama.pipeline import run_recipe
from medllama.recipe import Recipe
from medllama.stages import BY_NAME
from report.config import ReportConfig
from report.figures import collect
from report.page import render, signed, size
from report.plots import accuracies, loss_curve
from report.records import PURPOSE
from report.report import report
from tests.report import runs
from tests.report.runs import change
from tests.report.test_markdown_and_slides import add_card

RESULTS = "eval/results.json"
BLOCKS = "self::p or self::li or self::dd or self::table or self::figure or self::details or self::article"
HOSTILE = "<script>window.planted = 1</script><img src=x onerror='window.planted = 2'>\"'&{{ 7 * 7 }}"


def page_of(run: Path) -> Any:
    """The page as a browser parses it."""
    return lxml.html.document_fromstring(render(json.loads(json.dumps(collect(run)))))


def numbers(value: Any) -> set[float]:
    """Every number in a JSON value."""
    if isinstance(value, dict | list):
        return {number for part in (value.values() if isinstance(value, dict) else value) for number in numbers(part)}
    return {float(value)} if isinstance(value, int | float) and not isinstance(value, bool) else set()


def text(element: Any) -> str:
    return " ".join(element.text_content().split())


def test_every_number_on_the_page_is_one_of_report_json(run: Path) -> None:
    figures = collect(run)
    known = numbers(figures) | {float(len(figures["certificate"]["files"]))}
    shown = [float(element.get("value")) for element in page_of(run).iter("data")]
    assert len(shown) > 60
    assert [number for number in shown if number not in known] == []


def test_the_results_of_the_runs_file_stand_on_the_page(run: Path) -> None:
    results = json.loads((run / RESULTS).read_text())
    shown = {float(element.get("value")) for element in page_of(run).iter("data")}
    choice, perplexity = results["tasks"]
    for task in (choice, perplexity["answer_text"]):
        for role in ("model", "baseline", "difference"):
            left_out = {"right"} if task is choice else {"interval_95"} if role != "difference" else {"standard_error"}
            kept = {key: value for key, value in task[role].items() if key not in left_out}
            assert numbers(kept) <= shown, role
    for stage in runs.STAGES:
        manifest = json.loads((run / f"manifests/{stage}.json").read_text())
        assert {manifest["seconds"], float(manifest["peak_memory_bytes"])} <= shown


def test_the_headline_says_the_difference_with_its_interval(run: Path) -> None:
    section = page_of(run).get_element_by_id("result")
    assert text(section.find("h2")) == "Better than its base at multiple choice"
    said = text(section.find_class("result")[0])
    assert "answered 90.0% of 20 multiple-choice questions right, its base 55.0%" in said
    assert "The difference is +35.0 points, 95% interval +11.8 to +56.7." in said
    said = text(section.find_class("result")[1])
    assert "answered 81.2% of 16 held-out questions in exactly the expected words, its base 6.2%." in said
    assert "The difference is +75.0 points, 95% interval +52.0 to +88.0." in said


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (signed(-1.25, 1), "−1.2"),
        (signed(0.35, 2), "+0.35"),
        (size(999), "999 bytes"),
        (size(3_221_920), "3.2 MB"),
        (size(1.02e9), "1.02 GB"),
    ],
)
def test_numbers_read_well(shown: str, expected: str) -> None:
    assert shown == expected


def test_every_number_names_a_file_of_the_run(run: Path) -> None:
    page = page_of(run)
    for element in page.iter("data"):
        block = element.xpath(f"ancestor::*[{BLOCKS}][.//*[contains(@class, 'source')]]")
        if not block:  # a sample answer: the paragraph above them all names the file
            (block,) = [element.xpath("ancestor::section[@id='answers']/p[1]")]
        assert block, text(element.getparent())
    named = {text(code) for source in page.find_class("source") for code in source.iter("code")}
    assert {"eval/results.json", "certificate.json", "data/data_card.json", "adapter/metrics.jsonl"} <= named
    assert [name for name in named if not (run / name).exists()] == []
    for table in [*page.iter("table"), *page.iter("figure")]:
        assert table.find_class("source") or "digests in its records" in text(table) or "as this report" in text(table)


def plant(run: Path) -> None:
    """Hostile text in every place where a run holds somebody else's words."""

    def in_results(results: Any) -> None:
        item = results["samples"]["items"][0]
        item["messages"][0]["content"] = item["expected"] = item["model"]["text"] = item["baseline"]["text"] = HOSTILE
        results["tasks"][0] |= {"task": HOSTILE, "protocol": HOSTILE, "warnings": [HOSTILE], "items_file": HOSTILE}
        results["tasks"][0]["by_subject"][0]["subject"] = HOSTILE

    def in_certificate(certificate: Any) -> None:
        file = certificate["files"][0]
        file |= {"name": HOSTILE, "sha256": HOSTILE, "type": HOSTILE, "verdict": HOSTILE}
        file["checks"][0] |= {"name": HOSTILE, "reason": HOSTILE, "figure": HOSTILE, "verdict": HOSTILE}

    change(run / RESULTS, in_results)
    change(run / "certificate.json", in_certificate)
    change(
        run / "data/data_card.json", lambda it: it["sources"][0].update(name=HOSTILE, attribution=HOSTILE, url=HOSTILE)
    )
    change(
        run / "adapter/training.json",
        lambda it: it.update(device=HOSTILE, hyperparameters={HOSTILE: HOSTILE}, base={"name": HOSTILE, "files": {}}),
    )
    (run / "data/NOTICE").write_text(f"</pre>{HOSTILE}")


def test_planted_text_is_inert(run: Path) -> None:
    harmless = page_of(run)
    plant(run)
    page = page_of(run)
    assert text(page).count("<script>window.planted = 1</script>") > 15
    for tag in ("script", "img", "iframe", "object", "form"):
        assert list(page.iter(tag)) == []
    attributes = {name for element in page.iter() for name in element.attrib}
    assert attributes == {name for element in harmless.iter() for name in element.attrib}
    assert "49" not in text(page.find_class("text")[0])


@pytest.mark.parametrize("name", PURPOSE)
def test_a_part_that_is_missing_is_said_on_the_page(run: Path, name: str) -> None:
    (run / name).unlink()
    box = next(box for box in page_of(run).find_class("box") if "Missing in this run" in text(box))
    assert f"no {name} (medllama {PURPOSE[name][1]} makes it)" in text(box)


@pytest.mark.parametrize("kept", [*PURPOSE, "manifests/eval.json"])
def test_a_run_with_a_single_record_has_a_page(run: Path, kept: str) -> None:
    for name in (*PURPOSE, *(f"manifests/{stage}.json" for stage in runs.STAGES)):
        if name != kept:
            (run / name).unlink()
    page = page_of(run)
    assert text(page).count("Missing") >= 1
    assert [text(row) for row in page.get_element_by_id("cost").iter("tr")].count(
        "train missing: not finished in this run"
    ) == 1


def test_a_run_without_test_records_says_that_nothing_was_measured(run: Path) -> None:
    change(run / RESULTS, lambda results: (results["tasks"].clear(), results["samples"]["items"].clear()))
    page = page_of(run)
    assert text(page.get_element_by_id("result").find("h2")) == "Not measured"
    assert "Nothing was measured" in text(page.get_element_by_id("numbers"))


@pytest.mark.parametrize("field", ["perplexity", "perplexity_interval_95", "standard_error", "interval_95"])
def test_a_figure_that_eval_could_not_have_leaves_the_rest(run: Path, field: str) -> None:
    def lose(results: Any) -> None:
        del results["tasks"][0]
        for role in ("model", "baseline", "difference"):
            results["tasks"][0]["answer_text"][role][field] = None

    change(run / RESULTS, lose)
    assert "beyond measure" in text(page_of(run)) or field != "perplexity"


def test_a_run_without_its_base_shows_the_model_alone(run: Path) -> None:
    def lose(results: Any) -> None:
        results["baseline"] = None
        choice, perplexity = results["tasks"]
        for table in (choice, perplexity["answer_text"], perplexity["with_ending"], results["samples"]["items"][0]):
            table.pop("baseline")
            table.pop("difference", None)
        choice["by_subject"][0].pop("baseline")

    change(run / RESULTS, lose)
    page = page_of(run)
    assert text(page.get_element_by_id("result").find("h2")) == "Measured without its base"
    assert "90.0%" in text(page.get_element_by_id("numbers"))


def test_the_page_refers_to_nothing_outside_itself(run: Path) -> None:
    page = page_of(run)
    links = [element.get(name) for element in page.iter() for name in ("href", "src") if element.get(name)]
    assert [link for link in links if not link.startswith(("#", "data:,"))] == []
    assert {link[1:] for link in links if link.startswith("#")} <= {element.get("id") for element in page.iter()}
    style = "".join(element.text for element in page.iter("style"))
    assert not re.search(r"@import|url\(", style)
    (policy,) = page.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert policy.startswith("default-src 'none'")


def test_the_page_reads_well_without_eyes(run: Path) -> None:
    page = page_of(run)
    assert page.get("lang") == "en"
    levels = [int(element.tag[1]) for element in page.iter("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for table in page.iter("table"):
        assert text(table.find("caption"))
        assert all(cell.get("scope") for cell in table.iter("th"))
    for plot in page.iter("svg"):
        assert plot.get("role") == "img"
        assert len(text(plot.find("title"))) > 20
    identifiers = Counter(element.get("id") for element in page.iter() if element.get("id"))
    assert [name for name, count in identifiers.items() if count > 1] == []


def test_a_plot_tells_its_curves_apart_without_color(run: Path) -> None:
    figures = collect(run)
    curve = loss_curve(figures["loss_curve"])
    assert "stroke-dasharray" in curve
    for words in ("optimizer steps", "loss, nats per token (log scale)", ">training<", ">validation<"):
        assert words in curve
    assert "training loss from 2.25 to 0.0625, validation loss from 4.32 to 0.0734" in curve
    (choice, _) = figures["evaluation"]["tasks"]
    assert "tuned 90.0% (95% interval 69.9 to 97.2); base 55.0% (95% interval 34.2 to 74.2)" in accuracies(choice)
    assert loss_curve({"training": [], "validation": []}) == ""
    assert "log scale" not in loss_curve({"training": [[1, 2.0], [2, 1.0]], "validation": []})


def test_the_stage_writes_page_and_numbers_and_the_same_bytes_again(run: Path, tmp_path: Path) -> None:
    made = report(ReportConfig(run))
    assert made.path == run / "report.html"
    assert made.summary["verdict"] == "better"
    written = made.path.read_bytes(), (run / "report.json").read_bytes()
    assert json.loads(written[1]) == collect(run)
    elsewhere = report(ReportConfig(run, output=tmp_path / "other.html"))
    assert elsewhere.path == tmp_path / "other.html"
    assert (elsewhere.path.read_bytes(), (tmp_path / "other.json").read_bytes()) == written


def test_the_report_is_made_again_where_a_record_changed_and_only_there(run: Path) -> None:
    recipe = Recipe(Path("tiny.yaml"), "tiny", "")

    def was_skipped() -> bool:
        (done,) = run_recipe(recipe, run.parent, {}, stages=(BY_NAME["report"],))
        assert done.result.path == run / "report.html"
        return done.was_skipped

    assert [was_skipped(), was_skipped()] == [False, True]
    for touch in (
        lambda: change(run / RESULTS, lambda results: results["tasks"][0]["warnings"].append("too small")),
        lambda: (run / "data/NOTICE").unlink(),
        lambda: (run / "report.json").unlink(),
        lambda: (run / "report.html").unlink(),
    ):
        touch()
        assert [was_skipped(), was_skipped()] == [False, True]


def test_the_command_works_on_a_folder_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--run", str(run), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["path"], said["verdict"], said["missing"]) == (str(run / "report.html"), "better", [])
    (run / "certificate.json").write_text("{")
    assert main(["report", "--run", str(run)]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"error: {run}/certificate.json is not JSON: line 1" in shown.err
    assert main(["report", "--run", str(run), "--output", "page.pdf"]) == 2


def test_base_and_tuned_stand_in_their_own_columns(run: Path) -> None:
    page = page_of(run)
    choice, perplexity = page.get_element_by_id("numbers").iter("table")
    for table, row in (
        (choice, "all 20 55.0% 34.2 to 74.2 90.0% 69.9 to 97.2 +35.0 +11.8 to +56.7"),
        (choice, "drug 20 55.0% 90.0% +35.0"),
        (perplexity, "the answer's words 432 5.98 5.40 to 6.60 1.13 1.10 to 1.20 −1.666 −1.764 to −1.568"),
    ):
        heads = [text(cell) for cell in table.find("thead").iter("th")]
        assert heads[2:4] == ["Base", "Tuned"]
        assert row in [" ".join(text(cell) for cell in its) for its in table.iter("tr")]
    (sample,) = page.find_class("sample")
    base, tuned = (text(answer) for answer in sample.find_class("answer"))
    assert base == "Base The main cause of other than the expected words, cut at 64 tokens"
    assert tuned == "Tuned A statin. the expected words, ended by itself after 7 tokens"


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of everything inside a JSON value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [its for key, part in parts for its in [(*place, key), *places(part, (*place, key))]]


def outcome(run: Path, name: str) -> str:
    """What a run comes to: a page, or an error, which may or may not name the file."""
    try:
        render(collect(run))
    except InputError as error:
        return "error" if name in error.message else error.message
    return "page"


@pytest.mark.parametrize("name", [RESULTS, "certificate.json", "data/data_card.json", "adapter/training.json"])
def test_whatever_is_lost_from_a_record_there_is_a_page_or_an_error_that_names_it(
    run: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("report.page.accuracies", lambda task: "")  # plots take a tenth of a second each
    monkeypatch.setattr("report.page.loss_curve", lambda curve: "")
    whole, outcomes = (run / name).read_text(), Counter[str]()
    for *parents, last in places(json.loads(whole)):
        for lose in (lambda table, key: table.pop(key), lambda table, key: table.__setitem__(key, None)):
            value = json.loads(whole)
            table = value
            for key in parents:
                table = table[key]
            lose(table, last)
            (run / name).write_text(json.dumps(value))
            outcomes[outcome(run, name)] += 1
    assert outcomes.keys() == {"page", "error"}
    assert min(outcomes.values()) > 10


def test_words_stand_apart(run: Path) -> None:
    change(run / RESULTS, add_card)
    said = text(page_of(run))
    assert said.count("±") > 5
    assert re.findall(r"\S±|[\d)]\.[A-Z]", said) == []


def test_a_text_in_windows_is_called_a_text(run: Path) -> None:
    def only_a_text(results: Any) -> None:
        results["tasks"] = [results["tasks"][1] | {"prompt": "plain", "task": "leaflets"}]

    change(run / RESULTS, only_a_text)
    page = page_of(run)
    said = text(page.get_element_by_id("result"))
    assert "Better than its base at predicting a text" in said
    assert "The perplexity of the text leaflets is 1.13, of its base 5.98" in said
    measured = text(page.get_element_by_id("numbers"))
    assert "Perplexity of a text (leaflets)" in measured
    assert "answer's words" not in measured


def test_a_page_that_would_overwrite_a_record_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (run / "certificate.json").read_text()
    assert main(["report", "--run", str(run), "--output", str(run / "certificate.html")]) == 2
    assert "certificate.json is a record of the run, and would be overwritten" in capsys.readouterr().err
    assert (run / "certificate.json").read_text() == whole
