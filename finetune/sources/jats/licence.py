"""Under which licence an article stands: decided from its front matter, with the evidence, and never by guessing.

    decision = decide(article)                            # the <article> element
    decision = agree(decision, from_code("CC BY"))        # with what the bucket's metadata says
    decision.is_open, decision.licence, decision.evidence

Only what stands in the article's own <permissions> counts: not a figure's licence, a reference, a sub-article. A licence is
told by a Creative Commons URL, spelled exactly, or by a known sentence that grants one by name. All that is said must name the
same licence, and be known: elements and attributes by the lists below, prose by the phrases of wording.py. Whatever is left
over is a reason not to decide, as are a beginning later than the article, a note that names a licence which is not open, and
PMC's own word against it. What is not decided is not open: the decision errs to that side only. A part that has closed terms of
its own (`closed_parts`) becomes no text. This is an engineer's gate, no legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lxml import etree

from finetune.sources.jats.codes import LicenceDecision, agree, from_code, from_url, shown, undecided
from finetune.sources.jats.wording import read

XLINK = "{http://www.w3.org/1999/xlink}"
HREF = f"{XLINK}href"
NOTICES = ("copyright-statement", "copyright-year", "copyright-holder")
BLOCKS = {"license_ref", "license-p", "p", "title", "break"}
PICTURES = {"inline-graphic", "graphic"}
NOTES = ("front/article-meta/author-notes", "front/notes", "back/notes", "back/ack", "back//fn-group", "body//fn-group")
NOTE_TITLES = {
    "copyright",
    "license",
    "licence",
    "open access",
    "permissions",
    "rights and permissions",
    "copyright and license",
}
NAMES_A_LICENCE = re.compile(r"creative ?-?commons|\bcc", re.IGNORECASE)
CLOSED_PICTURE = re.compile(
    r"(?:cc|by)[-_/]?(?:\w*[-_/])?n[cd]|(?<![a-z])n[cd](?![a-z])|non-?commercial|no-?deriv", re.IGNORECASE
)
RESERVES = re.compile(r"all rights reserved|permission|licen[cs]ed from", re.IGNORECASE)
ABOUT_A_LICENCE = re.compile(r"licen[cs]e", re.IGNORECASE)
# What PMC says of an article beside its licence, and the only answer that takes nothing back.
PROPERTIES = {"pmc-prop-open-access": "yes", "pmc-prop-legally-suppressed": "no", "pmc-status-embargo": "no"}

# Attributes that say nothing of the terms, and the values of others that take nothing of a licence away.
SILENT_ATTRIBUTES = {
    "id",
    f"{XLINK}type",
    f"{XLINK}show",
    f"{XLINK}actuate",
    "{http://www.w3.org/XML/1998/namespace}lang",
}
KINDS = {"open-access", "openaccess", "open", "oa", "creative-commons", "creativecommons", "cc"}
USES = {"vor", "textmining", "text-mining"}
CODE_KIND = re.compile(r"cc[- ]?by((?:[- ]?(?:nc|nd|sa))*)(?:[- ]?[1-4]\.[05])?(?:[- ]?licen[cs]e)?")
YEAR, MONTH, DATE = re.compile(r"\d{4}"), re.compile(r"\d{1,2}"), re.compile(r"[12]\d{3}(?:-\d\d(?:-\d\d)?)?", re.ASCII)


def decide(article: Any) -> LicenceDecision:
    """The licence of an <article> element, from its own front matter alone."""
    metadata = article.find("front/article-meta")
    if metadata is None:
        return undecided("no front matter", is_silent=True)
    permissions = [child for holder in metadata.findall("permissions") for child in holder.iterchildren(etree.Element)]
    # NLM 2 had licence and copyright beside the title.
    found = [*(child for child in metadata.iterchildren("license", *NOTICES)), *permissions]
    licences = [element for element in found if element.tag == "license"]
    notices = [flattened(element) for element in found if element.tag in NOTICES]
    notice = ". ".join(f"© {text}" for text in notices if text)
    if not licences:
        return _unless_noted(_unless_denied(_decide_one([], notice), found, metadata), article)
    decided = _decide_one(*_declared_and_said(licences[0]))
    for other in licences[1:]:
        decided = agree(decided, _decide_one(*_declared_and_said(other)))
    return _unless_noted(_unless_denied(_unless_noticed(decided, notice), found, metadata), article)


def closed_parts(article: Any) -> list[Any]:
    """The figures, tables, boxes and other parts that stand under terms of their own, which are not open or ask for permission."""
    found = []
    for permissions in article.iter("permissions"):
        part = permissions.getparent()
        if part.tag in ("article-meta", "front-stub"):
            continue
        licences = [_decide_one(*_declared_and_said(each)) for each in permissions.iterchildren("license")]
        is_closed = any(not (each.is_open or each.is_silent) for each in licences)
        notice = " ".join(flattened(each) for each in permissions.iterchildren(*NOTICES))
        if is_closed or RESERVES.search(notice):
            found.append(part)
    return found


def flattened(element: Any) -> str:
    """The text of an element with the target of every link behind the link's own text, white space made single."""
    if not len(element):
        return " ".join((element.text or "").split())
    parts: list[str] = []
    for event, node in etree.iterwalk(element, events=("start", "end", "comment", "pi")):
        if event == "start":
            parts.append(node.text or "")
        elif node is not element:
            name = node.tag.rpartition("}")[2] if event == "end" else ""
            target = node.get(HREF) if name else None
            if name in PICTURES and target and not CLOSED_PICTURE.search(target):
                target = None
            if target and target.strip() != "".join(node.itertext()).strip():
                parts.append(f" {target} ")
            parts += [" " if name in BLOCKS else "", node.tail or ""]
    return " ".join("".join(parts).split())


