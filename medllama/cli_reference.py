"""docs/cli.md, made from the program: every verb with its flags, defaults and help.

    python -m medllama.cli_reference > docs/cli.md

A test compares the page with what this prints, so that the two never differ.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

from medllama.cli import parser
from medllama.recipe import RECIPES

WIDTH = 100
HEAD = """# The command line

Made by `python -m medllama.cli_reference > docs/cli.md`; a test holds it to the program.

Every flag of a stage is also a key in that stage's section of a recipe (`--base-model` is `base_model`). The last line on
stdout is the path of what was made, or with `--json` one JSON object; everything else goes to stderr. Exit status: 0
done, 1 it failed or a check did not hold or a recipe is wrong, 2 the command line was wrong.
"""


def render() -> str:
    """The whole page."""
    program = parser()
    verbs = next(action for action in program._actions if isinstance(action, argparse._SubParsersAction))
    parts = [HEAD, _block("medllama", program)]
    parts += [_block(f"medllama {name}", verb) for name, verb in verbs.choices.items()]
    return "\n".join(parts)


def _block(title: str, verb: argparse.ArgumentParser) -> str:
    style: Any = verb.formatter_class
    verb.formatter_class = functools.partial(style, width=WIDTH)
    text = verb.format_help().strip().replace(str(RECIPES), "recipes")
    return f"## {title}\n\n```\n{text}\n```\n"


if __name__ == "__main__":
    print(render(), end="")
