"""`medllama package --from-modelfile FILE`: what anybody's Modelfile asks of a package, once it holds no trap.

    config, further = with_modelfile(config)

Taken over are the GGUF of FROM, an ADAPTER with the name of its base, SYSTEM, and every PARAMETER; a flag wins over the
Modelfile. Not taken over is what a package has from a surer place: the TEMPLATE is the certified one, the licences are the
base's own. Errors end it, all of them told at once; warnings are told, and it goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from medllama import progress
from medllama.errors import InputError, RecipeError
from publish.config import PackageConfig
from publish.modelfile import Command, modelfile_text, read_modelfile
from publish.parameters import IGNORED, parse_value
from publish.sources import resolve
from publish.traps import find_traps


def with_modelfile(config: PackageConfig) -> tuple[PackageConfig, list[Command]]:
    """The configuration with what its Modelfile adds, and the parameters and REQUIRES that no flag is there for."""
    if config.from_modelfile is None:
        return config, []
    text, folder = modelfile_text(config.from_modelfile), config.from_modelfile.parent
    _report(text, folder, config.from_modelfile)
    commands = read_modelfile(text)
    parameters = {
        (command.key, command.value if command.key == "stop" else ""): command
        for command in commands
        if command.name == "parameter" and command.key not in IGNORED
    }
    system, adapter, source = (_last(commands, name) for name in ("system", "adapter", "from"))
    gguf, base = list(config.gguf), config.base_in_ollama
    if source and resolve(source, folder).is_file():
        gguf.append(str(resolve(source, folder)))
    elif adapter:
        base = base or source
    elif not gguf:
        raise InputError(
            f"{config.from_modelfile} runs the model {source!r}, and a package holds certified files",
            hint="write FROM ./NAME.gguf, or give the file too: --gguf FILE",
        )
    if adapter:
        gguf.append(str(resolve(adapter, folder)))
    asked = {key: parse_value(command) for (key, _), command in parameters.items() if key in ("temperature", "num_ctx")}
    flags = {name: getattr(config, name) for name in ("temperature", "num_ctx") if getattr(config, name) is not None}
    changed = dataclasses.replace(
        config, gguf=tuple(dict.fromkeys(gguf)), base_in_ollama=base, system=system if config.system is None else config.system,
        **(asked | flags),
    )  # fmt: skip
    if _last(commands, "template") is not None:
        progress.message(f"{config.from_modelfile}: note: its TEMPLATE gives way to the one whose prompts are proven")
    further = [command for (key, _), command in parameters.items() if key not in ("temperature", "num_ctx")]
    if requires := _last(commands, "requires"):
        further.append(Command("requires", requires))
    return changed, further


def _report(text: str, folder: Path, path: Path) -> None:
    """Tell every trap. Raises RecipeError with the errors among them, InputError where the grammar is not kept."""
    try:
        traps = find_traps(text, folder)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", hint=error.hint) from None
    for trap in traps:
        if trap.severity == "warning":
            progress.message(f"{path} {trap}")
    if errors := [str(trap) for trap in traps if trap.severity == "error"]:
        raise RecipeError(str(path), errors, hint="mend these lines, and run the same command again")


def _last(commands: Sequence[Command], name: str) -> str | None:
    return next((command.value for command in reversed(commands) if command.name == name), None)