# ----------------------------------------------------------------------------------------------------- one statement


def _declared_and_said(licence: Any) -> tuple[list[str], str]:
    """The URLs and codes that state the licence outside of its prose, and the prose."""
    declared = [licence.get(HREF) or ""]
    for element in (licence, *licence.iter("{*}license_ref", "license-p", "p")):
        declared += [_kind(element.get(name)) for name in ("license-type", "content-type")]
    declared += ["".join(element.itertext()) for element in licence.iter("{*}license_ref")]
    return [each for each in declared if each and each not in KINDS], flattened(licence)


def _kind(attribute: str | None) -> str:
    """The value of license-type or content-type in one spelling; `CC BY-NC` where it is a licence's name."""
    kind = re.sub(r"[\s_-]+", "-", (attribute or "").strip().lower())
    if match := CODE_KIND.fullmatch(kind):
        return "-".join(["CC BY", *(part.upper() for part in re.findall("nc|nd|sa", match[1]))])
    return {"cc0": "CC0", "public-domain": "PD", "publicdomain": "PD"}.get(kind, kind)


def _decide_one(declared: list[str], text: str) -> LicenceDecision:
    """From the declared URLs and codes and the prose of one statement."""
    if not declared and not text:
        return undecided("no licence statement", is_silent=True)
    found: list[LicenceDecision] = []
    for target in declared:
        told = from_url(target) or from_code(target)
        if told.code is None:
            return undecided(f"{shown(target)} is no known licence")
        found.append(told)
    said = read(text)
    if not (found := found + list(said.licences)):
        return undecided(f"no known licence is named: {shown(text)}")
    decided = found[0]
    for other in found[1:]:
        decided = agree(decided, other)
    return _unless_more_is_said(decided, said.rest)


def _unless_more_is_said(decided: LicenceDecision, rest: str) -> LicenceDecision:
    if decided.is_open and rest:
        return undecided(f"{decided.evidence}; but it also says {shown(rest)}")
    return decided


# -------------------------------------------------------------------------------------------------- what takes it back


