"""A recipe is one YAML file that is a whole run: a name, and a section per stage.

    # medllama run tiny
    name: tiny
    description: what this is, in one sentence
    examples: [questions to try on the result]
    train: {base_model: tiny/medllama-tiny-base, epochs: 3}
    convert: {types: [F16, Q4_K_M]}

A section holds the fields of that stage's configuration. Paths are relative to the recipe, or else to the folder in which
the command runs. What a section leaves out comes from the dataclass or, for paths inside a run, from `stages.STAGES`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from medllama.config import check, resolve_paths, unknown
from medllama.errors import InputError, RecipeError
from medllama.files import read_text
from medllama.stages import BY_NAME

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
TOP_LEVEL = ("name", "description", "examples")


@dataclass(frozen=True)
class Recipe:
    """A recipe that was read: `sections` maps a stage's name to the values that the file gives.

    `problems` is what is wrong with it: `pipeline` raises them together with what the stages' own rules find.
    `missing` lists by stage the inputs that are not on this disk: an error for a run, a note for a plan.
    """

    path: Path
    name: str
    description: str
    examples: tuple[str, ...] = ()
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    missing: dict[str, list[str]] = field(default_factory=dict)

    @property
    def called(self) -> str:
        """How a person names it on the command line."""
        return self.path.stem if self.path.parent == RECIPES else str(self.path)


def shipped_recipes() -> list[Path]:
    """The recipes that come with medllama, by name."""
    return sorted(RECIPES.glob("*.yaml"))


def find_recipe(name_or_path: str) -> Path:
    """The file of a recipe given as a path or as a name under recipes/."""
    path = Path(name_or_path)
    if path.suffix == ".gguf":
        raise InputError(
            f"{path} is named like a model, and here stands a recipe",
            hint=f"a model is given by a flag: medllama chat --gguf {path}, medllama app --model {path}",
        )
    if path.is_file():
        return path
    if (named := RECIPES / f"{name_or_path}.yaml").is_file():
        return named
    names = ", ".join(recipe.stem for recipe in shipped_recipes())
    raise InputError(f"there is no recipe {name_or_path!r}", hint=f"name a YAML file, or one of: {names}")


class _Loader(yaml.SafeLoader):
    """YAML without a key twice in one table, of which PyYAML would drop the first without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} stands twice", node.value[number][0].start_mark
                )
        return super().construct_mapping(node, deep)


def load_recipe(name_or_path: str, overridden: Collection[str] = ()) -> Recipe:
    """Read a recipe and look at every section of it: unknown keys, wrong types, missing inputs.

    `overridden` names fields that flags set, whose values in the file do not count.
    Raises RecipeError where the file is no YAML table; all else that is wrong stands in the recipe's `problems`.
    """
    path = find_recipe(name_or_path)
    try:
        raw = yaml.load(read_text(path), Loader=_Loader)
    except yaml.YAMLError as error:
        told = " ".join(str(error).split()).replace('in "<unicode string>", ', "")
        raise RecipeError(str(path), [f"not YAML: {told}"], hint=f"compare it with {RECIPES / 'tiny.yaml'}") from None
    if not isinstance(raw, dict):
        raise RecipeError(str(path), ["expected a table of stages"], hint=f"start from {RECIPES / 'tiny.yaml'}")
    problems: list[str] = []
    known = [*TOP_LEVEL, *BY_NAME]
    sections: dict[str, dict[str, Any]] = {}
    missing: dict[str, list[str]] = {}
    for key, value in raw.items():
        if key not in known:
            problems.append(unknown(str(key), known))
        elif key in BY_NAME:
            section = {} if value is None else value
            if not isinstance(section, dict):
                problems.append(f"{key}: expected a table, found {value!r}")
                continue
            section = {name: value for name, value in section.items() if name not in overridden}
            config_class = BY_NAME[key].config_class()
            values, found = check(config_class, section)
            problems += [f"{key}: {problem}" for problem in found]
            values, absent = resolve_paths(config_class, values, [path.resolve().parent, Path.cwd()])
            # A refused value stays as it is: to configure the stage then finds it again, and not that it is missing.
            sections[key] = section | values
            missing[key] = [f"{key}: {problem}" for problem in absent]
    name, description, examples = (
        str(raw.get("name") or path.stem),
        raw.get("description") or "",
        raw.get("examples") or [],
    )
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
        problems.append(f"name: {name!r} must be letters, digits, '-', '_' and '.' (it names a folder and files)")
    if not isinstance(description, str):
        problems.append(f"description: expected a text, found {description!r}")
    if not isinstance(examples, list):
        problems.append(f"examples: expected a list of texts, found {examples!r}")
        examples = []
    return Recipe(path, name, str(description), tuple(map(str, examples)), sections, tuple(problems), missing)
