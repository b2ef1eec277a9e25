"""Under which licence an article stands: decided from its front matter, with the evidence, and never by guessing.

    decision = decide(article)                            # the <article> element
    decision = agree(decision, from_code("CC BY"))        # with what the bucket's metadata says
    decision.is_open, decision.licence, decision.evidence

Only what stands in the article's own <permissions> counts: not a figure's licence, a reference, a sub-article. A licence
is told by a Creative Commons URL, spelled exactly, or by a sentence that grants one by name. Everything that is said must
name the same licence, and once the known harmless clauses are taken away nothing may be left that restricts, negates,
delays or limits it to a part. Whatever is in doubt is NOASSERTION, which is not open: the decision errs to that side only.

Open means redistribution, changes and commercial use: CC BY, CC BY-SA, CC0, the public domain. NC and ND are known, and not
open. This is an engineer's gate, no legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lxml import etree
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from finetune.data.records import NO_LICENCE

XLINK_HREF = "{http://www.w3.org/1999/xlink}href"
OPEN_CODES = {"CC BY", "CC BY-SA", "CC0", "PD"}
CODES = {*OPEN_CODES, "CC BY-NC", "CC BY-ND", "CC BY-NC-SA", "CC BY-NC-ND"}


@dataclass(frozen=True)
class LicenceDecision:
    """`code` as NLM writes it ("CC BY", "CC0", "CC BY-NC-ND", "PD"), None where it cannot be told; `licence` is SPDX.

    `evidence` says what decided, or why nothing could be decided; `is_silent` where nothing was said at all.
    """

    code: str | None
    licence: str
    evidence: str
    is_silent: bool = False

    @property
    def is_open(self) -> bool:
        return self.code in OPEN_CODES


def undecided(why: str, *, is_silent: bool = False) -> LicenceDecision:
    return LicenceDecision(None, NO_LICENCE, why, is_silent)


def decide(article: Any) -> LicenceDecision:
    """The licence of an <article> element, from its own front matter alone."""
    holders = article.xpath("front/article-meta | front/article-meta/permissions")
    licences = [element for holder in holders for element in holder.findall("license")]
    notice = " ".join(flattened(element) for holder in holders for element in holder.findall("copyright-statement"))
    if not licences:
        return _decide_one((), notice)
    published = _latest_publication(article)
    decisions = [
        _unless_reserved(_decide_one(tuple(_declared(element)), flattened(element)), element, published)
        for element in licences
    ]
    decided = decisions[0]
    for other in decisions[1:]:
        decided = agree(decided, other)
    return _unless_noticed(decided, notice)


def from_code(code: object) -> LicenceDecision:
    """The licence that NLM's `license_code` or the License column of a file list names, such as `CC BY-NC`."""
    if not isinstance(code, str) or not code.strip():
        return undecided("no licence code", is_silent=True)
    spelled = " ".join(code.upper().split())
    spelled = {"CC BY-NC-ND": spelled, "CC-BY": "CC BY", "CC-0": "CC0", "CC 0": "CC0", "PUBLIC DOMAIN": "PD"}.get(
        spelled, re.sub(r"^CC-BY(?=-)", "CC BY", spelled)
    )
    if spelled not in CODES:
        return undecided(f"licence code {code!r} is none that is known")
    return LicenceDecision(spelled, spdx(spelled), f"licence code {spelled}")


def agree(one: LicenceDecision, other: LicenceDecision) -> LicenceDecision:
    """What two statements say together: they agree, or one of them is silent, or nothing is decided."""
    if one.is_silent or other.is_silent:
        return other if one.is_silent else one
    if one.code is None or other.code is None:
        return one if one.code is None else other
    if one.code != other.code:
        return undecided(f"licences disagree: {one.evidence}; {other.evidence}")
    return other if one.licence.startswith("LicenseRef-") else one


