"""The `medllama` command: one verb per stage, and `run` for all of them.

    medllama run tiny
    medllama convert --base-model DIR --adapter DIR --types F16,Q4_K_M --output-dir OUT

Flags are made from the stages' configuration classes. The last line on stdout is the path of what was made (`--json`: one
JSON object); everything for people goes to stderr. Exit status: 0 done, 1 it failed or a check did not hold, 2 the command
line was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from medllama import __version__
from medllama.config import Option, add_flag, add_flags, options
from medllama.errors import MedllamaError, ResourceError, UsageError
from medllama.gpus import GPUS
from medllama.rundir import is_main_process
from medllama.stages import ASKED_FOR, BY_NAME, STAGES, Stage, StageResult

EXAMPLES = """examples:
  medllama run tiny                  the whole pipeline on the embedded model, nothing downloaded
  medllama plan llama2-7b            what a real run needs, before anything is touched
  medllama verify --base-model DIR --adapter DIR --gguf FILE --output certificate.json
"""
COMMON = ("verb", "recipe", "json", "force", "runs_dir")
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PATH_ERRORS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    try:
        given = _parse(arguments)
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            outcome = _dispatch(given)
    except MedllamaError as error:
        return _fail(error, as_json=as_json)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command resumes", file=sys.stderr)
        return 130
    except Exception as error:
        if (told := _of_the_machine(error)) is None:
            raise
        return _fail(told, as_json=as_json)
    if not is_main_process():
        return 0
    if as_json:
        print(json.dumps(outcome, ensure_ascii=False))
    elif "path" in outcome:
        print(outcome["path"])
    return 0


def _of_the_machine(error: Exception) -> MedllamaError | None:
    """The error for people where a disk is full or a path cannot be used; None where the error is a bug."""
    number, reason = (error.errno, error.strerror) if isinstance(error, OSError) else (None, None)
    path = getattr(error, "filename", None)
    named = f": {path}" if path else ""
    # NumPy's tofile and the libraries written in Rust (safetensors, tokenizers) give no errno, only words. An OSError that was given
    # a filename says no more of them.
    said = " ".join(map(str, error.args))
    is_full = number in DISK_ERRORS or "No space left on device" in said or "requested and" in said
    if is_full:
        hint = "free some space or write elsewhere; nothing half-written stays under a final name"
        return ResourceError(f"the disk is full, or a file may not grow any more{named}", hint=hint)
    if number in PATH_ERRORS:
        is_closed = number in (errno.EACCES, errno.EPERM, errno.EROFS)
        hint = "change its permissions, or name another path" if is_closed else "name another path"
        return ResourceError(f"{reason}{named}", hint=hint)
    return None


def _fail(error: MedllamaError, *, as_json: bool) -> int:
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": error.message, "hint": error.hint}, ensure_ascii=False))
    return error.exit_status


def _parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; UsageError names the flag that a mistyped one is nearest to."""
    program = parser()
    given, unknown = program.parse_known_args(arguments)
    if unknown:
        flags = program.verbs[given.verb].flags
        near = difflib.get_close_matches(unknown[0].partition("=")[0], flags, n=1, cutoff=0.7)
        hint = f"did you mean {near[0]}?" if near else f"medllama {given.verb} --help"
        raise UsageError(f"unrecognized arguments: {' '.join(unknown)}", hint=hint)
    return given


class _Parser(argparse.ArgumentParser):
    """A parser whose errors read like all others, and which knows its verbs and flags."""

    verbs: Mapping[str, _Parser]

    @property
    def flags(self) -> list[str]:
        return [flag for flag in self._option_string_actions if flag.startswith("--")]

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{self.prog} --help")


