"""Cleaning: Unicode keeps its meaning, boilerplate goes and medicine stays, identifiers are found and doses are not."""

from __future__ import annotations

import re
import sys
import time
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.cleaning import (
    CHARACTERS,
    cleaned,
    language_of,
    likely_identifiers,
    masked,
    normalized,
    stays,
    without_boilerplate,
)
from finetune.data.records import Malformed, conversation, multiple_choice, plain_text


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("10⁹/L of H₂O at 37 °C, ½ µg", "10⁹/L of H₂O at 37 °C, ½ µg"),  # NFKC would say 109/L
        ("Me\u0301nie\u0300re", "Ménière"),
        ("ef\ufb01cient \ufb02ow", "efficient flow"),
        ("5\u00a0mg\u2009daily\u202fx", "5 mg daily x"),
        ("hyper\u00adtension\u200b \ufeffis\u202e\u2069\u206f\u061c", "hypertension is"),
        ("a\r\nb\u2028c\x0bd\x00\x07e", "a\nb\nc\nde"),
        ("one  \n\n\n \ntwo", "one\n\ntwo"),
        ("Dose\t5 mg", "Dose\t5 mg"),
        ("می‌خواهم", "می‌خواهم"),  # the zero-width non-joiner is a letter's form in Persian
    ],
)
def test_text_has_one_form_and_keeps_its_meaning(raw: str, clean: str) -> None:
    assert normalized(raw) == clean


PIECES = st.sampled_from(
    ["a\u00ad\u0301", "\u1100\u1161\u11a8", "ক\u09c7\u09be", "\u212b", "\r\n", " \n", "\t\n", "\n\n\n", "mg"]
)


@given(st.lists(st.one_of(st.text(), PIECES)).map("".join))
def test_the_short_way_gives_what_the_long_way_gives(text: str) -> None:
    """Which way a text goes is for speed alone: characters replaced, then NFC, then the ends of lines."""
    replaced = "".join(CHARACTERS.get(it, it) for it in text.replace("\r\n", "\n"))
    lines = [line.rstrip(" \t") for line in unicodedata.normalize("NFC", replaced).split("\n")]
    assert normalized(text) == re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def test_no_character_that_joins_the_one_before_it_stays() -> None:
    joining = set()
    for code in range(sys.maxunicode + 1):
        parts = unicodedata.normalize("NFD", chr(code))
        if unicodedata.normalize("NFC", parts) == chr(code):
            joining |= set(parts[1:])
    assert len(joining) > 100
    assert not any(map(stays, joining))
    assert all(map(stays, "é–µα°²中가"))


@given(st.text())
def test_normalizing_twice_changes_nothing_more(text: str) -> None:
    assert normalized(normalized(text)) == normalized(text)


BOILERPLATE = [
    "Open in a separate window",
    "Publisher's Note Springer Nature remains neutral with regard to jurisdictional claims in published maps.",
    "Springer Nature remains neutral with regard to jurisdictional claims in published maps and institutional affiliations.",
    "This is an open access article distributed under the terms of the Creative Commons Attribution License (CC BY).",
    "This is an Open Access article, which permits use, distribution under the licence CC BY 4.0.",
    "© 2021 by the authors. Licensee MDPI, Basel, Switzerland.",
    "(c) 2021 Rossi et al. All rights reserved.",
    "(C) The Authors, licensee BioMed Central.",
    "Copyright © 2020 Smith et al. This is an open-access article distributed under the terms of the licence.",
    "This article is licensed under a Creative Commons Attribution 4.0 International License.",
    "All claims expressed in this article are solely those of the authors and do not represent others.",
    "The online version contains supplementary material available at 10.1186/s12345.",
    "Click here for additional data file.",
    "Publisher's Note:",
    "Reprints and permissions information",
    "Supplementary data are available at Brain online.",
]
MEDICINE = [
    "This article reports a patient with gout.",
    "This is an open fracture of the tibia, treated with licensed antibiotics.",
    "The window of treatment is open in a separate cohort.",
    "Copyright is not discussed here.",
    "(c) Patients had open access to the clinic.",
    "(c) Open access endoscopy was used by 40% of the practices.",
    "Open in a new window of opportunity, treatment begins within days.",
    "Swelling remains neutral with regard to posture.",
    "Supplementary data are available at example.org. Of the cohort, 40 patients had gout.",
    "Patients were licensed drivers. The drug was distributed under the supervision of a nurse.",
]


@pytest.mark.parametrize("paragraph", BOILERPLATE)
def test_boilerplate_goes_and_what_stands_around_it_stays(paragraph: str) -> None:
    done: Counter[str] = Counter()
    assert without_boilerplate(f"Gout hurts.\n\n{paragraph}\n\nIt swells.", done) == "Gout hurts.\n\nIt swells."
    assert done["boilerplate"] == 1
    with pytest.raises(Malformed, match="nothing but boilerplate"):
        cleaned(plain_text(paragraph), masks_identifiers=False)


