"""Blocks of a killed run are taken up again where they hold the same things, and made anew where they do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.data import blocks
from finetune.data.blocks import Settings, read_blocks
from finetune.data.corpus import gather
from finetune.sources import parse

SETTINGS = Settings(0, 0.1, 0.1, (), (), False, None, 1024, True)


def read_names(path: Path, names: list[str], folder: Path) -> tuple[list[str], list[str]]:
    """(names that the blocks hold, blocks that were made for it) of a source of these names."""
    path.write_text("".join(json.dumps({"text": f"Gout in {name}.", "document_id": name}) + "\n" for name in names))
    before = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.json")}
    found = gather(read_blocks([parse(f"jsonl:{path}")], SETTINGS, folder, workers=1), 1, folder)
    lines = [json.loads(line) for block in found.block_paths for line in block.read_text().splitlines()]
    made = [file.name for file in folder.glob("*.json") if before.get(file.name) != file.stat().st_mtime_ns]
    return [line["document_id"] for line in lines], sorted(made)


def test_what_changed_between_two_runs_is_neither_lost_nor_there_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an inventory, or a data set of the hub, is another one the next day."""
    monkeypatch.setattr(blocks, "BLOCK_DOCUMENTS", 10)
    names = [f"n{number}" for number in range(35)]
    path, folder = tmp_path / "c.jsonl", tmp_path / "blocks"
    assert read_names(path, names, folder) == (names, [f"000-{number:06d}.json" for number in range(4)])
    assert read_names(path, names, folder) == (names, [])
    (folder / "000-000000.overlap").touch()
    changed = [*names[:25], "new", *names[25:]]
    assert read_names(path, changed, folder) == (changed, ["000-000002.json", "000-000003.json"])
    assert not list(folder.glob("*.overlap")), "what is tested may have changed, so all is compared again"
    assert read_names(path, changed[1:], folder)[0] == changed[1:]
