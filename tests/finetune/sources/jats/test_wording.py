"""Known wordings of open publishers stay open, each change to them does not, and no statement costs more than its "
"length."""

from __future__ import annotations

import pytest

from finetune.sources.jats.wording import MAXIMUM_CHARACTERS, read
from tests.finetune.sources.jats.statements import BY, decided

LICENCE = "the Creative Commons Attribution License"
MEDIUM = "which permits unrestricted use, distribution, and reproduction in any medium, provided the original"
AUTHORS = f"{MEDIUM} author and source are credited."
WORK = f"{MEDIUM} work is properly cited."
DISTRIBUTED = f"This is an open access article distributed under the terms of {LICENCE}"

# (copyright statement, licence): how publishers put it, in short.
OPEN = {
    "BMC, older": (
        "Copyright ©2011 Rossi and Wang; licensee BioMed Central Ltd.",
        f"This is an Open Access article distributed under the terms of {LICENCE} ({BY}), {WORK}",
    ),
    "BMC": (
        "© The Author(s). 2018",
        f"Open Access This article is distributed under the terms of the Creative Commons Attribution 4.0 "
        f"International License ({BY}), "
        "which permits unrestricted use, distribution, and reproduction in any medium, provided you give appropriate "
        "credit to "
        "the original author(s) and the source, provide a link to the Creative Commons license, and indicate if "
        "changes were made. "
        "The Creative Commons Public Domain Dedication waiver (http://creativecommons.org/publicdomain/zero/1.0/) "
        "applies to the "
        "data made available in this article, unless otherwise stated.",
    ),
    "Springer, older": (
        "© The Author(s) 2012",
        f"Open Access This article is distributed under the terms of {LICENCE} which permits any use, distribution, "
        f"and reproduction "
        "in any medium, provided the original author(s) and the source are credited.",
    ),
    "Nature": (
        "© The Author(s) 2020",
        "This article is licensed under a Creative Commons Attribution 4.0 International License, which permits use, "
        "sharing, "
        "adaptation, distribution and reproduction in any medium or format, as long as you give appropriate credit to "
        "the original "
        "author(s) and the source, provide a link to the Creative Commons license, and indicate if changes were made. "
        "The images or "
        "other third party material in this article are included in the article’s Creative Commons license, unless "
        "indicated "
        "otherwise in a credit line to the material. If material is not included in the article’s Creative Commons "
        "license and your "
        "intended use is not permitted by statutory regulation or exceeds the permitted use, you will need to obtain "
        "permission "
        f"directly from the copyright holder. To view a copy of this license, visit {BY}.",
    ),
    "Scientific Reports, older": (
        "Copyright © 2015, Macmillan Publishers Limited",
        "This work is licensed under a Creative Commons Attribution 4.0 International License. The images or other "
        "third party "
        "material in this article are included in the article’s Creative Commons license, unless indicated otherwise "
        "in the credit "
        "line; if the material is not included under the Creative Commons license, users will need to obtain "
        "permission from the "
        f"license holder to reproduce the material. To view a copy of this license, visit {BY}",
    ),
    "PLOS": ("© 2016 Rossi et al", f"{DISTRIBUTED}, {AUTHORS}"),
    "PLOS, CC0": (
        "",
        "This is an open access article, free of all copyright, and may be freely reproduced, distributed, "
        "transmitted, modified, "
        "built upon, or otherwise used by anyone for any lawful purpose. The work is made available under the "
        "Creative Commons CC0 "
        "public domain dedication.",
    ),
    "Frontiers": (
        "Copyright © 2019 Rossi, van der Meulen, Müller and O'Brien.",
        "This is an open-access article distributed under the terms of the Creative Commons Attribution License (CC "
        "BY). The use, "
        "distribution or reproduction in other forums is permitted, provided the original author(s) and the copyright "
        "owner(s) are "
        "credited and that the original publication in this journal is cited, in accordance with accepted academic "
        "practice. No use, "
        "distribution or reproduction is permitted which does not comply with these terms.",
    ),
    "MDPI": (
        "© 2021 by the authors.",
        "Licensee MDPI, Basel, Switzerland. This article is an open access article distributed under the terms and "
        "conditions of the "
        f'Creative Commons Attribution (CC BY) license (<ext-link xlink:href="{BY}">{BY}</ext-link>).',
    ),
    "MDPI, older": ("© 2013 by the authors; licensee MDPI, Basel, Switzerland.", f"{DISTRIBUTED} ({BY})."),
    "Oxford": (
        "© The Author(s) 2020. Published by Oxford University Press on behalf of the European Society of Cardiology.",
        f"This is an Open Access article distributed under the terms of {LICENCE} ({BY}), which permits unrestricted "
        f"reuse, "
        "distribution, and reproduction in any medium, provided the original work is properly cited.",
    ),
    "Elsevier": (
        "© 2022 The Authors. Published by Elsevier Ltd on behalf of British Society for Immunology.",
        f"This is an open access article under the CC BY license ({BY}).",
    ),
    "Elsevier, short": (
        "© 2019 Published by Elsevier B.V.",
        f"This is an open access article under the CC BY license ({BY}).",
    ),
    "Wiley": (
        "© 2026 The Author(s). Obesity published by Wiley Periodicals LLC on behalf of The Obesity Society.",
        "This is an open access article under the terms of the "
        f'<ext-link xlink:href="{BY}">http://creativecommons.org/licenses/by/4.0/</ext-link> License, which permits '
        f"use, "
        "distribution and reproduction in any medium, provided the original work is properly cited.",
    ),
    "Hindawi": ("Copyright © 2013 Xu Li et al.", f"This is an open access article distributed under {LICENCE}, {WORK}"),
    "Taylor and Francis": (
        "© 2025 The Author(s). Published with license by Taylor & Francis Group, LLC.",
        f"This is an Open Access article distributed under the terms of {LICENCE} ({BY}), {WORK} The terms on which "
        f"this article "
        "has been published allow the posting of the Accepted Manuscript in a repository by the author(s) or with "
        "their consent.",
    ),
    "Taylor and Francis, UK": (
        "© 2019 The Author(s). Published by Informa UK Limited, trading as Taylor & Francis Group",
        f"This is an Open Access article distributed under the terms of {LICENCE} ({BY}), {WORK}",
    ),
    "Sage": (
        "© The Author(s) 2021",
        f"This article is distributed under the terms of the Creative Commons Attribution 4.0 License ({BY}) which "
        f"permits any use, "
        "reproduction and distribution of the work without further permission provided the original work is "
        "attributed as specified "
        "on the SAGE and Open Access pages (https://us.sagepub.com/en-us/nam/open-access-at-sage).",
    ),
    "BMJ": (
        "© Author(s) (or their employer(s)) 2020. Re-use permitted under CC BY. Published by BMJ.",
        "This is an open access article distributed in accordance with the Creative Commons Attribution 4.0 Unported "
        "(CC BY 4.0) "
        "license, which permits others to copy, redistribute, remix, transform and build upon this work for any "
        "purpose, provided the "
        "original work is properly cited, a link to the licence is given, and indication of whether changes were "
        "made. See: "
        f"{BY}.",
    ),
    "BMJ, older": (
        "Published by the BMJ Publishing Group Limited.",
        "This is an Open Access article distributed in accordance with the terms of the Creative Commons Attribution "
        "(CC BY 4.0) "
        "license, which permits others to distribute, remix, adapt and build upon this work, for commercial use, "
        "provided the "
        f"original work is properly cited. See: {BY}",
    ),
    "eLife": (
        "© 2018, Rossi et al",
        f"This article is distributed under the terms of {LICENCE}, which permits unrestricted use and redistribution "
        f"provided that "
        "the original author and source are credited.",
    ),
    "PeerJ": (
        "© 2016 Rossi and Bianchi",
        f"This is an open access article distributed under the terms of {LICENCE}, which permits unrestricted use, "
        f"distribution, "
        "reproduction and adaptation in any medium and for any purpose provided that it is properly attributed. For "
        "attribution, the "
        "original author(s), title, publication source (PeerJ) and either DOI or URL of the article must be cited.",
    ),
    "JMIR": (
        "©Anna Rossi, Bo Li. Originally published in JMIR Medical Informatics (https://medinform.jmir.org), "
        "12.03.2020.",
        f"This is an open-access article distributed under the terms of {LICENCE} ({BY}), which permits unrestricted "
        f"use, "
        "distribution, and reproduction in any medium, provided the original work, first published in JMIR Medical "
        "Informatics, is "
        "properly cited. The complete bibliographic information, a link to the original publication on "
        '<ext-link xlink:href="https://medinform.jmir.org/">https://medinform.jmir.org/</ext-link>, as well as this '
        "copyright and "
        "license information must be included.",
    ),
    "Royal Society": (
        "© 2014 The Authors.",
        "Published by the Royal Society under the terms of the Creative Commons Attribution License "
        "http://creativecommons.org/licenses/by/4.0/, which permits unrestricted use, provided the original author "
        "and source are credited.",
    ),
    "Cambridge": (
        "© The Author(s), 2020. Published by Cambridge University Press",
        f"This is an Open Access article, distributed under the terms of the Creative Commons Attribution licence "
        f"({BY}), which permits "
        "unrestricted re-use, distribution, and reproduction in any medium, provided the original work is properly "
        "cited.",
    ),
    "American Heart Association": (
        "© 2020 The Authors.",
        "Circulation: Heart Failure is published on behalf of the American Heart Association, Inc., by Wolters Kluwer "
        "Health, Inc. "
        f"This is an open access article under the terms of {LICENCE}, which permits use, distribution, and "
        f"reproduction in any medium, "
        "provided that the original work is properly cited.",
    ),
    "ACS": (
        "© 2020 American Chemical Society",
        "This is an open access article published under a Creative Commons Attribution (CC-BY) License, which permits "
        "unrestricted use, "
        "distribution and reproduction in any medium, provided the author and source are cited.",
    ),
    "ASM": (
        "Copyright © 2021 Rossi et al.",
        "This is an open-access article distributed under the terms of the Creative Commons Attribution 4.0 "
        "International license.",
    ),
    "PNAS": (
        "Copyright © 2022 the Author(s). Published by PNAS.",
        f"This open access article is distributed under Creative Commons Attribution License 4.0 (CC BY) ({BY}).",
    ),
    "Portland": (
        "© 2020 The Author(s).",
        "This is an open access article published by Portland Press Limited on behalf of the Biochemical Society and "
        "distributed under "
        "the Creative Commons Attribution License 4.0 (CC BY).",
    ),
    "Rockefeller": (
        "© 2020 Rossi et al.",
        f"This article is available under a Creative Commons License (Attribution 4.0 International, as described at "
        f"{BY}).",
    ),
    "Karger": (
        "Copyright © 2021 by S. Karger AG, Basel",
        "This article is licensed under the Creative Commons Attribution 4.0 International License (CC BY). Usage, "
        "derivative works and "
        "distribution are permitted provided that proper credit is given to the author and the original publisher.",
    ),
    "IOP": (
        "© 2020 The Author(s). Published by IOP Publishing Ltd",
        "Original content from this work may be used under the terms of the Creative Commons Attribution 4.0 licence. "
        "Any further "
        "distribution of this work must maintain attribution to the author(s) and the title of the work, journal "
        "citation and DOI.",
    ),
    "Thieme": (
        "The Author(s).",
        "This is an open access article published by Thieme under the terms of the Creative Commons Attribution "
        "License, permitting "
        "unrestricted use, distribution, and reproduction so long as the original work is properly cited.",
    ),
    "F1000": (
        "Copyright: © 2019 Rossi A et al.",
        "This is an open access article distributed under the terms of the Creative Commons Attribution Licence, "
        "which permits "
        "unrestricted use, distribution, and reproduction in any medium, provided the original work is properly cited.",
    ),
    "Copernicus": (
        "Copyright: © 2020 Anna Rossi et al.",
        f"This work is licensed under the Creative Commons Attribution 4.0 International License. To view a copy of "
        f"this licence, visit {BY}",
    ),
    "Bentham": (
        "© 2019 Rossi et al.",
        "This is an open access article distributed under the terms of the Creative Commons Attribution 4.0 "
        "International Public "
        "License (CC-BY 4.0), a copy of which is available at: https://creativecommons.org/licenses/by/4.0/legalcode. "
        "This license "
        "permits unrestricted use, distribution, and reproduction in any medium, provided the original author and "
        "source are credited.",
    ),
    "Microbiology Society": (
        "© 2021 The Authors",
        "This is an open-access article distributed under the terms of the Creative Commons Attribution License. This "
        "article was made "
        "open access via a Publish and Read agreement between the Microbiology Society and the corresponding author’s "
        "institution.",
    ),
    "De Gruyter": (
        "© 2025 the author(s), published by De Gruyter",
        "This work is licensed under the Creative Commons Attribution 4.0 International License.",
    ),
    "Wolters Kluwer": (
        "Copyright © 2020 the Author(s). Published by Wolters Kluwer Health, Inc.",
        "This is an open access article distributed under the Creative Commons Attribution License 4.0 (CCBY), which "
        "permits "
        "unrestricted use, distribution, and reproduction in any medium, provided the original work is properly cited. "
        "http://creativecommons.org/licenses/by/4.0",
    ),
    "J-STAGE": (
        "© 2020 The Japanese Society of Internal Medicine",
        f"This article is licensed under a Creative Commons [Attribution 4.0 International] license. {BY}",
    ),
    "Science Advances": (
        "Copyright © 2020 The Authors, some rights reserved; exclusive licensee American Association for the "
        "Advancement of Science. "
        "No claim to original U.S. Government Works. Distributed under a Creative Commons Attribution License 4.0 (CC "
        "BY).",
        f"This is an open-access article distributed under the terms of the Creative Commons Attribution license, "
        f"{WORK}",
    ),
    "Cureus": ("Copyright © 2021, Rossi et al.", f"{DISTRIBUTED}, {AUTHORS}"),
    "CDC": (
        "",
        "Emerging Infectious Diseases is a publication of the U.S. Government. This publication is in the public "
        "domain and is "
        "therefore without copyright. All text from this work may be reprinted freely. Use of these materials should "
        "be properly cited.",
    ),
    "a name alone": ("", "CC BY 4.0"),
}