def spdx(code: str, version: str = "", jurisdiction: str = "") -> str:
    """SPDX's name of a licence. A version that nobody stated is not made up: that is LicenseRef-CC-BY and its like."""
    if code == "CC0":
        return "CC0-1.0"
    if code == "PD":
        return "CC-PDM-1.0" if version else "LicenseRef-public-domain"
    name = "-".join(filter(None, [code.replace(" ", "-"), version, jurisdiction.upper()]))
    if version:
        try:
            return canonicalize_license_expression(name)
        except InvalidLicenseExpression:
            pass  # such as CC BY 2.0 as adapted to the United Kingdom, which SPDX does not list
    return f"LicenseRef-{name}"


# ----------------------------------------------------------------------------------------------- one licence element


def flattened(element: Any) -> str:
    """The text of an element with the target of every link behind the link's own text, white space made single."""
    parts: list[str] = []
    for event, node in etree.iterwalk(element, events=("start", "end")):
        if event == "start":
            parts.append(node.text or "")
        elif node is not element:
            target = node.get(XLINK_HREF)
            is_block = etree.QName(node).localname in ("license_ref", "license-p", "p")
            parts += [f" {target} " if target else " " if is_block else "", node.tail or ""]
    return " ".join("".join(parts).split())


def _declared(licence: Any) -> Iterator[str]:
    """The URLs that state the licence outside of its prose."""
    if licence.get(XLINK_HREF):
        yield licence.get(XLINK_HREF)
    for reference in licence.iter("{*}license_ref"):
        yield "".join(reference.itertext())
    for attribute in (
        licence.get("license-type"),
        *(each.get("content-type") for each in licence.iter("{*}license_ref")),
    ):
        if match := re.fullmatch(r"cc[-_ ]?by([-_ a-z]*?)(?:[-_ ]?licen[cs]e)?", (attribute or "").lower().strip()):
            yield "cc by" + "".join(f"-{part}" for part in re.findall(r"nc|nd|sa", match[1]))


def _unless_reserved(decided: LicenceDecision, licence: Any, published: str) -> LicenceDecision:
    """The decision, unless the element's attributes take it back: its type, a version it is for, a day it begins on."""
    if not decided.is_open:
        return decided
    for element in (licence, *licence.iter("{*}license_ref")):
        for name in ("license-type", "specific-use", "content-type"):
            if CLOSED_TYPE.search(said := (element.get(name) or "").lower()):
                return undecided(f"{decided.evidence}; but its {name} is {_shown(said)}")
        if (begins := element.get("start_date", "").strip()) and begins[:7] > published:
            return undecided(
                f"{decided.evidence}; but it begins on {_shown(begins)}, and the article is of {published or 'no date'}"
            )
    return decided


def _latest_publication(article: Any) -> str:
    """`2024-06`, the latest month that the front matter names for a publication; December of a year without one."""
    dates = [
        f"{int(year):04d}-{int(month) if 1 <= int(month) <= 12 else 12:02d}"
        for date in article.iterfind("front/article-meta/pub-date")
        if (year := date.findtext("year", "").strip()).isdecimal()
        and (month := date.findtext("month", "").strip() or "12").isdecimal()
    ]
    return max(dates, default="")


@lru_cache(maxsize=1000)  # publishers repeat themselves
def _unless_noticed(decided: LicenceDecision, notice: str) -> LicenceDecision:
    """The decision, unless the copyright statement beside the licence takes it back."""
    prose = _without_harmless_clauses(notice.lower())
    if decided.is_open and (said := _doubt(prose) or ", ".join({*_named(prose)} - {decided.code})):
        return undecided(f"{decided.evidence}; but the copyright statement says {said!r}")
    return decided


