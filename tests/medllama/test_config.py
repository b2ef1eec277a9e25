"""One dataclass is flags, keys, defaults and rules: what build accepts, and that it tells every problem at once."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from medllama.config import (
    add_flags,
    as_json,
    build,
    input_paths,
    looks_like_hub_id,
    option,
    options,
    resolve_paths,
    source_path,
)
from medllama.errors import RecipeError
from medllama.stages import STAGES


@dataclass(frozen=True)
class Sample:
    """A field of every type that a configuration may have."""

    base_model: str = option(help="the base", kind="model")
    output_dir: Path = option(help="the folder", kind="output")
    rank: int = option(16, help="a whole number")
    learning_rate: float = option(2e-4, help="a number, 100% of it")
    max_steps: int | None = option(None, help="a whole number or none")
    is_quick: bool = option(False, help="yes or no")
    schedule: Literal["linear", "cosine"] = option("cosine", help="one of two")
    types: tuple[str, ...] = option(("F16", "Q4_K_M"), help="a list")
    source: tuple[str, ...] = option((), help="sources", kind="source")
    questions: tuple[str, ...] = option((), help="questions", kind="text")
    gguf: tuple[str, ...] = option((), help="files", kind="path")
    adapter: Path | None = option(None, help="a folder", kind="path")
    chat_template: str = option("auto", help="a name or a file", kind="template")
    search: dict[str, Any] = option({}, help="a table")

    def problems(self) -> list[str]:
        return [] if self.rank > 0 else [f"rank: expected at least 1, found {self.rank}"]


@dataclass(frozen=True, kw_only=True)
class Shared:
    seed: int = option(0, help="of every verb")


@dataclass(frozen=True)
class Sharing(Shared):
    gguf: Path = option(help="of this verb")


REQUIRED = {"base_model": "org/base", "output_dir": "out"}


def made(**values: Any) -> Sample:
    return build(Sample, REQUIRED | values, origin="here")


def from_flags(*arguments: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser, Sample)
    return vars(parser.parse_args(arguments))


def refusal(**values: Any) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        made(**values)
    return caught.value.problems


def test_fields_that_verbs_share_come_after_a_verbs_own() -> None:
    assert [entry.name for entry in options(Sharing)] == ["gguf", "seed"]
    assert build(Sharing, {"gguf": "a"}, origin="here") == Sharing(Path("a"), seed=0)


def test_a_field_has_its_default_from_the_dataclass_and_nowhere_else() -> None:
    assert made() == Sample(base_model="org/base", output_dir=Path("out"))
    assert from_flags() == {}, "an absent flag must leave the recipe's value alone"


def test_a_flag_and_a_key_of_one_name_give_one_value() -> None:
    arguments = ["--rank", "8", "--learning-rate", "2e-5", "--max-steps", "7", "--is-quick", "--schedule", "linear"]
    arguments += ["--types", "F16,Q8_0", "--adapter", "a", "--base-model", "b", "--output-dir", "o"]
    text = "{rank: 8, learning_rate: 2e-5, max_steps: 7, is_quick: true, schedule: linear, types: [F16, Q8_0], "
    text += "adapter: a, base_model: b, output_dir: o}"
    assert build(Sample, from_flags(*arguments), origin="") == build(Sample, yaml.safe_load(text), origin="")


def test_lists_come_by_repetition_by_commas_and_both() -> None:
    for arguments in (["--types", "A,B,C"], ["--types", "A", "--types", "B,C"], ["--types", "A", "B", "C"]):
        assert made(**from_flags(*arguments)).types == ("A", "B", "C")
    assert made(types="A, B ,,C").types == made(types=["A", "B,C"]).types == ("A", "B", "C")


def test_a_source_a_text_and_a_wired_path_keep_their_commas() -> None:
    assert made(source=["text:a,b.txt"]).source == ("text:a,b.txt",)
    assert made(questions=["Fever, cough: what is it?"]).questions == ("Fever, cough: what is it?",)
    assert made(gguf=("runs/a,b/x.gguf",)).gguf == ("runs/a,b/x.gguf",)


def test_a_bool_has_a_flag_for_yes_and_one_for_no() -> None:
    assert from_flags("--is-quick") == {"is_quick": True}
    assert from_flags("--no-is-quick") == {"is_quick": False}


def test_2e_5_is_a_number_although_yaml_reads_it_as_text() -> None:
    value = yaml.safe_load("2e-5")
    assert isinstance(value, str)
    assert made(learning_rate=value).learning_rate == 2e-5


def test_all_problems_come_in_one_error() -> None:
    with pytest.raises(RecipeError) as caught:
        build(
            Sample, {"base_modle": "b", "rank": 0, "learning_rate": "fast", "output_dir": "o"}, origin="r.yaml: train"
        )
    assert caught.value.problems == [
        "unknown key 'base_modle'; did you mean 'base_model'?",
        "learning_rate: expected a number, found 'fast'",
        "base_model is required: the base",
    ]
    assert refusal(adaptor="x", types=[["F16"]], rank=0) == [
        "unknown key 'adaptor'; did you mean 'adapter'?",
        "types: expected a list of texts, found [['F16']]",
        "rank: expected at least 1, found 0",
    ], "the class's own rules are checked although other fields were refused"


def test_an_unknown_key_like_none_lists_what_is_known() -> None:
    (problem,) = refusal(zzz=1)
    assert problem.startswith("unknown key 'zzz'; known are base_model, output_dir, rank, ")


def test_a_key_in_kebab_case_is_told_its_name() -> None:
    assert refusal(**{"learning-rate": 1}) == ["unknown key 'learning-rate'; did you mean 'learning_rate'?"]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("rank", "8.5", "expected a whole number, found '8.5'"),
        ("rank", 8.5, "expected a whole number, found 8.5"),
        ("rank", float("inf"), "expected a whole number, found inf"),
        ("rank", True, "expected a whole number, found True"),
        ("rank", [8], "expected a whole number, found [8]"),
        ("rank", None, "has no value"),
        ("learning_rate", "nan", "expected a number, found 'nan'"),
        ("learning_rate", float("inf"), "expected a number, found inf"),
        ("is_quick", "true", "expected true or false, found 'true'"),
        ("is_quick", 1, "expected true or false, found 1"),
        ("schedule", "sine", "expected one of linear, cosine, found 'sine'"),
        ("schedule", ["linear"], "expected one of linear, cosine, found ['linear']"),
        ("types", {"F16": 1}, "expected a list of texts, found {'F16': 1}"),
        ("types", [None], "expected a list of texts, found [None]"),
        ("types", [True], "expected a list of texts, found [True]"),
        ("search", [1], "expected a table, found [1]"),
        ("output_dir", {"a": 1}, "expected a path, found {'a': 1}"),
        ("output_dir", "", "is empty"),
        ("base_model", " ", "is empty"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_what_was_expected(field: str, value: Any, expected: str) -> None:
    assert refusal(**{field: value}) == [f"{field}: {expected}"]


def test_values_that_say_the_same_in_another_type_are_taken() -> None:
    assert made(rank=8.0).rank == 8
    assert made(max_steps=None).max_steps is None
    assert made(base_model=2024).base_model == "2024"
    assert made(types=16).types == ("16",)
    assert made(output_dir="~/x").output_dir == Path.home() / "x"


@given(
    st.dictionaries(
        st.sampled_from([entry.name for entry in options(Sample)]) | st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=4,
        ),
    )
)
def test_whatever_yaml_gives_is_a_configuration_or_one_error(values: dict[str, Any]) -> None:
    try:
        config = build(Sample, values, origin="here")
    except RecipeError:
        return
    assert build(Sample, as_json(config), origin="here") == config, "a manifest's configuration builds the same one"


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_field_of_every_stage_has_a_flag_and_a_help(stage: Any) -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, stage.config_class())
    flags = {flag: action for action in parser._actions for flag in action.option_strings}
    for entry in options(stage.config_class()):
        assert len(entry.help) > 10, entry.name
        assert entry.kind in ("value", "path", "model", "source", "task", "template", "output", "text"), entry.name
        if not entry.is_table:
            assert flags[entry.flag].dest == entry.name
            assert str(flags[entry.flag].help).startswith(entry.help.replace("%", "%%"))
        if entry.plain_type is bool:
            assert "--no-" + entry.flag[2:] in flags
    assert parser.format_help(), "a stray % in a help text would raise here"


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_the_defaults_of_every_stage_are_of_their_own_type_and_break_no_rule(stage: Any) -> None:
    given_paths = {
        entry.name: "tiny" if entry.kind == "source" else "x"
        for entry in options(stage.config_class())
        if entry.is_required or entry.kind == "path"
    }
    config = build(stage.config_class(), given_paths, origin=stage.name)
    assert build(stage.config_class(), as_json(config), origin=stage.name) == config


def test_a_path_of_nobody_is_a_problem_like_any_other() -> None:
    with pytest.raises(RecipeError, match="output_dir: ~nobody-here/x: nobody here is called 'nobody-here'"):
        made(output_dir="~nobody-here/x")


def test_inputs_are_the_paths_that_exist(tmp_path: Path) -> None:
    for name in ("base", "a.gguf", "facts.txt", "mine.jinja"):
        (tmp_path / name).touch()
    config = made(
        base_model=str(tmp_path / "base"),
        gguf=[str(tmp_path / "a.gguf"), str(tmp_path / "absent.gguf")],
        source=[f"text:{tmp_path}/facts.txt?licence=MIT", "tiny"],
        chat_template=str(tmp_path / "mine.jinja"),
        output_dir=str(tmp_path),
    )
    assert input_paths(config) == {
        "base_model": [tmp_path / "base"],
        "source": [tmp_path / "facts.txt"],
        "gguf": [tmp_path / "a.gguf"],
        "chat_template": [tmp_path / "mine.jinja"],
    }
    assert "chat_template" not in {name for name, paths in input_paths(made()).items() if paths}


def test_relative_inputs_are_found_beside_the_recipe_first(tmp_path: Path) -> None:
    recipe, here = tmp_path / "recipes", tmp_path / "here"
    for folder in (recipe, here):
        (folder / "medquad").mkdir(parents=True)
    (here / "b.gguf").touch()
    values = {"source": ("medquad:medquad?licence=MIT", "tiny"), "gguf": ("b.gguf",), "base_model": "org/base"}
    resolved, problems = resolve_paths(Sample, values, [recipe, here])
    assert problems == []
    assert resolved == {
        "source": (f"medquad:{recipe}/medquad?licence=MIT", "tiny"),
        "gguf": (f"{here}/b.gguf",),
        "base_model": "org/base",
    }


def test_inputs_that_are_nowhere_are_all_reported_and_names_are_not(tmp_path: Path) -> None:
    values = {
        "source": ("text:no.txt", "tiny"),
        "adapter": Path("gone"),
        "base_model": "gone",
        "chat_template": "llama2",
    }
    resolved, problems = resolve_paths(Sample, values, [tmp_path])
    assert resolved == values | {"adapter": "gone"}
    assert problems == [
        f"base_model: gone does not exist in {tmp_path}",
        f"source: no.txt does not exist in {tmp_path}",
        f"adapter: gone does not exist in {tmp_path}",
    ]


def test_a_source_is_taken_apart_at_its_first_colon_and_question_mark() -> None:
    assert source_path("text:a:b?licence=MIT") == "a:b"
    assert source_path("tiny") == ""


@pytest.mark.parametrize("name", ["org/model", "meta-llama/Llama-2-7b-hf@main", "a/b.c_d"])
def test_hub_ids_are_recognized(name: str) -> None:
    assert looks_like_hub_id(name)


@pytest.mark.parametrize("name", ["model", "./org/model", "/org/model", "~/model", "a/b/c", "org/", "/", ""])
def test_paths_are_not_taken_for_hub_ids(name: str) -> None:
    assert not looks_like_hub_id(name)
