"""Imports run one way, as the README's tree promises; every import of every module is looked at, inside functions too.

- A stage imports medllama and third parties, never another stage.
- medllama imports no stage; `medllama.cli` may, inside functions.
- `medllama.errors` imports nothing of medllama; `medllama.cli` is imported by what runs it and what documents it.
- A heavy library has one home.
- No two modules import each other.
"""

from __future__ import annotations

import ast
import functools
import graphlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
STAGES = ("finetune", "convert", "eval", "publish", "report", "app")
ROOMS = ("medllama", *STAGES)

TRAINING = ("finetune/", "convert/verify.py", "convert/checks/")
BINDING = ("medllama/llamacpp.py", "medllama/llamacpp/")
HOMES = {
    **dict.fromkeys(("torch", "transformers", "peft", "trl", "accelerate"), TRAINING),
    "datasets": (*TRAINING, "eval/hub.py"),
    **dict.fromkeys(("llama_cpp", "ctypes"), BINDING),
    "ollama": ("publish/", "app/"),
    **dict.fromkeys(("gradio", "fastapi", "uvicorn"), ("app/",)),
    "matplotlib": ("report/",),
}


@dataclass(frozen=True)
class Import:
    """One import of `target` (a dotted name); `is_lazy` where it stands inside a function, `is_bare` for `import x`."""

    path: str
    line: int
    target: str
    is_lazy: bool
    is_bare: bool

    @property
    def room(self) -> str:
        return self.path.partition("/")[0]

    @property
    def package(self) -> str:
        return self.target.partition(".")[0]


@functools.cache
def imports_of(path: str, text: str) -> tuple[Import, ...]:
    """Every import of a module; those that only a type checker reads are left out."""
    folder = path.split("/")[:-1]

    def visit(node: ast.AST, is_lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, alias.name, is_lazy, alias.asname is None)
        elif isinstance(node, ast.ImportFrom):
            origin = folder[: len(folder) - node.level + 1] if node.level else []
            target = ".".join([*origin, *([node.module] if node.module else [])])
            yield Import(path, node.lineno, target, is_lazy, False)
            for alias in node.names:  # `from medllama import cli` names a module too
                yield Import(path, node.lineno, f"{target}.{alias.name}", is_lazy, False)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        else:
            inner = is_lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, inner)

    return tuple(visit(ast.parse(text), False))


