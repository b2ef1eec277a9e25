"""Copies of PMC as it was distributed before 2026: folders and tar archives of XML beside a list with licences and retractions.

    oa_comm/xml/all/PMC1.xml, oa_comm_xml.PMC000xxxxxx.baseline.2024-06-18.tar.gz    with *filelist.csv
    oa_package/00/00/PMC1.tar.gz                                                     with oa_file_list.csv

The list is a second witness: an article passes where it and the list name the same licence, and the list does not call it retracted.
An article that no list names is judged by itself.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

from finetune.data.records import Dropped
from finetune.sources.jats.codes import LicenceDecision, agree, from_code, undecided
from finetune.sources.jats.files import articles_in, contents
from finetune.sources.pmc.fetch import Fetched
from finetune.sources.pmc.metadata import parse_pmcid
from finetune.sources.tables import csv_rows
from medllama.errors import InputError

COLUMNS = {"accession id": "id", "accessionid": "id", "license": "licence", "retracted": "retracted"}
STATED_ID = re.compile(rb"""pub-id-type=["']pmc(?:id)?["'][^>]{0,200}>\s{0,9}((?:PMC)?\d{1,12})""", re.IGNORECASE)
RETRACTED, UNTOLD = undecided("the list calls it retracted"), from_code(None)
licence_of = lru_cache(from_code)  # one decision for the millions of rows that say the same


def files(folder: Path) -> list[Path]:
    """The articles and archives of a copy, and its lists."""
    return sorted({*articles_in(folder), *_lists(folder)})


def _lists(folder: Path) -> list[Path]:
    return sorted({*folder.rglob("*filelist.csv"), *folder.rglob("oa_file_list.csv")})


def articles(folder: Path, *, may_break_off: bool = False) -> Iterator[Fetched | Dropped]:
    """Every article of a copy with what the lists say about it."""
    lists = _lists(folder)
    if not lists:
        raise InputError(
            f"{folder} holds no filelist.csv and no oa_file_list.csv", hint=f"without one, use jats:{folder}"
        )
    told: dict[str, LicenceDecision] = {}
    for path in lists:
        yield from _read_list(path, told)
    for path in articles_in(folder):
        for place, content in contents(path, may_break_off=may_break_off):
            if isinstance(content, Dropped):
                yield content
                continue
            document_id = _document_id(place) or _stated_id(content)
            licence = told.get(document_id, UNTOLD)
            if licence is RETRACTED:
                yield Dropped("retracted", place, document_id, is_bad=False)
            else:
                yield Fetched(document_id, place, content, licence)


def _read_list(path: Path, told: dict[str, LicenceDecision]) -> Iterator[Dropped]:
    """Add the rows of a list to `told`; a row that cannot be understood is yielded."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = {COLUMNS.get(name.strip().lower(), "") for name in next(csv.reader(file), [])}
    if not {"id", "licence"} <= header:
        raise InputError(f"{path} has no columns Accession ID and License", hint="it may be cut short; fetch it again")
    for row in csv_rows(path):
        if isinstance(row, Dropped):
            yield row
            continue
        place, cells = row
        values = {COLUMNS[name]: cell for key, cell in cells.items() if (name := key.lower()) in COLUMNS}
        identity = parse_pmcid(values["id"])
        if identity is None:
            yield Dropped("no row of a file list", place, ascii(values["id"])[:60])
            continue
        retracted = values.get("retracted", "no").strip().lower() not in ("no", "false", "n", "")
        known = told.get(identity[0], UNTOLD)
        if retracted or known is not RETRACTED:
            told[identity[0]] = RETRACTED if retracted else agree(known, licence_of(values["licence"]))


def _document_id(place: str) -> str:
    """`oa_comm.tar.gz!PMC000xxxxxx/PMC13900.xml` -> PMC13900; in packages the folder or the archive is named so."""
    archive, _, member = place.rpartition("!")
    for part in (*reversed(PurePosixPath(member).parts), Path(archive).name):
        identity = parse_pmcid(part.partition(".")[0])
        if identity and part[:3].upper() == "PMC":
            return identity[0]
    return ""


def _stated_id(content: bytes) -> str:
    """The article's own word, in copies whose files have names of another kind. Its identifiers come before those of others."""
    match = STATED_ID.search(content)
    identity = parse_pmcid(match[1].decode()) if match else None
    return identity[0] if identity else ""
