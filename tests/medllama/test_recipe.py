"""A recipe is read, checked as a whole, and every problem of it is told in one error."""

from __future__ import annotations

from pathlib import Path

import pytest

from medllama.errors import InputError, MedllamaError, RecipeError, UsageError
from medllama.pipeline import configure, run_recipe
from medllama.plan import plan
from medllama.recipe import RECIPES, find_recipe, load_recipe
from medllama.stages import BY_NAME

pytestmark = pytest.mark.usefixtures("alone")

NAMES = "llama2-7b-qlora, llama2-7b, llama3.2-1b, medquad, tiny"


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, **flags: object) -> MedllamaError:
    with pytest.raises(MedllamaError) as caught:
        run_recipe(load_recipe(str(path), overridden=flags), path.parent / "runs", flags)
    assert not (path.parent / "runs").exists(), "a run that cannot begin must leave nothing"
    return caught.value


def test_a_recipe_is_found_by_name_and_by_path(alone: Path) -> None:
    assert find_recipe("tiny") == find_recipe(str(RECIPES / "tiny.yaml")) == RECIPES / "tiny.yaml"
    (alone / "tiny").mkdir()
    assert find_recipe("tiny") == RECIPES / "tiny.yaml", "a folder of that name is no recipe"


def test_a_missing_recipe_is_told_which_there_are() -> None:
    with pytest.raises(InputError) as caught:
        load_recipe("tyni")
    assert str(caught.value) == f"there is no recipe 'tyni'\nhint: name a YAML file, or one of: {NAMES}"


def test_a_model_in_the_place_of_a_recipe_is_told_its_flag() -> None:
    with pytest.raises(InputError) as caught:
        load_recipe("my-Q4_K_M.gguf")
    assert caught.value.message == "my-Q4_K_M.gguf is named like a model, and here stands a recipe"
    assert "medllama chat --gguf my-Q4_K_M.gguf" in caught.value.hint


