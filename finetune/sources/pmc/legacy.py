"""Copies of PMC as it was distributed before 2026: folders and tar archives of XML beside a list with licences and retractions.

    oa_comm/xml/all/PMC1.xml, oa_comm_xml.PMC000xxxxxx.baseline.2024-06-18.tar.gz    with *filelist.csv
    oa_package/00/00/PMC1.tar.gz                                                     with oa_file_list.csv

The list is a second witness: an article passes where it and the list name the same licence, and the list does not call it retracted.
An article that no list names is judged by itself.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from finetune.data.records import Dropped
from finetune.sources.jats.codes import LicenceDecision, from_code, undecided
from finetune.sources.jats.files import articles_in, contents
from finetune.sources.pmc.fetch import Fetched
from finetune.sources.pmc.metadata import parse_pmcid
from medllama.errors import InputError

COLUMNS = {"accession id": "id", "accessionid": "id", "license": "licence", "retracted": "retracted"}
RETRACTED = undecided("the list calls it retracted")


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
            document_id = _document_id(place)
            licence = told.get(document_id, from_code(None))
            if licence is RETRACTED:
                yield Dropped("retracted", place, document_id, is_bad=False)
            else:
                yield Fetched(document_id, place, content, licence)


def _read_list(path: Path, told: dict[str, LicenceDecision]) -> Iterator[Dropped]:
    """Add the rows of a list to `told`; a row that cannot be understood is yielded."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        header = [COLUMNS.get(name.strip().lower(), "") for name in next(reader, [])]
        if not {"id", "licence"} <= set(header):
            raise InputError(
                f"{path} has no columns Accession ID and License", hint="it may be cut short; fetch it again"
            )
        for row in reader:
            values = dict(zip(header, row, strict=False))
            identity = parse_pmcid(values.get("id", ""))
            if identity is None or "licence" not in values:
                yield Dropped("no row of a file list", f"{path}:{reader.line_num}", ascii(",".join(row))[:60])
                continue
            retracted = values.get("retracted", "no").strip().lower() not in ("no", "false", "n", "")
            decision = RETRACTED if retracted else from_code(values["licence"])
            if told.get(identity[0]) is not RETRACTED:
                told[identity[0]] = decision


def _document_id(place: str) -> str:
    """`oa_comm.tar.gz!PMC000xxxxxx/PMC13900.xml` -> PMC13900; in packages the folder or the archive is named so."""
    archive, _, member = place.rpartition("!")
    for part in (*reversed(PurePosixPath(member).parts), Path(archive).name):
        identity = parse_pmcid(part.partition(".")[0])
        if identity and part[:3].upper() == "PMC":
            return identity[0]
    return ""