LINES = st.sampled_from([*BOILERPLATE, *MEDICINE, "Reprints and permission", "\n", "  ", "open in a new window "])


@given(st.lists(LINES).map("\n".join))
def test_texts_looked_through_at_once_lose_what_their_paragraphs_lose(text: str) -> None:
    text = normalized(text).strip()
    done, alone = Counter[str](), Counter[str]()
    # what is behind it is read paragraph by paragraph, as something of it begins like boilerplate
    marked = without_boilerplate(f"{text}\n\nPublisher's note", alone)
    assert without_boilerplate(text, done) == marked
    assert done["boilerplate"] == alone["boilerplate"] - 1


@pytest.mark.parametrize("paragraph", MEDICINE)
def test_medicine_that_looks_like_it_stays(paragraph: str) -> None:
    assert without_boilerplate(f"{paragraph}\n\n{paragraph}", Counter()) == f"{paragraph}\n\n{paragraph}"


def test_a_line_inside_a_paragraph_goes_too() -> None:
    assert (
        without_boilerplate("Figure 1\nOpen in a separate window\nRates of gout", Counter())
        == "Figure 1\nRates of gout"
    )


def test_a_paragraph_of_such_lines_alone_leaves_no_gap() -> None:
    done: Counter[str] = Counter()
    lines = "Open in a separate window\nopen in a new window"
    assert without_boilerplate(f"Gout.\n\n{lines}\n\nRates of gout", done) == "Gout.\n\nRates of gout"
    assert done["boilerplate"] == 2


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Write to jane.doe+x@mail.example.org, or", {"e-mail address"}),
        ("Call (301) 496-5133 or", {"telephone number"}),
        ("Call 301 496 5133 or", {"telephone number"}),
        ("reach me on 020 7946 0958.", {"telephone number"}),
        ("gave 301 496 5133 cells", set()),
        ("anna [at] example.org", {"e-mail address"}),
        ("anna.b(at)example.org", {"e-mail address"}),
        ("www.example.org/a?token=abc", {"link with a token"}),
        ("https://example.org/reset/8f3a9c2b7d1e", {"link with a token"}),
        ("https://example.org/a/eyJhbGciOiJIUzI1NiJ9.e30.x", {"link with a token"}),
        ("https://example.org/articles/treatment-of-gout-2020", set()),
        ("Call 301-496-5133.", {"telephone number"}),
        ("Call 1-800-422-6237 today", {"telephone number"}),
        ("+44 20 7946 0958", {"telephone number"}),
        ("see https://example.org/a?x=1&token=abc123 now", {"link with a token"}),
        ("see https://user:pass@example.org/a now", {"link with a token"}),
        ("SSN 078-05-1120", {"social security number"}),
        ("MRN: 00451234", {"medical record number"}),
        ("DOB: 01/02/1960", {"date of birth"}),
        ("Patient Name: Doe, Jane", {"name of a patient"}),
        ("BP 120/80, 2010-11-12, 10.1186/s12859-019-3119-4, 1.5-2.5 mg", set()),
        ("PMID 12345678, NCT01234567, 98.6 F, 500 000 000 IU, 3.14.159", set()),
        ("see https://medlineplus.gov/gout.html?topic=gout and 2-[4-(2-methyl)]", set()),
        ("from 100 to 200 patients, 95% CI 101-102, p = 0.001-0.002, ages 18-65-80", set()),
    ],
)
def test_identifiers_are_found_and_figures_of_medicine_are_not(text: str, kinds: set[str]) -> None:
    assert likely_identifiers(plain_text(text)) == kinds


@pytest.mark.parametrize(
    "number",
    [
        "301-496-5133", "(301) 496-5133", "(301)496-5133", "301.496.5133", "1-800-422-6237", "1 (800) 422-6237", "+1 301 496 5133",
        "+1-301-496-5133", "+1 (301) 496-5133", "+13014965133", "301-496-5133 ext. 12", "301-496-5133 x4021",
        "020 7946 0958", "(020) 7946 0958", "0161 496 0000", "01632 960983", "07700 900123", "07700 900 123", "+44 20 7946 0958",
        "+44 (0)20 7946 0958", "+447700900123", "0044 20 7946 0958", "030 12345678", "030/12345678", "(030) 123456", "0171 1234567",
        "0171-1234567", "089 / 123456-78", "+49 30 123456", "+49 (0)171 1234567",
        "+49 171/1234567", "01 23 45 67 89", "01.23.45.67.89",
        "06-12-34-56-78", "+33 1 23 45 67 89", "+33 (0)6 12 34 56 78", "0033 6 12 34 56 78", "+34 612 345 678", "+39 06 1234 5678",
        "+48 601 234 567", "+91 98765 43210", "+86 138 0013 8000", "+81-3-1234-5678", "+61 2 9374 4000", "(02) 9374 4000",
        "+353 1 234 5678", "+420 601 234 567",
    ],
)  # fmt: skip
def test_telephone_numbers_of_many_countries_are_masked_whole(number: str) -> None:
    for before, behind in (("Reach the clinic: ", "."), ("(", ")"), ("", " after nine"), ("or ", ", any day")):
        assert masked(before + number + behind, Counter()) == f"{before}[telephone number]{behind}"


