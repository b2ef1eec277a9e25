"""Run stages: one by itself, or all of a recipe in order, resuming where an earlier run stopped.

    medllama run tiny

A stage gets its configuration from three layers: the run directory's wiring (`stages.STAGES`), the recipe's section, the
flags. In a run directory its manifest decides whether it has to run; without a recipe a stage simply runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medllama import progress
from medllama.checkpoint import find_base
from medllama.config import build, options
from medllama.errors import InputError, RecipeError, UsageError
from medllama.recipe import Recipe
from medllama.rundir import RunDirectory, is_main_process, measuring
from medllama.stages import BY_NAME, STAGES, Stage, StageResult

INSIDE = ("{run}", "{gguf}", "{measured}", "{baseline}", "{compared}")  # wirings that name what stages made


@dataclasses.dataclass(frozen=True)
class Finished:
    """A stage that is done: its result, what it cost, and whether an earlier run had already done it."""

    stage: Stage
    result: StageResult
    seconds: float
    peak_memory_bytes: int
    was_skipped: bool


def run_alone(stage: Stage, flags: Mapping[str, Any]) -> StageResult:
    """Run one stage without a recipe. A required flag that is missing is a UsageError."""
    missing = [entry.flag for entry in options(stage.config_class()) if entry.is_required and entry.name not in flags]
    if missing:
        raise UsageError(
            f"medllama {stage.name} needs {', '.join(missing)}",
            hint=f"or name a recipe that sets them: medllama {stage.name} RECIPE; see medllama {stage.name} --help",
        )
    try:
        config: Any = build(stage.config_class(), flags, origin=f"medllama {stage.name}")
    except RecipeError as error:
        raise UsageError(error.message, hint=error.hint) from None
    return _run_unrecorded(stage, config)


def run_asked_for(stage: Stage, recipe: Recipe, runs_dir: Path, flags: Mapping[str, Any]) -> StageResult:
    """Run a stage of `stages.ASKED_FOR` on what a recipe's run has made."""
    run_folder = runs_dir.absolute() / recipe.name
    configs, problems = configure_all((stage,), recipe, run_folder, flags)
    refuse(recipe, flags, problems + recipe.missing.get(stage.name, []))
    require_run(stage, recipe, run_folder, flags)
    return _run_unrecorded(stage, configs[stage.name])


def _run_unrecorded(stage: Stage, config: Any) -> StageResult:
    with progress.stage(stage.name) as line, _quiet_libraries(stage):
        result = stage.function()(config)
        line.finish(describe(result))
    return result


def run_recipe(
    recipe: Recipe, runs_dir: Path, flags: Mapping[str, Any], *, stages: tuple[Stage, ...] = STAGES, force: bool = False
) -> list[Finished]:
    """Run the given stages of a recipe in its run directory, skipping what is already done.

    All configurations are built before the first stage starts, so a typo in the last section costs no training. So are
    all inputs looked for: a base that is missing or gated must not show after an hour.
    """
    run = RunDirectory(runs_dir.absolute() / recipe.name)
    configs, problems = configure_all(stages, recipe, run.folder, flags)
    missing = [problem for stage in stages for problem in recipe.missing.get(stage.name, [])]
    hint = "a flag can name another place: --source, --base-model" if missing and not problems else ""
    if "train" in configs and not problems and not recipe.missing.get("train"):
        try:
            find_base(configs["train"].base_model)
        except InputError as error:
            missing.append(error.message)
            hint = error.hint
    refuse(recipe, flags, problems + missing, hint)
    require_run(stages[0], recipe, run.folder, flags)
    with run.locked() if is_main_process() else contextlib.nullcontext():
        return [_run_stage(stage, configs[stage.name], run, force=force) for stage in stages]


def refuse(recipe: Recipe, flags: Mapping[str, Any], problems: list[str], hint: str = "") -> None:
    """Raise RecipeError with all of the problems, where there are any; UsageError where it is flags alone that are wrong."""
    if not problems:
        return
    hint = hint or "the keys and flags are listed by medllama STAGE --help"
    fields = [problem.partition(": ")[2].partition(": ")[0] for problem in problems]  # of `STAGE: FIELD: what is wrong`
    if flags.keys() >= set(fields):
        raise UsageError(RecipeError("medllama", problems).message, hint=hint)
    raise RecipeError(str(recipe.path), problems, hint=hint)