def sources() -> dict[str, str]:
    """The text of every module of every room, by its path in the repository."""
    paths = sorted(path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py"))
    return {path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def faults(texts: dict[str, str]) -> list[str]:
    """What breaks the rules, one line each."""
    found = [
        f"{entry.path}:{entry.line} imports {entry.target}: {reason}"
        for path, text in texts.items()
        for entry in imports_of(path, text)
        if (reason := fault(entry))
    ]
    try:
        tuple(graphlib.TopologicalSorter(graph(texts)).static_order())
    except graphlib.CycleError as error:
        found.append("modules import each other: " + " -> ".join(error.args[1]))
    return found


def fault(entry: Import) -> str | None:
    """The rule that one import breaks."""
    if entry.package in STAGES and entry.package != entry.room:
        if entry.room in STAGES:
            return "a stage imports no other stage"
        if entry.path != "medllama/cli.py":
            return "the core imports no stage"
        if not entry.is_lazy:
            return "the command line imports stages inside functions only"
    if entry.is_bare and entry.package == "eval":
        return "it hides the builtin eval"
    if entry.path == "medllama/errors.py" and entry.package == "medllama":
        return "the errors depend on nothing"
    is_cli = entry.target == "medllama.cli" or entry.target.startswith("medllama.cli.")
    if is_cli and entry.path not in ("medllama/__main__.py", "medllama/cli_reference.py"):
        return "nothing depends on the command line"
    home = HOMES.get(entry.package)
    if home is not None and not entry.path.startswith(home):
        return f"the home of {entry.package} is {' and '.join(home)}"
    return None


def graph(texts: dict[str, str]) -> dict[str, set[str]]:
    """Module -> the modules that it imports when it is itself imported."""
    names = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in texts}
    return {
        name: {
            entry.target
            for entry in imports_of(path, texts[path])
            if not entry.is_lazy and entry.target in names and entry.target != name
        }
        for name, path in names.items()
    }


def test_imports_run_one_way() -> None:
    assert faults(sources()) == []


def test_every_module_is_looked_at() -> None:
    assert {"medllama/cli.py", "finetune/prepare.py", "convert/convert.py", "publish/package.py"} <= sources().keys()


def faults_with(path: str, planted: str) -> list[str]:
    """The faults that these lines add at the end of a module, which may be a new one."""
    texts = sources()
    before = faults(texts)
    return [line for line in faults(texts | {path: texts.get(path, "") + f"\n\n{planted}\n"}) if line not in before]


@pytest.mark.parametrize(
    ("path", "planted", "reason"),
    [
        ("finetune/prepare.py", "from convert.config import FILE_TYPES", "a stage imports no other stage"),
        ("finetune/prepare.py", "import publish.card", "a stage imports no other stage"),
        ("convert/convert.py", "def f():\n    from finetune.prepare import prepare", "a stage imports no other stage"),
        ("medllama/chat.py", "from finetune.data.records import Record", "the core imports no stage"),
        ("medllama/chat.py", "def f():\n    import convert.config", "the core imports no stage"),
        (
            "medllama/cli.py",
            "from finetune.prepare import prepare",
            "the command line imports stages inside functions only",
        ),
        ("convert/convert.py", "import eval", "a stage imports no other stage"),
        ("eval/new.py", "import eval", "it hides the builtin eval"),
        ("eval/new.py", "import eval.mcq", "it hides the builtin eval"),
        ("medllama/errors.py", "from medllama.files import read_text", "the errors depend on nothing"),
        ("medllama/errors.py", "import medllama", "the errors depend on nothing"),
        ("medllama/errors.py", "from . import files", "the errors depend on nothing"),
        ("publish/package.py", "from medllama.cli import main", "nothing depends on the command line"),
        ("publish/package.py", "from medllama import cli", "nothing depends on the command line"),
        (
            "medllama/chat.py",
            "import torch",
            "the home of torch is finetune/ and convert/verify.py and convert/checks/",
        ),
        ("medllama/chat.py", "def f():\n    from transformers import AutoTokenizer", "the home of transformers is"),
        ("convert/convert.py", "import torch.nn", "the home of torch is"),
        ("convert/convert.py", "from peft import LoraConfig", "the home of peft is"),
        ("publish/package.py", "if True:\n    import trl", "the home of trl is"),
        ("convert/convert.py", "import llama_cpp", "the home of llama_cpp is medllama/llamacpp.py"),
        ("convert/checks/logits.py", "import ctypes", "the home of ctypes is medllama/llamacpp.py"),
        ("finetune/prepare.py", "from ollama import Client", "the home of ollama is publish/ and app/"),
        ("publish/package.py", "import gradio", "the home of gradio is app/"),
        ("publish/package.py", "class A:\n    from fastapi import FastAPI", "the home of fastapi is app/"),
        ("medllama/files.py", "from medllama.chat import Chat", "modules import each other: "),
        ("medllama/files.py", "from .chat import Chat", "modules import each other: "),
    ],
)
def test_a_planted_fault_is_caught(path: str, planted: str, reason: str) -> None:
    assert any(reason in line for line in faults_with(path, planted))


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("medllama/cli.py", "def f():\n    from eval.mcq import score"),
        ("eval/new.py", "from eval.mcq import score"),
        ("app/new.py", "import gradio\nimport ollama\nfrom medllama.chat import Chat"),
        ("convert/verify.py", "import torch"),
        (
            "medllama/files.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from medllama.chat import Chat",
        ),
        ("medllama/files.py", "def f():\n    from medllama.chat import Chat"),
    ],
)
def test_what_is_allowed_is_let_through(path: str, allowed: str) -> None:
    assert faults_with(path, allowed) == []