@pytest.mark.parametrize("publisher", OPEN)
def test_a_publishers_usual_wording_is_open(publisher: str) -> None:
    notice, text = (each.replace(" & ", " &amp; ") for each in OPEN[publisher])
    decision = decided(
        f"<copyright-statement>{notice}</copyright-statement><license><license-p>{text}</license-p></license>"
    )
    assert decision.is_open, decision


OPEN_STATEMENT = f"{DISTRIBUTED} ({BY}), {WORK}"
TAKEN_BACK = [
    # uses and users
    "For non-commercial use.",
    "NonCommercial.",
    "No derivatives.",
    "Educational use.",
    "For academic institutions.",
    "For Academic Institutions",
    "Members of the society may share it.",
    "Readers in low-income countries may copy it.",
    "Text and data mining is not covered.",
    "Not to be used for training of models.",
    "AI training requires a separate licence.",
    "Commercial reuse: contact the publisher.",
    "For commercial re-use, please contact journals.permissions@press.example",
    "Please contact the publisher for commercial use.",
    # rights kept
    "All rights reserved.",
    "ALL RIGHTS RESERVED",
    "Reproduced with permission.",
    "Reproduced with permission from Elsevier.",
    "Copyright is held by the publisher, who grants no licence.",
    "The publisher reserves the right to change these terms.",
    "Permission is required for translations.",
    "See the publisher's website for terms.",
    "Terms and conditions apply.",
    "Terms: https://press.example/terms",
    "Under exclusive licence to Springer Nature Limited.",
    # later, earlier, in places
    "From 2030 on.",
    "Embargoed until 1 January 2031.",
    "Available 12 months after publication.",
    "This licence begins on 1 May 2031.",
    "This licence expired in 2019.",
    "The licence was withdrawn in 2021.",
    "In the United Kingdom.",
    # a part, or another thing
    "The abstract.",
    "This applies to the abstract.",
    "This applies to Figure 2.",
    "Except Figures 1 to 4.",
    "Figures are excluded.",
    "Supplementary material is under CC BY-NC.",
    "The preprint.",
    "The accepted manuscript version.",
    # other licences
    "CC BY-NC.",
    "CC BY-NC-ND 4.0.",
    "CC BY ND.",
    "http://creativecommons.org/licenses/by-nc/4.0/",
    "https://creativecommons.org.evil/licenses/by/4.0/",
    "https://press.example/creativecommons.org/licenses/by/4.0/",
    "https://creativecommons.org/licenses/by/4.0/?redirect=/licenses/by-nc/4.0/",
    "https://creativecommons.org@press.example/licenses/by/4.0/",
    "Elsevier user license.",
    "Or the publisher's licence, whichever is stricter.",
    # other languages and alphabets
    "Nutzung nur für nicht kommerzielle Zwecke.",
    "Alle Rechte vorbehalten.",
    "Alle Rechte Vorbehalten.",
    "Tous droits réservés.",
    "Todos los derechos reservados.",
    "Uso comercial no permitido.",
    "Apenas para fins educacionais.",
    "版权所有",
    "非商业用途",
    "Только для некоммерческого использования.",
    "n\u200bon-commercial",
    "ｎｏｎ-commercial",
    # words apart from what they change
    "Not.",
    "Only.",
    "But see below.",
    "* With exceptions.",
    "Retracted.",
]  # fmt: skip