def require_run(stage: Stage, recipe: Recipe, run_folder: Path, flags: Mapping[str, Any]) -> None:
    """Raise InputError where the stage works on what a run has made, nothing has been made, and no flag names another place."""
    outputs = {entry.name for entry in options(stage.config_class()) if entry.kind == "output"}
    made = [name for name, source in stage.wiring.items() if source.startswith(INSIDE) and name not in outputs]
    if made and not run_folder.is_dir() and not any(name in flags for name in made):
        place = "" if run_folder.parent == Path("runs").absolute() else f" --runs-dir {run_folder.parent}"
        raise InputError(
            f"there is no run {run_folder}, so there is nothing for {stage.name} to work on",
            hint=f"make it: medllama run {recipe.called}{place}",
        )


def configure_all(
    stages: tuple[Stage, ...], recipe: Recipe, run_folder: Path, flags: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The configurations of these stages, by name, and everything that is wrong with the recipe and the flags."""
    configs, problems = {}, list(recipe.problems)
    for stage in stages:
        try:
            configs[stage.name] = configure(stage, recipe, run_folder, flags)
        except RecipeError as error:
            problems += error.problems
    return configs, list(dict.fromkeys(problems))


def configure(stage: Stage, recipe: Recipe, run_folder: Path, flags: Mapping[str, Any]) -> Any:
    """The configuration of one stage of a run: wiring, then the recipe's section, then the flags."""
    config_class = stage.config_class()
    own = {entry.name for entry in options(config_class)}
    values = {}
    for name, source in stage.wiring.items():
        wired = _wired(source, recipe, run_folder, flags)
        if name in own and wired is not None:
            values[name] = wired
    section = recipe.sections.get(stage.name, {})
    inside = [name for name in section if stage.wiring.get(name, "").startswith(("{run}", "{gguf}", "{measured}"))]
    if inside:
        problems = [f"{stage.name}.{name}: a run decides where its own files lie" for name in inside]
        raise RecipeError(str(recipe.path), problems, hint="leave it out, or run the stage without a recipe")
    values |= section
    values |= {name: value for name, value in flags.items() if name in own}
    try:
        return build(config_class, values, origin=str(recipe.path))
    except RecipeError as error:
        raise RecipeError(str(recipe.path), [f"{stage.name}: {it}" for it in error.problems], hint=error.hint) from None


def _wired(source: str, recipe: Recipe, run_folder: Path, flags: Mapping[str, Any]) -> Any:
    """The value that a wiring names (see `Stage`); None where there is none."""
    if source == "{yes}":
        return True
    if source == "{examples}":
        return recipe.examples
    if source in ("{gguf}", "{measured}", "{baseline}", "{compared}"):
        convert = configure(BY_NAME["convert"], recipe, run_folder, flags)
        files = {
            "{gguf}": tuple(map(str, convert.gguf_paths())),
            "{measured}": convert.measured_path(),
            "{baseline}": convert.baseline_path(),
            "{compared}": tuple(str(path) for path in (convert.baseline_path(), convert.measured_path()) if path),
        }
        return files[source]
    if source.startswith("{"):
        return source.format(run=run_folder, name=recipe.name)
    stage_name, _, field = source.partition(".")
    value = flags.get(field, recipe.sections.get(stage_name, {}).get(field))
    if source == "eval.task" and value is not None:
        return tuple(map(str, value if isinstance(value, (list, tuple)) else [value]))
    return value


def _run_stage(stage: Stage, config: Any, run: RunDirectory, *, force: bool) -> Finished:
    with progress.stage(stage.name) as line:
        if not force and (earlier := run.finished(stage, config)) is not None:
            result, cost = earlier
            line.finish(f"{describe(result)}, unchanged")
            return Finished(stage, result, cost["seconds"], int(cost["peak_memory_bytes"]), was_skipped=True)
        if is_main_process():
            run.forget(stage)
        begun = run.begun(stage, config, {})
        cost = {}
        with measuring(cost), _quiet_libraries(stage):
            result = stage.function()(config)
        if is_main_process():
            run.record(begun, stage, config, result, cost)
        line.finish(describe(result))
    return Finished(stage, result, cost["seconds"], int(cost["peak_memory_bytes"]), was_skipped=False)


def describe(result: StageResult) -> str:
    """One line about what a stage made."""
    return str(result.summary.get("line", result.path))


@contextlib.contextmanager
def _quiet_libraries(stage: Stage) -> Any:
    """Whatever a library prints goes to stderr, so that stdout holds only the result. Telemetry is off before any
    library that has some is imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # PyTorch and llama.cpp bring an OpenMP each; threads that spin while they wait make the other ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # bitsandbytes, which PEFT imports where it is installed, warns of a kernel that it could download.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with contextlib.nullcontext() if stage.owns_stdout else contextlib.redirect_stdout(sys.stderr):
        yield
