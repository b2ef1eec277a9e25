"""Run stages: one by itself, or all of a recipe in order, resuming where an earlier run stopped.

    medllama run tiny

A stage gets its configuration from three layers: the run directory's wiring (`stages.STAGES`), the recipe's section, the
flags. In a run directory its manifest decides whether it has to run; without a recipe a stage simply runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from medllama.rundir import RunDirectory, measuring
from medllama.stages import BY_NAME, STAGES, Stage, StageResult


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
    with progress.stage(stage.name) as line, _quiet_stdout():
        result = stage.function()(config)
        line.finish(describe(result))
    return result


def run_recipe(
    recipe: Recipe, runs_dir: Path, flags: Mapping[str, Any], *, stages: tuple[Stage, ...] = STAGES, force: bool = False
) -> list[Finished]:
    """Run the given stages of a recipe in its run directory, skipping what is already done.

    All configurations are built before the first stage starts, so a typo in the last section costs no training.
    """
    require_inputs(recipe, flags, stages)
    run = RunDirectory(runs_dir.absolute() / recipe.name)
    configs = {stage.name: configure(stage, recipe, run.folder, flags) for stage in stages}
    with run.locked():
        return [_run_stage(stage, configs[stage.name], run, force=force) for stage in stages]


def require_inputs(recipe: Recipe, flags: Mapping[str, Any], stages: tuple[Stage, ...]) -> None:
    """Look for everything that a run reads before it starts: a base that is missing or gated must not show after an hour."""
    also, hint = [], ""
    if "train" in [stage.name for stage in stages]:
        base_model = flags.get("base_model", recipe.sections.get("train", {}).get("base_model"))
        if base_model is not None and not recipe.missing.get("train"):
            try:
                find_base(str(base_model))
            except InputError as error:
                also, hint = [error.message], error.hint
    recipe.require_inputs([stage.name for stage in stages], *also, hint=hint)


def configure(stage: Stage, recipe: Recipe, run_folder: Path, flags: Mapping[str, Any]) -> Any:
    """The configuration of one stage of a run: wiring, then the recipe's section, then the flags."""
    config_class = stage.config_class()
    own = {entry.name for entry in options(config_class)}
    values = {}
    for name, source in stage.wiring.items():
        wired = _wired(source, recipe, run_folder, flags)
        if name in own and wired is not None:
            values[name] = wired
    values |= recipe.sections.get(stage.name, {})
    values |= {name: value for name, value in flags.items() if name in own}
    return build(config_class, values, origin=f"{recipe.path}: {stage.name}")


def _wired(source: str, recipe: Recipe, run_folder: Path, flags: Mapping[str, Any]) -> Any:
    """The value that a wiring names: `{run}/...`, `{name}`, `{gguf}` (the files that convert makes), or STAGE.FIELD."""
    if source == "{gguf}":
        convert = configure(BY_NAME["convert"], recipe, run_folder, flags)
        return [str(path) for path in convert.gguf_paths()]
    if source.startswith("{"):
        return source.format(run=run_folder, name=recipe.name)
    stage_name, _, field = source.partition(".")
    return flags.get(field, recipe.sections.get(stage_name, {}).get(field))


def _run_stage(stage: Stage, config: Any, run: RunDirectory, *, force: bool) -> Finished:
    with progress.stage(stage.name) as line:
        if not force and run.is_current(stage, config):
            manifest = run.manifest(stage) or {}
            result = StageResult(Path(manifest["path"]), manifest["summary"])
            line.finish(f"{describe(result)}, unchanged")
            return Finished(stage, result, manifest["seconds"], manifest["peak_memory_bytes"], True)
        run.forget(stage)
        measured: dict[str, float] = {}
        with measuring(measured), _quiet_stdout():
            result = stage.function()(config)
        run.record(stage, config, result, measured)
        line.finish(describe(result))
    return Finished(stage, result, measured["seconds"], int(measured["peak_memory_bytes"]), False)


def describe(result: StageResult) -> str:
    """One line about what a stage made."""
    return str(result.summary.get("line", result.path))


@contextlib.contextmanager
def _quiet_stdout() -> Any:
    """Whatever a library prints goes to stderr, so that stdout holds only the result. Telemetry is off before any
    library that has some is imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    with contextlib.redirect_stdout(sys.stderr):
        yield
