"""What the bucket says of an article, and the gates that it must pass before its XML is fetched. Pure functions.

metadata = parse_metadata(json_bytes)
metadata.refusal(open_only=True)      "" or why it is not fetched
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from finetune.data.records import Malformed
from finetune.sources.jats.codes import LicenceDecision, from_code

PMCID = re.compile(r"(?:PMC)?(\d{1,12})(?:\.(\d{1,4}))?", re.IGNORECASE)


@dataclass(frozen=True)
class Metadata:
    """One version of one article. Flags are None where they are missing or cannot be understood, and never taken for a yes."""

    name: str  # PMC13900.1
    is_open_access: bool | None
    is_retracted: bool | None
    is_scanned: bool | None
    licence: LicenceDecision
    xml_key: str
    md5: str

    @property
    def document_id(self) -> str:
        return self.name.partition(".")[0]

    def refusal(self, *, open_only: bool) -> str:
        """Why the article is not wanted, empty where it is."""
        if self.is_retracted is not False:
            return "retracted" if self.is_retracted else "not told whether retracted"
        if not self.is_open_access:
            return "not in the Open Access Subset"
        if self.licence.code is None:
            return "licence not told"
        if open_only and not self.licence.is_open:
            return "licence not open"
        if self.is_scanned:
            return "text of a scan"
        return ""


def parse_metadata(content: bytes, name: str, bucket: str) -> Metadata:
    """The metadata of the version `name`. Raises Malformed where it is not that, or names its XML without a way to check it."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Malformed("metadata is not JSON", str(error)[:100]) from None
    if not isinstance(value, dict):
        raise Malformed("metadata is not JSON", "no object")
    document_id = name.partition(".")[0]
    if (said := str(value.get("pmcid", document_id)).partition(".")[0]) != document_id:
        raise Malformed("metadata of another article", f"{name} was expected, {said[:40]} found")
    key, md5 = _location(value.get("xml_url"), name, bucket)
    return Metadata(
        name=name,
        is_open_access=_flag(value.get("is_pmc_openaccess")),
        is_retracted=_flag(value.get("is_retracted")),
        is_scanned=_flag(value.get("is_historical_ocr")),
        licence=from_code(value.get("license_code")),
        xml_key=key,
        md5=md5,
    )


def _location(url: object, name: str, bucket: str) -> tuple[str, str]:
    """(key, md5) of `s3://BUCKET/PMC1.1/PMC1.1.xml?md5=HEX`; nothing else is ever fetched."""
    if not isinstance(url, str):
        raise Malformed("metadata names no XML", name)
    parts = urlsplit(url)
    key, md5 = parts.path.lstrip("/"), parse_qs(parts.query).get("md5", [""])[0].lower()
    if (parts.scheme, parts.netloc) != ("s3", bucket) or key != f"{name}/{name}.xml":
        raise Malformed("metadata names XML elsewhere", ascii(url)[:100])
    if not re.fullmatch(r"[0-9a-f]{32}", md5):
        raise Malformed("metadata names XML without its md5", ascii(url)[:100])
    return key, md5


def _flag(value: Any) -> bool | None:
    """JSON's booleans, and words in their place."""
    if isinstance(value, bool):
        return value
    return {"yes": True, "true": True, "y": True, "no": False, "false": False, "n": False}.get(
        str(value).strip().lower()
    )


def parse_pmcid(text: str) -> tuple[str, int | None] | None:
    """("PMC13900", 1) of `PMC13900.1`, None for the version where there is none, None where it is no PMCID."""
    match = PMCID.fullmatch(text.strip())
    return (f"PMC{int(match[1])}", int(match[2]) if match[2] else None) if match else None
