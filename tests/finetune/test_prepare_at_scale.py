"""prepare on more than fits: the same bytes on many workers and after kills, memory that does not grow, both formats."""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.data import blocks
from finetune.data.chunking import token_counter
from finetune.data.records import Record, plain_text
from finetune.data.selection import MEMORY_BYTES_PER_DOCUMENT
from finetune.data.splitting import SPLITS, place_in_order
from finetune.prepare import prepare
from finetune.prepare_config import PrepareConfig
from medllama.errors import InputError
from tests.finetune.data.test_near_duplicates import changed, texts
from tests.finetune.sources.reading import write_jsonl


def corpus(folder: Path, count: int, words: int = 120, seed: int = 0) -> str:
    """JSONL of texts of which a tenth are near duplicates, a few exact ones and a few broken."""
    found = texts(count, words, seed)
    for number in range(0, count - 1, 10):
        found[number] = changed(found[number + 1], 2)
    lines: list[Any] = [{"text": text, "document_id": number // 3} for number, text in enumerate(found)]
    lines[5::97] = ["broken"] * len(lines[5::97])
    lines += lines[-3:]
    return f"jsonl:{write_jsonl(folder / f'corpus{seed}.jsonl', lines)}?licence=CC-BY-4.0"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def splits_of_texts(folder: Path) -> dict[str, str]:
    return {
        json.loads(line)["text"]: split
        for split in ("train", "validation", "test")
        for line in (folder / f"{split}.jsonl").read_text().splitlines()
    }


def test_many_workers_make_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_DOCUMENTS", 50)
    exam = write_jsonl(tmp_path / "exam.jsonl", [{"text": " ".join(texts(4, 120)[3].split()[30:60])}])
    sources = (corpus(tmp_path, 400), corpus(tmp_path, 300, seed=1))
    made = []
    for workers in (1, 3):
        config = PrepareConfig(
            source=sources,
            output_dir=tmp_path / f"data{workers}",
            decontaminate=(str(exam),),
            workers=workers,
            test_share=0,
        )
        prepare(config)
        made.append(contents(config.output_dir))
    assert made[0] == made[1]
    card = json.loads(made[0]["data_card.json"])
    for source in card["sources"]:
        counts = source["counts"]
        assert counts["read"] == counts["kept"] + sum(counts["dropped"].values())
        assert {"duplicate", "near duplicate", "not JSON"} <= counts["dropped"].keys()
    assert card["decontamination"]["documents_left_out"] == 1
    assert not (tmp_path / "data1.work.partial").exists()


def test_near_duplicates_across_splits_leave_train_and_never_test(tmp_path: Path) -> None:
    originals = texts(300)
    lines = [{"text": text, "document_id": f"a{number}"} for number, text in enumerate(originals)]
    copies = [{"text": changed(text, 1), "document_id": f"b{number}"} for number, text in enumerate(originals)]
    first = f"jsonl:{write_jsonl(tmp_path / 'a.jsonl', lines)}"
    second = f"jsonl:{write_jsonl(tmp_path / 'b.jsonl', copies)}"
    for name, sources in (("a", (first,)), ("b", (second,)), ("both", (second, first))):
        prepare(PrepareConfig(source=sources, output_dir=tmp_path / name, test_share=0.3))
    alone = splits_of_texts(tmp_path / "a") | splits_of_texts(tmp_path / "b")
    both = splits_of_texts(tmp_path / "both")
    assert {text for text, split in both.items() if split == "test"} == {
        text for text, split in alone.items() if split == "test"
    }
    for line, copy in zip(lines, copies, strict=True):
        pair = sorted({alone[line["text"]], alone[copy["text"]]})
        kept = [both[text] for text in (line["text"], copy["text"]) if text in both]
        if pair == ["test"]:
            assert kept == ["test", "test"]
        else:
            assert len(kept) == 1
            assert kept[0] == ("test" if "test" in pair else "validation" if "validation" in pair else "train")


def test_a_threshold_of_one_keeps_near_duplicates(tmp_path: Path) -> None:
    [text] = texts(1)
    lines = [{"text": text}, {"text": changed(text, 1)}, {"text": text}]
    source = f"jsonl:{write_jsonl(tmp_path / 'a.jsonl', lines)}"
    for threshold, kept in ((0.8, 1), (1, 2)):
        config = PrepareConfig(
            source=(source,), output_dir=tmp_path / "data", near_duplicate_threshold=threshold, test_share=0,
            validation_share=0,
        )  # fmt: skip
        prepare(config)
        assert len(splits_of_texts(tmp_path / "data")) == kept


def test_memory_grows_by_no_more_than_is_stated_for_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_DOCUMENTS", 100)
    peaks, sizes = [], (500, 2500)
    for size in sizes:
        source = corpus(tmp_path, size, words=400, seed=size)
        tracemalloc.start()
        prepare(PrepareConfig(source=(source,), output_dir=tmp_path / "data", workers=1))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    grown = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
    # The records have 4 kB each: whoever holds them all is caught.
    assert grown < MEMORY_BYTES_PER_DOCUMENT + 300, peaks
    assert (tmp_path / "corpus2500.jsonl").stat().st_size / sizes[1] > 3000


def archive(path: Path, count: int) -> str:
    """A tar archive of open articles of 3 kB."""
    with tarfile.open(path, "w") as file:
        for number, text in enumerate(texts(count, 400, seed=count)):
            content = (
                '<article xmlns:xlink="http://www.w3.org/1999/xlink"><front><article-meta><article-id pub-id-type="pmc">'
                f"{number + 1}</article-id><permissions>"
                '<license xlink:href="https://creativecommons.org/licenses/by/4.0/"/></permissions></article-meta></front>'
                f"<body><p>Text {number}.</p><p>{text}</p></body></article>"
            ).encode()
            member = tarfile.TarInfo(f"PMC{number + 1}.xml")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return f"jats:{path}"


def test_an_archive_is_as_many_blocks_as_its_articles_ask_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is larger than memory is read all the same, by all workers, and goes on where a killed run was."""
    monkeypatch.setattr(blocks, "BLOCK_FILES", 50)
    make_block, made = blocks.make_block, []

    def noted(block: blocks.Block, *rest: Any) -> None:
        made.append(len(block.files))
        make_block(block, *rest)

    peaks, sizes = [], (200, 1000)
    for size in sizes:
        config = PrepareConfig(
            source=(archive(tmp_path / f"{size}.tar", size),), output_dir=tmp_path / "data", workers=1
        )
        with monkeypatch.context() as patch:
            patch.setattr(blocks, "make_block", noted)
            tracemalloc.start()
            prepare(config)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert made == [50] * (sum(sizes) // 50)
    assert (peaks[1] - peaks[0]) / (sizes[1] - sizes[0]) < MEMORY_BYTES_PER_DOCUMENT + 300, peaks
    on_one = contents(tmp_path / "data")
    prepare(replace(config, workers=3))
    assert contents(tmp_path / "data") == on_one


COMMAND = "import sys; from medllama.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.slow
def test_a_run_that_was_killed_anywhere_ends_with_the_same_bytes(tmp_path: Path) -> None:
    sources = ["--source", corpus(tmp_path, 6000), "--source", corpus(tmp_path, 3000, seed=1)]

    def start(folder: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", COMMAND, "prepare", *sources, "--output-dir", str(folder)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    began = time.monotonic()
    whole = start(tmp_path / "whole")
    assert whole.wait() == 0
    seconds = time.monotonic() - began
    draw, resumed = random.Random(0), 0
    for _ in range(5):
        process = start(tmp_path / "killed")
        try:
            process.wait(timeout=draw.uniform(0.3, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        resumed += (tmp_path / "killed.work.partial" / "blocks").is_dir()
    last = start(tmp_path / "killed")
    assert last.wait() == 0
    assert resumed > 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.glob("killed*")) == ["killed"]


def test_blocks_that_are_there_are_not_made_again_and_those_of_other_inputs_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_DOCUMENTS", 20)
    source = corpus(tmp_path, 100)
    config = PrepareConfig(source=(source,), output_dir=tmp_path / "data")
    prepare(config)
    whole = contents(tmp_path / "data")
    make_block, made = blocks.make_block, []

    def stopping(block: blocks.Block, *rest: Any) -> None:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(block.number)
        make_block(block, *rest)

    monkeypatch.setattr(blocks, "make_block", stopping)
    with pytest.raises(KeyboardInterrupt):
        prepare(config)
    made.clear()
    monkeypatch.setattr(
        blocks, "make_block", lambda block, *rest: (made.append(block.number), make_block(block, *rest))
    )
    capsys.readouterr()
    prepare(config)
    assert made == [3, 4, 5]
    assert "resuming from" in capsys.readouterr().err
    assert contents(tmp_path / "data") == whole

    monkeypatch.setattr(blocks, "make_block", stopping)
    made.clear()
    with pytest.raises(KeyboardInterrupt):
        prepare(config)
    corpus(tmp_path, 99)  # another file of the same name
    monkeypatch.setattr(
        blocks, "make_block", lambda block, *rest: (made.append(block.number), make_block(block, *rest))
    )
    made.clear()
    prepare(config)
    assert made == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_datasets_loads_the_folder_as_it_is(tmp_path: Path, form: Any) -> None:
    datasets = pytest.importorskip("datasets")
    chats = [{"prompt": f"question {i}", "response": f"answer {i}"} for i in range(80)]
    items = [{"question": f"Q{i}", "options": {"A": "x", "B": "y"}, "answer": "B"} for i in range(3)]
    notes = [{"text": f"Text {i}."} for i in range(80)]
    mixed = write_jsonl(tmp_path / "c.jsonl", [*chats, *items, *notes])
    prepare(
        PrepareConfig(
            source=(f"jsonl:{mixed}",), output_dir=tmp_path / "data", format=form, test_share=0.2, validation_share=0.2
        )
    )
    loaded = datasets.load_dataset(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))
    card = json.loads((tmp_path / "data" / "data_card.json").read_text())
    for split in ("train", "validation", "test"):
        assert len(loaded[split]) == card["records"][split] > 0
        for row in loaded[split]:
            assert (row["messages"] is None) != (row["text"] is None)
            assert row["source"] == "c"
    choice = datasets.load_dataset(str(tmp_path / "data"), "multiple_choice", cache_dir=str(tmp_path / "cache"))
    assert [row["options"]["B"] for row in choice["test"]] == ["y"] * 3


def test_datasets_loads_records_of_which_the_first_ten_megabytes_are_of_one_shape(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    chats = [{"prompt": f"question {i}", "response": f"answer {i} " * 1000} for i in range(1500)]
    text = "Only one text."
    source = f"jsonl:{write_jsonl(tmp_path / 'c.jsonl', [*chats, {'text': text}])}"
    record = Record(plain_text(text), "c", "d", "MIT")
    seed = next(seed for seed in range(999) if place_in_order(record, seed=seed)[0] > 0.95)  # so that it comes last
    config = PrepareConfig(
        source=(source,), output_dir=tmp_path / "data", near_duplicate_threshold=1, test_share=0, validation_share=0,
        seed=seed,
    )  # fmt: skip
    prepare(config)
    written = (tmp_path / "data" / "train.jsonl").read_text()
    assert written.index('{"text"') > 10_500_000
    loaded = datasets.load_dataset(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))["train"]
    assert [text for text in loaded["text"] if text] == ["Only one text."]


def test_long_text_is_cut_and_every_piece_has_its_provenance(tmp_path: Path, tiny_base: Path) -> None:
    text = "\n\n".join(f"Paragraph {i} tells of gout and of what helps against it." for i in range(100))
    (tmp_path / "notes.txt").write_text(text)
    config = PrepareConfig(
        source=(f"text:{tmp_path}/notes.txt?licence=MIT",), output_dir=tmp_path / "data", chunk_tokens=128,
        tokenizer=str(tiny_base), test_share=0, validation_share=0,
    )  # fmt: skip
    prepare(config)
    records = [json.loads(line) for line in (tmp_path / "data" / "train.jsonl").read_text().splitlines()]
    assert "\n\n".join(record["text"] for record in records) == text
    assert len({record["sha256"] for record in records}) == len(records) > 10
    assert len({record["document_id"] for record in records}) == 1
    tokens = json.loads((tmp_path / "data" / "data_card.json").read_text())["tokens"]
    assert tokens["counted_by"] == f"the tokenizer of {tiny_base.name}"
    count = token_counter(tiny_base)
    assert tokens["splits"]["train"]["sum"] == sum(count(record["text"]) for record in records)
    assert 64 < tokens["splits"]["train"]["median"] <= tokens["splits"]["train"]["longest"] <= 126


def test_restricted_data_is_refused_until_it_is_allowed_and_is_never_publishable(tmp_path: Path) -> None:
    lines = [
        {"Context": f"I worry about {i}. Mail me at a{i}@b.org.", "Response": f"Walk {i} miles."} for i in range(30)
    ]
    source = f"mental-health:{write_jsonl(tmp_path / 'c.json', lines)}"
    with pytest.raises(InputError, match="stands under LicenseRef-RAIL-D, which restricts") as caught:
        prepare(PrepareConfig(source=(source,), output_dir=tmp_path / "data"))
    assert "--allow-licence LicenseRef-RAIL-D" in caught.value.hint
    prepare(PrepareConfig(source=(source,), output_dir=tmp_path / "data", allow_licence=("LicenseRef-RAIL-D",)))
    card = json.loads((tmp_path / "data" / "data_card.json").read_text())
    assert card["publishable"] is False
    assert card["sources"][0]["cleaned"] == {"masked e-mail address": 30}
    assert "; likely identifiers of people masked\n" in (tmp_path / "data" / "NOTICE").read_text()
    assert "@b.org" not in (tmp_path / "data" / "train.jsonl").read_text()


def test_identifiers_in_one_s_own_files_are_warned_about_and_masked_where_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"prompt": f"q{i}", "response": f"MRN: 00{i:05}, DOB 01/02/1960"} for i in range(30)]
    source = f"jsonl:{write_jsonl(tmp_path / 'own.jsonl', lines)}"
    prepare(PrepareConfig(source=(source,), output_dir=tmp_path / "data"))
    assert (
        "warning: jsonl:own.jsonl may identify people: records with 30 date of birth, 30 medical record number"
        in capsys.readouterr().err
    )
    prepare(PrepareConfig(source=(source,), output_dir=tmp_path / "data", mask_identifiers=True))
    assert "[medical record number]" in (tmp_path / "data" / "train.jsonl").read_text()
    assert "records with 30 date of birth;" in capsys.readouterr().err


def test_the_language_is_kept_by_choice(tmp_path: Path) -> None:
    english = "Gout is a form of arthritis that causes pain and swelling in the joints of the foot."
    german = "Die Gicht ist eine Form der Arthritis, die Schmerzen und Schwellungen in den Gelenken verursacht."
    source = f"jsonl:{write_jsonl(tmp_path / 'c.jsonl', [{'text': english}, {'text': german}])}"
    prepare(
        PrepareConfig(
            source=(source,), output_dir=tmp_path / "data", language=("en",), test_share=0, validation_share=0
        )
    )
    assert list(splits_of_texts(tmp_path / "data")) == [english]
    card = json.loads((tmp_path / "data" / "data_card.json").read_text())
    assert card["sources"][0]["counts"]["dropped"] == {"language de": 1}


def test_every_broken_record_is_named_in_a_file(tmp_path: Path) -> None:
    source = corpus(tmp_path, 2000)
    prepare(PrepareConfig(source=(source,), output_dir=tmp_path / "data"))
    named = (tmp_path / "data" / "bad_records.txt").read_text().splitlines()
    expected = [number + 1 for number in range(5, 2000, 97)]
    assert [int(line.split(":")[1]) for line in named] == expected
    assert named[0] == "corpus0.jsonl:6: not JSON (column 1: Expecting value)"


@pytest.mark.slow
def test_every_pair_of_the_real_medquad_is_kept_or_has_a_reason(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "medquad"
    files = [file.read_text(encoding="utf-8") for file in folder.rglob("*.xml")]
    pairs = sum(len(re.findall(r"<(?:qa)?pair[ >]", text, flags=re.IGNORECASE)) for text in files)
    prepare(PrepareConfig(source=(f"medquad:{folder}",), output_dir=tmp_path / "data"))
    card = json.loads((tmp_path / "data" / "data_card.json").read_text())
    counts = card["sources"][0]["counts"]
    assert counts["read"] == pairs == counts["kept"] + sum(counts["dropped"].values())
    lines = sum(len((tmp_path / "data" / f"{split}.jsonl").read_bytes().splitlines()) for split in SPLITS)
    assert counts["kept"] == lines == sum(card["records"].values())