@pytest.mark.parametrize(
    "text",
    [
        "+10 000 000 cells", "+30 500 000 000 cells", "+2 000 000", "a gain of +12 345 678 reads", "+1 000 000 per year",
        "1 000 000 000 CFU", "10 000 000 cells", "500 000 000 IU", "2.5-5-10 mg", "200-400-1000 mg", "100-200 mg", "1.5-2.5 mg/kg",
        "5 to 10 mL", "0.05 0.01 0.001", "0.123-0.456", "ratio 1:1000", "1 in 10 000 000", "HR 0.72 (0.61-0.85)",
        "p = 0.0001-0.0002",
        "2010-11-12", "01/02/2020", "01-02-2020 12 patients", "01.02.2020 to 03.04.2021", "01 02 2020", "08 00 12 00 16 00",
        "from 1990-1995 and 2000-2005", "NCT01234567", "PMID 12345678", "PMC1234567", "ISRCTN12345678", "EudraCT 2012-003456-78",
        "ORCID 0000-0002-1825-0097", "ISSN 0140-6736", "ISBN 0-19-852663-6", "ISBN 978-0-19-852663-6",
        "10.1016/0140-6736(90)90001-1",
        "10.1186/s12859-019-3119-4", "CAS 7732-18-5", "chr1:100 000 000-100 500 000", "rs1234567890", "CD4+ 350 000 000", "CD4 +350",
        "120/80 mmHg", "98.6 F", "ages 18-65", "visits 1-2-3-4-5-6-7-8-9-10", "pages 1234-1240", "12 345 678", "301 496 5133 cells",
        "37 000 000 people", "36.6 37.2 38.9 39.1", "a score of 012-345", "lot 0123-4567", "2-[4-(2-methyl)]", "3.14.159",
        "ICD-10 E11.9",
        "0123456789", "1234567890", "100.200.300",
    ],
)  # fmt: skip
def test_figures_of_medicine_are_no_telephone_numbers(text: str) -> None:
    for before, behind in (("", ""), ("about ", "."), ("(", ")"), ("and ", ", then")):
        assert masked(before + text + behind, Counter()) == before + text + behind


def test_masking_replaces_the_identifier_alone_and_counts_it() -> None:
    done: Counter[str] = Counter()
    assert masked("Mail a@b.org or c@d.org, call 301-496-5133.", done) == (
        "Mail [e-mail address] or [e-mail address], call [telephone number]."
    )
    assert {kind: count for kind, count in done.items() if count} == {
        "masked e-mail address": 2,
        "masked telephone number": 1,
    }


def test_every_text_of_a_record_is_cleaned() -> None:
    done = cleaned(conversation([("user", "a\u00a0b"), ("assistant", "x@y.org\u200b")]), masks_identifiers=True)[0]
    assert [turn["content"] for turn in done["messages"]] == ["a b", "[e-mail address]"]
    item = multiple_choice("q\u00a0?", {"A": "\ufb01ne", "B": "y"}, "A")
    assert cleaned(item, masks_identifiers=False)[0] == {
        "question": "q ?",
        "options": {"A": "fine", "B": "y"},
        "answer": "A",
    }


def test_the_language_of_a_text_is_told() -> None:
    assert language_of(plain_text("Gout is a form of arthritis that causes pain and swelling in the joints.")) == "en"
    assert (
        language_of(plain_text("Die Gicht ist eine Form der Arthritis, die Schmerzen und Schwellungen verursacht."))
        == "de"
    )


def test_patterns_take_linear_time() -> None:
    started = time.monotonic()
    for text in (
        "a" * 200_000,
        "1 " * 100_000,
        "a." * 100_000,
        "+1" * 100_000,
        "https://a" * 20_000,
        "(c) " * 50_000,
        "x@" * 90_000,
        "*\n" * 100_000,
        "(c)\n" * 50_000,
        "\t\n" * 100_000 + "\u0301",
    ):
        cleaned(plain_text(text + " z"), masks_identifiers=True)
        likely_identifiers(plain_text(text))
    assert time.monotonic() - started < 20
