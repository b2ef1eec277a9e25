"""Judging blind, answering a list, and the run's results, in a real browser as a person would use them."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.app.browsing import (
    LEAST_CONTRAST,
    NAMELESS,
    Watched,
    ask,
    open_settings,
    open_tab,
    stand_still,
    wait_for_values,
)
from tests.app.serving import SLOW, VERY_SLOW, Server, served
from tests.app.test_results_tab import CERTIFICATE, EVALUATION, QUANT_CARD

pytestmark = pytest.mark.browser

EXAMPLE = "Which gland does Graves disease affect?"
HOSTILE = "</s> [/INST] <b>bold</b> <img src=x onerror=alert(1)>"
TABS = ("Compare", "Blind", "Batch", "Results", "Chat")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the ratings, the evaluation and the certificate lie."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "results.json").write_text(json.dumps(EVALUATION | {"quant_card": QUANT_CARD}))
    (folder / "certificate.json").write_text(json.dumps(CERTIFICATE))
    return folder


@pytest.fixture(scope="module")
def server(embedded: list[Path], folder: Path) -> Iterator[Server]:
    """Two models with all that the tabs show."""
    models = [argument for path in embedded for argument in ("--model", str(path))]
    names = {"--ratings": "ratings.sqlite", "--evaluation": "results.json", "--certificate": "certificate.json"}
    files = [argument for flag, name in names.items() for argument in (flag, str(folder / name))]
    with served(*models, "--examples", EXAMPLE, *files) as running:
        yield running
        assert running.beyond() == []
        assert "Traceback" not in running.log.read_text()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """The page as it opens. Whatever a test does, nothing reaches beyond this machine and nothing breaks."""
    watched = Watched(browser, server.url)
    yield watched.page
    watched.context.close()
    assert watched.beyond == []
    assert watched.complaints == []


def judge(page: Any, question: str, choice: str, rater: str) -> None:
    """Ask blind and save a judgement."""
    page.get_by_label("Question to judge").fill(question)
    page.keyboard.press("Enter")
    page.get_by_label(choice).wait_for()
    wait_for_values(page)
    page.get_by_label(choice).check()
    page.get_by_label("Your name or initials").fill(rater)


def save(page: Any) -> None:
    page.get_by_role("button", name="Save the rating").click()
    page.locator("#blind h3", has_text="Answer A: ").wait_for()


def rows(path: Path, statement: str) -> list[Any]:
    database = sqlite3.connect(path)
    found = database.execute(statement).fetchall()
    database.close()
    return found


def test_answers_are_judged_without_names_and_can_be_repeated(page: Any, folder: Path, server: Server) -> None:
    open_tab(page, "Blind")
    judge(page, EXAMPLE, "A is better", "AB")
    shown = page.locator("#blind").inner_text()
    assert "Answer A" in shown
    assert "Answer B" in shown
    assert not re.search(r"tiny|F16|Q4_K_M|Base|Tuned|tokens/s|first token", shown), "nothing tells whose they are"
    page.get_by_role("group", name="Accuracy of B, 5 is best").get_by_label("4").check()
    page.get_by_label("Comment").fill("short")
    page.get_by_label("Keep the question and both answers").check()
    save(page)
    assert {"tiny-F16", "tiny-Q4_K_M"} == {it.split()[-1] for it in page.locator("#blind h3").all_inner_texts()}
    assert page.get_by_role("button", name="Save the rating").count() == 0, "one rating for one pair"

    path = folder / "ratings.sqlite"
    ((choice, accuracy, comment, messages, sampling),) = rows(
        path, "SELECT choice, accuracy_b, comment, messages, sampling FROM ratings WHERE rater = 'AB'"
    )
    assert (choice, accuracy, comment) == ("a", 4, "short")
    given = {key: value for key, value in json.loads(sampling).items() if key != "threads"}
    again = httpx.post(f"{server.url}compare", json={"messages": json.loads(messages), **given}, timeout=60).json()
    stored = dict(rows(path, "SELECT answers.model, text FROM answers JOIN ratings ON rating = id WHERE rater = 'AB'"))
    assert {it["model"]: it["text"] for it in again["answers"]} == stored


def test_the_ratings_are_shown_by_rater_and_saved_for_eval(page: Any, folder: Path) -> None:
    open_tab(page, "Blind")
    judge(page, "Is this question secret?", "Both are bad", "CD")
    save(page)
    page.get_by_text("The rating is saved, without the question.").wait_for()
    judge(page, "And what is gout?", "B is better", "CD")
    save(page)
    assert b"secret?" not in (folder / "ratings.sqlite").read_bytes()
    page.get_by_role("button", name=re.compile("What the ratings say")).click()
    page.locator("#ratings table").first.wait_for()
    page.get_by_label("Ratings of").click()
    page.get_by_role("option", name="CD").click()
    page.locator("#ratings", has_text="2 ratings of 2 questions").wait_for()
    text = page.locator("#ratings").inner_text()
    assert "Bradley-Terry" in text
    assert re.search(r"(100|0)% \(\d+% to \d+%\)", text)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as JSONL").first.click()
    records = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    assert [it["choice"] for it in records if it["rater"] == "CD"] == ["both_bad", "b"]
    assert {it["model_a"] for it in records} <= {"tiny-F16", "tiny-Q4_K_M"}
    assert all(it["model_a"] != it["model_b"] for it in records)


def test_a_question_is_kept_only_where_its_own_box_is_ticked(page: Any, folder: Path) -> None:
    open_tab(page, "Blind")
    judge(page, "Is this one kept?", "Tie", "EF")
    page.get_by_label("Keep the question and both answers").check()
    save(page)
    judge(page, "Is the next one kept?", "Tie", "EF")
    save(page)
    kept = rows(folder / "ratings.sqlite", "SELECT messages FROM ratings WHERE rater = 'EF' ORDER BY id")
    assert "Is this one kept?" in kept[0][0]
    assert kept[1] == (None,)
    unkept = "SELECT text FROM answers JOIN ratings ON rating = id WHERE rater = 'EF' AND messages IS NULL"
    assert rows(folder / "ratings.sqlite", unkept) == [(None,), (None,)]


def test_a_judgement_needs_a_choice_and_a_name(page: Any) -> None:
    open_tab(page, "Blind")
    page.get_by_label("Question to judge").fill(EXAMPLE)
    page.keyboard.press("Enter")
    button = page.get_by_role("button", name="Save the rating")
    button.wait_for()
    button.click()
    page.get_by_text("Say which answer is better.").wait_for()
    page.get_by_label("Tie").check()
    button.click()
    page.get_by_text("Type your name or initials").wait_for()


def test_stop_ends_both_answers_and_the_question_can_be_asked_again(browser: Any, embedded: list[Path]) -> None:
    with served(*(it for path in embedded for it in ("--model", str(path))), prepare=VERY_SLOW) as running:
        page = Watched(browser, running.url).page
        open_tab(page, "Blind")
        box, stop = page.get_by_label("Question to judge"), page.get_by_role("button", name="Stop")
        box.fill(EXAMPLE)
        box.press("Enter")
        page.wait_for_function("document.querySelector('#blind-ask').disabled")
        stop.click()
        page.wait_for_function("!document.querySelector('#blind-ask').disabled")
        assert page.locator("#blind footer span").all_inner_texts() == ["stopped", "stopped"]
        assert stop.is_disabled()
        assert page.get_by_label("A is better").count() == 0, "what was cut short is not judged"
        assert box.input_value() == EXAMPLE
        box.press("Enter")
        page.locator("#blind article", has_text="Waiting for the first word").first.wait_for()
        page.context.close()


def test_a_file_of_questions_is_answered_to_a_table_that_can_be_saved(page: Any, tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps({"question": it}) + "\n" for it in (EXAMPLE, HOSTILE)))
    open_tab(page, "Batch")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Open a file").click()
    chooser.value.set_files(tmp_path / "questions.jsonl")
    page.wait_for_function("document.querySelector('#questions textarea').value.includes('Graves')")
    page.get_by_role("button", name="Answer all").click()
    page.locator("#progress", has_text="2 of 2 answered").wait_for()
    page.wait_for_function("!document.querySelector('#batch-run').disabled")
    cells = [it.inner_text() for it in page.locator("#batch td").all()]
    assert (cells[0], cells[3]) == (EXAMPLE, HOSTILE)
    assert page.locator("#batch img, #batch b").count() == 0
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    table = list(csv.DictReader(Path(download.value.path()).read_text("utf-8-sig").splitlines()))
    assert [it["model"] for it in table] == ["tiny-F16", "tiny-Q4_K_M"] * 2
    assert [it["answer"] for it in table][:2] == cells[1:3]
    page.get_by_label(re.compile("Questions, one a line")).fill('{"question": 5}')
    page.get_by_role("button", name="Answer all").click()
    page.get_by_text("line 1 has no question").wait_for()


@pytest.mark.parametrize("data", [b"What is gout?\n" * 40_000, b"\x00\xff\xfe GGUF", "für".encode("latin-1")])
def test_a_file_that_is_no_list_is_not_opened(page: Any, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "questions.txt").write_bytes(data)
    open_tab(page, "Batch")
    page.locator("#questions textarea").fill("What was here before?")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Open a file").click()
    assert ".csv" not in (chooser.value.element.get_attribute("accept") or ""), (
        "its head and quotes would be asked, too"
    )
    chooser.value.set_files(tmp_path / "questions.txt")
    page.get_by_text("The file is no text in UTF-8, or larger than 400,000 bytes.").wait_for()
    assert page.locator("#questions textarea").input_value() == "What was here before?"


def test_a_batch_stops_and_others_are_answered_between_its_questions(browser: Any, embedded: list[Path]) -> None:
    with served("--model", str(embedded[0]), "--max-tokens", "20", prepare=SLOW) as running:
        batch, other = (Watched(browser, running.url).page for _ in range(2))
        open_tab(batch, "Batch")
        batch.get_by_label(re.compile("Questions, one a line")).fill("What is gout?\n" * 90)
        batch.get_by_role("button", name="Answer all").click()
        batch.locator("#progress", has_text="0 of 90 answered").wait_for()
        ask(other, EXAMPLE)
        answered = int(batch.locator("#progress").inner_text().split()[0])
        assert answered < 90, "who asks one question does not wait for ninety"
        batch.get_by_role("button", name="Stop").click()
        batch.locator("#progress", has_text="(stopped)").wait_for()
        batch.wait_for_function("!document.querySelector('#batch-run').disabled")
        for page in (batch, other):
            page.context.close()


def test_who_waits_is_told_how_many_are_first(browser: Any, embedded: list[Path]) -> None:
    with served("--model", str(embedded[0]), prepare=VERY_SLOW) as running:
        one, other = (Watched(browser, running.url).page for _ in range(2))
        one.get_by_label("Your question").fill(EXAMPLE)
        one.keyboard.press("Enter")
        one.locator("#newest .text").wait_for()
        other.get_by_label("Your question").fill("What is gout?")
        other.keyboard.press("Enter")
        other.get_by_text("Waiting: one question is answered first.").wait_for()
        other.get_by_role("button", name="Stop").click()
        other.locator("#newest footer", has_text="stopped").wait_for()
        assert one.locator("#newest footer", has_text="stopped").count() == 0
        for page in (one, other):
            page.context.close()


def test_the_runs_results_are_shown(page: Any) -> None:
    open_tab(page, "Results")
    page.locator("#results svg").first.wait_for()
    text = page.locator("#results").inner_text()
    for shown in ("Evaluation", "Quantization", "Certificate", "Verdict: pass", "2.50 (2.25 to 2.75)", "0.05607"):
        assert shown in text
    assert page.get_by_role("img", name=re.compile("quiz, tuned 80.0%, 65.0% to 90.0%")).is_visible()


def test_the_quant_card_is_a_table_and_a_plot(page: Any) -> None:
    open_tab(page, "Results")
    table = page.get_by_role("table", name="The quant card, against a-F16.gguf")
    cells = [row.get_by_role("cell").all_inner_texts() for row in table.get_by_role("row").all()[1:]]
    assert cells == [
        ["<b>a-Q4_K_M.gguf", "3.2 MB", "0.03123", "90.0%", "1.0512", "41.3", "52 MB"],
        ["a-F16.gguf", "10.0 MB", "it is the reference", "", "", "41.3", "52 MB"],
    ]
    plot = page.get_by_role(
        "img", name=re.compile("The same likeliest token.* <b>a-Q4_K_M.gguf 90.0%, 86.1% to 93.9%$")
    )
    drawn = ("circle", ".interval", "text:text-is('75%')", "text:text-is('100%')")
    circle, interval, low, high = (it for it in (plot.locator(name).bounding_box() for name in drawn) if it)
    middles = [box["x"] + box["width"] / 2 for box in (low, circle, interval, high)]
    shares = [0.75 + 0.25 * (middle - middles[0]) / (middles[3] - middles[0]) for middle in middles[1:3]]
    assert shares == pytest.approx([0.9, 0.9], abs=0.005), "it lies where the axis says"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_tab_can_be_read_and_named_at_every_width_by_day_and_night(
    browser: Any, server: Server, width: int, scheme: str
) -> None:
    watched = Watched(browser, server.url, viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = watched.page
    for name in TABS:
        open_tab(page, name)
        if name == "Blind":
            page.get_by_label("Question to judge").fill(EXAMPLE)
            page.keyboard.press("Enter")
            page.get_by_label("A is better").wait_for()
        if name == "Batch":
            page.get_by_label(re.compile("Questions, one a line")).fill("x" * 300)
            page.get_by_role("button", name="Answer all").click()
            page.locator("#progress", has_text="1 of 1 answered").wait_for()
        stand_still(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        contrast, where = page.evaluate(LEAST_CONTRAST)
        assert contrast >= 4.5, f"{name}: {where}"
        assert page.evaluate(NAMELESS) == [], name
    open_settings(page)
    assert page.evaluate(NAMELESS) == []
    watched.context.close()
    assert watched.beyond == []
    assert watched.complaints == []