@pytest.mark.parametrize("words", TAKEN_BACK)
def test_what_takes_a_licence_back_is_seen_wherever_it_stands(words: str) -> None:
    license_of = f'<license license-type="open-access" xlink:href="{BY}"><license-p>{{}}</license-p></license>'
    assert decided(license_of.format(OPEN_STATEMENT)).is_open
    first, second = OPEN_STATEMENT.split(", which")
    for permissions in (
        license_of.format(f"{OPEN_STATEMENT} {words}"),
        license_of.format(f"{words} {OPEN_STATEMENT}"),
        license_of.format(f"{first} ({words}), which{second}"),
        license_of.format(f"{OPEN_STATEMENT}</license-p><license-p>{words}"),
        license_of.format(f"{OPEN_STATEMENT} <bold>{words}</bold>"),
        f'<license xlink:href="{BY}"><license-p>{words}</license-p></license>',
        license_of.format(OPEN_STATEMENT) + f"<license><license-p>{words}</license-p></license>",
        f"<copyright-statement>© 2020 Rossi et al. {words}</copyright-statement>" + license_of.format(OPEN_STATEMENT),
        f"<copyright-holder>Rossi. {words}</copyright-holder>" + license_of.format(OPEN_STATEMENT),
        f"<copyright-statement>© 2020 Rossi et al. {OPEN_STATEMENT} {words}</copyright-statement>",
    ):
        assert not decided(permissions).is_open, permissions


