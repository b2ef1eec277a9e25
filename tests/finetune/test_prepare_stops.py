"""prepare stops before it has read what cannot come to anything: too many bad records, an archive that breaks off, a full disk."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune.data import blocks
from finetune.sources import jsonl, tables
from medllama.errors import InputError, ResourceError
from tests.finetune.test_prepare import chats, prepared, write_lines


@pytest.mark.parametrize("workers", [1, 2])
def test_a_source_that_is_mostly_broken_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(blocks, "JUDGED_FROM", 40)
    monkeypatch.setattr(blocks, "BLOCK_DOCUMENTS", 20)
    read = []
    reader = tables.jsonl_rows

    def counted(path: Path) -> Iterator[Any]:
        for row in reader(path):
            read.append(row)
            yield row

    monkeypatch.setattr(jsonl, "jsonl_rows", counted)
    source = write_lines(tmp_path / "c.jsonl", [*["bad"] * 4, *chats(0, 2000)])  # less than 5% of the whole
    with pytest.raises(InputError) as caught:
        prepared(tmp_path, source, workers=workers)
    assert caught.value.message.startswith(
        f"{tmp_path}/c.jsonl: 4 of 40 read so far are bad, more than 5%:\n  {tmp_path}/c.jsonl:1: "
    )
    assert workers > 1 or len(read) <= 60


def test_an_archive_of_broken_articles_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "JUDGED_FROM", 10)
    monkeypatch.setattr(blocks, "BLOCK_FILES", 5)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(50):
            archive.addfile(tarfile.TarInfo(f"{number}.xml"))
    with pytest.raises(InputError, match="10 of 10 read so far are bad, more than 5%") as caught:
        prepared(tmp_path, f"jats:{tmp_path / 'a.tar'}")
    assert f"{tmp_path}/a.tar!0.xml:1: not XML" in caught.value.message


def test_a_full_disk_is_seen_before_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_lines(tmp_path / "c.jsonl", chats(0, 100))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ResourceError, match=r"prepare needs .* MB on the disk of .*, 0.0 MB are free"):
        prepared(tmp_path, source)
    assert not (tmp_path / "data").exists()
