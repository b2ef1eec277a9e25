"""The README's picture of the page: the run's base and tuned model, asked in a real browser.

    python -m tests.app.screenshot runs/tiny docs/images/app.png ["A question?"]

Without a question the first example of the run's recipe is asked.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medllama.recipe import load_recipe
from tests.app.serving import Server, served

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
WIDTH, HEIGHT = 1280, 720


@contextlib.contextmanager
def open_browser() -> Iterator[Any]:
    """Chromium without a window, that finds no other machine by name."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        rules = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", rules])
        yield opened
        opened.close()


def ask(page: Any, question: str) -> None:
    """Type a question, press Enter, and wait until every voice has ended."""
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Enter")
    wait_for_answers(page, question)


def wait_for_answers(page: Any, question: str) -> None:
    """Wait until every voice has answered this question and another can be asked."""
    page.locator("#newest h2", has_text=question).wait_for()
    page.wait_for_function("""() => {
        const ends = [...document.querySelectorAll('#newest footer')].map(it => it.textContent);
        return ends.length && ends.every(it => /ended|cut|stopped/.test(it)) && !document.querySelector('#ask').disabled;
    }""")


def take(browser: Any, server: Server, question: str, target: Path) -> None:
    """Ask, and write what the page then looks like as PNG."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
    page.goto(server.url)
    ask(page, question)
    page.mouse.move(0, 0)
    target.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(target), animations="disabled", caret="hide")
    page.close()


def main(run: str, target: str, question: str = "") -> None:
    """Serve the run's two files and take the picture."""
    convert = json.loads((Path(run) / "manifests" / "convert.json").read_text())
    name = convert["config"]["name"]
    examples = [question] if question else list(load_recipe(name).examples)
    tuned, base = (
        sorted((Path(run) / "gguf").glob(f"{name}-Q*.gguf")),
        sorted((Path(run) / "gguf").glob(f"{name}-base-*.gguf")),
    )
    models = [argument for path in (base[0], tuned[-1]) for argument in ("--model", str(path.resolve()))]
    with served(*models, "--examples", *examples) as server, open_browser() as browser:
        take(browser, server, examples[0], Path(target))
    print(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