def parser() -> _Parser:
    """The whole command line; building it imports no stage but its configuration."""
    program = _Parser(
        prog="medllama",
        description="Fine-tune a Llama on medical text, convert it to GGUF, prove it, package it for Ollama.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    program.add_argument("--version", action="version", version=f"medllama {__version__}")
    verbs = program.add_subparsers(dest="verb", metavar="VERB", required=True)
    for stage in (*STAGES, *ASKED_FOR):
        verb = _verb(verbs, stage.name, stage.summary)
        place, help = stage.positional.upper(), f"the same as --{stage.positional}"
        if not stage.positional:
            place, help = "RECIPE", "a recipe's path or name: its section of this stage is used"
        verb.add_argument("recipe", nargs="?", metavar=place, help=help)
        add_flags(verb, stage.config_class())
        _add_run_flags(verb, with_force=stage in STAGES)
    run = _verb(verbs, "run", "every stage of a recipe in order, resuming where it stopped")
    run.add_argument("recipe", metavar="RECIPE", help="a recipe's path or name")
    run.add_argument_group("fields of the stages", "the flags of medllama STAGE --help, for every stage that has them")
    for entry in _fields_of_run():
        add_flag(run, entry, argparse.SUPPRESS)
    _add_run_flags(run, with_force=True)
    plan = _verb(verbs, "plan", "what a run will need: disk, memory, time, licences; touches nothing")
    plan.add_argument("recipe", metavar="RECIPE", help="a recipe's path or name")
    plan.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    plan.add_argument("--gpu", metavar="NAME", help=f"memory and time of the training on one of: {', '.join(GPUS)}")
    runs = _verb(verbs, "runs", "the runs with size, certificate and accuracy; `remove NAME` removes one")
    runs.add_argument("action", nargs="?", choices=("list", "remove"), default="list", help="default: list")
    runs.add_argument("name", nargs="?", metavar="NAME", help="the run to remove")
    runs.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    _verb(verbs, "doctor", "what is installed here, and what to do about what is missing")
    _verb(verbs, "recipes", "the recipes that come with medllama")
    program.verbs = verbs.choices
    return program


def _verb(verbs: Any, name: str, summary: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout instead of a path")
    return parser


def _add_run_flags(parser: argparse.ArgumentParser, *, with_force: bool) -> None:
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    if with_force:
        parser.add_argument("--force", action="store_true", help="do it again even where nothing has changed")


def _fields_of_run() -> list[Option]:
    """Every stage's fields but the paths inside the run: `run --output-dir` would send all stages to one folder."""
    inside = ("{run}", "{gguf}", "{measured}", "{baseline}")
    placed = {name for stage in STAGES for name, source in stage.wiring.items() if source.startswith(inside)}
    fields = {entry.name: entry for stage in STAGES for entry in options(stage.config_class())}
    return [entry for name, entry in fields.items() if name not in placed and not entry.is_table]


def _dispatch(given: argparse.Namespace) -> dict[str, Any]:
    from medllama.recipe import load_recipe

    flags = {key: value for key, value in vars(given).items() if key not in COMMON}
    if given.verb == "doctor":
        from medllama.doctor import doctor

        return doctor()
    if given.verb == "recipes":
        return _list_recipes()
    if given.verb == "runs":
        from medllama.runs import list_runs, remove_run

        if given.action == "remove":
            return remove_run(given.name, given.runs_dir)
        if given.name:
            raise UsageError(f"medllama runs list takes no name: {given.name}", hint="medllama runs --help")
        return list_runs(given.runs_dir)
    if given.verb == "plan":
        from medllama.plan import plan

        return plan(load_recipe(given.recipe), given.runs_dir, given.gpu)
    from medllama.pipeline import run_alone, run_asked_for

    if given.verb in BY_NAME and (given.recipe is None or BY_NAME[given.verb].positional):
        stage = BY_NAME[given.verb]
        if given.recipe is not None:
            flags[stage.positional] = given.recipe
        return _told(stage, run_alone(stage, flags))
    recipe = load_recipe(given.recipe, overridden=flags)
    if given.verb == "run":
        return _run(recipe, given, flags, STAGES)
    stage = BY_NAME[given.verb]
    if stage in ASKED_FOR:
        return _told(stage, run_asked_for(stage, recipe, given.runs_dir, flags))
    return _run(recipe, given, flags, (stage,))


def _run(recipe: Any, given: argparse.Namespace, flags: dict[str, Any], stages: tuple[Stage, ...]) -> dict[str, Any]:
    from medllama.pipeline import run_recipe
    from medllama.summary import print_run_table

    finished = run_recipe(recipe, given.runs_dir, flags, stages=stages, force=given.force)
    if len(stages) == 1:
        return _told(stages[0], finished[0].result)
    folder = given.runs_dir / recipe.name
    print_run_table(recipe, folder, finished)
    return {
        "run": recipe.name,
        "path": str(folder),
        "stages": {
            done.stage.name: {
                "path": str(done.result.path),
                "seconds": done.seconds,
                "peak_memory_bytes": done.peak_memory_bytes,
                "was_skipped": done.was_skipped,
                **done.result.summary,
            }
            for done in finished
        },
    }


def _told(stage: Stage, result: StageResult) -> dict[str, Any]:
    """Show the table of a stage that ran by itself, and return what `--json` prints."""
    for line in result.summary.get("table", []):
        print(line, file=sys.stderr)
    path = {} if result.path is None else {"path": str(result.path)}
    return {"stage": stage.name, **path, **result.summary}


def _list_recipes() -> dict[str, Any]:
    from medllama.recipe import RECIPES, load_recipe, shipped_recipes

    recipes = {path.stem: load_recipe(str(path)).description for path in shipped_recipes()}
    for name, description in recipes.items():
        print(f"{name:<20} {description}", file=sys.stderr)
    return {"path": str(RECIPES), "recipes": recipes}


if __name__ == "__main__":
    sys.exit(main())