@pytest.mark.parametrize("publisher", [name for name, (_, text) in OPEN.items() if "<" not in text])
def test_one_word_more_anywhere_and_nothing_is_open(publisher: str) -> None:
    notice, text = (each.replace(" & ", " &amp; ") for each in OPEN[publisher])
    words = text.split()
    for position in range(len(words) + 1):
        changed = " ".join([*words[:position], "not", *words[position:]])
        decision = decided(f"<copyright-statement>{notice}</copyright-statement><license><p>{changed}</p></license>")
        assert not decision.is_open, changed


@pytest.mark.parametrize(
    "permissions",
    [
        # the machine-readable part alone
        "<license/>",
        "<license></license>",
        "<license><license-p/></license>",
        '<license xlink:href=""/>',
        '<license license-type="open-access"><license-p/></license>',
        '<license license-type="free"><license-p>Free to read.</license-p></license>',
        '<license xlink:href="https://creativecommons.org/"/>',
        '<license xlink:href="https://creativecommons.org/licenses/"/>',
        '<license xlink:href="https://creativecommons.org.evil/licenses/by/4.0/"/>',
        '<license xlink:href="https://creativecommons.org:8080@evil/licenses/by/4.0/"/>',
        '<license xlink:href="https://creativecommons.org/licenses/by/4.0/?to=by-nc"/>',
        '<license xlink:href="https://creativecommons.org/licenses/by/4.0/#by-nc"/>',
        '<license xlink:href="https://creativecommons.org/licenses/by/4.0/../by-nc/4.0/"/>',
        '<license xlink:href="https://creativecommonſ.org/licenses/by/4.0/"/>',
        '<license xlink:href="https://press.example/?u=https://creativecommons.org/licenses/by/4.0/"/>',
        # attributes that contradict
        f'<license license-type="CC BY-NC" xlink:href="{BY}"/>',
        f'<license license-type="cc-by-nc-nd" xlink:href="{BY}"/>',
        f'<license license-type="ccby-nc" xlink:href="{BY}"/>',
        f'<license license-type="http://creativecommons.org/licenses/by-nc/4.0/" xlink:href="{BY}"/>',
        f'<license license-type="free" xlink:href="{BY}"/>',
        f'<license license-type="open-access-after-embargo" xlink:href="{BY}"/>',
        f'<license specific-use="figures" xlink:href="{BY}"/>',
        f'<license start_date="2031-01-01" xlink:href="{BY}"/>',
        f'<license valid-until="2019-01-01" xlink:href="{BY}"/>',
        '<license license-type="cc-by" xlink:href="http://creativecommons.org/licenses/by-nc/4.0/"/>',
        f'<license><ali:license_ref applies_to="figure">{BY}</ali:license_ref></license>',
        f'<license><ali:license_ref start_date="soon">{BY}</ali:license_ref></license>',
        f'<license xlink:href="{BY}" xlink:title="CC BY-NC"/>',
        f'<license xlink:href="{BY}"><ali:free_to_read start_date="2031-01-01"/></license>',
        f'<license xlink:href="{BY}"><license-p specific-use="figures">Open access.</license-p></license>',
        f'<license xlink:href="{BY}"><license-p content-type="tdm">Open access.</license-p></license>',
        # several
        f'<license xlink:href="{BY}"/><license xlink:href="http://creativecommons.org/licenses/by-nd/4.0/"/>',
        f'<license xlink:href="{BY}"/><license xlink:href="http://creativecommons.org/publicdomain/zero/1.0/"/>',
        f'<license xlink:href="{BY}"/><license><license-p>Open access.</license-p></license>',
        f'<license><ali:license_ref>{BY}</ali:license_ref><ali:license_ref>https://press.example/tdm</ali:license_ref></license>',
        f"<license><license-p>Authors choose {BY} or "
        f"http://creativecommons.org/licenses/by-nc/4.0/.</license-p></license>",
        # beside it
        f'<license '
        f'xlink:href="{BY}"/><ali:license_ref>http://creativecommons.org/licenses/by-nc/4.0/</ali:license_ref>',
        f'<license xlink:href="{BY}"/><ali:free_to_read start_date="2031-01-01"/>',
        f'<license xlink:href="{BY}"/><ali:free_to_read end_date="2020-01-01"/>',
        f'<license xlink:href="{BY}"/><restriction>Members</restriction>',
        f'<license xlink:href="{BY}"><license-p><graphic xlink:href="cc-by-nc.png"/></license-p></license>',
        f'<license xlink:href="{BY}"><license-p><ext-link xlink:href="https://press.example/terms">Open '
        f'Access</ext-link></license-p></license>',
        "<license><license-p>The original article is licensed under CC BY 4.0.</license-p></license>",
        "<license><license-p>The report is licensed under CC BY 4.0.</license-p></license>",
        "<license><license-p>This article is a translation of an open access article under CC BY 4.0.</license-p></license>",
        "<license><license-p>An earlier version of this article is licensed under CC BY 4.0.</license-p></license>",
        "<license><license-p>© 2020 Rossi, Data CC BY 4.0</license-p></license>",
        "<license><license-p>© 2020 Rossi, Supplement 1, CC BY 4.0</license-p></license>",
        "<copyright-statement>© 2020 Rossi, Software: CC BY 4.0</copyright-statement>",
        f'<copyright-statement>© 2020 Rossi, Delayed Open Access</copyright-statement><license xlink:href="{BY}"/>',
        f'<license xlink:href="{BY}"><license-p>Open<!-- --> for members</license-p></license>',
    ],
)  # fmt: skip
def test_what_is_no_plain_statement_of_an_open_licence_is_not_open(permissions: str) -> None:
    decision = decided(permissions)
    assert not decision.is_open, decision
    assert decision.evidence


