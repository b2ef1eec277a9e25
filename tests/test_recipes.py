"""Every recipe that ships: it loads without a problem, plans, and says in its first line how to run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from medllama.cli import main
from medllama.pipeline import configure_all
from medllama.recipe import RECIPES, load_recipe, shipped_recipes
from medllama.stages import STAGES

SHIPPED = shipped_recipes()
each_recipe = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)


def test_the_recipes_of_the_promise_are_there() -> None:
    assert [path.stem for path in SHIPPED] == ["llama2-7b-qlora", "llama2-7b", "llama3.2-1b", "medquad", "tiny"]


@each_recipe
def test_a_shipped_recipe_has_no_problem_in_any_stage(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(path))
    configs, problems = configure_all(STAGES, recipe, tmp_path / recipe.name, {})
    assert problems == []
    assert configs.keys() == {stage.name for stage in STAGES}
    assert recipe.description
    assert recipe.examples


@each_recipe
def test_a_shipped_recipe_plans_and_touches_nothing(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", path.stem, "--runs-dir", str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    for word in ("stage", "train", "verify", "disk", "licence"):
        assert f"\n{word} " in shown.err
    assert list(tmp_path.iterdir()) == []


@each_recipe
def test_a_shipped_recipe_begins_with_the_command_that_runs_it(path: Path) -> None:
    assert path.read_text().startswith(f"# medllama run {path.stem}")


def test_the_embedded_recipe_needs_nothing_but_itself() -> None:
    assert not any(load_recipe("tiny").missing.values())


def test_an_importance_matrix_is_of_the_runs_own_text(tmp_path: Path) -> None:
    configs, problems = configure_all(STAGES, load_recipe("tiny"), tmp_path, {"importance": "auto"})
    assert problems == []
    assert configs["convert"].importance_data == tmp_path / "data"


def test_the_name_of_a_llama_3_result_begins_with_llama_as_its_licence_asks() -> None:
    assert load_recipe("llama3.2-1b").name.startswith("Llama")


def test_what_the_command_lists_is_what_ships(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{RECIPES}\n"
    assert [line.split()[0] for line in shown.err.splitlines()] == [path.stem for path in SHIPPED]