@lru_cache(maxsize=1000)
def _decide_one(declared: tuple[str, ...], text: str) -> LicenceDecision:
    """From the declared URLs and codes and the prose of one statement."""
    if not declared and not text:
        return undecided("no licence statement", is_silent=True)
    found: list[LicenceDecision] = []
    for target in declared:
        told = from_code(target) if target.startswith("cc by") else from_url(target)
        if told is None:
            return undecided(f"the licence is at {_shown(target)}, which is no Creative Commons licence")
        found.append(told)
    prose = _without_harmless_clauses(text.lower())
    told_by_prose: list[LicenceDecision] = []
    for target in re.findall(URL, prose):
        told = from_url(target)
        if told is not None:
            told_by_prose.append(told)
        elif re.search(STATES_TERMS, target) and not re.fullmatch(NEUTRAL, target):
            return undecided(f"the licence URL {_shown(target)} is misspelled, or none of Creative Commons")
    names = _named(re.sub(URL, " ", prose))
    told_by_prose += [LicenceDecision(code, spdx(code), f"the words {_shown(text)}") for code in names]
    if told_by_prose and not found and not re.search(GRANT, prose) and not _is_bare_name(prose):
        return undecided(f"a licence is named but not granted: {_shown(text)}")
    found += told_by_prose
    if not found:
        return undecided(f"no known licence is named: {_shown(text)}")
    decided = found[0]
    for other in found[1:]:
        decided = agree(decided, other)
    if decided.is_open and (doubt := _doubt(prose)):
        return undecided(f"{decided.evidence}; but it also says {doubt!r}")
    return decided


URL = r"(?:https?:)?//[^\s<>\"']+|(?:www\.)?creative ?commons?\.(?:org|com)[^\s<>\"']*"
STATES_TERMS = r"creative\W*common|commons?\.org|licen[cs]es?/|terms|user-?licen|tdm|polic(?:y|ies)"
NEUTRAL = r"(?:https?:)?(?://)?(?:www\.)?creativecommons\.org/?(?:licenses/?|about/?.*)?[.,;)\]]*"
CC_URL = re.compile(
    r"(?:https?:)?(?://)?(?:www\.)?creativecommons\.org/"
    r"(?:licenses/(?P<name>by(?:-nc)?(?:-nd|-sa)?)(?:/(?P<version>[1-4]\.[015])(?:/(?P<where>[a-z]{2,3}|scotland))?)?"
    r"|publicdomain/(?P<public>zero|mark)/1\.0)"
    r"(?:/(?:legalcode|deed)(?:[./][a-z]{2}(?:[-_][a-z]{2,4})?)?(?:\.txt)?)?/?(?:[?#].*)?",
    re.IGNORECASE,
)


def from_url(target: str) -> LicenceDecision | None:
    """The licence at a Creative Commons URL, None where it is another URL or not spelled exactly."""
    match = CC_URL.fullmatch(target.strip().rstrip(".,;:)]"))
    if match is None:
        return None
    evidence = f"the URL {_shown(target.strip())}"
    if match["public"]:
        code = "CC0" if match["public"].lower() == "zero" else "PD"
        return LicenceDecision(code, spdx(code, "1.0"), evidence)
    code = f"CC {match['name'].upper()}"
    return LicenceDecision(code, spdx(code, match["version"] or "", match["where"] or ""), evidence)


# ------------------------------------------------------------------------------------------------------------- prose

NAME = re.compile(
    r"creative[- ]commons(?: \(?cc\)?)? (?P<words>(?:public domain|zero|cc0|"
    r"attribution(?:[\s,/&–—-]*(?:and )?(?:non[- ]?commercial(?:ly)?|no[- ]?deriv\w*(?: works)?|share[- ]?alike))*))"
    r"|\bcc[-– ]?by(?P<short>(?:[-–/ ]*(?:nc|nd|sa)\b)*)(?![-–]?[a-z])|\b(?P<zero>cc[- ]?0|cc zero)\b"
    r"|(?P<public>(?:publication|article|work|paper)[^.]{0,40}\b(?:lies|is|are)(?: in)? the public domain)"
)
GRANT = (
    r"(?:\b(?:under|in accordance with|subject to|lies in|(?:is|are) in|dedicated to)\b|\blicensed\b|licen[cs]e:)"
    r"(?:[^.]|\.(?=\S)){0,120}?"
    r"(?:creative ?-?commons|\bcc[-– ]?by|\bcc[- ]?0|public domain)"
)
BARE_NAME = (
    r"creative commons|attribution|international|unported|generic|licen[cs]e[ds]?|version|open access|deed"
    r"|\bcc[-– ]?(?:by|0)\b|\bthe\b|\W|\d"
)