def test_everything_that_is_wrong_is_in_one_error(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
name: ../up
description: [a]
examples: What is gout?
trian: {}
prepare: {source: [text:gone.txt, medqaud:x], test_share: 0.9}
train: {base_modle: tiny/base, rank: many, epochs: 2e-5, learning_rate: -1}
convert: {types: [Q9], base_model: also/not/here}
verify: nothing
""",
    )
    error = refusal(path)
    assert isinstance(error, RecipeError)
    assert error.message.startswith(f"{path}: {len(error.problems)} problems\n  ")
    assert error.hint
    by_start = {problem[:40] for problem in error.problems}
    assert len(by_start) == len(error.problems), "each problem once"
    for expected in (
        "unknown key 'trian'; did you mean 'train'?",
        "verify: expected a table, found 'nothing'",
        "name: '../up' must be letters, digits, '-', '_' and '.' (it names a folder and files)",
        "description: expected a text, found ['a']",
        "examples: expected a list of texts, found 'What is gout?'",
        "train: unknown key 'base_modle'; did you mean 'base_model'?",
        "train: rank: expected a whole number, found 'many'",
        "prepare: test_share: expected a share from 0 to below 0.5, found 0.9",
        f"prepare: source: gone.txt does not exist in {tmp_path} or {Path.cwd()}",
        f"convert: base_model: also/not/here does not exist in {tmp_path} or {Path.cwd()}",
    ):
        assert expected in error.problems
    assert any(problem.startswith("prepare: source: 'medqaud:x' is of an unknown kind") for problem in error.problems)
    assert any(problem.startswith("convert: types: 'Q9' is not a type") for problem in error.problems)


def test_one_typo_reads_well(tmp_path: Path) -> None:
    path = written(tmp_path, (RECIPES / "tiny.yaml").read_text().replace("rank: 16", "rnak: 16"))
    path.write_text(path.read_text().replace("tiny/medllama-tiny-base", str(RECIPES / "tiny" / "medllama-tiny-base")))
    assert str(refusal(path)) == (
        f"{path}: train: unknown key 'rnak'; did you mean 'rank'?\n"
        "hint: the keys and flags are listed by medllama STAGE --help"
    )


def test_a_wrong_flag_is_not_blamed_on_the_recipe() -> None:
    with pytest.raises(UsageError) as caught:
        run_recipe(load_recipe("tiny", overridden=["rank"]), Path("runs"), {"rank": "0"})
    assert caught.value.message == "medllama: train: rank: expected at least 1, found 0"
    with pytest.raises(UsageError, match="train: rank: expected a whole number, found 'x'"):
        run_recipe(load_recipe("tiny", overridden=["rank"]), Path("runs"), {"rank": "x"})


def test_a_value_that_a_flag_replaces_does_not_count(tmp_path: Path) -> None:
    path = written(tmp_path, "prepare: {source: [text:gone.txt]}\ntrain: {base_model: gone/for/good, rank: many}")
    recipe = load_recipe(str(path), overridden=["source", "base_model", "rank"])
    assert recipe.problems == ()
    assert not any(recipe.missing.values())
    assert recipe.sections == {"prepare": {}, "train": {}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("train: {rank: 8", "not YAML"),
        ("\t- x", "not YAML"),
        ("train: {rank: 8, rank: 9}", "'rank' stands twice"),
        ("- a list", "expected a table of stages"),
        ("", "expected a table of stages"),
        ("just words", "expected a table of stages"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        load_recipe(str(written(tmp_path, text)))


def test_a_recipe_in_another_encoding_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("description: Ménière\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"is not UTF-8: byte 0xe9 at offset 14") as caught:
        load_recipe(str(path))
    assert "iconv" in caught.value.hint


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "base").mkdir()
    recipe = load_recipe(
        str(written(tmp_path, "prepare: {source: 'text:notes.txt?licence=MIT'}\ntrain: {base_model: base}"))
    )
    assert recipe.sections == {
        "prepare": {"source": (f"text:{tmp_path}/notes.txt?licence=MIT",)},
        "train": {"base_model": f"{tmp_path}/base"},
    }


def test_a_section_may_be_empty_and_a_name_may_be_left_out(tmp_path: Path) -> None:
    recipe = load_recipe(str(written(tmp_path, "prepare:\ndescription:\nexamples:\n")))
    assert (recipe.name, recipe.sections, recipe.examples, recipe.problems) == ("mine", {"prepare": {}}, (), ())


def test_the_flagship_without_its_weights_is_refused_before_anything_is_read() -> None:
    with pytest.raises(RecipeError) as caught:
        run_recipe(load_recipe("llama2-7b", overridden=["source"]), Path("runs"), {"source": ["tiny"]})
    page = "https://huggingface.co/meta-llama/Llama-2-7b-hf"
    assert str(caught.value) == (
        f"{RECIPES}/llama2-7b.yaml: the base model meta-llama/Llama-2-7b-hf is no folder here and not in the hub's cache, "
        "and the hub cannot be reached\n"
        f"hint: with a network: accept its licence at {page}, hf auth login, hf download meta-llama/Llama-2-7b-hf; "
        "or name a folder"
    )
    assert not Path("runs/medllama").exists()


def test_the_flagship_without_data_and_weights_names_both() -> None:
    with pytest.raises(RecipeError) as caught:
        run_recipe(load_recipe("llama2-7b"), Path("runs"), {})
    assert [problem[:30] for problem in caught.value.problems] == [
        "prepare: source: data/MedQuAD ",
        "the base model meta-llama/Llam",
    ]


def test_a_plan_refuses_a_wrong_recipe_and_only_notes_missing_inputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "prepare: {source: [text:gone.txt]}\ntrain: {base_model: meta-llama/Llama-2-7b-hf}")
    figures = plan(load_recipe(str(path)), tmp_path / "runs")
    assert figures["missing"] == [f"prepare: source: gone.txt does not exist in {tmp_path} or {Path.cwd()}"]
    path.write_text("prepare: {source: [tiny]}\ntrain: {base_model: meta-llama/Llama-2-7b-hf, rank: 0}")
    with pytest.raises(RecipeError, match="train: rank: expected at least 1, found 0"):
        plan(load_recipe(str(path)), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_key_that_stands_twice_is_an_error_and_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\ntrain: {rank: 4}\ntrain: {rank: 8}\n")
    with pytest.raises(RecipeError, match=r"'train' stands twice.*line 3") as refusal:
        load_recipe(str(path))
    assert refusal.value.hint


def test_an_empty_name_is_the_files_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name:\n")
    assert load_recipe(str(path)).name == "mine"


def test_a_recipe_does_not_move_a_runs_own_files(tmp_path: Path) -> None:
    path = tmp_path / "moved.yaml"
    path.write_text("train: {base_model: x, output_dir: elsewhere}\n")
    with pytest.raises(RecipeError, match=r"train\.output_dir: a run decides"):
        configure(BY_NAME["train"], load_recipe(str(path)), tmp_path / "run", {})
