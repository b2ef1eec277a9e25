"""The page in a real browser, driven as a person would, with every other machine out of reach."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app import screenshot
from tests.app.browsing import LEAST_CONTRAST, Watched, ask, open_settings, open_tab, stand_still, wait_for_answers
from tests.app.ollama_server import ollama_server
from tests.app.serving import BROKEN, SHORT_OF_MEMORY, VERY_SLOW, Server, served

pytestmark = pytest.mark.browser

EXAMPLE = "Which gland does Graves disease affect?"
HOSTILE = (
    "</s> [/INST] <b>bold</b> <img src=x onerror=alert(1)> <script>alert(2)</script> ${alert(3)} {{value}} &lt; **b**"
)
# Also of what is cut off there, and makes the page no wider.
FARTHEST_RIGHT = """Math.max(document.documentElement.scrollWidth,
  ...[...document.querySelectorAll('main *')].filter(it => it.checkVisibility()).map(it => it.getBoundingClientRect().right))"""


@pytest.fixture(scope="module")
def server(embedded: list[Path]) -> Iterator[Server]:
    """Two models that answer, with examples."""
    models = [argument for path in embedded for argument in ("--model", str(path))]
    with served(*models, "--examples", EXAMPLE, "What is gout, and who gets it?") as running:
        yield running
        assert running.beyond() == []


@pytest.fixture(scope="module")
def slow_server(embedded: list[Path]) -> Iterator[Server]:
    """A model that needs a second for a token, and two minutes for an answer: what is not ended in time fails here."""
    with served("--model", str(embedded[0]), prepare=VERY_SLOW) as running:
        yield running


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """The page as it opens. Whatever a test does, nothing reaches beyond this machine and nothing breaks."""
    watched = Watched(browser, server.url)
    yield watched.page
    watched.context.close()
    assert watched.beyond == []
    assert watched.complaints == []


def cards(page: Any) -> list[str]:
    """The text of every answer to the newest question."""
    return [it.inner_text() for it in page.locator("#newest article").all()]


def test_an_example_is_answered_by_both_models_with_figures(page: Any) -> None:
    page.get_by_role("button", name=EXAMPLE).click()
    wait_for_answers(page, EXAMPLE)
    base, tuned = cards(page)
    assert "Base tiny-F16" in base
    assert "Tuned tiny-Q4_K_M" in tuned
    for card in (base, tuned):
        assert re.search(
            r"first token \d+ ms · \d+ tokens · [\d,]+ tokens/s · (ended by itself|cut at the length limit)", card
        )
        assert len(card) > 100
    assert page.get_by_text("This is no medical device.").is_visible()


def test_the_page_is_used_with_the_keyboard_alone(page: Any) -> None:
    page.wait_for_function("document.activeElement.tagName == 'TEXTAREA'")
    page.keyboard.type("What is gout?")
    page.keyboard.press("Enter")
    wait_for_answers(page, "What is gout?")
    page.get_by_label("Your question").focus()
    reached = []
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.ariaLabel || document.activeElement.innerText.trim()"))
    buttons = ["Ask", "Regenerate", "New conversation", EXAMPLE, "What is gout, and who gets it?"]
    assert reached[:7] == [*buttons, "Copy the answer of Base", "Copy the answer of Tuned"]
    assert reached[7].startswith("Where the answers differ")
    assert reached[8].startswith("The prompt")
    page.keyboard.press("Enter")
    page.get_by_label("The prompt that Base read").wait_for()


def test_a_conversation_goes_on_and_the_prompt_is_shown_as_it_is_read(page: Any) -> None:
    open_settings(page)
    page.get_by_label("System prompt").fill("You answer briefly.")
    page.get_by_label("Most tokens of an answer").fill("12")
    ask(page, EXAMPLE)
    first = page.locator("#newest .text").first.inner_text()
    assert "12 tokens" in cards(page)[0]
    ask(page, "And who treats it?")
    assert page.locator("#earlier .question").inner_text().endswith(EXAMPLE)
    assert page.locator("#earlier .text").first.inner_text() == first
    page.get_by_role("button", name=re.compile("The prompt")).click()
    prompt = page.get_by_label("The prompt that Base read")
    assert prompt.inner_text().strip() == (
        f"<s> [INST] <<SYS>>\nYou answer briefly.\n<</SYS>>\n\n{EXAMPLE} [/INST] {first} </s><s> [INST] And who treats it? [/INST]"
    )
    assert prompt.locator("mark").all_inner_texts() == ["<s>", "</s>", "<s>"]
    page.get_by_role("button", name="New conversation").click()
    page.locator("#newest", has_text="Ask a question above.").wait_for()
    assert page.locator(".question").count() == 0


def test_text_stays_text(page: Any) -> None:
    ask(page, HOSTILE)
    assert page.locator("#newest h2").inner_text().endswith(HOSTILE)
    assert page.locator("#newest img, #newest b, #newest script").count() == 0
    page.get_by_role("button", name=re.compile("The prompt")).click()
    prompt = page.get_by_label("The prompt that Tuned read")
    prompt.wait_for()
    assert HOSTILE in prompt.inner_text()
    assert prompt.locator("mark").all_inner_texts() == ["<s>"]


def test_text_that_runs_from_right_to_left_begins_at_the_right(page: Any) -> None:
    question = "ما هو النقرس؟ Gout"
    page.get_by_label("Your question").fill(question)
    assert page.evaluate("getComputedStyle(document.querySelector('#question textarea')).unicodeBidi") == "plaintext"
    ask(page, question)
    left, right = page.evaluate("""() => {
        const range = document.createRange(), box = document.querySelector('#newest h2');
        range.selectNodeContents(box.lastChild);
        const [text, whole] = [range.getBoundingClientRect(), box.getBoundingClientRect()];
        return [text.left - whole.left, whole.right - text.right];
    }""")
    assert right < 2 < left


def test_what_does_not_fit_is_told_and_stays_in_the_box(page: Any) -> None:
    question = "gout, " * 600
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Enter")
    page.get_by_text(re.compile("tokens long, and tiny-F16 sees 1,024")).wait_for()
    page.wait_for_function("!document.querySelector('#ask').disabled")
    assert page.get_by_label("Your question").input_value() == question.strip()
    ask(page, "What is gout?")
    assert page.locator("#earlier .question").count() == 0


def test_a_question_that_is_too_long_is_refused_and_not_cut(page: Any) -> None:
    page.get_by_label("Your question").fill("a" * 100_000)
    page.keyboard.press("Enter")
    page.get_by_text("A question has at most 4,000 characters.").wait_for()
    assert page.locator("#newest .question").count() == 0
    ask(page, "What is gout?")


def test_a_model_that_breaks_is_told_and_the_next_question_is_answered(browser: Any, embedded: list[Path]) -> None:
    with served("--model", str(embedded[0]), prepare=BROKEN) as running:
        page = Watched(browser, running.url).page
        page.get_by_label("Your question").fill(EXAMPLE)
        page.keyboard.press("Enter")
        page.locator("#newest [role=alert]").wait_for()
        assert "The model failed; the terminal that runs medllama says why." in cards(page)[0]
        page.wait_for_function("!document.querySelector('#ask').disabled")
        assert page.get_by_label("Your question").input_value() == EXAMPLE
        assert "RuntimeError: broken by the test" in running.log.read_text()
        ask(page, EXAMPLE)
        page.context.close()


def test_an_answer_is_made_again_with_the_next_seed(page: Any) -> None:
    open_settings(page)
    page.get_by_role("spinbutton", name="Temperature").fill("1.5")
    page.get_by_label("Most tokens of an answer").fill("20")
    ask(page, EXAMPLE)
    first, text = cards(page), page.locator("#newest .text").first.text_content()
    page.get_by_role("button", name="Regenerate").click()
    page.wait_for_function("document.querySelector('#seed input').value == '1'")
    page.wait_for_function("old => document.querySelector('#newest .text')?.textContent != old", arg=text)
    wait_for_answers(page, EXAMPLE)
    assert cards(page) != first
    assert page.locator("#earlier .question").count() == 0, "it takes the place of the answer before"
    page.get_by_label("Seed").fill("0")
    page.get_by_role("button", name="New conversation").click()
    page.locator("#newest", has_text="Ask a question above.").wait_for()
    ask(page, EXAMPLE)
    texts = [re.sub(r"first token.*", "", it, flags=re.DOTALL) for it in (cards(page)[0], first[0])]
    assert texts[0] == texts[1], "the same seed gives the same answer"


def test_an_answer_that_cannot_be_made_again_stays(page: Any) -> None:
    ask(page, EXAMPLE)
    before = cards(page)
    open_settings(page)
    page.get_by_label("System prompt").fill("gout, " * 600)
    page.get_by_role("button", name="Regenerate").click()
    page.get_by_text(re.compile("tokens long, and tiny-F16 sees 1,024")).wait_for()
    page.wait_for_function("!document.querySelector('#ask').disabled")
    assert cards(page) == before
    assert page.get_by_label("Your question").input_value() == "", "it stands on the page"
    assert page.get_by_label("Seed").input_value() == "0", "the seed of the answer that stands there"
    page.get_by_label("System prompt").fill("")
    ask(page, "And who treats it?")
    assert page.locator("#earlier .question").inner_text().endswith(EXAMPLE)


def test_an_answer_is_copied(browser: Any, server: Server) -> None:
    page = Watched(browser, server.url, permissions=["clipboard-read", "clipboard-write"]).page
    ask(page, EXAMPLE)
    page.get_by_role("button", name="Copy the answer of Tuned").click()
    text = page.locator("#newest .text").last.text_content()
    assert text
    page.wait_for_function("text => navigator.clipboard.readText().then(copied => copied === text)", arg=text)
    page.context.close()


def test_where_the_answers_differ_is_marked(page: Any) -> None:
    ask(page, EXAMPLE)
    page.get_by_role("button", name=re.compile("Where the answers differ")).click()
    shown = page.locator("#differences .difference")
    shown.wait_for()
    one, other = (it.text_content() for it in page.locator("#newest .text").all())
    parts = page.evaluate(
        "[...document.querySelector('.difference').childNodes].map(it => [it.nodeName, it.textContent])"
    )
    assert "".join(text for kind, text in parts if kind != "INS") == one
    assert "".join(text for kind, text in parts if kind != "DEL") == other


def test_one_model_is_asked_by_itself(page: Any) -> None:
    open_tab(page, "Chat")
    box = page.get_by_label("Your message")
    box.fill(EXAMPLE)
    box.press("Enter")
    ends = "[...document.querySelectorAll('#chat-newest footer')].some(it => /ended|cut/.test(it.textContent))"
    page.wait_for_function(ends)
    assert page.locator("#chat-newest article").count() == 1
    assert "Tuned tiny-Q4_K_M" in page.locator("#chat-newest article").inner_text()
    page.get_by_label("Base: tiny-F16").check()
    page.locator("#chat-newest", has_text="Ask a question above.").wait_for()
    assert "Base tiny-F16" in page.locator("#chat-newest article").inner_text()


def test_a_model_that_is_missing_is_told_and_the_other_answers(browser: Any, embedded: list[Path]) -> None:
    with served("--model", "gone.gguf", "--model", str(embedded[0])) as running:
        page = Watched(browser, running.url).page
        assert page.get_by_text("gone cannot be asked: gone.gguf does not exist").is_visible()
        page.get_by_label("Your question").fill(EXAMPLE)
        page.keyboard.press("Enter")
        page.locator("#newest footer", has_text="ended by itself").wait_for()
        assert "gone.gguf does not exist" in cards(page)[0]
        page.wait_for_function("!document.querySelector('#ask').disabled")
        open_tab(page, "Blind")
        page.get_by_label("Question to judge").fill(EXAMPLE)
        page.keyboard.press("Enter")
        page.get_by_text("Only one model can be asked.").wait_for()
        assert page.get_by_label("Question to judge").input_value() == EXAMPLE
        assert page.locator("#blind .question").count() == 0
        page.context.close()


def test_an_adapter_is_a_second_voice_and_said_not_to_be_the_certified_file(
    browser: Any, random_ggufs: dict[str, Path]
) -> None:
    files = ("--model", str(random_ggufs["base"]), "--adapter-gguf", str(random_ggufs["adapter"]))
    with served(*files, "--context-tokens", "256", "--max-tokens", "16") as running:
        page = Watched(browser, running.url).page
        assert page.get_by_text("Base and base with adapter, side by side.").is_visible()
        ask(page, "Gout?")
        base, adapted = cards(page)
        assert "not the certified merged file" in adapted
        assert "not the certified merged file" not in base
        texts = page.locator("#newest .text").all_inner_texts()
        assert texts[0] != texts[1], "the adapter is applied to one voice alone"
        page.context.close()


def test_models_that_do_not_fit_together_take_turns_and_say_so(browser: Any, embedded: list[Path]) -> None:
    models = [argument for path in embedded for argument in ("--model", str(path))]
    with served(*models, prepare=SHORT_OF_MEMORY) as running:
        page = Watched(browser, running.url).page
        assert page.get_by_text("The models do not fit into memory together.").is_visible()
        ask(page, EXAMPLE)
        ask(page, "What is gout?")
        assert page.locator("#earlier article").count() == 2
        page.context.close()


def test_the_models_of_an_ollama_server_are_compared(browser: Any) -> None:
    with ollama_server() as ollama:
        given = ("--backend", "ollama", "--ollama-host", ollama.url, "--model", "base", "--model", "tuned")
        with served(*given) as running:
            page = Watched(browser, running.url).page
            assert page.get_by_text("An Ollama server answers: it may take what is typed").is_visible()
            ask(page, EXAMPLE)
            assert "tuned1 tuned2 tuned3 tuned4 tuned5" in cards(page)[1]
            assert "5 tokens · 20 tokens/s · ended by itself" in cards(page)[1]
            page.get_by_label("Your question").fill("break")
            page.keyboard.press("Enter")
            page.locator("#newest [role=alert]").last.wait_for()
            assert "The Ollama server refused tuned: the model runner stopped." in cards(page)[1]
            page.context.close()


def test_the_page_asks_for_its_password_and_says_whose_it_is(
    browser: Any, embedded: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("correct horse\n")
    given = ("--model", str(embedded[0]), "--host", "0.0.0.0", "--password-file", str(tmp_path / "password"))
    with served(*given) as running:
        page = browser.new_page()
        page.goto(running.url.replace("0.0.0.0", "127.0.0.1"))
        page.get_by_text("The user is medllama").wait_for()
        for password in ("wrong", "correct horse"):
            page.get_by_label("username").fill("medllama")
            page.get_by_label("password").fill(password)
            page.get_by_role("button", name="Login").click()
            if password == "wrong":
                page.get_by_text("Incorrect Credentials").wait_for()
        ask(page, "What is gout?")
        assert running.beyond() == []
        page.close()


def test_a_setting_that_is_refused_is_told_and_the_next_question_is_answered(browser: Any, server: Server) -> None:
    page = Watched(browser, server.url).page
    open_settings(page)
    page.get_by_label("Seed").fill("-5")
    page.get_by_label("Your question").fill("What is gout?")
    page.keyboard.press("Enter")
    page.get_by_text("Value -5 is less than minimum value 0").wait_for()
    assert page.get_by_label("Your question").input_value() == "What is gout?", "it can be asked again"
    assert page.locator("#newest .question").count() == 0
    page.get_by_label("Seed").fill("-6")
    open_tab(page, "Blind")
    page.get_by_label("Question to judge").fill("What is asthma?")
    page.keyboard.press("Enter")
    page.get_by_text("Value -6 is less than minimum value 0").wait_for()
    assert page.get_by_label("Question to judge").input_value() == "What is asthma?"
    assert page.locator("#blind .question").count() == 0
    open_tab(page, "Compare")
    for seed in ("7", ""):
        page.get_by_label("Seed").fill(seed)
        ask(page, f"What is gout {seed}?")
    assert "Traceback" not in server.log.read_text(), "it is the person's to mend, and none of the server's"
    page.context.close()


def test_a_page_of_an_earlier_server_is_told_to_be_opened_anew(browser: Any, server: Server) -> None:
    page = Watched(browser, server.url).page

    def look_for_a_part_that_was(route: Any) -> None:
        route.continue_(post_data=route.request.post_data_json | {"fn_index": 9999})

    page.route("**/gradio_api/queue/join*", look_for_a_part_that_was)
    page.get_by_label("Your question").fill(EXAMPLE)
    page.keyboard.press("Enter")
    page.get_by_text("the page has no such part: open it anew").wait_for()
    assert page.get_by_label("Your question").input_value() == EXAMPLE
    assert "Traceback" not in server.log.read_text()
    page.context.close()


def test_an_empty_question_is_not_asked(page: Any) -> None:
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("Type a question first.").wait_for()
    assert cards(page)[0].strip().endswith("Ask a question above.")


def test_stop_ends_the_answer_and_the_conversation_goes_on(browser: Any, slow_server: Server) -> None:
    page = Watched(browser, slow_server.url).page
    page.get_by_label("Your question").fill(EXAMPLE)
    page.keyboard.press("Enter")
    page.locator("#newest .text").wait_for()
    assert page.get_by_role("button", name="Ask").is_disabled()
    page.get_by_label("Your question").fill("Another one?")
    page.keyboard.press("Enter")
    page.get_by_text("Stop the answer first, or wait for it.").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.locator("#newest footer", has_text="stopped").wait_for()
    assert page.get_by_label("Your question").input_value() == "Another one?"
    page.wait_for_function("!document.querySelector('#ask').disabled")
    page.get_by_role("button", name="Ask").click()
    page.locator("#newest h2", has_text="Another one?").wait_for()
    page.context.close()


def test_an_answer_that_is_not_made_again_after_all_stays(browser: Any, slow_server: Server) -> None:
    one, other = (Watched(browser, slow_server.url).page for _ in range(2))
    for page in (one, other):
        page.get_by_label("Your question").fill(EXAMPLE)
        page.keyboard.press("Enter")
        page.locator("#newest .text").wait_for()
        if page is one:
            page.get_by_role("button", name="Stop").click()
            page.wait_for_function("!document.querySelector('#ask').disabled")
    before = cards(one)
    one.get_by_role("button", name="Regenerate").click()
    one.get_by_text("Waiting: one question is answered first.").wait_for()
    one.get_by_role("button", name="Stop").click()
    one.wait_for_function("!document.querySelector('#ask').disabled")
    assert cards(one) == before
    assert one.get_by_label("Your question").input_value() == ""
    for page in (one, other):
        page.context.close()


def test_a_chat_keeps_its_model_while_that_answers(browser: Any, embedded: list[Path]) -> None:
    """Else the answer of one would stand under the other's name."""
    models = [argument for path in embedded for argument in ("--model", str(path))]
    with served(*models, prepare=VERY_SLOW) as running:
        page = Watched(browser, running.url).page
        open_tab(page, "Chat")
        page.get_by_label("Your message").fill(EXAMPLE)
        page.keyboard.press("Enter")
        page.locator("#chat-newest .text").wait_for()
        other = page.get_by_label("Base: tiny-F16")
        assert other.is_disabled()
        page.locator("#chat-stop").click()
        page.locator("#chat-newest footer", has_text="stopped").wait_for()
        other.check()
        page.locator("#chat-newest", has_text="Ask a question above.").wait_for()
        page.context.close()


