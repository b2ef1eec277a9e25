"""Licences as SPDX expressions, and whether data under one may be published.

    canonical("cc-by-4.0") == "CC-BY-4.0";  may_be_published("CC-BY-NC-4.0") is False

The decision errs to one side only: what is not known to allow redistribution in changed form is not published. An
expression with AND, OR or WITH is published where every part of it could be. This is an engineer's gate, no legal advice.
"""

from __future__ import annotations

import difflib
import re

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

# Each allows redistribution, changes and commercial use. Not here on purpose: NC (non-commercial) and ND (no changes:
# a split, cleaned data set is a change).
OPEN_LICENCES = frozenset({
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "Unlicense",
    "CC-BY-1.0", "CC-BY-2.0", "CC-BY-2.5", "CC-BY-3.0", "CC-BY-4.0",
    "CC-BY-SA-1.0", "CC-BY-SA-2.0", "CC-BY-SA-2.5", "CC-BY-SA-3.0", "CC-BY-SA-4.0",
    "CC-BY-3.0-IGO", "CC-BY-SA-3.0-IGO",
    "CC0-1.0", "CC-PDDC", "CC-PDM-1.0", "LicenseRef-public-domain",
    "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "ODC-By-1.0", "OGL-UK-3.0", "PDDL-1.0",
})  # fmt: skip
# Terms of data that is given only to those who signed for it, or whose use is restricted beyond what a licence of NC does.
RESTRICTED = frozenset({"LicenseRef-PhysioNet-Credentialed-1.5.0", "LicenseRef-RAIL-D"})
# A Creative Commons licence whose version the work does not state, or which SPDX does not list for its country. What
# stands behind CC-BY(-SA) is a version and a country, so never NC or ND.
OPEN_PATTERN = re.compile(r"(?:LicenseRef-)?CC-BY(?:-SA)?(?:-[1-4]\.[015](?:-(?!NC|ND)[A-Z]{2,3}|-SCOTLAND)?)?")
# NC as a part of a name, and the words for it: PolyForm-Noncommercial-1.0.0, NCGL-UK-2.0, a hospital's LicenseRef-research-only.
RESTRICTING = re.compile(
    r"-NC(?:-|$)|^NCGL-|non-?commercial|research-only|credentialed|restricted|physionet|mimic", re.IGNORECASE
)
NEAR_MISSES = (*sorted(OPEN_LICENCES), "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-NC-ND-4.0")


def canonical(expression: str) -> str:
    """The expression in SPDX's spelling. Raises ValueError, with the nearest licence, where it is none."""
    try:
        return canonicalize_license_expression(expression)
    except InvalidLicenseExpression:
        # "CC BY 4.0" and "Apache 2" are how people write them.
        spelled = "-".join(expression.split())
        near = difflib.get_close_matches(spelled.upper(), [name.upper() for name in NEAR_MISSES], n=1, cutoff=0.6)
        wanted = next((name for name in NEAR_MISSES if near and name.upper() == near[0]), None)
        advice = f"did you mean {wanted}?" if wanted else "write one like MIT, CC-BY-4.0 or LicenseRef-my-terms"
        raise ValueError(f"{expression!r} is no SPDX licence; {advice}") from None


def may_be_published(expression: str) -> bool:
    """Whether data under `expression` (in SPDX's spelling) may be given on, changed, to anybody."""
    names = set(expression.replace("(", " ").replace(")", " ").split()) - {"AND", "OR"}
    return bool(names) and all(name in OPEN_LICENCES or OPEN_PATTERN.fullmatch(name) for name in names)


def needs_permission(expression: str) -> bool:
    """Whether data under `expression` is refused unless a person allows that licence by name: non-commercial, credentialed."""
    names = set(expression.replace("(", " ").replace(")", " ").split())
    return bool(names & RESTRICTED) or any(RESTRICTING.search(name) for name in names)
