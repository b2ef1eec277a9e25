"""What is read, cleaned and described in blocks: the part of prepare that takes time, spread over processes and resumable.

    read_blocks(sources, settings, folder, workers)    ->  folder/SOURCE-BLOCK.{jsonl,npz,json}

    .jsonl   the final lines of the block's documents, cut to the model's length
    .npz     features: (documents,) FEATURES, where each lies and what decides about it; signatures: (signed, 128) uint32;
             tokens: (lines,) uint32
    .json    the counts and a digest of what was read, written last: a block that has it is not made again after a kill

A block is a thousand documents or a few files, and depends on nothing but them: any number of processes, in any
order, makes the same bytes. In memory are the blocks at work, never a source. A source of which too much is bad stops the run
once enough of it was read to know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import xxhash

from finetune.data.chunking import SPECIAL_TOKENS, pieces, token_counter
from finetune.data.cleaning import cleaned, language_of, likely_identifiers, texts_of
from finetune.data.licences import needs_permission
from finetune.data.near_duplicates import SLOTS, signatures, topic_of
from finetune.data.records import Dropped, Malformed, Record, plain_text
from finetune.data.splitting import SPLIT_CODES, place_in_order, place_of, split_of
from finetune.data.workers import run_all
from finetune.sources import Source, SourceRequest, load_source
from medllama import progress
from medllama.errors import InputError
from medllama.files import read_json, write_json

BLOCK_DOCUMENTS = 1000
JUDGED_FROM = 1000  # documents of a source after which too many bad ones stop the run
SHOWN_PROBLEMS = 5
BLOCK_CHARACTERS = 4_000_000
BLOCK_FILES, BLOCK_FILE_BYTES = 200, 8_000_000
FEATURES = numpy.dtype([
    ("sha_high", "u8"), ("sha_low", "u8"),   # half of the SHA-256 of the content, before it is cut
    ("place", "f8"), ("order", "f8"),        # of its document among the splits, of itself among the records
    ("topic", "u8"),                         # what its question asks about, 0 for a text
    ("offset", "u8"), ("bytes", "u4"),       # its lines in the block's JSONL
    ("pieces", "u4"), ("block", "u4"),
    ("source", "u2"), ("licence", "u2"), ("split", "u1"),
    ("is_movable", "?"), ("is_signed", "?"),
])  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What decides about a document by itself."""

    seed: int
    validation_share: float
    test_share: float
    allowed_licences: tuple[str, ...]
    languages: tuple[str, ...]
    masks_identifiers: bool
    tokenizer: Path | None
    chunk_tokens: int
    has_signatures: bool


