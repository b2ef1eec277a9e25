"""The licence decision: statements that grant a licence are told, look-alikes never are, and silence is not consent."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from finetune.data.licences import may_be_published
from finetune.sources.jats.article import parse_articles
from finetune.sources.jats.codes import agree, from_code, from_url
from finetune.sources.jats.licence import decide
from tests.finetune.sources.jats.statements import BY, article, decided, prose

GRANT = "This is an open-access article distributed under the terms of the Creative Commons Attribution License"


def test_every_real_article_has_the_licence_that_people_gave_it(shared_data: Path) -> None:
    names = json.loads((shared_data / "jats" / "LICENCES.json").read_text())
    assert len(names) == 120
    for name, licence, _ in names:
        [root] = parse_articles((shared_data / "jats" / name).read_bytes())
        decision = decide(root)
        assert decision.is_open, (name, decision)
        assert decision.code in licence.partition("(")[0].split("/"), (name, decision)
        assert may_be_published(decision.licence), (name, decision)
        if "(text)" not in licence:
            assert re.search(r"\d\.0$", decision.licence), (name, decision)


@pytest.mark.parametrize(
    ("target", "licence"),
    [
        ("http://creativecommons.org/licenses/by/4.0/", "CC-BY-4.0"),
        ("https://creativecommons.org/licenses/by/4.0", "CC-BY-4.0"),
        ("https://www.creativecommons.org/licenses/by/2.5/", "CC-BY-2.5"),
        ("//creativecommons.org/licenses/by/3.0/", "CC-BY-3.0"),
        ("creativecommons.org/licenses/by/3.0/.", "CC-BY-3.0"),
        ("HTTP://CreativeCommons.org/Licenses/BY/4.0/", "CC-BY-4.0"),
        ("https://creativecommons.org/licenses/by/4.0/legalcode", "CC-BY-4.0"),
        ("https://creativecommons.org/licenses/by/4.0/legalcode.de", "CC-BY-4.0"),
        ("https://creativecommons.org/licenses/by/4.0/deed.en", "CC-BY-4.0"),
        ("https://creativecommons.org/licenses/by/4.0/?ref=chooser-v1", "CC-BY-4.0"),
        ("https://creativecommons.org/licenses/by/3.0/igo/", "CC-BY-3.0-IGO"),
        ("https://creativecommons.org/licenses/by/3.0/igo/legalcode", "CC-BY-3.0-IGO"),
        ("http://creativecommons.org/licenses/by/2.0/uk/", "LicenseRef-CC-BY-2.0-UK"),
        ("http://creativecommons.org/licenses/by-sa/4.0/", "CC-BY-SA-4.0"),
        ("http://creativecommons.org/licenses/by/", "LicenseRef-CC-BY"),
        ("http://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/deed.en", "CC0-1.0"),
        ("http://creativecommons.org/publicdomain/mark/1.0/", "CC-PDM-1.0"),
    ],
)
def test_the_url_of_an_open_licence_decides(target: str, licence: str) -> None:
    for decision in (
        decided(f'<license xlink:href="{target}"/>'),
        decided(f"<license><ali:license_ref>{target}</ali:license_ref></license>"),
        prose(f'This article is licensed under <ext-link xlink:href="{target}">these terms</ext-link>.')
        if "//" in target.lower()
        else decided(f'<license xlink:href="{target}"/>'),
    ):
        assert (decision.is_open, decision.licence) == (True, licence), decision
        assert may_be_published(decision.licence)


@pytest.mark.parametrize(
    ("target", "licence"),
    [
        ("http://creativecommons.org/licenses/by-nc/4.0/", "CC-BY-NC-4.0"),
        ("http://creativecommons.org/licenses/by-nd/4.0/", "CC-BY-ND-4.0"),
        ("http://creativecommons.org/licenses/by-nc-nd/4.0/", "CC-BY-NC-ND-4.0"),
        ("http://creativecommons.org/licenses/by-nc-sa/3.0/igo/", "CC-BY-NC-SA-3.0-IGO"),
        ("http://creativecommons.org/licenses/by-nc/", "LicenseRef-CC-BY-NC"),
    ],
)
def test_a_licence_with_conditions_is_known_and_not_open(target: str, licence: str) -> None:
    decision = decided(f'<license xlink:href="{target}"/>')
    assert (decision.is_open, decision.licence) == (False, licence)
    assert not may_be_published(decision.licence)


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        (GRANT + ".", "LicenseRef-CC-BY"),
        (f"This is an open access article under the CC BY license ({BY}).", "CC-BY-4.0"),
        ("Licensed under CC BY 4.0.", "LicenseRef-CC-BY"),
        ("CC BY 4.0", "LicenseRef-CC-BY"),
        (
            "This article is distributed under the terms of the Creative Commons Attribution License (CC BY). The use, "
            "distribution or reproduction in other forums is permitted, provided the original author(s) are credited. "
            "No use, distribution or reproduction is permitted which does not comply with these terms.",
            "LicenseRef-CC-BY",
        ),
        (
            "This article is distributed under the terms of the Creative Commons Attribution IGO License "
            "(http://creativecommons.org/licenses/by/3.0/igo/legalcode). In any reproduction of this article there should "
            "not be any suggestion that WHO or this article endorses any specific organization or products. The use of the "
            "WHO logo is not permitted.",
            "CC-BY-3.0-IGO",
        ),
        ("This work is made available under the Creative Commons CC0 public domain dedication.", "CC0-1.0"),
        ("This article is in the public domain.", "LicenseRef-public-domain"),
    ],
)
def test_a_sentence_that_grants_decides(text: str, licence: str) -> None:
    decision = prose(text)
    assert (decision.is_open, decision.licence) == (True, licence), decision
    assert may_be_published(decision.licence)


def test_the_statement_may_stand_where_nlm_2_had_it() -> None:
    statement = f"<copyright-statement>Copyright: © 2004 Rossi. {GRANT}.</copyright-statement>"
    assert decided(statement).code == "CC BY"
    assert decided("", front=statement).code == "CC BY"
    assert decided("", front=f'<license><p>{GRANT}<ext-link xlink:href="{BY}"/>.</p></license>').licence == "CC-BY-4.0"


# None of these is open. Each is a line of its own, so that a rule that lets one slip through is seen.
LOOK_ALIKES = [
    *(
        f"{GRANT}{rest}."
        for rest in (
            ", solely for academic research purposes",
            ", exclusively for its readers",
            ", strictly as follows",
            ", restricted to hospitals",
            ", with additional restrictions set by the publisher",
            ", with additional terms set by the publisher",
            " for scholarly use",
            " for classroom teaching",
            " for nonprofit organizations",
            " to members of the society",
            " provided no changes are made",
            ", provided it is reproduced verbatim",
            ", provided it is kept intact",
            ". No part may be reproduced",
            ". Sale of copies requires a fee",
            ". Written consent of the publisher must be obtained for reuse",
            ". Reuse rights reserved",
            ". Resale is barred",
            " starting 1 January 2099",
            " from 1 January 2099",
            " one year following publication",
            " or the publisher's licence, at the choice of the publisher",
            ". Elsevier user license applies",
            ". See https://publisher.example/termsofuse.html",
        )
    ),
    f"This article is not {GRANT[11:]}.",
    "This article is not CC BY.",
    f"This article is not available under CC BY ({BY}).",
    "No Creative Commons Attribution License applies to this article.",
    "Distributed under a licence other than the Creative Commons Attribution License.",
    "Distributed under terms similar to the Creative Commons Attribution License.",
    "Published in the spirit of open access under the Creative Commons Attribution License, but barring commercial association.",
    "You may use it under a licence modelled on the Creative Commons Attribution License.",
    f"{GRANT} for non-commercial purposes.",
    f"{GRANT}, which permits unrestricted noncommercial use.",
    f"{GRANT}, which permits use and distribution in any medium, provided the use is non‐commercial.",
    f"{GRANT}, provided that no modifications or adaptations are made, for personal use only.",
    f"{GRANT}-NonCommercial-NoDerivs 4.0.",
    f"{GRANT}, Non Commercial.",
    f"{GRANT} (CC BY-NC-ND 4.0).",
    f"{GRANT} (CC BY NC).",
    f"This is an open access article under the CC BY-NC license ({BY}).",
    f"{GRANT} ({BY}) and of http://creativecommons.org/licenses/by-nc-nd/4.0/.",
    f"{GRANT}. All rights reserved.",
    f"{GRANT}. No part may be reproduced without permission of the publisher.",
    f"{GRANT} after an embargo of twelve months.",
    f"{GRANT} from 2031.",
    "This article will be distributed under the Creative Commons Attribution License.",
    f"After six months it is available under a Creative Commons Attribution License ({BY}).",
    f"Figure 2 is reproduced under the Creative Commons Attribution License ({BY}).",
    f"The data are licensed under CC BY ({BY}).",
    f"The accompanying software is licensed under CC BY ({BY}).",
    f"A preprint of this article is available under CC BY ({BY}).",
    f"The accepted manuscript is available under CC BY ({BY}).",
    f"Subscribers only. Parts of this article are under CC BY ({BY}).",
    f"Read what the Creative Commons Attribution License says at {BY}.",
    "Authors choose between CC BY and CC BY-NC.",
    "This is an open access article.",
    "This is an open access article distributed under a Creative Commons license.",
    "This is an open access article: http://creativecommons.org/.",
    "This article is free to read, use and share, provided the source is cited.",
    "This file is available for text mining. It may also be used consistent with the principles of fair use.",
    "Users may view, print, copy, download and text and data-mine the content for academic research.",
    "This article is a U.S. Government work and is in the public domain in the USA.",
    "This article is in the public domain within the United States; foreign copyright protection may apply.",
    "This article is not in the public domain.",
    "© 2020 Elsevier Ltd. All rights reserved.",
    "Subject to an exclusive license agreement, which permits unrestricted use provided the authors are credited.",
    "Bajo licencia Creative Commons Attribution (" + BY + "), sin uso comercial.",
    "TDM",
    f"{GRANT} or, at the publisher's choice, no licence.",
]
TYPOS = [
    "http://creativecommon.org/licenses/by/4.0/",
    "http://creativecommons.com/licenses/by/4.0/",
    "http://creativecommons.org/license/by/4.0/",
    "http://creativecommons.org/licences/by/4.0/",
    "http://creativecommons.org/licenses/by/4.0/x",
    "http://creativecommons.org/licenses/by/40/",
    "http://creativecommons.org/licenses/by/5.0/",
    "http://creativecommons.org/licenses/by/4.0/-nc",
    "http://creativecommons.org/licenses/by/4.0/us/",
    "http://creativecommons.org/licenses/by/4.0/nco/",
    "http://creativecommons.org/licenses/by/3.0/non/",
    "http://creativecommons.org/licenses/by/3.0/xx/",
    "http://creativecommons.org/licenses/by/4.1/",
    "http://creativecommons.org/licenses/by/4.0/deed.nc_nd",
    "http://creativecommons.org/licenses/by/4.0/deed.en_nc",
    "http://creativecommons.org/licenses/by/4.0/?lang=nc",
    "http://creativecommons.org/licenses/bync/4.0/",
    "http://creativecommons.org/licenses/by-/4.0/",
    "http://creativecommons.org/licenses/by_nc/4.0/",
    "http://creativecommons.org/licenses/by/nc/4.0/",
    "http://creativecommons.org/licenses/by-nc-nd-sa/4.0/",
    "http://creativecommons.org/licenses/by/4.0/nc/",
    "http://creativecommons.org/licenses/by/4.0/deed.nc-nd",
    "http://creativecommons.org.example.com/licenses/by/4.0/",
    "http://example.com/creativecommons.org/licenses/by/4.0/",
    "http://example.com/?u=http://creativecommons.org/licenses/by/4.0/",
    "http://www.elsevier.com/open-access/userlicense/1.0/",
    "http://doi.wiley.com/10.1002/tdm_license_1.1",
    "CC BY-ish",
    "",
]


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_prose_that_looks_open_is_not(text: str) -> None:
    assert not prose(text).is_open, prose(text)
    assert not prose(text, 'license-type="open-access"').is_open
    statement = f"<copyright-statement>© 2020 Rossi. {text}</copyright-statement>"
    assert not decided(statement).is_open, decided(statement)


@pytest.mark.parametrize("target", TYPOS)
def test_a_url_that_is_not_exactly_a_licence_is_not_open(target: str) -> None:
    assert from_url(target) is None
    assert not decided(f'<license xlink:href="{target}"/>').is_open
    assert not decided(f"<license><ali:license_ref>{target}</ali:license_ref></license>").is_open
    assert not prose(f'See <ext-link xlink:href="{target}">the licence</ext-link>.').is_open


@pytest.mark.parametrize(
    ("attributes", "is_open"),
    [
        ("", True),
        ('start_date="2024-06-03"', True),
        ('start_date="2024-06"', True),
        ('specific-use="textmining" content-type="ccbylicense"', True),
        ('specific-use="vor"', True),
        ('start_date="2024-12-03"', False),  # an embargo of half a year
        ('start_date="2099-01-01"', False),
        ('start_date="1 January 2099"', False),
        ('start_date="01/01/2099"', False),
        ('start_date=""', False),
        ('specific-use="am"', False),
        ('specific-use="accepted-manuscript"', False),
        ('content-type="tdm"', False),
    ],
)
def test_a_licence_for_later_or_for_another_version_is_not_open(attributes: str, is_open: bool) -> None:
    licence = f"<license><ali:license_ref {attributes}>{BY}</ali:license_ref></license>"
    date = "<pub-date><day>3</day><month>6</month><year>2024</year></pub-date>"
    assert decided(licence, front=date).is_open is is_open, decided(licence, front=date)


def test_a_licence_that_begins_on_a_day_is_not_open_where_no_publication_is_dated() -> None:
    assert not decided(f'<license><ali:license_ref start_date="2020-01-01">{BY}</ali:license_ref></license>').is_open


@pytest.mark.parametrize("kind", ["closed-access", "subscription", "publisher-license", "standard"])
def test_a_license_type_that_is_closed_takes_the_url_back(kind: str) -> None:
    assert not decided(f'<license license-type="{kind}" xlink:href="{BY}"/>').is_open


@pytest.mark.parametrize(
    "permissions",
    [
        "",
        "<license/>",
        '<license license-type="open-access"><license-p>Open access.</license-p></license>',
        '<license license-type="open-access"/>',
        f'<license xlink:href="{BY}"/><license xlink:href="http://creativecommons.org/licenses/by-nc/4.0/"/>',
        f'<license xlink:href="{BY}"/><license><license-p>Reuse needs a contract.</license-p></license>',
        f'<license xlink:href="{BY}"><ali:license_ref>http://www.springer.com/tdm</ali:license_ref></license>',
        f'<license xlink:href="{BY}"><license-p>Not for commercial use.</license-p></license>',
        f'<license xlink:href="{BY}" license-type="CC-BY-NC"/>',
        f'<license><ali:license_ref content-type="ccbyncndlicense">{BY}</ali:license_ref></license>',
        f'<copyright-statement>© Elsevier. All rights reserved.</copyright-statement><license xlink:href="{BY}"/>',
        f'<copyright-statement>© A. CC BY-NC.</copyright-statement><license xlink:href="{BY}"/>',
    ],
)
def test_silence_and_contradiction_are_not_open(permissions: str) -> None:
    decision = decided(permissions)
    assert not decision.is_open, decision
    assert decision.evidence


GRANTED = f'<permissions><license xlink:href="{BY}"><license-p>{GRANT}.</license-p></license></permissions>'


@pytest.mark.parametrize(
    "rest",
    [
        f"<body><fig><caption><p>{GRANT} {BY}</p></caption>{GRANTED}</fig></body>",
        f"<body><p>{GRANT}.</p></body>",
        f"<back><ref-list><ref><mixed-citation>{GRANT}. {BY}</mixed-citation></ref></ref-list></back>",
        f"<sub-article><front-stub>{GRANTED}</front-stub></sub-article>",
        f"<sub-article><front><article-meta>{GRANTED}</article-meta></front></sub-article>",
        f"<response><front><article-meta>{GRANTED}</article-meta></front></response>",
        f"<back><sec><p>{GRANT}</p>{GRANTED}</sec></back>",
    ],
)
def test_a_licence_of_something_else_than_the_article_does_not_count(rest: str) -> None:
    assert decided("", rest=rest).is_silent
    assert not decided("<license><license-p>Reuse needs a contract.</license-p></license>", rest=rest).is_open


def test_what_is_said_about_a_supplement_or_in_a_note_does_not_count() -> None:
    assert decided("", front=f"<supplementary-material>{GRANTED}</supplementary-material>").is_silent
    assert decided("", front=f"<abstract><p>{GRANT}</p></abstract>").is_silent


@pytest.mark.parametrize(
    ("code", "licence"),
    [
        ("CC BY", "LicenseRef-CC-BY"),
        ("cc by", "LicenseRef-CC-BY"),
        ("CC-BY", "LicenseRef-CC-BY"),
        ("CC BY-SA", "LicenseRef-CC-BY-SA"),
        ("CC0", "CC0-1.0"),
        ("CC BY-NC", "LicenseRef-CC-BY-NC"),
        ("CC BY-NC-ND", "LicenseRef-CC-BY-NC-ND"),
    ],
)
def test_codes_of_the_metadata(code: str, licence: str) -> None:
    decision = from_code(code)
    assert decision.licence == licence
    assert may_be_published(licence) == decision.is_open == ("N" not in code)


@pytest.mark.parametrize(
    "code", ["TDM", "NO-CC CODE", "", None, 4, "CC BY-NC-BY", "CC", "BY", "CC BY 4.0 but not really"]
)
def test_other_codes_are_not_open(code: object) -> None:
    assert not from_code(code).is_open


def test_two_witnesses_must_agree() -> None:
    by, silent, other = from_code("CC BY"), from_code(None), from_code("TDM")
    exact = decided(f'<license xlink:href="{BY}"/>')
    assert agree(exact, by).licence == agree(by, exact).licence == "CC-BY-4.0"
    assert agree(exact, silent) == agree(silent, exact) == exact
    for doubtful in (other, from_code("CC BY-NC"), prose("Ask the publisher.")):
        assert not agree(exact, doubtful).is_open
        assert not agree(doubtful, exact).is_open


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([*LOOK_ALIKES, GRANT + ".", BY, "CC BY", "Open access.", "(c) 2020"]), min_size=1, max_size=4
    )
)
def test_no_neighbor_opens_a_closed_statement(texts: list[str]) -> None:
    closed = [text for text in texts if text in LOOK_ALIKES]
    restricting = [
        text for text in closed if re.search(r"commercial|NC|rights reserved|embargo| not ", text, re.IGNORECASE)
    ]
    if restricting:
        assert not prose(" ".join(texts)).is_open


@settings(deadline=None)
@given(st.text(max_size=300))
def test_any_text_gets_a_decision(text: str) -> None:
    root = etree.fromstring(article("<license><license-p/></license>"))
    try:
        root.find(".//license-p").text = text
    except ValueError:  # not an XML character
        return
    assert decide(root).evidence


@pytest.mark.parametrize(
    ("front", "rest", "is_open"),
    [
        ("<author-notes><fn><p>This article is licensed under CC BY-NC 4.0.</p></fn></author-notes>", "", False),
        ("<author-notes><fn><p>This article is licensed under CC BY 4.0.</p></fn></author-notes>", "", True),
        ("<author-notes><fn><p>All rights reserved.</p></fn></author-notes>", "", False),
        ("<author-notes><fn><p>Both authors commented on the work.</p></fn></author-notes>", "", True),
        ("", f'<back><notes><ext-link xlink:href="{BY.replace("by", "by-nc-nd")}">Terms</ext-link></notes></back>', False),
        ("", "<back><fn-group><fn><p>CC BY-NC-ND 4.0</p></fn></fn-group></back>", False),
        ("", "<back><sec><fn-group><fn><p>CC BY-NC-ND 4.0</p></fn></fn-group></sec></back>", False),
        ("", "<back><ack><p>This manuscript is made available under the CC BY-NC-ND 4.0 license.</p></ack></back>", False),
        ("", "<back><sec><title>Open Access</title><p>Licensed under CC BY-NC 4.0.</p></sec></back>", False),
        ("", "<body><sec><title> License:</title><p>All rights reserved.</p></sec></body>", False),
        ("", "<body><sec><title>License</title><p>Doctors need one.</p></sec></body>", True),
        ("", "<body><sec><title>Results</title><p>All rights reserved was on 5 of 7 posters.</p></sec></body>", True),
        ("", "<back><fn-group><fn><p>No conflict of interest.</p></fn></fn-group></back>", True),
    ],
)  # fmt: skip
def test_a_note_that_names_another_licence_takes_it_back(front: str, rest: str, is_open: bool) -> None:
    assert decided(f'<license xlink:href="{BY}"/>', front=front, rest=rest).is_open is is_open


def custom(name: str, value: str, holder: str = "custom-meta-group") -> str:
    return (
        f"<{holder}><custom-meta><meta-name>{name}</meta-name><meta-value>{value}</meta-value></custom-meta></{holder}>"
    )


@pytest.mark.parametrize(
    ("metadata", "is_open"),
    [
        (
            custom("pmc-prop-open-access", "yes")
            + custom("pmc-license-ref", "CC BY")
            + custom("pmc-status-embargo", "no"),
            True,
        ),
        (custom("pmc-prop-open-access", "no"), False),
        (custom("PMC-prop-open-access", "No"), False),
        (custom("pmc-prop-open-access", "no", "custom-meta-wrap"), False),  # as NLM 2 called it
        (custom("pmc-prop-legally-suppressed", "yes"), False),
        (custom("pmc-status-embargo", "yes"), False),
        (custom("pmc-license-ref", "CC BY-NC"), False),
        (custom("pmc-license-ref", "TDM"), False),
        (custom("license", "http://creativecommons.org/licenses/by-nc/4.0/"), False),
        (custom("license", "publisher-specific"), False),
        (custom("license", f'<ext-link xlink:href="{BY.replace("by", "by-nc")}">terms</ext-link>'), False),
        (custom("license", f'<ext-link xlink:href="{BY}">{BY}</ext-link>'), True),
        (custom("licence", BY), True),
        (custom("license", ""), True),
        (custom("cover-date", "2024"), True),
    ],
)
def test_what_pmc_says_of_the_article_takes_its_licence_back(metadata: str, is_open: bool) -> None:
    assert decided(f'<license xlink:href="{BY}"/>', front=metadata).is_open is is_open
    # Nor may the bucket's word open an article that says nothing of a licence itself.
    assert agree(decided("", front=metadata), from_code("CC BY")).is_open is is_open


def test_no_word_from_elsewhere_opens_an_article_whose_note_closes_it() -> None:
    for rest in ("All rights reserved.", "This article is licensed under CC BY-NC 4.0."):
        decision = decided("", rest=f"<back><fn-group><fn><p>{rest}</p></fn></fn-group></back>")
        assert not agree(decision, from_code("CC BY")).is_open


@pytest.mark.parametrize(
    "picture", ["nc.png", "88x31-nd.gif", "noncommercial.svg", "cc-by-nc.png", "http://i.cc/l/by-nd/4.0/88x31.png"]
)
def test_a_picture_of_a_closed_licence_closes(picture: str) -> None:
    assert prose('Licensed under CC BY<inline-graphic xlink:href="ccby.png"/>.').is_open
    assert not prose(f'Licensed under CC BY<inline-graphic xlink:href="{picture}"/>.').is_open


@pytest.mark.parametrize(
    "terms",
    [
        "Embargoed", "Licensing", "Resale", "Royalties", "Payments", "Charges", "Nonprofit", "Non-Profit", "Paywalled", "Banned",
        "Excluded", "Withheld", "Terminated", "Expired", "Internal", "NC", "ND", "Protected",
    ],
)  # fmt: skip
def test_terms_in_capitals_are_no_names(terms: str) -> None:
    for line in (f"© 2020 Rossi, {terms}.", f"© 2020 {terms} Press.", f"© 2020 Rossi. Published by Rossi, {terms}."):
        assert not decided(f'<copyright-statement>{line}</copyright-statement><license xlink:href="{BY}"/>').is_open, (
            line
        )
        assert not prose(f"{GRANT}. {line}").is_open, line


@pytest.mark.parametrize(
    "name", ["Case Western Reserve University", "Italian Society of Internal Medicine", "Nadia Nguyen"]
)
def test_names_that_hold_such_words_are_names(name: str) -> None:
    line = f'<copyright-statement>© 2020 {name}.</copyright-statement><license xlink:href="{BY}"/>'
    assert decided(line).is_open
