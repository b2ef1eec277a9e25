"""`medllama prepare`: medical sources in; train, validation and test JSONL, NOTICE and a data card out.

    medllama prepare --source medquad:MedQuAD --source text:notes.txt?licence=CC-BY-4.0 --output-dir data

    sources -> records -> split by document -> exact duplicates out -> at most max_examples -> data/

    {train,validation,test}.jsonl    one record a line: messages or text, source, document_id, licence, sha256
    multiple_choice.jsonl            question, options, answer and the same, where a source has such items
    data_card.json                   per source: licence, attribution, counts that add up, whether it may be published
    NOTICE                           what must be said where the data, or what is made of it, is given on

The same input gives the same bytes. All records are held in memory. What it does not do: near duplicates, masking of
identifiers, decontamination.
"""

from __future__ import annotations

from itertools import compress
from pathlib import Path
from typing import get_args

from finetune.config import PrepareConfig
from finetune.data_card import Tally, data_card, inputs_sha256, notice
from finetune.records import Dropped, Record, Split
from finetune.sources import load_source, parse
from finetune.splitting import SPLITS, first_of_each, place_in_order, split_of, with_training_records
from medllama import progress
from medllama.errors import InputError
from medllama.files import atomic_directory, write_json, write_text
from medllama.stages import StageResult

FILES: dict[Split, str] = {name: f"{name}.jsonl" for name in get_args(Split)}
OPTIONAL_FILES = {"multiple_choice"}
CARD_FILE, NOTICE_FILE = "data_card.json", "NOTICE"
OWN_FILES = {*FILES.values(), CARD_FILE, NOTICE_FILE}

Origin = tuple[Record, Tally]


def prepare(config: PrepareConfig) -> StageResult:
    """Read every source, split, deduplicate, and write the data folder as a whole or not at all."""
    requests = [parse(given) for given in config.source]
    inputs = [load_source(request.kind).inputs(request) for request in requests]
    _require_replaceable(config.output_dir, [file for files in inputs for file in files])

    tallies: list[Tally] = []
    read: list[Origin] = []
    for request, files in zip(requests, inputs, strict=True):
        tallies.append(Tally(request, load_source(request.kind), inputs_sha256(files)))
        read += [(record, tallies[-1]) for record in _read_source(tallies[-1])]
    contents = _distribute(config, read)
    _require_training_records(contents, tallies)
    _warn_about_empty_splits(config, contents)

    card = data_card(config, tallies)
    with atomic_directory(config.output_dir) as partial:
        for name, records in contents.items():
            if records or name not in OPTIONAL_FILES:
                lines = "".join(record.as_line() for record in records)
                (partial / FILES[name]).write_text(lines, encoding="utf-8", newline="\n")
        write_json(partial / CARD_FILE, card)
        write_text(partial / NOTICE_FILE, notice(tallies))
    sources = "1 source" if len(tallies) == 1 else f"{len(tallies)} sources"
    parts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in card["records"].items() if count)
    summary = {
        "line": f"{sum(card['records'].values()):,} records from {sources}: {parts}",
        "records": card["records"],
        "publishable": card["publishable"],
        "sources": [{"name": source["name"], **source["counts"]} for source in card["sources"]],
    }
    return StageResult(config.output_dir, summary)


def _require_replaceable(output_dir: Path, inputs: list[Path]) -> None:
    """The folder is replaced as a whole, so it must hold nothing but an earlier result, least of all the sources."""
    if not output_dir.name:
        raise InputError(f"{output_dir} is no folder that can be replaced", hint="give --output-dir a name")
    for file in inputs:
        if output_dir.resolve() in file.resolve().parents:
            raise InputError(
                f"{file} lies in {output_dir}, which would be replaced", hint="choose another --output-dir"
            )
        try:
            str(file).encode()
        except UnicodeEncodeError:
            raise InputError(f"{str(file)!a} has a name that is not UTF-8", hint="rename it") from None
    if not output_dir.exists():
        return
    if not output_dir.is_dir():
        raise InputError(f"{output_dir} is a file, not a folder", hint="choose another --output-dir")
    foreign = sorted(file.name for file in output_dir.iterdir() if file.name not in OWN_FILES)
    if foreign:
        raise InputError(
            f"{output_dir} holds {foreign[0]!a}, which prepare did not make", hint="choose another --output-dir"
        )


def _read_source(tally: Tally) -> list[Record]:
    """The records of one source; what gives none is counted. Raises InputError where too much of it is bad."""
    records = []
    for outcome in tally.source.read(tally.request):
        tally.read += 1
        if isinstance(outcome, Dropped):
            tally.drop(outcome)
        else:
            records.append(outcome)
        progress.update(f"{tally.request.name}: {tally.read:,} read, {tally.read - len(records):,} left out")
    if tally.bad > tally.source.maximum_bad_share * tally.read:
        raise InputError(
            f"{tally.request.path}: {tally.bad:,} of {tally.read:,} are bad, more than "
            f"{tally.source.maximum_bad_share:.0%}:{tally.described_problems()}",
            hint=f"expected {tally.source.example}; correct the bad ones, or take them out",
        )
    if tally.bad:
        progress.message(
            f"warning: {tally.request.name}: {tally.bad:,} of {tally.read:,} are bad and left out:"
            f"{tally.described_problems()}"
        )
    return records


def _distribute(config: PrepareConfig, read: list[Origin]) -> dict[Split, list[Record]]:
    """The records of each file in their final order. What is kept and what is left out is counted in its tally."""
    splits = [
        split_of(record, seed=config.seed, validation_share=config.validation_share, test_share=config.test_share)
        for record, _ in read
    ]
    is_kept = first_of_each([record for record, _ in read], splits)
    for (_, tally), kept in zip(read, is_kept, strict=True):
        if not kept:
            tally.drop(Dropped("duplicate", "", is_bad=False))
    read, splits = list(compress(read, is_kept)), list(compress(splits, is_kept))
    splits = with_training_records([record for record, _ in read], splits, seed=config.seed)

    contents: dict[Split, list[Record]] = {name: [] for name in FILES}
    origins = zip(read, splits, strict=True)
    for (record, tally), split in sorted(origins, key=lambda origin: place_in_order(origin[0][0], seed=config.seed)):
        if split == "train" and len(contents["train"]) == config.max_examples:
            tally.drop(Dropped("over max_examples", "", is_bad=False))
        else:
            contents[split].append(record)
            tally.keep(record, split)
    return contents


def _require_training_records(contents: dict[Split, list[Record]], tallies: list[Tally]) -> None:
    if contents["train"]:
        return
    counts = [f"{tally.request.name}: {tally.described_counts()}" for tally in tallies]
    raise InputError(
        "\n  ".join(["no record is left to train on", *counts]),
        hint="give a --source that has questions with answers, or text",
    )


def _warn_about_empty_splits(config: PrepareConfig, contents: dict[Split, list[Record]]) -> None:
    documents = len({(record.source, record.document_id) for name in SPLITS for record in contents[name]})
    shares: dict[Split, float] = {"validation": config.validation_share, "test": config.test_share}
    for name, share in shares.items():
        if share and not contents[name]:
            progress.message(
                f"warning: no {name} records: a share of {share:g} of {documents:,} document(s) came to none; "
                f"give more, or raise --{name}-share"
            )