@pytest.mark.parametrize(
    ("name", "value", "is_open"),
    [
        ("pmc-license-ref", "CC BY", True),
        ("pmc-license-ref", "CC BY-NC", False),
        ("pmc-license-ref", "NO-CC CODE", False),
        ("pmc-license-ref", "TDM", False),
        ("pmc-prop-open-access", "yes", True),
        ("pmc-prop-open-access", "no", False),
        ("pmc-prop-legally-suppressed", "yes", False),
    ],
)
def test_pubmed_centrals_own_word_is_a_second_witness(name: str, value: str, is_open: bool) -> None:
    meta = f"<custom-meta><meta-name>{name}</meta-name><meta-value>{value}</meta-value></custom-meta>"
    front = f"<custom-meta-group>{meta}</custom-meta-group>"
    assert decided(f'<license xlink:href="{BY}"/>', front=front).is_open is is_open


@pytest.mark.parametrize(
    ("begins", "goes_on"),
    [
        ("© ", "A. "),
        ("© ", ", "),
        ("published by ", "Aa Bb, "),
        ("which permits ", "use, "),
        ("provided ", "the author, "),
        ("creative commons attribution", " non-commercial"),
        ("", "cc by "),
        ("", f"{BY} ("),
        ("", "open access "),
        ("original ", "original "),
    ],
)
def test_a_long_statement_is_read_in_one_way_only(begins: str, goes_on: str) -> None:
    """With a second way to read any of it, this does not end."""
    read((begins + goes_on * MAXIMUM_CHARACTERS)[:MAXIMUM_CHARACTERS])


