"""`medllama prepare`: medical sources in; train, validation and test data, NOTICE and a data card out.

    medllama prepare --source medquad:MedQuAD --source text:notes.txt?licence=CC-BY-4.0 --output-dir data

    sources -> cleaned, in blocks -> exact, then near duplicates out -> overlaps with evaluation sets out
            -> at most max_examples -> data/

    {train,validation,test}.jsonl    one record a line: messages or text, source, document_id, licence, sha256
    multiple_choice.jsonl            question, options, answer and the same, where a source has such items
    data_card.json, README.md, data_card.svg    per source: licence, attribution, counts that add up; tokens; what is publishable
    decontamination.jsonl            what was left out because an evaluation set has it too, where there is any
    bad_records.txt                  everything that was broken, by file and line, where there is any
    NOTICE                           what must be said where the data, or what is made of it, is given on

The same input gives the same bytes, with any number of workers. The corpus is never in memory: blocks of it lie in
OUT.work.partial, and little of each document is in memory while all are compared (selection.py). A run that was
killed goes on with the blocks that it finds there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy

from finetune.data.blocks import Settings, described_problems, read_blocks, refuse_if_bad
from finetune.data.chunking import tokenizer_folder
from finetune.data.corpus import Corpus, gather
from finetune.data.data_card import Tally, data_card, inputs_sha256, notice, readme, token_statistics
from finetune.data.evaluation_sets import EvaluationSets
from finetune.data.figure import figure
from finetune.data.licences import needs_permission
from finetune.data.records import Split
from finetune.data.selection import Selection, in_order, select
from finetune.data.splitting import SPLIT_CODES, SPLITS
from finetune.data.writing import write_split
from finetune.prepare_config import PrepareConfig
from finetune.sources import SourceRequest, load_source, parse
from medllama import progress
from medllama.config import as_json
from medllama.cores import usable_cores
from medllama.errors import InputError
from medllama.files import PARTIAL_SUFFIX, atomic_directory, read_json, require_disk, write_json, write_text
from medllama.rundir import code_sha256
from medllama.stages import BY_NAME, StageResult

CARD_FILE, NOTICE_FILE, README_FILE, PLOT_FILE = "data_card.json", "NOTICE", "README.md", "data_card.svg"
OVERLAPS_FILE, BAD_FILE = "decontamination.jsonl", "bad_records.txt"
OPTIONAL_SPLITS = {"multiple_choice"}
OWN_FILES = {
    *(f"{split}.{suffix}" for split in get_args(Split) for suffix in ("jsonl", "parquet")),
    CARD_FILE, NOTICE_FILE, README_FILE, PLOT_FILE, OVERLAPS_FILE, BAD_FILE,
}  # fmt: skip
INPUT_BYTES_PER_WORKER = 20e6  # below which another process costs more than it saves


def prepare(config: PrepareConfig) -> StageResult:
    """Read every source, select, and write the data folder as a whole or not at all."""
    requests = [parse(given) for given in config.source]
    inputs = [load_source(request.kind).inputs(request) for request in requests]
    _require_replaceable(config.output_dir, [file for files in inputs for file in files])
    _require_permission(requests, config)
    measured = EvaluationSets.of(config.decontaminate)
    if measured.absent:
        progress.message(
            f"warning: training is not compared with {', '.join(measured.absent)}: {next(iter(measured.absent.values()))}; "
            "give a file or folder of each as --decontaminate NAME:PATH"
        )
    tallies = [
        Tally(request, load_source(request.kind), inputs_sha256(files))
        for request, files in zip(requests, inputs, strict=True)
    ]
    work = _work_folder(config, measured, tallies)
    require_disk(config.output_dir, _needed_bytes([file for files in inputs for file in files]), "prepare")
    workers = config.workers or _workers_for(requests, [file for files in inputs for file in files])
    paths = read_blocks(requests, _settings(config), work / "blocks", workers)
    corpus = gather(paths, len(requests), work / "blocks")
    _count_what_was_read(corpus, tallies)

    selection = select(config, measured, corpus, tallies, workers)
    _require_training_records(corpus, selection, tallies)
    _warn_about_empty_splits(config, corpus, selection)
    with atomic_directory(config.output_dir) as partial:
        card = _write_folder(config, corpus, selection, tallies, partial)
    shutil.rmtree(work, ignore_errors=True)
    return StageResult(config.output_dir, _summary(card, tallies))


def _summary(card: dict[str, Any], tallies: list[Tally]) -> dict[str, Any]:
    sources = "1 source" if len(tallies) == 1 else f"{len(tallies)} sources"
    parts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in card["records"].items() if count)
    return {
        "line": f"{sum(card['records'].values()):,} records from {sources}: {parts}",
        "records": card["records"],
        "publishable": card["publishable"],
        "sources": [{"name": source["name"], **source["counts"]} for source in card["sources"]],
    }


# ------------------------------------------------------------------------------------------------ before the reading


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


def _require_permission(requests: list[SourceRequest], config: PrepareConfig) -> None:
    """Non-commercial and credentialed data is used only where a person has said its licence's name."""
    for request in requests:
        licence = load_source(request.kind).licence or request.stated_licence()
        if needs_permission(licence) and licence not in config.allow_licence:
            raise InputError(
                f"{request.name} stands under {licence}, which restricts what it and what is made of it may be used for",
                hint=f"if its terms allow your use: --allow-licence {licence}; the result is not marked as publishable",
            )


