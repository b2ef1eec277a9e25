"""`jats:DIR`: articles in JATS or NLM XML, as PubMed Central and its publishers give them, each under its own licence.

    medllama prepare --source jats:ARTICLES --output-dir OUT
    medllama prepare --source 'jats:ARTICLES?captions=no&tables=yes&corrections=yes&incomplete=yes' --output-dir OUT
    python -m finetune.sources.jats FILE                  shows what becomes of one file, and under which licence

Files are .xml and .nxml, each also as .gz, and tar archives of them (plain, gzip, bzip2, xz), at any depth. Archives are read as
a stream; nothing is unpacked, so no name in one can reach another place, and one that tries is refused and named. An archive that
breaks off stops the run, unless `incomplete=yes`.

    article.py    bytes -> article, entities off, bounded            text.xsl, marks.py    article -> text
    licence.py    the decision, with its evidence                    spans.py              cells of tables -> columns
    files.py      folders and archives -> bytes

Retracted articles and notices of retraction never pass, corrections by choice; an article whose licence cannot be told is left
out, and prepare refuses the others that are not wanted. docs/data.md shows the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lxml import etree

from finetune.data.records import Dropped, Malformed, Record, plain_text
from finetune.sources import Member, Source, SourceRequest
from finetune.sources.jats.article import Article, Options, read_articles
from finetune.sources.jats.files import articles_in, contents, is_archive, stem_of
from finetune.sources.jats.settings import choice
from medllama.errors import InputError

ATTRIBUTION = (
    "the authors of each article, which its document id names (https://pmc.ncbi.nlm.nih.gov/articles/PMC.../, https://doi.org/...); "
    "the PubMed Central Open Access Subset is kept by the National Library of Medicine"
)


def read(request: SourceRequest) -> Iterator[Record | Dropped]:
    """A Record or a Dropped for each article, and a Dropped for each file that holds none."""
    for path in inputs(request):
        yield from read_file(request, path)


def read_file(request: SourceRequest, path: Path) -> Iterator[Record | Dropped]:
    """What one file or archive holds."""
    for member in contents(path, may_break_off=choice(request, "incomplete", False)):
        yield from read_member(request, member)


def members(request: SourceRequest, path: Path) -> Iterator[Member] | None:
    """The articles of an archive, unread; None where the file is none."""
    return contents(path, may_break_off=choice(request, "incomplete", False)) if is_archive(path) else None


def read_member(request: SourceRequest, member: Member) -> Iterator[Record | Dropped]:
    """The articles in the bytes of one file; most files hold one."""
    place, content = member
    if isinstance(content, Dropped):
        yield content
        return
    options = Options(captions=choice(request, "captions", True), tables=choice(request, "tables", False))
    try:
        articles = read_articles(content, options)
    except Malformed as error:
        yield Dropped(error.reason, place, error.detail)
    except etree.XMLSyntaxError as error:
        yield Dropped("not XML", f"{place}:{error.lineno or 1}", " ".join(str(error.msg).split())[:200])
    else:
        for article in articles:
            yield outcome(article, place, request.kind, choice(request, "corrections", False))


def outcome(article: Article, place: str, source: str, keeps_corrections: bool) -> Record | Dropped:
    """The record of an article, or why it has none."""
    place = f"{place}:{article.line}"
    if article.is_retracted or article.notice == "retraction":
        return Dropped("retracted", place, article.document_id, is_bad=False)
    if article.notice == "correction" and not keeps_corrections:
        return Dropped("correction notice", place, article.document_id, is_bad=False)
    if article.licence.code is None:
        return Dropped("licence not told", place, article.licence.evidence, is_bad=False)
    if "\n\n" not in article.text:
        return Dropped("no text but a title", place, article.document_id, is_bad=False)
    return Record(plain_text(article.text), source, article.document_id or stem_of(place), article.licence.licence)


def inputs(request: SourceRequest) -> list[Path]:
    """The files and archives at any depth, sorted. Raises InputError where there are none."""
    if request.licence is not None:
        raise InputError(
            f"--source {request.name} states a licence, but each article has its own", hint="take ?licence= out"
        )
    for setting in SOURCE.settings:
        choice(request, setting, False)
    return articles_in(request.required_path())


SOURCE = Source(
    example="jats:DIR",
    read=read,
    inputs=inputs,
    attribution=ATTRIBUTION,
    url="https://pmc.ncbi.nlm.nih.gov/tools/openftlist/",
    settings=("captions", "tables", "corrections", "incomplete"),
    read_file=read_file,
    members=members,
    read_member=read_member,
)
