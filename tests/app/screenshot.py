"""The README's picture of the page: the run's base and tuned model, asked in a real browser.

    python -m tests.app.screenshot runs/tiny docs/images/app.png ["A question?"]

Without a question the first example of the run's recipe is asked.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from medllama.recipe import load_recipe
from tests.app.browsing import ask, open_browser
from tests.app.serving import Server, served

WIDTH, HEIGHT = 1280, 720


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