def _work_folder(config: PrepareConfig, measured: EvaluationSets, tallies: list[Tally]) -> Path:
    """The folder of the blocks: with those of a killed run of the same configuration, inputs and code, else empty."""
    folder = config.output_dir.absolute().with_name(f"{config.output_dir.name}.work{PARTIAL_SUFFIX}")
    decided_by = {
        "config": {key: value for key, value in as_json(config).items() if key not in ("output_dir", "workers")},
        "inputs": [tally.sha256 for tally in tallies],
        "evaluation_sets": [*(inputs_sha256([path]) for path in measured.files), measured.on_hub],
        "code": code_sha256(BY_NAME["prepare"]),
    }
    state = {"sha256": hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()}
    if (folder / "state.json").is_file() and read_json(folder / "state.json") == state:
        progress.message(f"resuming from {folder}")
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    write_json(folder / "state.json", state)
    return folder


def _workers_for(requests: list[SourceRequest], files: list[Path]) -> int:
    if any(load_source(each.kind).unread and not each.required_path().is_dir() for each in requests):
        return usable_cores()  # what is fetched is of any size
    size = sum(file.stat().st_size for file in files)
    return max(1, min(usable_cores(), int(size / INPUT_BYTES_PER_WORKER)))


def _needed_bytes(files: list[Path]) -> int:
    """The least that the blocks and the result take on the disk: the text of the input twice; half of an article's XML is none."""
    return int(sum(file.stat().st_size * (0.5 if file.suffix in (".xml", ".nxml") else 2) for file in files))


def _settings(config: PrepareConfig) -> Settings:
    tokenizer = tokenizer_folder(config.tokenizer)
    if config.tokenizer and tokenizer is None:
        progress.message(f"{config.tokenizer} is not on this disk: tokens are estimated, four characters each")
    return Settings(
        seed=config.seed,
        validation_share=config.validation_share,
        test_share=config.test_share,
        allowed_licences=config.allow_licence,
        languages=config.language,
        masks_identifiers=config.mask_identifiers,
        tokenizer=tokenizer,
        chunk_tokens=config.chunk_tokens,
        has_signatures=config.near_duplicate_threshold < 1,
    )


# ------------------------------------------------------------------------------------------------------ after it


def _count_what_was_read(corpus: Corpus, tallies: list[Tally]) -> None:
    """Counts from the blocks. Raises InputError where too much of a source is bad; warns of what a person should know."""
    for number, tally in enumerate(tallies):
        for counts in corpus.counts_of(number):
            tally.add(counts)
        refuse_if_bad(tally.request, tally.read, tally.bad, tally.problems, is_all=True)
        if tally.bad:
            progress.message(
                f"warning: {tally.request.name}: {tally.bad:,} of {tally.read:,} are bad and left out:"
                f"{described_problems(tally.problems, tally.bad)}"
            )
        if tally.identifiers:
            found = ", ".join(f"{count:,} {kind}" for kind, count in sorted(tally.identifiers.items()))
            progress.message(
                f"warning: {tally.request.name} may identify people: records with {found}; "
                "take them out, or mask what can be masked: --mask-identifiers"
            )