# Clauses of publishers' usual statements that take nothing of the licence away, though they hold words of doubt.
HARMLESS = [
    re.compile(pattern)
    for pattern in (
        r"the images or other third[- ]party materials?.*?(?:permission directly from the copyright holder|credit line[^.]*)\.?",
        r"if (?:the )?materials? is not included in the article.s creative commons.*?copyright holder\.?",
        r"the creative commons public domain dedication waiver.*?applies to the data made available in this article"
        r"(?:,? unless otherwise (?:stated|noted|indicated)[^.]*)?\.?",
        r"no use, distribution,? or reproduction is permitted which does not comply with these terms\.?",
        r"the terms on which this article has been published allow the posting of the accepted manuscript[^.]*\.?",
        r"in any reproduction of this article there should not be any suggestion that[^.]*\.?",
        r"the use of the who logo is not permitted\.?",
        r"(?:articles|items) from ehp, especially the news section, may contain photographs or illustrations[^.]*\.?",
        r"use of materials published in ehp should be acknowledged[^.;]*[.;]?",
        r"no claim to original u\.?s\.? government works\.?",
        r"exclusive licensee",
        r"(?:some|no) rights reserved",
        r"(?:without|no) (?:any )?(?:additional |further )?restrictions?",
        r"free of charge|royalty[- ]free",
        r"(?:except|unless) (?:where |if )?otherwise (?:noted|stated|indicated|specified),?",
        r"(?:including (?:for )?|even |also (?:for )?)commercial(?:ly| (?:use|uses|purposes?))?",
        r"(?:both )?commercial(?:ly)? (?:and|or) non-?commercial(?:ly)?(?: (?:use|uses|purposes?))?",
        r"(?:both )?non-?commercial(?:ly)? (?:and|or) commercial(?:ly)?(?: (?:use|uses|purposes?))?",
        r"(?:indicate|indication of|stating|and) (?:if|whether) (?:any )?(?:changes|modifications) (?:were|was|have been) made",
        r"once placed in the public domain",
        r"if you remix, transform,? or build upon (?:the|this) (?:material|work),? you must distribute[^.]*\.?",
        r"(?:is|are) credited and that the original publication in this journal is cited",
    )
]
# What may not be left in a statement that is taken as open.
DOUBTFUL = (
    # it restricts
    r"non[- ]?commer\w*|[ck]omm?er[cz]\w*|no[- ]?deriv\w*|d[eé]riv[aé]d\w*|n[cd]|unmodified|unaltered",
    r"without (?:any )?(?:modif|alter|chang|transform|permission|prior|creative|licen|cc|the (?:prior|express|written))\w*",
    r"permission (?:is|must|may|should|has|from|of)|requires? (?:\w+ )?permissions?|for permissions?",
    r"please contact",
    r"all rights reserved|fair use|personal use\w*|private (?:use|study)|educational|only|limited to",
    r"(?:text|data)[- ](?:and[- ]data[- ])?mining|subscri\w+|purchase\w*|prohibit\w*|forbid\w*",
    r"exclud\w*|exclusiv\w*|solely|strictly|restrict\w*|bar(?:s|red)|disallow\w*|den(?:y|ies|ied)",
    r"reserved|consent|approval|authori[sz]ation|user licen\w*|publisher's (?:licen|term|choice|own|permi|polic|agree)\w*",
    r"(?:additional|further|other|special|certain) (?:terms|conditions)|either|at the (?:choice|option) of",
    # it is for some readers, some uses, or those who pay
    r"(?:academic|scholarly|research|scientific|study|internal|home|industr\w+) (?:and \w+ )?"
    r"(?:purpose|use|institution|organi[sz])\w*",
    r"teaching|classroom|students?|members?|(?:non|not[- ]for|for)?[- ]?profit\w*",
    r"fees?|sale|sell(?:s|ing)?|sold|re-?s(?:ale|ell\w*|old)|pay(?:s|ing|ment\w*)?|royalt\w+|buy(?:s|ing)?|charge[sd]?",
    # it allows no changes
    r"verbatim|intact|entirety|unchanged|in full",
    # it negates, or names a licence that this one is compared with
    r"not|nor|neither|never|cannot|isn't|no(?!\.)|except\w*|unless",
    r"other than|instead|rather than|spirit|similar|equivalent|comparable|akin|like",
    r"resembl\w*|compatible|modell?ed on|based on|inspired|in line with|consistent with|principles?",
    # it delays, or makes conditions
    r"until|embargo\w*|after|months?|will|would|if|when|once|(?<!buil[dt] )\bupon|pending|future",
    r"as of|(?:from|starting|beginning|effective|since) (?:\w+ ){0,3}\d{4}|(?:one|two|three|\d+)[- ]years?|following publication",
    r"previously|formerly|revok\w*|expir\w*|withdr\w+",
    r"may be (?:made|licen|publ|distr)\w*",
    # it speaks of a part, or of another thing than the article
    r"manuscripts?|pre-?prints?|post-?prints?|applies to|(?:some|parts?|portions?) of|fig(?:ure)?s?",
    r"tables?|images?|photographs?|videos?|supplement\w*|appendi\w+|data(?: ?sets?)?|software|code",
    r"abstracts?|translations?|accompanying|associated|underlying",
    # it holds in one country
    r"(?:in|within|by|inside) the (?:u\. ?s\b|usa?|united states)|government|foreign",
)
CLOSED_TYPE = re.compile(
    r"\b(?:closed|subscri\w*|restrict\w*|propriet\w*|standard|publisher\w*|exclusiv\w*|embargo\w*|tdm"
    r"|am|aam|accepted\w*|author\w*|manuscript\w*|preprint\w*|supplement\w*|abstract\w*)\b"
)
DOUBT = re.compile(r"\b(?:" + "|".join(DOUBTFUL) + r")\b")