@dataclass(frozen=True)
class Block:
    """One unit of work: outcomes that were read, or files and members of archives and the like that are still to be read."""

    request: SourceRequest
    source: int
    number: int
    outcomes: tuple[Record | Dropped, ...] = ()
    files: tuple[Path | Any, ...] = ()

    def path(self, folder: Path, suffix: str) -> Path:
        return folder / f"{self.source:03d}-{self.number:06d}.{suffix}"

    @property
    def holds(self) -> str:
        """A digest of what it holds: what is fetched may be other things the next day, in other blocks."""
        digest = xxhash.xxh3_128()
        names = (file if isinstance(file, Path) else _place_and_bytes(file) for file in self.files)
        for each in (*self.outcomes, *names):
            digest.update(repr(each).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def _place_and_bytes(unread: Any) -> tuple[str, int]:
    """Of a member of an archive, or what has `place` and `content`, or is a Dropped."""
    place, content = unread if isinstance(unread, tuple) else (str(unread.place), getattr(unread, "content", unread))
    return place, len(content) if isinstance(content, bytes) else 0


@dataclass
class Counts:
    """What became of the documents of one block."""

    read: int = 0
    bad: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    cleaned: Counter[str] = field(default_factory=Counter)
    identifiers: Counter[str] = field(default_factory=Counter)
    licences: list[str] = field(default_factory=list)
    holds: str = ""  # the block's digest

    def drop(self, dropped: Dropped) -> None:
        self.dropped[dropped.reason] += 1
        if dropped.is_bad:
            self.bad += 1
            self.problems.append(str(dropped))


def described_problems(problems: list[str], bad: int) -> str:
    """The first bad ones, one indented line each, and how many more there are."""
    shown = problems[:SHOWN_PROBLEMS]
    return "\n  ".join(["", *shown, *([f"and {bad - len(shown):,} more"] if bad > len(shown) else [])])


def refuse_if_bad(request: SourceRequest, read: int, bad: int, problems: list[str], *, is_all: bool = False) -> None:
    """Raise InputError where more than the source's share is bad: of all of it, or of enough to stop reading."""
    source = load_source(request.kind)
    if bad > source.maximum_bad_share * read and (is_all or read >= JUDGED_FROM):
        raise InputError(
            f"{request.path}: {bad:,} of {read:,}{'' if is_all else ' read so far'} are bad, more than "
            f"{source.maximum_bad_share:.0%}:{described_problems(problems, bad)}",
            hint=f"expected {source.example}; correct the bad ones, or take them out",
        )


# ------------------------------------------------------------------------------------------------- spreading the work


def read_blocks(requests: list[SourceRequest], settings: Settings, folder: Path, workers: int) -> list[Path]:
    """Make every block that is not there yet; the `.json` of all of them, in the order of reading."""
    folder.mkdir(parents=True, exist_ok=True)
    judges = [Judge(request) for request in requests]

    def missing() -> Iterator[Block]:
        for source, judge in enumerate(judges):
            for block in blocks_of(judge.request, source):
                judge.paths.append(block.path(folder, "json"))
                if not _is_made(block, folder):
                    yield block
                judge.look()
                progress.update(f"{judge.request.name}: {len(judge.paths):,} blocks")

    run_all(make_block, ((block, settings, folder) for block in missing()), workers)
    for judge in judges:
        judge.look()
    return [path for judge in judges for path in judge.paths]


def _is_made(block: Block, folder: Path) -> bool:
    """Whether an earlier run made this very block. One that held something else goes, with what was found since."""
    path = block.path(folder, "json")
    if not path.exists() or read_counts(path).holds == block.holds:
        return path.exists()
    # A test item that is gone or new concerns the findings in every block.
    for found in (path, *folder.glob("*.overlap")):
        found.unlink()
    return False


@dataclass
class Judge:
    """Stops a source once too much of it is bad. It looks at blocks in their order: any number of workers judges alike."""

    request: SourceRequest
    paths: list[Path] = field(default_factory=list)
    seen: int = 0
    counts: Counts = field(default_factory=Counts)

    def look(self) -> None:
        """At the blocks that were made since."""
        while self.seen < len(self.paths) and self.paths[self.seen].exists():
            found = read_counts(self.paths[self.seen])
            self.seen += 1
            self.counts.read, self.counts.bad = self.counts.read + found.read, self.counts.bad + found.bad
            self.counts.problems += found.problems[: SHOWN_PROBLEMS - len(self.counts.problems)]
            refuse_if_bad(self.request, self.counts.read, self.counts.bad, self.counts.problems)


def blocks_of(request: SourceRequest, source: int) -> Iterator[Block]:
    """The blocks of one source: of what is still to be read where that can be done on any core, else of what its reader yields."""
    kind = load_source(request.kind)
    if kind.unread is not None or kind.read_file is not None:
        unread = kind.unread(request) if kind.unread is not None else _files(kind, request)
        for number, files in enumerate(_batches(unread)):
            yield Block(request, source, number, files=tuple(files))
        return
    gathered: list[Record | Dropped] = []
    characters = number = 0
    for outcome in kind.read(request):
        gathered.append(outcome)
        characters += sum(map(len, texts_of(outcome.content))) if isinstance(outcome, Record) else 0
        if len(gathered) == BLOCK_DOCUMENTS or characters > BLOCK_CHARACTERS:
            yield Block(request, source, number, tuple(gathered))
            gathered, characters, number = [], 0, number + 1
    if gathered:
        yield Block(request, source, number, tuple(gathered))


def _files(kind: Source, request: SourceRequest) -> Iterator[tuple[Path | Any, int]]:
    """The files and the members of archives, with their sizes: an archive may hold more than memory does."""
    for path in kind.inputs(request):
        members = kind.members(request, path) if kind.members else None
        if members is None:
            yield path, path.stat().st_size
            continue
        for place, content in members:
            yield (place, content), len(content) if isinstance(content, bytes) else 0


def _batches(files: Iterator[tuple[Path | Any, int]]) -> Iterator[list[Path | Any]]:
    batch: list[Path | Any] = []
    size = 0
    for file, file_bytes in files:
        batch.append(file)
        size += file_bytes
        if len(batch) == BLOCK_FILES or size > BLOCK_FILE_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


# ------------------------------------------------------------------------------------------------------- one block


def make_block(block: Block, settings: Settings, folder: Path) -> None:
    """Clean, describe and write the documents of a block."""
    counts = Counts(holds=block.holds)
    features, texts, tokens = [], [], []
    count_tokens = token_counter(settings.tokenizer)
    lines = bytearray()
    for outcome in _outcomes(block):
        counts.read += 1
        try:
            record = _wanted(outcome, block.request, settings, counts)
        except Malformed as error:
            record = Dropped(error.reason, "", error.detail, is_bad=False)
        if isinstance(record, Dropped):
            counts.drop(record)
            continue
        contents = _cut(record.content, settings.chunk_tokens - SPECIAL_TOKENS, count_tokens)
        written = "".join(_with_content(record, content).as_line() for content in contents).encode()
        tokens += [sum(map(count_tokens, texts_of(content))) for content in contents]
        features.append(_features(record, block, settings, counts, len(lines), len(written), len(contents)))
        texts.append("\n".join(texts_of(record.content)) if _is_compared(record, settings) else "")
        lines += written
    table = numpy.array(features, dtype=FEATURES)
    signed, table["is_signed"] = signatures(texts) if settings.has_signatures else (unsigned(), False)
    _write(block.path(folder, "jsonl"), bytes(lines))
    partial = block.path(folder, "npz.partial.npz")
    numpy.savez(partial, features=table, signatures=signed, tokens=numpy.array(tokens, dtype=numpy.uint32))
    partial.replace(block.path(folder, "npz"))
    write_json(block.path(folder, "json"), vars(counts))


def _outcomes(block: Block) -> Iterator[Record | Dropped]:
    kind = load_source(block.request.kind)
    yield from block.outcomes
    for file in block.files:
        if isinstance(file, Path):
            assert kind.read_file is not None, "blocks of files are made for sources with read_file"
            yield from kind.read_file(block.request, file)
        else:
            assert kind.read_member is not None, "and of members for sources with read_member"
            yield from kind.read_member(block.request, file)


def _wanted(outcome: Record | Dropped, request: SourceRequest, settings: Settings, counts: Counts) -> Record | Dropped:
    """The record cleaned, or why it is not wanted. Raises Malformed where cleaning leaves nothing."""
    if isinstance(outcome, Dropped):
        return outcome
    if needs_permission(outcome.licence) and outcome.licence not in settings.allowed_licences:
        return Dropped(f"{outcome.licence} is not allowed", "", is_bad=False)
    source = load_source(request.kind)
    masks = source.masks_identifiers or (source.is_own and settings.masks_identifiers)
    content, done = cleaned(outcome.content, masks_identifiers=masks)
    if settings.languages and (language := language_of(content)) not in settings.languages:
        return Dropped(f"language {language}", "", is_bad=False)
    counts.cleaned.update({kind: number for kind, number in done.items() if number})
    if source.is_own:
        counts.identifiers.update(likely_identifiers(content))
    return _with_content(outcome, content)


def _with_content(record: Record, content: dict[str, Any]) -> Record:
    if content == record.content:
        return record
    return Record(content, record.source, record.document_id, record.licence, record.split)


def _cut(content: dict[str, Any], limit: int, count_tokens: Any) -> list[dict[str, Any]]:
    """Running text in pieces that fit the model; a conversation and an examination's question are never cut here."""
    if "text" not in content:
        return [content]
    return [plain_text(piece) for piece in pieces(content["text"], limit, count_tokens) if piece.strip()]


def _is_compared(record: Record, settings: Settings) -> bool:
    return settings.has_signatures and record.split != "multiple_choice"


def _features(
    record: Record, block: Block, settings: Settings, counts: Counts, offset: int, written: int, pieces: int
) -> tuple[Any, ...]:
    """One row of FEATURES."""
    if record.licence not in counts.licences:
        counts.licences.append(record.licence)
    split = split_of(
        record, seed=settings.seed, validation_share=settings.validation_share, test_share=settings.test_share
    )
    digest = bytes.fromhex(record.sha256)
    return (
        int.from_bytes(digest[:8]), int.from_bytes(digest[8:16]),
        place_of(record, seed=settings.seed), place_in_order(record, seed=settings.seed)[0],
        topic_of(_question(record.content)),
        offset, written, pieces, block.number, block.source, counts.licences.index(record.licence),
        SPLIT_CODES[split], record.split is None, False,
    )  # fmt: skip


def _question(content: dict[str, Any]) -> str:
    return "\n".join(turn["content"] for turn in content.get("messages", ()) if turn["role"] == "user")


def unsigned() -> numpy.ndarray:
    return numpy.empty((0, SLOTS), dtype=numpy.uint32)


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def read_counts(path: Path) -> Counts:
    value = read_json(path)
    counters = {name: Counter(value[name]) for name in ("dropped", "cleaned", "identifiers")}
    return Counts(**(value | counters))