def _unless_noticed(decided: LicenceDecision, notice: str) -> LicenceDecision:
    """The decision, unless the lines of copyright beside the licence take it back."""
    if not decided.is_open:
        return decided
    said = read(notice)
    for told in said.licences:
        decided = agree(decided, told)
    return _unless_more_is_said(decided, said.rest)


def _unless_denied(decided: LicenceDecision, found: list[Any], metadata: Any) -> LicenceDecision:
    """The decision, unless an attribute, an element beside the licence, or PMC's own word about the article takes it back.

    Nor is silence left as it is then: another witness might open it.
    """
    if not (decided.is_open or decided.is_silent):
        return decided
    published = _latest_publication(metadata)
    for element in found:
        name = element.tag.rpartition("}")[2]
        if name not in ("license", "free_to_read", *NOTICES):
            return undecided(f"{decided.evidence}; but <{name}> stands beside it")
        for stated in (element, *element.iter("{*}license_ref", "{*}free_to_read", "license-p", "p")):
            if denied := next(_denials(stated, published), ""):
                return undecided(f"{decided.evidence}; but {denied}")
    for each in metadata.iterfind(".//custom-meta"):
        name, value = each.findtext("meta-name", "").strip(), " ".join(map(flattened, each.iterfind("meta-value")))
        if ABOUT_A_LICENCE.search(name) and value:
            told = from_url(value) or from_code(value)
            if not told.is_open:
                return undecided(f"{decided.evidence}; but {name} is {shown(value)}")
            decided = decided if decided.is_silent else agree(decided, told)
        elif PROPERTIES.get(name.lower(), value.lower()) != value.lower():
            return undecided(f"{decided.evidence}; but {name} is {shown(value)}")
    return decided


def _unless_noted(decided: LicenceDecision, article: Any) -> LicenceDecision:
    """The decision, unless a note to the article reserves all rights, or names a licence that is not open; of what, is not asked."""
    if not (decided.is_open or decided.is_silent):
        return decided
    for note in _notes(article):
        text = flattened(note)
        told = read(text).licences if NAMES_A_LICENCE.search(text) else ()
        if "all rights reserved" in text.lower():
            return undecided(f"{decided.evidence}; but a note reserves all rights")
        if closed := next((each for each in told if not each.is_open), None):
            return undecided(f"{decided.evidence}; but a note names {closed.licence}")
    return decided


def _notes(article: Any) -> Iterator[Any]:
    """The notes, and the sections that are about the licence by their titles."""
    for path in NOTES:
        yield from article.iterfind(path)
    for section in (*article.iterfind("body/sec"), *article.iterfind("back/sec")):
        if " ".join((section.findtext("title") or "").lower().split()).rstrip(".:") in NOTE_TITLES:
            yield section


def _denials(element: Any, published: str) -> Iterator[str]:
    """What the attributes of an element say beside the licence itself."""
    for name, value in element.attrib.items():
        said = value.strip().lower()
        if name == "start_date":
            if not DATE.fullmatch(said) or said[:7] > published:
                yield f"it begins on {shown(said)}, and the article is of {published or 'no date'}"
        elif name == "specific-use":
            if said not in USES | KINDS:
                yield f"it is for the use {shown(said)}"
        elif name not in ("license-type", "content-type", HREF, *SILENT_ATTRIBUTES):
            yield f"its {shown(name)} is {shown(said)}"


def _latest_publication(metadata: Any) -> str:
    """`2024-06`, the latest month that the front matter names for a publication; December of a year without one."""
    dates = [
        f"{int(year):04d}-{int(month) if 1 <= int(month) <= 12 else 12:02d}"
        for date in metadata.iterfind("pub-date")
        if YEAR.fullmatch(year := date.findtext("year", "").strip())
        and MONTH.fullmatch(month := date.findtext("month", "").strip() or "12")
    ]
    return max(dates, default="")
