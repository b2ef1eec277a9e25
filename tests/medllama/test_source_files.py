"""No file that decides what a stage makes is missing from its hash, and what it never uses is not in it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from medllama.rundir import CODE_ROOT, code_sha256
from medllama.source_files import source_files
from medllama.stages import ASKED_FOR, BY_NAME, STAGES, Stage
from tests.test_imports import imports_of

ROOMS = ("medllama", "finetune", "convert", "eval", "publish", "report", "app")


def modules_of(stage: Stage) -> tuple[str, str]:
    return stage.config_path.partition(":")[0], stage.function_path.partition(":")[0]


def used_by(name: str) -> set[str]:
    return {path.relative_to(CODE_ROOT).as_posix() for path in source_files(CODE_ROOT, modules_of(BY_NAME[name]))}


@pytest.mark.parametrize("stage", [*STAGES, *ASKED_FOR], ids=lambda stage: stage.name)
def test_every_import_of_a_used_file_leads_to_a_used_file(stage: Stage) -> None:
    """Held against another reading of the imports, that of tests/test_imports.py."""
    used = used_by(stage.name)
    for path in (path for path in used if path.endswith(".py")):
        for entry in imports_of(path, (CODE_ROOT / path).read_text()):
            place = entry.target.replace(".", "/")
            for file in (f"{place}.py", f"{place}/__init__.py"):
                assert not (CODE_ROOT / file).is_file() or entry.package not in ROOMS or file in used, (path, entry)


@pytest.mark.parametrize("stage", [*STAGES, *ASKED_FOR], ids=lambda stage: stage.name)
def test_what_python_loads_for_a_stage_is_used(stage: Stage) -> None:
    program = f"""
import json, sys
from medllama.stages import BY_NAME
stage = BY_NAME[{stage.name!r}]
stage.config_class(), stage.function()
if stage.name == "prepare":
    from finetune.sources import MODULES, load_source
    [load_source(kind) for kind in MODULES]
print(json.dumps([module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None)]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=CODE_ROOT, capture_output=True, text=True, check=True)
    loaded = {Path(file) for file in json.loads(done.stdout.splitlines()[-1])}
    ours = {file.relative_to(CODE_ROOT).as_posix() for file in loaded if file.is_relative_to(CODE_ROOT)}
    ours = {file for file in ours if file.partition("/")[0] in ROOMS}
    assert f"{modules_of(stage)[1].replace('.', '/')}.py" in ours
    assert ours <= used_by(stage.name)


def test_every_file_that_is_no_module_is_used_by_a_stage() -> None:
    listed = subprocess.run(["git", "ls-files", *ROOMS], cwd=CODE_ROOT, capture_output=True, text=True).stdout.split()
    if not listed:
        pytest.skip("no git checkout: files that git leaves out cannot be told from those that count")
    others = {file for file in listed if not file.endswith(".py")}
    assert "finetune/training/general_text.md" in others
    assert others <= set().union(*(used_by(stage.name) for stage in (*STAGES, *ASKED_FOR)))


def test_a_stage_uses_its_own_and_nothing_of_the_command_line() -> None:
    used = used_by("train")
    assert {"finetune/training/general_text.md", "finetune/data/records.py", "medllama/vocabulary/table.py"} <= used
    for other in ("medllama/cli.py", "medllama/plan.py", "medllama/doctor.py", "finetune/sources/jats/text.xsl"):
        assert other not in used
    assert {"finetune/sources/jats/text.xsl", "finetune/sources/pubmedqa_training_ids.tsv"} <= used_by("prepare")
    assert "eval/file_cost.py" in used_by("eval"), "started as a program, by its name"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    "line",
    [
        "import room.deep.other",
        "import room.deep.other as it",
        "from room.deep import other",
        "from room.deep.other import name",
        "from .deep import other",
        "from .deep.other import name",
        "def f():\n    from room.deep.other import name",
        "if TYPE_CHECKING:\n    from room.deep.other import name",
        "MODULES = {'it': 'room.deep.other'}",
        "command = [sys.executable, '-m', 'room.deep.other']",
    ],
)
def test_whatever_names_a_module_reaches_it_its_packages_and_what_lies_beside(tmp_path: Path, line: str) -> None:
    write(tmp_path, {
        "room/stage.py": line, "room/unused.py": "", "room/__init__.py": "", "room/deep/__init__.py": "import medllama.core",
        "room/deep/other.py": "", "room/deep/page.css": "", "room/deep/tables/facts.tsv": "", "room/beside/__init__.py": "",
        "room/beside/own.css": "", "medllama/core.py": "import elsewhere", "medllama/cli.py": "", "elsewhere.py": "",
    })  # fmt: skip
    found = [path.relative_to(tmp_path).as_posix() for path in source_files(tmp_path, ("room.stage",))]
    assert found == sorted([
        "medllama/core.py", "room/__init__.py", "room/deep/__init__.py", "room/deep/other.py", "room/deep/page.css",
        "room/deep/tables/facts.tsv", "room/stage.py",
    ])  # fmt: skip


def test_the_hash_follows_a_used_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"room/stage.py": "import medllama.core", "medllama/core.py": "", "medllama/cli.py": ""})
    monkeypatch.setattr("medllama.rundir.CODE_ROOT", tmp_path)
    stage = Stage("stage", "", "room.stage:Config", "room.stage:stage", {})
    before = code_sha256(stage)
    (tmp_path / "medllama" / "cli.py").write_text("x = 1\n")
    assert code_sha256(stage) == before
    (tmp_path / "medllama" / "core.py").write_text("x = 1\n")
    assert code_sha256(stage) != before


def test_no_stage_imports_a_module_whose_name_it_puts_together() -> None:
    """The only two that import by a name read it from a table of whole names."""
    callers = {
        path.relative_to(CODE_ROOT).as_posix()
        for room in ROOMS
        for path in (CODE_ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__", "run_module"))
    }
    assert callers == {"medllama/stages.py", "finetune/sources/__init__.py"}