def test_an_answer_ends_when_its_page_is_closed(browser: Any, slow_server: Server) -> None:
    """Whoever asks next does not wait for it."""
    leaving = Watched(browser, slow_server.url).page
    leaving.get_by_label("Your question").fill(EXAMPLE)
    leaving.keyboard.press("Enter")
    leaving.locator("#newest .text").wait_for()
    leaving.context.close()
    staying = Watched(browser, slow_server.url).page
    staying.get_by_label("Your question").fill("What is gout?")
    staying.keyboard.press("Enter")
    staying.locator("#newest .text").wait_for()
    staying.context.close()


def test_two_people_have_two_conversations(browser: Any, server: Server) -> None:
    one, other = (Watched(browser, server.url).page for _ in range(2))
    for page, question in ((one, "What is gout?"), (other, "What is asthma?")):
        page.get_by_label("Your question").fill(question)
        page.keyboard.press("Enter")
    wait_for_answers(one, "What is gout?")
    wait_for_answers(other, "What is asthma?")
    ask(one, "And who treats it?")
    assert "gout" in one.locator("#earlier").inner_text()
    assert "asthma" not in one.locator("body").inner_text()
    for page in (one, other):
        page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_can_be_read_at_every_width_by_day_and_night(
    browser: Any, server: Server, width: int, scheme: str
) -> None:
    page = Watched(browser, server.url, viewport={"width": width, "height": 844}, color_scheme=scheme).page
    ask(page, EXAMPLE)
    ask(page, "x" * 300)
    for name in ("Settings", "The prompt"):
        page.get_by_role("button", name=re.compile(name)).click()
    page.get_by_label("The prompt that Base read").wait_for()
    stand_still(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    contrast, where = page.evaluate(LEAST_CONTRAST)
    assert contrast >= 4.5, where
    boxes = [it.bounding_box() for it in page.locator("#newest article").all()]
    assert (boxes[0]["y"] == boxes[1]["y"]) == (width == 1280), "beside each other where there is room, else below"
    page.context.close()


def test_four_voices_answer_in_columns_at_every_width(browser: Any, embedded: list[Path], tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.gguf" for name in ("base", "tuned", "x" * 100, "tuned-" * 12)]
    for file in files:
        file.symlink_to(embedded[1])
    models = [argument for file in files for argument in ("--model", str(file))]
    with served(*models, "--max-tokens", "8") as running:
        page = Watched(browser, running.url).page
        ask(page, EXAMPLE)
        answered = page.locator("#newest article", has=page.locator(".text"))
        roles = [card.get_attribute("aria-label") for card in answered.all()]
        assert roles == ["Base", "Model 2", "Model 3", "Model 4"]
        for width, columns in ((1280, 2), (390, 1)):
            page.set_viewport_size({"width": width, "height": 844})
            for tab in ("Chat", "Compare"):
                open_tab(page, tab)
                assert page.evaluate(FARTHEST_RIGHT) <= width, tab
            boxes = [card.bounding_box() for card in answered.all()]
            assert [len({box[side] for box in boxes}) for side in ("x", "y")] == [columns, 4 // columns]
        page.context.close()


def test_the_pictures_for_the_docs_are_small(browser: Any, server: Server, tmp_path: Path) -> None:
    for path in screenshot.take(browser, server, EXAMPLE, tmp_path / "images"):
        picture = path.read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert int.from_bytes(picture[16:20], "big") == (390 if "phone" in path.name else 1280)
        assert len(picture) < 200_000
