"""PMCIDs -> metadata -> gates -> XML with the right md5, several at a time, in the order of the list, through a cache.

    for each in fetched_articles(Path("ids.txt"), FetchSettings(cache=Path("cache"))):       # Fetched or Dropped

    cache/900/PMC13900/PMC13900.1.json, PMC13900.1.xml, newest      written whole, so that a killed run goes on where it was

An XML file in the cache with the md5 that the metadata states is never fetched again. Budgets count articles and bytes of XML in the
order of the list, fetched now or before, so that the same list and budget give the same articles.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from finetune.data.records import Dropped, Malformed
from finetune.sources.jats.codes import LicenceDecision
from finetune.sources.pmc.bucket import ATTEMPTS, Bucket, md5_of
from finetune.sources.pmc.metadata import Metadata, parse_metadata, parse_pmcid
from medllama import progress
from medllama.errors import InputError
from medllama.files import atomic_file

METADATA_SECONDS = 24 * 3600  # how long metadata in the cache is believed
INVENTORY_PREFIX = "inventory-reports/{bucket}/metadata/"
LARGEST_PMCID = 100_000_000
Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True)
class FetchSettings:
    """Where from, where to, and how much."""

    cache: Path
    endpoint: str | None = None
    bucket: str = "pmc-oa-opendata"
    maximum_articles: int | None = None
    maximum_bytes: int | None = None
    concurrency: int = 8
    open_only: bool = True


@dataclass(frozen=True)
class Fetched:
    """The XML of an article and what is told about it elsewhere; `place` is the file that holds it."""

    document_id: str
    place: str
    content: bytes
    licence: LicenceDecision


@dataclass(frozen=True)
class Wanted:
    """An article of the list: its id, the version where one is given, the md5 of its metadata where the inventory tells it."""

    document_id: str
    version: int | None
    place: str
    metadata_md5: str = ""


def fetched_articles(ids: Path | None, settings: FetchSettings) -> Iterator[Fetched | Dropped]:
    """Every article of the list, or of the inventory, within the budgets."""
    bucket = Bucket(settings.bucket, endpoint=settings.endpoint, concurrency=settings.concurrency)
    fetcher = Fetcher(bucket, settings)
    wanted = listed(ids) if ids else inventory(bucket, settings)
    with ThreadPoolExecutor(settings.concurrency) as pool:
        examined = in_order(pool, fetcher.examine, wanted, 2 * settings.concurrency)
        yield from in_order(pool, fetcher.fetch, within_budgets(examined, settings), settings.concurrency)


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[Given], Made], items: Iterable[Given], at_once: int
) -> Iterator[Made]:
    """`map` with a bounded number of items under way, so that a list of millions is read no faster than it is worked off."""
    running: deque[Future[Made]] = deque()
    try:
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) >= at_once:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


@dataclass(frozen=True)
class Examined:
    """An article that passed the gates; `size` is the length of its XML where a budget asks for it."""

    metadata: Metadata
    size: int


def within_budgets(examined: Iterable[Examined | Dropped], settings: FetchSettings) -> Iterator[Examined | Dropped]:
    """What the budgets allow, from the beginning of the list; the rest is not looked at."""
    articles = total_bytes = 0
    for each in examined:
        if isinstance(each, Examined):
            if settings.maximum_bytes is not None and total_bytes + each.size > settings.maximum_bytes:
                progress.message(
                    f"pmc: the budget of {settings.maximum_bytes:,} bytes ends before {each.metadata.name}"
                )
                return
            articles, total_bytes = articles + 1, total_bytes + each.size
        yield each
        if articles == settings.maximum_articles:
            progress.message(f"pmc: the budget of {articles:,} articles is used up")
            return


class Fetcher:
    """The steps of one article; each runs in a thread of its own."""

    def __init__(self, bucket: Bucket, settings: FetchSettings) -> None:
        self.bucket = bucket
        self.settings = settings

    def examine(self, wanted: Wanted | Dropped) -> Examined | Dropped:
        """Metadata and gates. What the bucket does not have, or the gates refuse, is a Dropped."""
        if isinstance(wanted, Dropped):
            return wanted
        version = wanted.version or self._newest_version(wanted.document_id)
        if version is None:
            return Dropped("not in the bucket", wanted.place, wanted.document_id, is_bad=False)
        name = f"{wanted.document_id}.{version}"
        content = self._metadata(name, wanted.metadata_md5)
        if content is None:
            return Dropped("not in the bucket", wanted.place, name, is_bad=False)
        try:
            metadata = parse_metadata(content, name, self.bucket.name)
        except Malformed as error:
            # What a proxy said about its maintenance is asked for again.
            self._path(name, ".json").unlink(missing_ok=True)
            return Dropped(error.reason, wanted.place, error.detail)
        if refusal := metadata.refusal(open_only=self.settings.open_only):
            return Dropped(refusal, wanted.place, f"{name}: {metadata.licence.evidence}", is_bad=False)
        if self.settings.maximum_bytes is None:
            return Examined(metadata, 0)
        path = self._path(name, ".xml")
        size = path.stat().st_size if path.is_file() else self.bucket.size(metadata.xml_key)
        if size is None:
            return Dropped("not in the bucket", wanted.place, metadata.xml_key, is_bad=False)
        return Examined(metadata, size)

    def fetch(self, examined: Examined | Dropped) -> Fetched | Dropped:
        """The XML, from the cache where its md5 is right, else from the bucket until it is."""
        if isinstance(examined, Dropped):
            return examined
        metadata = examined.metadata
        path = self._path(metadata.name, ".xml")
        if path.is_file() and md5_of(content := path.read_bytes()) == metadata.md5:
            return Fetched(metadata.document_id, str(path), content, metadata.licence)
        found = ""
        for attempt in range(ATTEMPTS):
            fetched = self.bucket.get(metadata.xml_key)
            if fetched is None:
                return Dropped("not in the bucket", metadata.xml_key, is_bad=False)
            if (found := md5_of(fetched)) == metadata.md5:
                _write(path, fetched)
                return Fetched(metadata.document_id, str(path), fetched, metadata.licence)
            time.sleep(min(2.0**attempt / 10, 2))
        return Dropped("md5 is wrong", metadata.xml_key, f"{metadata.md5} was expected, {found} found")

    def _newest_version(self, document_id: str) -> int | None:
        """From the bucket, or from what it said within the last day."""
        path = self._folder(document_id) / "newest"
        if _is_fresh(path) and (said := path.read_text(encoding="ascii", errors="replace")).isdecimal():
            return int(said)
        newest = max(self.bucket.versions(document_id), default=None)
        if newest is not None:
            _write(path, str(newest).encode())
        return newest

    def _metadata(self, name: str, md5: str) -> bytes | None:
        path = self._path(name, ".json")
        if path.is_file():
            content = path.read_bytes()
            if md5_of(content) == md5 if md5 else _is_fresh(path):
                return content
        fetched = self.bucket.get(f"metadata/{name}.json")
        if fetched is not None:
            _write(path, fetched)
        return fetched

    def _path(self, name: str, suffix: str) -> Path:
        return self._folder(name.partition(".")[0]) / (name + suffix)

    def _folder(self, document_id: str) -> Path:
        return self.settings.cache / document_id[-3:].removeprefix("PMC").zfill(3) / document_id


def _write(path: Path, content: bytes) -> None:
    with atomic_file(path) as partial:
        partial.write_bytes(content)


def _is_fresh(path: Path) -> bool:
    return path.is_file() and time.time() - path.stat().st_mtime < METADATA_SECONDS


# ------------------------------------------------------------------------------------------------- which articles


def listed(path: Path) -> Iterator[Wanted | Dropped]:
    """The ids of a file, one a line, each once; `#` begins a comment."""
    seen: set[str] = set()
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            identity, place = parse_pmcid(text), f"{path}:{number}"
            if identity is None:
                yield Dropped("no PMCID", place, ascii(text)[:60])
            elif identity[0] in seen:
                yield Dropped("asked for twice", place, identity[0], is_bad=False)
            else:
                seen.add(identity[0])
                yield Wanted(*identity, place)


def inventory(bucket: Bucket, settings: FetchSettings) -> Iterator[Wanted | Dropped]:
    """The newest version of every article of the newest inventory, in its order."""
    files = inventory_files(bucket, settings)
    newest = bytearray(LARGEST_PMCID)  # the newest version of each number: 100 MB however many there are
    for document_id, version, _, _ in _inventory_rows(files):
        number = int(document_id[3:])
        newest[number] = max(newest[number], min(version, 255))
    for document_id, version, etag, place in _inventory_rows(files):
        if version == newest[int(document_id[3:])]:
            md5 = etag if len(etag) == 32 and etag.isalnum() else ""  # of an object uploaded in parts it is no md5
            yield Wanted(document_id, version, place, md5)


def inventory_files(bucket: Bucket, settings: FetchSettings) -> list[Path]:
    """The parts of the newest inventory, in the cache."""
    prefix = INVENTORY_PREFIX.format(bucket=bucket.name)
    days = [
        folder
        for folder in bucket.folders(prefix)
        if re.fullmatch(r"\d{4}-\d\d-\d\dT[\d-]+Z/", folder.removeprefix(prefix))
    ]
    manifests = ((folder, bucket.get(f"{folder}manifest.json")) for folder in reversed(days))
    folder, content = next(((folder, content) for folder, content in manifests if content is not None), ("", None))
    if content is None:
        raise InputError(f"bucket {bucket.name} has no inventory below {prefix}", hint="give a list of PMCIDs instead")
    try:
        keys = [str(file["key"]) for file in json.loads(content)["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}manifest.json is no manifest: {error!r}", hint="try again later") from None
    paths = []
    for key in keys:
        path = settings.cache / "inventory" / key.rpartition("/")[2]
        if not path.is_file() and not bucket.download(key, path):
            raise InputError(f"bucket {bucket.name} has no {key}, which its manifest names", hint="try again later")
        paths.append(path)
    return paths


def _inventory_rows(files: list[Path]) -> Iterator[tuple[str, int, str, str]]:
    """(id, version, etag, place) of each row that is the metadata of an article."""
    for path in files:
        try:
            with gzip.open(path) as file:
                for number, row in enumerate(csv.reader(io.TextIOWrapper(file, "utf-8", errors="replace")), start=1):
                    key = row[1] if len(row) > 1 else ""
                    name = key.removeprefix("metadata/").removesuffix(".json")
                    identity = parse_pmcid(name) if key == f"metadata/{name}.json" else None
                    if identity and identity[1] and int(identity[0][3:]) < LARGEST_PMCID:
                        yield (
                            identity[0],
                            identity[1],
                            row[3].strip('"') if len(row) > 3 else "",
                            f"{path.name}:{number}",
                        )
        except (OSError, EOFError, zlib.error, csv.Error) as error:
            path.unlink()
            raise InputError(f"{path} is damaged: {error}", hint="it was removed; run again to fetch it anew") from None
