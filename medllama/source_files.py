"""Which files decide what a stage makes: the modules that it imports, those that these import, and what lies beside them.

    source_files(root, ("finetune.train", "finetune.train_config"))

Read from the source texts; nothing is imported. Rather one file too many than one too few: an import inside a function or for a
type checker counts, and so does a text that is the dotted name of a module, as `finetune.sources` holds its modules. Files that
are no modules (a style sheet, a table, a text) count with the modules of their folder. Only the stages' own packages and medllama
are looked into; the versions of other libraries stand in the manifest.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

DOTTED_NAME = re.compile(r"\w+(\.\w+)+")


def source_files(root: Path, modules: Iterable[str]) -> list[Path]:
    """The files under `root` that these modules need, sorted."""
    waiting = list(modules)
    rooms = {"medllama", *(name.partition(".")[0] for name in waiting)}
    reached: dict[str, Path | None] = {}
    while waiting:
        name = waiting.pop()
        if not name or name in reached or name.partition(".")[0] not in rooms:
            continue
        path = reached[name] = _file_of(root, name)
        waiting.append(name.rpartition(".")[0])
        if path is not None:
            waiting += named_modules(path.read_bytes(), name if path.name == "__init__.py" else name.rpartition(".")[0])
    files = {path for path in reached.values() if path is not None}
    return sorted(files | {beside for folder in {path.parent for path in files} for beside in _beside(folder)})


@functools.cache
def named_modules(source: bytes, package: str) -> frozenset[str]:
    """All that may be a module in the text of one: dotted names that are imported, or stand there as a text by themselves."""
    return frozenset(name for node in ast.walk(ast.parse(source)) for name in _named_by(node, package))


def _named_by(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        origin = ".".join([*above, *([node.module] if node.module else [])])
        yield origin
        yield from (f"{origin}.{alias.name}" for alias in node.names)  # `from medllama import files` names a module too
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and DOTTED_NAME.fullmatch(node.value):
        yield node.value


def _file_of(root: Path, name: str) -> Path | None:
    path = root.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _beside(folder: Path) -> Iterator[Path]:
    """The files of a folder that are no modules, and those of the folders in it that hold none."""
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name == "__pycache__" or path.suffix == ".py":
            continue
        if not path.is_dir():
            yield path
        elif not any(path.glob("*.py")):
            yield from _beside(path)
