"""The bytes of a JATS or NLM file -> its articles: identity, kind, licence, text. Hostile XML costs bounded memory.

    [article] = read_articles(Path("PMC13900.nxml").read_bytes())
    article.document_id, article.licence.is_open, article.text

Nothing is fetched and no entity of a file's own is expanded; size, depth and the number of tags are bounded before and while the
file is parsed. What is refused raises Malformed with one of few reasons; broken XML raises lxml's XMLSyntaxError with its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from html.entities import html5
from pathlib import Path
from typing import Any

from lxml import etree

from finetune.data.records import Malformed
from finetune.sources.jats.codes import LicenceDecision
from finetune.sources.jats.licence import closed_parts, decide
from finetune.sources.jats.marks import readable
from finetune.sources.jats.spans import fill_spans

MAXIMUM_BYTES = 50_000_000
MAXIMUM_TAGS = 2_000_000  # tags and attributes; libxml2 takes about 100 bytes for each
MATHML = "http://www.w3.org/1998/Math/MathML"
STYLESHEET = Path(__file__).with_name("text.xsl")

NO_TEXT = (b"ref-list", b"contrib-group")
# What begins or ends a comment, CDATA or an instruction, each after the rarest of its characters.
NO_TAGS = ((b"!", b"<!"), (b"?", b"<?"), (b"?", b"?>"), (b"-->", b"-->"), (b"]", b"]]>"))
MOST_SIGNS = 10_000  # question and exclamation marks that are worth looking at
PLAIN_ENCODINGS = {"UTF-8", "US-ASCII", "ASCII", "ISO-8859-1", "WINDOWS-1252"}  # in which & is the byte &
NAMED_CHARACTER = re.compile(rb"&(?!#|(?:amp|lt|gt|quot|apos);)")
PMC_NUMBER = re.compile(r"\d{1,12}")

WRAPPERS = {"pmc-articleset", "articles", "article-set", "OAI-PMH", "record", "collection"}
NOTICES = {
    "addendum": "correction",
    "correction": "correction",
    "corrigendum": "correction",
    "erratum": "correction",
    "corrected-article": "",  # the article itself, corrected
    "clarification": "correction",
    "expression-of-concern": "retraction",
    "partial-retraction": "retraction",
    "removal": "retraction",
    "retraction": "retraction",
    "retraction-notice": "retraction",
    "withdrawal": "retraction",
}
RETRACTED_BY = {"retraction-forward", "retraction", "partial-retraction", "retracted-by", "withdrawal", "removal"}
# Many a notice is filed as a letter or as "other", and its title or the heading that it stands under alone says what it is.
NOTICE_TITLES = (
    (
        "retraction",
        re.compile(
            r"(?:editorial |partial )?(?:retraction|withdrawal)(?: note| notice)?(?: to| of)?:"
            r"|retraction (?:note|notice|statement)\b|(?:notice|statement) of (?:retraction|withdrawal)\b"
            r"|(?:editorial )?expression of concern\b"
        ),
    ),
    (
        "correction",
        re.compile(
            r"(?:erratum|corrigendum|addendum)\b|(?:(?:publisher|author)(?:['’]s)? )?correction(?: notice)?(?: to)?:"
            r"|(?:publisher|author)(?:['’]s)? correction\b"
        ),
    ),
)
NOTICE_HEADINGS = {
    **dict.fromkeys(("retraction", "retractions", "retraction notice", "expression of concern"), "retraction"),
    **dict.fromkeys(
        ("correction", "corrections", "erratum", "errata", "corrigendum", "corrigenda", "addendum"), "correction"
    ),
}
RETRACTED_TYPES = {"retracted-article", "withdrawn-article", "removed-article"}
RETRACTED_TITLE = re.compile(
    r"RETRACTED\b|[\[(](?i:retracted)"
    r"|(?i:(?:retracted|withdrawn|removed)(?: article| paper)?|temporary removal)(?:\s*[:\])]|\s+[–—-]\s|$)"
)


@dataclass(frozen=True)
class Options:
    """What of an article becomes text beside its prose: captions of figures and tables, the cells of tables."""

    captions: bool = True
    tables: bool = False


@dataclass(frozen=True)
class Article:
    """One article. `notice` is "retraction", "correction" or "": what it is beside an ordinary article.

    `document_id` is `PMC...`, else the DOI, else `PMID:...`, else empty.
    """

    document_id: str
    licence: LicenceDecision
    notice: str
    is_retracted: bool
    line: int
    text: str


def read_articles(content: bytes, options: Options | None = None) -> list[Article]:
    """Every article of a file; most files hold one."""
    options = options or Options()
    cut = NO_TEXT if options.tables else (*NO_TEXT, b"table")
    return [article_of(element, options) for element in parse_articles(content, cut)]


def article_of(element: Any, options: Options) -> Article:
    """An <article> element as an Article."""
    return Article(
        document_id=document_id(element),
        licence=decide(element),
        notice=notice_of(element),
        is_retracted=is_retracted(element),
        line=element.sourceline or 1,
        text=text_of(element, options),
    )


def text_of(element: Any, options: Options) -> str:
    """The title, abstracts, sections, lists and, by choice, captions and tables of an <article> element."""
    for part in closed_parts(element):
        _clear(part)
    if options.tables:
        fill_spans(element)
    chosen = {"captions": options.captions, "tables": options.tables}
    try:
        result = _stylesheet()(element, **{name: "'yes'" if value else "'no'" for name, value in chosen.items()})
    except etree.XSLTError as error:
        raise Malformed("no text can be made of it", " ".join(str(error).split())[:200]) from None
    return readable(str(result))


def _clear(part: Any) -> None:
    """Take all out of an element that would become text; what stands behind it stays."""
    tail = part.tail
    part.clear()
    part.tail = tail


@cache
def _stylesheet() -> Any:
    return etree.XSLT(etree.parse(STYLESHEET), access_control=etree.XSLTAccessControl.DENY_ALL)


def document_id(element: Any) -> str:
    """`PMC13900`, however the file writes it, else another identifier of the article."""
    found = {
        each.get("pub-id-type", ""): "".join((each.text or "").split())
        for each in element.findall("front/article-meta/article-id")
    }
    for kind in ("pmcid", "pmc"):
        number = found.get(kind, "").upper().removeprefix("PMC").partition(".")[0]
        if PMC_NUMBER.fullmatch(number):
            return f"PMC{int(number)}"
    if found.get("doi"):
        return found["doi"].lower()
    return f"PMID:{found['pmid']}" if found.get("pmid") else ""


def notice_of(element: Any) -> str:
    """What an article is beside an ordinary one: told by its type, a link to what it retracts or corrects, heading or title."""
    kind = element.get("article-type", "").lower()
    if kind in NOTICES:
        return NOTICES[kind]
    related = _related_types(element)
    if "retracted-article" in related:
        return "retraction"
    # A research article that links to one may be that article corrected and published anew.
    if "corrected-article" in related and kind != "research-article":
        return "correction"
    title = _title(element).lower()
    told = next((notice for notice, pattern in NOTICE_TITLES if pattern.match(title)), "")
    return told or next(filter(None, map(NOTICE_HEADINGS.get, _headings(element))), "")


def is_retracted(element: Any) -> bool:
    """Whether the article says of itself that it was retracted: by its type, a link to the notice, its heading or its title, or
    PMC says so in its front matter."""
    is_typed = element.get("article-type", "").lower() in RETRACTED_TYPES or "retracted article" in _headings(element)
    is_linked = bool(_related_types(element) & RETRACTED_BY)
    return is_typed or is_linked or _is_marked_retracted(element) or bool(RETRACTED_TITLE.match(_title(element)))


def _is_marked_retracted(element: Any) -> bool:
    """By `<meta-name>is-retracted</meta-name>`; whatever is no plain no counts as yes."""
    return any(
        each.findtext("meta-name", "").strip().lower().endswith("is-retracted")
        and each.findtext("meta-value", "").strip().lower() not in ("no", "false", "n", "0", "")
        for each in element.iterfind("front/article-meta//custom-meta")
    )


def _related_types(element: Any) -> set[str]:
    related = element.findall("front/article-meta/related-article")
    return {each.get("related-article-type", "").lower() for each in related}


def _headings(element: Any) -> list[str]:
    subjects = element.iterfind("front/article-meta/article-categories/subj-group/subject")
    return [" ".join("".join(each.itertext()).lower().split()) for each in subjects]


def _title(element: Any) -> str:
    title = element.find("front/article-meta/title-group/article-title")
    return "" if title is None else " ".join("".join(title.itertext()).split())


# -------------------------------------------------------------------------------------------------------------- XML


def parse_articles(content: bytes, cut: tuple[bytes, ...] = ()) -> list[Any]:
    """The <article> elements of a file, without the elements named in `cut`.

    Raises XMLSyntaxError, or Malformed for what is well-formed and refused.
    """
    if len(content) > MAXIMUM_BYTES:
        raise Malformed("file too large", f"more than {MAXIMUM_BYTES:,} bytes")
    if len(content) > MAXIMUM_TAGS and content.count(b"<") + content.count(b"=") > MAXIMUM_TAGS:
        raise Malformed("file too large", f"more than {MAXIMUM_TAGS:,} tags and attributes")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True, remove_pis=True
    )
    # Nothing may stand before an XML declaration, but in copies a blank line does. It goes, and is no line of the file.
    is_plain = not _begins_signs(content)
    if is_plain or b"!ENTITY" not in content:
        content = without_elements(content, *cut, is_plain=is_plain)
    root = etree.fromstring(content.lstrip(b" \t\r\n"), parser)
    _refuse_own_entities(root)
    _without_namespace(root)
    _name_mathematics(root)
    if root.tag == "article":
        articles = [root]
    elif root.tag in WRAPPERS:
        articles = [each for each in root.iter("article") if next(each.iterancestors("article"), None) is None]
    else:
        raise Malformed("not JATS", f"the root is <{_printable(root.tag)}>, not <article>")
    if not articles or any(each.find("front") is None for each in articles):
        raise Malformed("not JATS", "an <article> without <front>" if articles else f"<{root.tag}> holds no <article>")
    has_plain_encoding = (root.getroottree().docinfo.encoding or "UTF-8").upper() in PLAIN_ENCODINGS
    if not has_plain_encoding or NAMED_CHARACTER.search(content):
        for entity in list(root.iter(etree.Entity)):
            _replace_named_character(entity)
    return articles


def without_elements(content: bytes, *names: bytes, is_plain: bool = False) -> bytes:
    """The file without what cannot become text, which is often half of it: cut, not parsed. Lines keep their numbers.

    An element is cut only where its tags can be nothing but tags: no comment, CDATA, instruction, entity or element of the same
    name begins or ends in it; with the first that is not so, its name is given up. `is_plain`: the whole file is known to hold no
    such sign.
    """
    parts: list[bytes] = []
    position = inside = 0
    while names and (opening := _openings(names).search(content, inside)):
        begin, inside, name = opening.start(), opening.end(), opening[1]
        closing = b"</" + name + b">"
        end = content.find(closing, inside)
        is_alone = end >= 0 and content.find(b"<" + name, inside, end) < 0
        if is_alone and (is_plain or not _holds_signs(content, begin, end + len(closing))):
            parts += [content[position:begin], b"\n" * content.count(b"\n", begin, end)]
            position = inside = end + len(closing)
        else:
            names = tuple(each for each in names if each != name)
    return b"".join([*parts, content[position:]]) if parts else content


@cache
def _openings(names: tuple[bytes, ...]) -> re.Pattern[bytes]:
    return re.compile(rb"<(" + b"|".join(names) + rb")(?=[> \n\r\t])")  # <table>, not <table-wrap>


def _begins_signs(content: bytes) -> bool:
    """Whether a comment, CDATA or an instruction may begin anywhere: told by their rare second character, which is found fast."""
    for second, expected in ((b"!", b"DOCTYPE"), (b"?", b"xml ")):
        position = content.find(second)
        for _ in range(MOST_SIGNS):
            if position < 0:
                break
            if content[position - 1 : position] == b"<" and not content.startswith(expected, position + 1):
                return True
            position = content.find(second, position + 1)
        else:
            return True
    return False


def _holds_signs(content: bytes, begin: int, end: int) -> bool:
    return any(content.find(rare, begin, end) >= 0 and content.find(sign, begin, end) >= 0 for rare, sign in NO_TAGS)


def _refuse_own_entities(root: Any) -> None:
    document_type = root.getroottree().docinfo.internalDTD
    if document_type is None:
        return
    for entity in document_type.iterentities():
        if entity.content is not None:
            raise Malformed("XML entities", f"the file declares &{_printable(entity.name)};, and none is ever expanded")


def _replace_named_character(entity: Any) -> None:
    """Put the character of a name such as &alpha; into the text: the DTD that declares it is never loaded."""
    character = html5.get(f"{entity.name};")
    if character is None:
        raise Malformed("XML entities", f"&{_printable(entity.name)}; is declared nowhere that is read")
    parent, previous = entity.getparent(), entity.getprevious()
    text = character + (entity.tail or "")
    if previous is None:
        parent.text = (parent.text or "") + text
    else:
        previous.tail = (previous.tail or "") + text
    entity.tail = None
    parent.remove(entity)


def _without_namespace(root: Any) -> None:
    """JATS has no namespace, but the OAI service puts its articles into one."""
    for element in list(_namespaced(root)):
        element.tag = etree.QName(element).localname


def _name_mathematics(root: Any) -> None:
    """Give formulas MathML's namespace where a file leaves it out, as converters do."""
    for formula in list(root.iter("math")):
        for element in formula.iter(etree.Element):
            element.tag = f"{{{MATHML}}}{etree.QName(element).localname}"


def _namespaced(root: Any) -> Iterator[Any]:
    names = {root.nsmap.get(root.prefix)} if root.prefix or None in root.nsmap else set()
    for wrapped in root.iter("{*}article") if root.tag != "article" else ():
        names.add(etree.QName(wrapped).namespace)
    for name in names - {None}:
        yield from root.iter(f"{{{name}}}*")


def _printable(name: object) -> str:
    return ascii(str(name))[1:-1][:60]