def _require_training_records(corpus: Corpus, selection: Selection, tallies: list[Tally]) -> None:
    if (selection.splits[selection.kept] == SPLIT_CODES["train"]).any():
        return
    counts = [f"{tally.request.name}: {tally.described_counts()}" for tally in tallies]
    raise InputError(
        "\n  ".join(["no record is left to train on", *counts]),
        hint="give a --source that has questions with answers, or text",
    )


def _warn_about_empty_splits(config: PrepareConfig, corpus: Corpus, selection: Selection) -> None:
    present = set(numpy.unique(selection.splits[selection.kept]).tolist())
    among = selection.kept & (selection.splits != SPLIT_CODES["multiple_choice"])
    documents = len(numpy.unique(corpus.features["place"][among]))
    shares: dict[Split, float] = {"validation": config.validation_share, "test": config.test_share}
    for name, share in shares.items():
        if share and SPLIT_CODES[name] not in present:
            progress.message(
                f"warning: no {name} records: a share of {share:g} of {documents:,} document(s) came to none; "
                f"give more, or raise --{name}-share"
            )


def _write_folder(
    config: PrepareConfig, corpus: Corpus, selection: Selection, tallies: list[Tally], folder: Path
) -> dict[str, Any]:
    """Write everything; the data card."""
    written = _write_records(config, corpus, selection, folder)
    for number, tally in enumerate(tallies):
        tally.count_kept(corpus, selection.kept, selection.splits, number)
    tokens = _tokens(config, corpus, selection, written)
    card = data_card(config, tallies, written, tokens, len(selection.overlaps), selection.common_runs)
    _write_lists(corpus, tallies, selection, folder)
    write_json(folder / CARD_FILE, card)
    write_text(folder / NOTICE_FILE, notice(tallies))
    write_text(folder / README_FILE, readme(card, sorted(file.name for file in folder.iterdir())))
    write_text(folder / PLOT_FILE, figure(card))
    return card


def _write_records(config: PrepareConfig, corpus: Corpus, selection: Selection, folder: Path) -> dict[str, int]:
    """Write the files of the splits; how many records each has."""
    written: dict[str, int] = {}
    for split, code in SPLIT_CODES.items():
        documents = in_order(corpus, selection.kept & (selection.splits == code))
        lines = int(corpus.features["pieces"][documents].sum(dtype=numpy.int64))
        limit = selection.last_of_train if split in SPLITS[:1] else None
        written[split] = lines if limit is None else min(lines, limit)
        if lines or split not in OPTIONAL_SPLITS:
            write_split(corpus, documents, folder / f"{split}.{config.format}", limit)
    return written


def _tokens(config: PrepareConfig, corpus: Corpus, selection: Selection, written: dict[str, int]) -> dict[str, Any]:
    """How many tokens the records of each split have, and who counted them."""
    features = corpus.features
    of_line = numpy.repeat(numpy.where(selection.kept, selection.splits, len(SPLIT_CODES)), features["pieces"])
    folder = tokenizer_folder(config.tokenizer)
    return {
        "counted_by": f"the tokenizer of {folder.name}" if folder else "estimated, four characters each",
        "splits": {
            split: token_statistics(corpus.tokens[of_line == code])
            for split, code in SPLIT_CODES.items()
            if written[split]
        },
    }


def _write_lists(corpus: Corpus, tallies: list[Tally], selection: Selection, folder: Path) -> None:
    """Everything that was broken, and everything that an evaluation set has too: where there is any."""
    if selection.overlaps:
        lines = [json.dumps(finding, ensure_ascii=False) + "\n" for finding in selection.overlaps]
        write_text(folder / OVERLAPS_FILE, "".join(lines))
    if any(tally.bad for tally in tallies):
        with (folder / BAD_FILE).open("w", encoding="utf-8", errors="backslashreplace") as file:
            for number, tally in enumerate(tallies):
                for counts in corpus.counts_of(number):
                    file.writelines(f"{tally.without_folder(problem)}\n" for problem in counts.problems)
