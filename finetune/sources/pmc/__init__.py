"""`pmc:LIST`, `pmc:inventory` and `pmc:DIR`: the PubMed Central Open Access Subset, from its bucket or from a disk.

    medllama prepare --source 'pmc:ids.txt?cache=DIR&articles=1000' --output-dir OUT      PMCIDs, one a line (PMC13900 or PMC13900.1)
    medllama prepare --source 'pmc:inventory?bytes=500000000' --output-dir OUT            whatever the daily inventory lists
    medllama prepare --source pmc:oa_comm --output-dir OUT                                a legacy copy with its filelist.csv

    metadata.py    what the bucket says of an article, and the gates      bucket.py    anonymous S3, with retries
    fetch.py       ids -> gates -> XML with the right md5, in a cache     legacy.py    filelist.csv and oa_file_list.csv

An article passes where NLM's metadata and the article itself allow it: it is in the Open Access Subset, not retracted, and both name
the same licence. Being in the bucket is not enough. What was fetched stays in the cache and is not fetched again; metadata older
than a day is asked for again, since articles are retracted.

Settings: `cache` (a folder), `endpoint` and `bucket` (another S3 service), `articles` and `bytes` (budgets of XML), `concurrency`,
`licences=all` (fetch NC and ND too, for prepare --allow-licence), and those of jats: `captions`, `tables`, `corrections`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lxml import etree

from finetune.data.records import Dropped, Malformed, Record
from finetune.sources import Source, SourceRequest
from finetune.sources.jats import ATTRIBUTION, outcome
from finetune.sources.jats.article import Options, read_articles
from finetune.sources.jats.codes import LicenceDecision, agree
from finetune.sources.jats.settings import choice
from finetune.sources.pmc import legacy
from finetune.sources.pmc.fetch import Fetched, FetchSettings, fetched_articles
from medllama.errors import InputError
from medllama.files import expand

INVENTORY = "inventory"


def read(request: SourceRequest) -> Iterator[Record | Dropped]:
    """A Record or a Dropped for each article that was asked for, in the order of the list."""
    for found, _ in unread(request):
        yield from read_member(request, found)


def unread(request: SourceRequest) -> Iterator[tuple[Fetched | Dropped, int]]:
    """The XML of each article with its size, or why there is none."""
    path = request.required_path()
    if path.is_dir():
        found = legacy.articles(path, may_break_off=choice(request, "incomplete", False))
    else:
        found = fetched_articles(None if str(path) == INVENTORY else path, fetch_settings(request))
    for each in found:
        yield each, len(each.content) if isinstance(each, Fetched) else 0


def read_member(request: SourceRequest, found: Fetched | Dropped) -> Iterator[Record | Dropped]:
    """What becomes of one article."""
    yield found if isinstance(found, Dropped) else article_outcome(found, request)


def article_outcome(fetched: Fetched, request: SourceRequest) -> Record | Dropped:
    """The record of an article whose licence the metadata told, or why there is none."""
    options = Options(captions=choice(request, "captions", True), tables=choice(request, "tables", False))
    try:
        articles = read_articles(fetched.content, options)
    except Malformed as error:
        return Dropped(error.reason, fetched.place, error.detail)
    except etree.XMLSyntaxError as error:
        return Dropped("not XML", f"{fetched.place}:{error.lineno or 1}", " ".join(str(error.msg).split())[:200])
    found = articles[0].document_id
    if len(articles) != 1 or (fetched.document_id and found.startswith("PMC") and found != fetched.document_id):
        return Dropped("another article", fetched.place, f"{fetched.document_id} was expected, {found} found")
    licence: LicenceDecision = agree(articles[0].licence, fetched.licence)
    article = replace(articles[0], document_id=fetched.document_id or found, licence=licence)
    return outcome(article, fetched.place, request.kind, choice(request, "corrections", False))


def inputs(request: SourceRequest) -> list[Path]:
    """The list of ids, or the files of a legacy copy; the inventory is none. Settings are checked here, before anything begins."""
    path = request.required_path()
    if request.licence is not None:
        raise InputError(
            f"--source {request.name} states a licence, but each article has its own", hint="take ?licence= out"
        )
    fetch_settings(request)
    for setting in ("captions", "tables", "corrections", "incomplete"):
        choice(request, setting, False)
    if path.is_dir():
        return legacy.files(path)
    if str(path) == INVENTORY:
        return []
    if not path.is_file():
        raise InputError(f"{path} does not exist", hint="give a file of PMCIDs, one a line, or pmc:inventory")
    return [path]


def fetch_settings(request: SourceRequest) -> FetchSettings:
    """The settings of the request that concern the bucket."""
    numbers = {}
    for name in ("articles", "bytes", "concurrency"):
        value = request.setting(name)
        if value and not (value.isascii() and value.isdecimal() and int(value)):
            raise InputError(
                f"--source {request.name}: {name}={value} is no whole number above 0", hint=f"write {name}=100"
            )
        numbers[name] = int(value) if value else None
    licences = request.setting("licences", "open")
    if licences not in ("open", "all"):
        raise InputError(
            f"--source {request.name}: licences={licences} is neither open nor all", hint="write licences=all"
        )
    cache = request.setting("cache")
    return FetchSettings(
        cache=expand(cache) if cache else Path.home() / ".cache" / "medllama" / "pmc",
        endpoint=request.setting("endpoint") or None,
        bucket=request.setting("bucket") or FetchSettings.bucket,
        maximum_articles=numbers["articles"],
        maximum_bytes=numbers["bytes"],
        concurrency=numbers["concurrency"] or FetchSettings.concurrency,
        open_only=licences == "open",
    )


SOURCE = Source(
    example="pmc:LIST",
    read=read,
    inputs=inputs,
    attribution=ATTRIBUTION,
    url="https://pmc.ncbi.nlm.nih.gov/tools/openftlist/",
    unread=unread,
    read_member=read_member,
    settings=(
        *("cache", "endpoint", "bucket", "articles", "bytes", "concurrency", "licences"),
        *("captions", "tables", "corrections", "incomplete"),
    ),
)
