"""A recipe is one YAML file that is a whole run: a name, and a section per stage.

    # medllama run tiny
    name: tiny
    description: what this is, in one sentence
    examples: [questions to try on the result]
    train: {base_model: tiny/base, epochs: 3}
    convert: {types: [F16, Q4_K_M]}

A section holds the fields of that stage's configuration. Paths are relative to the recipe, or else to the folder in which
the command runs. What a section leaves out comes from the dataclass or, for paths inside a run, from `stages.STAGES`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from medllama.config import Option, coerce, options, resolve_paths, unknown
from medllama.errors import InputError, RecipeError
from medllama.files import read_text
from medllama.stages import BY_NAME

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
TOP_LEVEL = ("name", "description", "examples")


@dataclass(frozen=True)
class Recipe:
    """A recipe that was read and checked: `sections` maps a stage's name to the values that the file gives.

    `missing` lists by stage the inputs that are not on this disk: an error for a run, a note for a plan.
    """

    path: Path
    name: str
    description: str
    examples: tuple[str, ...] = ()
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)

    def require_inputs(self, stage_names: Iterable[str], *also: str, hint: str = "") -> None:
        """Raise RecipeError with every input of these stages that is not there, and what else was found (`also`)."""
        problems = [problem for name in stage_names for problem in self.missing.get(name, [])] + list(also)
        if problems:
            raise RecipeError(
                str(self.path), problems, hint=hint or "a flag can name another place: --source, --base-model"
            )


def shipped_recipes() -> list[Path]:
    """The recipes that come with medllama, by name."""
    return sorted(RECIPES.glob("*.yaml"))


def find_recipe(name_or_path: str) -> Path:
    """The file of a recipe given as a path or as a name under recipes/."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    if (named := RECIPES / f"{name_or_path}.yaml").is_file():
        return named
    names = ", ".join(recipe.stem for recipe in shipped_recipes())
    raise InputError(f"there is no recipe {name_or_path!r}", hint=f"name a YAML file, or one of: {names}")


def load_recipe(name_or_path: str, overridden: Iterable[str] = ()) -> Recipe:
    """Read a recipe and check every section of it.

    `overridden` names fields that flags set, whose values in the file do not count.
    Raises RecipeError with all problems: YAML faults, unknown keys with a suggestion, wrong types.
    """
    path = find_recipe(name_or_path)
    try:
        raw = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise RecipeError(str(path), [f"not YAML: {' '.join(str(error).split())}"]) from None
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
            sections[key], found, missing[key] = _check_section(key, section, path, set(overridden))
            problems += found
    name = str(raw.get("name", path.stem))
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
        problems.append(f"name: {name!r} must be letters, digits, '-', '_' and '.' (it names a folder and files)")
    if problems:
        raise RecipeError(str(path), problems, hint="medllama STAGE --help lists a stage's keys")
    examples = tuple(str(example) for example in raw.get("examples") or ())
    return Recipe(path, name, str(raw.get("description", "")), examples, sections, missing)


def _check_section(
    stage_name: str, section: dict[str, Any], path: Path, overridden: set[str]
) -> tuple[dict[str, Any], list[str], list[str]]:
    """The section with its paths resolved, what is wrong with it, and which of its inputs are missing."""
    config_class = BY_NAME[stage_name].config_class()
    known: dict[str, Option] = {entry.name: entry for entry in options(config_class)}
    problems = []
    values = {}
    for key, value in section.items():
        if key not in known:
            problems.append(f"{stage_name}: {unknown(str(key), known)}")
            continue
        try:
            coerce(value, known[key])
        except ValueError as error:
            problems.append(f"{stage_name}.{key}: {error}")
            continue
        if key not in overridden:
            values[key] = value
    values, missing = resolve_paths(config_class, values, [path.resolve().parent, Path.cwd()])
    return values, problems, [f"{stage_name}.{problem}" for problem in missing]
