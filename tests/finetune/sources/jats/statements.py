"""Articles that are nothing but their licence statement, and what is decided about them."""

from __future__ import annotations

from lxml import etree

from finetune.sources.jats.codes import LicenceDecision
from finetune.sources.jats.licence import decide

BY = "http://creativecommons.org/licenses/by/4.0/"
NAMESPACES = 'xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:ali="http://www.niso.org/schemas/ali/1.0/"'


def article(permissions: str, *, front: str = "", rest: str = "") -> str:
    return (
        f"<article {NAMESPACES}><front><article-meta><title-group><article-title>On gout</article-title></title-group>"
        f"<permissions>{permissions}</permissions>{front}</article-meta></front>{rest}</article>"
    )


def decided(permissions: str, *, front: str = "", rest: str = "") -> LicenceDecision:
    return decide(etree.fromstring(article(permissions, front=front, rest=rest)))


def prose(text: str, attributes: str = "") -> LicenceDecision:
    return decided(f"<license {attributes}><license-p>{text}</license-p></license>")
