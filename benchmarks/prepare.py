"""Articles a second and core: medllama's way from JATS to licensed, clean text beside pubmed_parser, on the same files in one run.

    pip install pubmed_parser
    python -m benchmarks.prepare FOLDER                 # of .xml and .nxml files
    python -m benchmarks.prepare FOLDER --cores 2 --json results.json

medllama does all that `jats:` does for a file: reading, bounds, parsing, licence, text, citations and white space cleaned; and the
cleaning that prepare gives every source behind it. What it remembers of licences is forgotten before each round. pubmed_parser gets
the work that gives the same content, identity and abstract (parse_pubmed_xml) and paragraphs (parse_pubmed_paragraph with
all_paragraph), and each of the two alone, which is less. Thirty articles at a time go through all of them one after another, so that
what else the machine does falls on each; seconds are the processor's, figures the median of the rounds, and ratios that of the
rounds' own.
Scaling is in seconds of the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

from benchmarks.measure import machine
from finetune.data.cleaning import cleaned
from finetune.data.records import Record
from finetune.sources import SourceRequest, load_source
from finetune.sources.jats import read_file, wording

ROUNDS = 9
FILES_AT_ONCE = 30
OURS = ("medllama", "medllama, and prepare's cleaning")
REPEATS = 5  # of the whole folder, where scaling is measured: starting a process is not what counts


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure articles a second beside pubmed_parser.")
    parser.add_argument("folder", type=Path, help="of .xml and .nxml files")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--cores", type=int, default=2, help="scaling is measured from one to this many")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    files = [path for path in load_source("jats").inputs(SourceRequest("jats", given.folder)) if path.suffix != ".gz"]
    seconds = measure(files, given.rounds)
    rates = {name: len(files) / statistics.median(each) for name, each in seconds.items()}
    times = {name: [times_as_fast(seconds[own], each) for own in OURS] for name, each in seconds.items()}
    print(f"{len(files)} articles, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB")
    print(f"{'articles/s and core':>65}{'medllama':>10}{'and cleaning':>14}")
    for name, rate in rates.items():
        print(f"{name:46}{rate:19.1f}{times[name][0]:9.2f}x{times[name][1]:13.2f}x")
    scaling = {cores: measure_scaling(files, cores) for cores in range(1, given.cores + 1)}
    for cores, rate in scaling.items():
        print(f"medllama, {cores} core{'s' * (cores > 1):42}{rate:8.1f} articles/s{rate / scaling[1]:17.2f} times one")
    figures = {"articles": len(files), "articles_per_second": rates, "times_as_fast": times, "scaling": scaling,
               "machine": machine()}  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


def times_as_fast(ours: Sequence[float], other: Sequence[float]) -> float:
    return statistics.median(theirs / mine for mine, theirs in zip(ours, other, strict=True))


def convert(path: Path) -> int:
    """What `jats:` makes of one file: how many records."""
    return len(records_of(path))


def records_of(path: Path) -> list[Record]:
    return [outcome for outcome in read_file(SourceRequest("jats", path), path) if isinstance(outcome, Record)]


def measure(files: list[Path], rounds: int) -> dict[str, list[float]]:
    """The processor seconds of each way through all files, by round."""
    import pubmed_parser

    def whole(path: str) -> None:
        front(path)
        paragraphs(path)

    def front(path: str) -> None:
        with suppress(Exception):  # it fails on some articles; what it did until then is counted for it
            pubmed_parser.parse_pubmed_xml(path)

    def paragraphs(path: str) -> None:
        pubmed_parser.parse_pubmed_paragraph(path, all_paragraph=True)

    theirs: dict[str, Callable[[str], None]] = {
        "pubmed_parser, xml and paragraphs": whole,
        "pubmed_parser, xml alone": front,
        "pubmed_parser, paragraphs alone": paragraphs,
    }
    seconds = {name: [0.0] * rounds for name in (*OURS, *theirs)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(rounds):
            wording.read.cache_clear()
            for first in range(0, len(files), FILES_AT_ONCE):
                paths = files[first : first + FILES_AT_ONCE]
                begun = time.process_time()
                records = [record for path in paths for record in records_of(path)]
                read = time.process_time()
                for record in records:
                    cleaned(record.content, masks_identifiers=False)
                for name, ended in zip(OURS, (read, time.process_time()), strict=True):
                    seconds[name][number] += ended - begun
                for name, way in theirs.items():
                    begun = time.process_time()
                    for path in paths:
                        way(str(path))
                    seconds[name][number] += time.process_time() - begun
    return seconds


def measure_scaling(files: list[Path], cores: int) -> float:
    """Articles a second of the clock on this many cores."""
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        list(pool.map(convert, files, chunksize=4))  # starts the processes
        begun = time.perf_counter()
        list(pool.map(convert, files * REPEATS, chunksize=16))
        return len(files) * REPEATS / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