def _is_bare_name(prose: str) -> bool:
    """Whether a statement is the licence's name or URL and nothing else."""
    return not re.sub(BARE_NAME, "", re.sub(URL, "", prose))


def _named(text: str) -> list[str]:
    """The codes of the licences that a text names, in its order, each once."""
    codes: dict[str, None] = {}
    for match in NAME.finditer(text.lower()):
        words = match["words"] or ""
        if match["zero"] or words in ("zero", "cc0"):
            codes["CC0"] = None
        elif match["public"] or words == "public domain":
            codes["PD"] = None
        else:
            said = words + (match["short"] or "")
            conditions = [
                short
                for short, pattern in (("NC", r"commercial|\bnc\b"), ("SA", r"alike|\bsa\b"), ("ND", r"deriv|\bnd\b"))
                if re.search(pattern, said)
            ]
            codes["-".join(["CC BY", *conditions])] = None
    return list(codes)


def _without_harmless_clauses(text: str) -> str:
    text = text.replace("’", "'").replace("‐", "-").replace("‑", "-")
    for clause in HARMLESS:
        text = clause.sub(" ", text)
    return text


def _doubt(prose: str) -> str:
    """The first words, outside of URLs, that make a statement doubtful; empty where there are none."""
    match = DOUBT.search(re.sub(URL, " ", prose))
    return match.group() if match else ""


def _shown(text: str) -> str:
    shown = " ".join(text.split())
    return repr(shown if len(shown) <= 160 else shown[:157] + "...")
