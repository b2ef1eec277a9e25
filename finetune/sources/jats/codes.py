"""Licences as codes, SPDX names and Creative Commons URLs, and what several witnesses say together.

    from_code("CC BY").licence                                             "LicenseRef-CC-BY"
    from_url("https://creativecommons.org/licenses/by/4.0/").licence       "CC-BY-4.0"
    agree(from_code("CC BY"), from_code("CC BY-NC")).is_open               False: they disagree

Open means redistribution, changes and commercial use: CC BY, CC BY-SA, CC0, the public domain. NC and ND are known, and not
open. Whatever is in doubt is NOASSERTION, which is not open.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from finetune.data.records import NO_LICENCE

OPEN_CODES = ("CC BY", "CC BY-SA", "CC0", "PD")
CODES = (*OPEN_CODES, "CC BY-NC", "CC BY-ND", "CC BY-NC-SA", "CC BY-NC-ND")


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


def from_code(code: object) -> LicenceDecision:
    """The licence that NLM's `license_code` or the License column of a file list names, such as `CC BY-NC`."""
    if not isinstance(code, str) or not code.strip():
        return undecided("no licence code", is_silent=True)
    spelled = " ".join(code.upper().split())
    spelled = {"CC-BY": "CC BY", "CC-0": "CC0", "CC 0": "CC0", "PUBLIC DOMAIN": "PD"}.get(
        spelled, re.sub(r"^CC-BY(?=-)", "CC BY", spelled)
    )
    if spelled not in CODES:
        return undecided(f"licence code {code!r} is none that is known")
    return LicenceDecision(spelled, spdx(spelled), f"licence code {spelled}")


# Version 4.0 is the same everywhere; the countries to which Creative Commons adapted earlier ones.
COUNTRIES = (
    "igo|scotland|am|ar|at|au|az|be|bg|br|ca|ch|cl|cn|co|cr|cz|de|dk|ec|ee|eg|es|fi|fr|ge|gr|gt|hk|hr|hu|ie|il|in|it|jo|jp|kr|lu|mk|mt"
    "|mx|my|nl|no|nz|pe|ph|pl|pr|pt|ro|rs|se|sg|si|th|tw|ug|uk|us|ve|vn|za"
)
LANGUAGE = r"(?!n[cd](?![a-z]))[a-z]{2}"
CC_URL = re.compile(
    r"(?:https?:)?(?://)?(?:www\.)?creativecommons\.org/(?:licenses/(?P<name>by(?:-nc)?(?:-nd|-sa)?)"
    rf"(?:/(?P<version>[1-4]\.0|2\.[15])(?:(?<!4\.0)/(?P<where>{COUNTRIES}))?)?|publicdomain/(?P<public>zero|mark)/1\.0)"
    rf"(?:/(?:legalcode|deed)(?:[./]{LANGUAGE}(?:[-_](?!n[cd])[a-z]{{2,4}})?)?(?:\.txt)?)?/?"
    rf"(?:\?(?:ref=chooser-v1|lang={LANGUAGE}))?#?",
    re.IGNORECASE | re.ASCII,
)


@lru_cache(maxsize=1000)
def from_url(target: str) -> LicenceDecision | None:
    """The licence at a Creative Commons URL, None where it is another URL or not spelled exactly."""
    target = target.strip().rstrip(".,;:)]")
    match = CC_URL.fullmatch(target)
    if match is None:
        return None
    evidence = f"the URL {shown(target)}"
    if match["public"]:
        code = "CC0" if match["public"].lower() == "zero" else "PD"
        return LicenceDecision(code, spdx(code, "1.0"), evidence)
    code = f"CC {match['name'].upper()}"
    return LicenceDecision(code, spdx(code, match["version"] or "", match["where"] or ""), evidence)


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


def agree(one: LicenceDecision, other: LicenceDecision) -> LicenceDecision:
    """What two statements say together: they agree, or one of them is silent, or nothing is decided."""
    if one.is_silent or other.is_silent:
        return other if one.is_silent else one
    if one.code is None or other.code is None:
        return one if one.code is None else other
    if one.code != other.code:
        return undecided(f"licences disagree: {one.evidence}; {other.evidence}")
    return other if one.licence.startswith("LicenseRef-") else one


def shown(text: str) -> str:
    """A text as evidence shows it: quoted, on one line, not too long."""
    text = " ".join(text.split())
    return repr(text if len(text) <= 160 else text[:157] + "...")