def test_a_statement_longer_than_any_is_not_read() -> None:
    assert not decided(f'<license xlink:href="{BY}"><p>{"Open access. " * 1000}</p></license>').is_open


@pytest.mark.parametrize(
    "words",
    ["CCBYNCND", "CC BY_NC", "CC BY-like", "Attribution-NoDerivs", "Rossi/NonCommercial", "Ex-CC BY 4.0", "Formerly CC BY 4.0",
     "Proposed CC BY 4.0", "Strictly Academic", "Readers Must Be Members", "Members Pay"],
)  # fmt: skip
def test_what_is_written_like_a_name_is_none_where_its_words_are_terms(words: str) -> None:
    for notice in (f"© 2020 Rossi, {words}", f"© {words} 2020", f"© 2020 Elsevier. {words}. Published 2020"):
        assert not decided(f'<copyright-statement>{notice}</copyright-statement><license xlink:href="{BY}"/>').is_open
        assert not decided(f"<copyright-statement>{notice}. CC BY 4.0</copyright-statement>").is_open


@pytest.mark.parametrize(
    "name", ["Wolters-Kluwer", "Kim Young-In", "Jean-Luc O'Brien", "Massachusetts General Hospital", "Mayo"]
)
def test_names_of_several_parts_are_names(name: str) -> None:
    assert decided(f'<copyright-statement>© 2020 {name}</copyright-statement><license xlink:href="{BY}"/>').is_open
