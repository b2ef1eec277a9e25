"""The pictures of the page in README and docs: the run's base and tuned model, asked in a real browser.

    python -m tests.app.screenshot runs/tiny docs/images ["A question?"]

Without a question the first example of the run's recipe is asked.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from medllama.recipe import load_recipe
from tests.app.browsing import ask
from tests.app.serving import Server, served
from tests.chromium import open_browser

WIDTH, HEIGHT = 1280, 720


def take(browser: Any, server: Server, question: str, folder: Path) -> list[Path]:
    """The pictures of docs: the comparison, a blind judgement, the results, and the comparison on a phone at night."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []

    def picture(page: Any, name: str) -> None:
        page.mouse.move(0, 0)
        page.wait_for_timeout(300)
        made.append(folder / name)
        page.screenshot(path=str(made[-1]), animations="disabled", caret="hide")

    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
    page.goto(server.url)
    ask(page, question)
    picture(page, "app.png")
    page.get_by_role("tab", name="Blind").click()
    page.get_by_label("Question to judge").fill(question)
    page.keyboard.press("Enter")
    page.get_by_label("A is better").wait_for()
    picture(page, "app-blind.png")
    page.get_by_role("tab", name="Results").click()
    page.locator("#results h2").first.wait_for()
    picture(page, "app-results.png")
    page.close()
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page.goto(server.url)
    ask(page, question)
    picture(page, "app-phone.png")
    page.close()
    return made


def main(run: str, target: str, question: str = "") -> None:
    """Serve the run's two files and take the pictures."""
    convert = json.loads((Path(run) / "manifests" / "convert.json").read_text())
    name = convert["config"]["name"]
    examples = [question] if question else list(load_recipe(name).examples)
    folder = Path(run).resolve()
    tuned, base = (
        sorted((folder / "gguf").glob(f"{name}-Q*.gguf")),
        sorted((folder / "gguf").glob(f"{name}-base-*.gguf")),
    )
    files = ["--evaluation", str(folder / "eval" / "results.json"), "--certificate", str(folder / "certificate.json")]
    models = ["--model", str(base[0]), "--model", str(tuned[-1])]
    with served(*models, *files, "--examples", *examples) as server, open_browser() as browser:
        print(*take(browser, server, examples[0], Path(target)), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
