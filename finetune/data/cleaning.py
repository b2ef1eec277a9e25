"""Text as it should be trained on: one Unicode form, no publisher's boilerplate, no e-mail addresses where people confide.

    cleaned(content, masks_identifiers=False) -> (content, what was done to it)

Unicode: NFC, not NFKC, which would make 10⁹ into 109; ligatures of typesetting are spelled out; spaces of every width are a space;
what cannot be seen (soft hyphens, zero-width spaces, marks of direction, control characters) goes. Boilerplate: whole paragraphs,
recognized by how they begin. Identifiers: masked in counselling and clinical sources, where the source says so; in a
person's own files they are counted, and the person is warned.

Patterns find likely identifiers, not all of them: this is no de-identification in the sense of any law.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any

from finetune.data.records import Malformed

SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
UNSEEN = "\u00ad\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\ufeff" + "".join(
    map(chr, range(0x2066, 0x2070))
)
LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"}
CHARACTERS = {
    **{chr(code): "" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)},
    **dict.fromkeys("\x0b\x0c\r\x85\u2028\u2029", "\n"),
    **dict.fromkeys(SPACES, " "),
    **dict.fromkeys(UNSEEN, ""),
    **LIGATURES,
}
PLAIN = b"\t\n" + bytes(range(0x20, 0x7F))
KOREAN_ENDINGS = [chr(code) for code in range(0x1160, 0x1200)]

# How paragraphs begin that say nothing of medicine. Each is bounded: a paragraph longer than this is not thrown away.
LONGEST_BOILERPLATE = 1500
OPENINGS = r"""
    open\ in\ a\ (?:separate|new)\ window(?!\ of\b) | click\ here\ for\ additional\ data\ file
    | (?:(?:the\ )?(?:online|electronic)\ version\ (?:of\ this\ article\ )?contains\ supplementary\ material
      | supplementary\ (?:information|material|data)\ (?:is|are)\ available\ (?:at|online|for\ this))
      (?:[^.\n]|\.(?=\S)){0,300}\.?\ *$  # a sentence alone
    | publisher['’]s\ notes?:?\ *$
    | all\ claims\ expressed\ in\ this\ article\ are\ solely\ those\ of\ the\ authors
    | (?:\W{0,9}\(?(?:c|copyright|©)\)?\W.{0,160}?)?
      this\ (?:is\ an\ open[ -]access\ article|article\ is\ (?:an\ open[ -]access|licensed|distributed|published))
      .{0,80}\b(?:licen[sc]ed?|distributed|terms|creative\ commons)\b
    | (?:©|copyright\b|\(c\)\ *(?=the\ author|[12]\d{3})).{0,200}
      (?:all\ rights\ reserved|licen[sc]ee\b|creative\ commons|open\ access)
    | licen[sc]ee\ (?:mdpi|biomed\ central|springer|elsevier|dove|oxford)
    | for\ commercial\ re-?use,\ please\ contact
    | reprints\ and\ permissions?\b.{0,60}$
    | the\ images\ or\ other\ third[ -]party\ material\ in\ this\ article\ are\ included
    | to\ view\ a\ copy\ of\ this\ licen[sc]e,?\ visit
    """
NEUTRALITY = "jurisdictional claims"  # in a sentence that begins with a publisher, whichever it is
BOILERPLATE = re.compile(
    rf"""(?ix) {OPENINGS} | (?:publisher['’]s\ note:?\ *)?
    [\w\ ,.]{{2,60}}\ (?:remains?|stays)\ neutral\ with\ regard\ to\ (?-i:{re.escape(NEUTRALITY)})"""
)
BOILERPLATE_LINE = re.compile(r"(?i)[ \t]*open in a (?:separate|new) window[ \t]*")
# What begins any line as boilerplate does. Patterns of whole texts begin with a line's end: it is what they are searched for by.
LIKE_BOILERPLATE = re.compile(rf"(?imx) \n[ \t]*+(?!\n) (?:{OPENINGS})")
SPARE_SPACE = re.compile(r"\n(?:(?<=[ \t]\n)|\n\n)")
BLANK_LINES = re.compile(r"\n{3,}")

# Telephone numbers as they are written: what is grouped otherwise, or counts something, is a figure of medicine.
COUNTRY = (
    r"(?:7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|(?:2[1-689]|3[578]|42|5[09]|6[789]|8[0578]|9[679])\d)"
)
COUNTED = (
    r"(?!\s{0,2}(?:[%‰×^]|(?:cells?|copies|cfu|pfu|iu|units?|people|patients|persons?|participants|women|men|children|cases|deaths"
    r"|reads|births|inhabitants|per|[mµunk]?g|m?l|[mc]?m|years?|days?|dollars|euros|usd|eur|bp|kb)\b))"
)
TELEPHONE = re.compile(
    r"(?<![\w.+/-])(?:"
    # +1 301 496 5133, 1-800-422-6237, (301) 496-5133, 301-496-5133, 301.496.5133, 301 496-5133
    r"\+1[ .-]?\(?[2-9]\d\d\)?[ .-]?[2-9]\d\d[ .-]?\d{4}|(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[.-])[2-9]\d\d[ .-]\d{4}"
    r"|[2-9]\d\d [2-9]\d\d-\d{4}"
    # +44 20 7946 0958, +49 (0)30 123456, +34 612 345 678, 0033 1 23 45 67 89; not +30 500 000 000
    rf"|(?!\+\d{{1,3}}(?:[ .]\d{{3}})*[ .]000(?!\d))(?:\+{COUNTRY}[ .-]?|00{COUNTRY}[ .-])(?:\(0\)[ .-]?)?"
    r"(?:[1-9]|(?<=39[ .-])0)(?:[ .()/-]{0,2}\d){6,12}"
    # 020 7946 0958, (0161) 496 0000, 030/12345678: 9 to 12 digits; 01 23 45 67 89
    r"|(?=\(?0(?:[ ()/-]{0,3}\d){8,11}(?![ ()/-]{0,3}\d))"
    r"(?:\(0[1-9]\d{0,4}\) ?|0[1-9]\d{1,4}(?: ?/ ?|[ -]))\d{2,8}(?:[ -]\d{2,6}){0,4}"
    r"|0[1-9](?:(?: \d\d){4}|(?:\.\d\d){4}|(?:-\d\d){4})"
    # digits and spaces alone are a number of anything, unless a word says that one can be called
    r"|(?i:(?<=\bcall )|(?<=\bphone )|(?<=\bphone: )|(?<=\btel )|(?<=\btel\. )|(?<=\btel: )|(?<=\bfax )|(?<=\bfax: )|(?<=\bmobile )"
    r"|(?<=\bmobile: )|(?<=\btelephone )|(?<=\btelephone: )|(?<=\bme at )|(?<=\bme on )|(?<=\bus at )|(?<=\bus on ))"
    r"\+?\(?\d(?:[ ().-]{0,2}\d){7,13}"
    rf")(?![\w/]|[ .-]?\d|-\w){COUNTED}(?:,? ?(?i:ext\.?|extension|x) ?\d{{1,5}}\b)?"
)
IDENTIFIERS = {
    "link with a token": re.compile(
        r"(?i)\b(?:https?://|www\.)(?:[^\s/@:]{1,99}:[^\s/@]{1,99}@\S{1,500}|[^\s?#]{1,300}[?#][^\s]{0,500}?"
        r"(?:token|key|sig|signature|session|sessionid|auth|password|pwd|code|sid)=[^\s)>\]]{1,500}"
        r"|[^\s?#]{1,300}/(?:eyJ[\w-]{8}|(?:reset|verify|confirm|invite|token|magic|unsubscribe|login|auth)[\w-]{0,20}/[\w.=-]{12})"
        r"[^\s)>\]]{0,500})"
    ),
    "e-mail address": re.compile(
        r"(?<![\w.+-])[\w.+-]{1,64}(?:@| ?[(\[]at[)\]] ?)(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"
    ),
    "social security number": re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])"),
    "medical record number": re.compile(
        r"(?i)\b(?:mrn|medical record (?:number|no\.?)|patient id|hospital (?:number|no\.?))\s{0,3}[:#]?\s{0,3}\d[\d-]{3,14}\b"
    ),
    "telephone number": TELEPHONE,
    "date of birth": re.compile(
        r"(?i)\b(?:d\.?o\.?b\.?|date of birth|born on)\s{0,3}:?\s{0,3}"
        r"(?:\d{1,4}[/.-]\d{1,2}[/.-]\d{1,4}|\w{3,9} \d{1,2},? \d{4}|\d{1,2} \w{3,9} \d{4})"
    ),
    "name of a patient": re.compile(
        r"\b[Pp]atient(?:'s)? [Nn]ame\s{0,3}[:=]\s{0,3}[A-Z][\w'-]{1,40}(?:,? [A-Z][\w'-]{0,40}){0,3}"
    ),
}
MASKED = ("link with a token", "e-mail address", "social security number", "medical record number", "telephone number")
MASKS = {kind: f"[{kind}]" for kind in MASKED}


def cleaned(content: dict[str, Any], *, masks_identifiers: bool) -> tuple[dict[str, Any], Counter[str]]:
    """The content with every text of it cleaned, and counts of what was done. Raises Malformed where nothing is left."""
    done: Counter[str] = Counter()

    def clean(text: str) -> str:
        found = without_boilerplate(normalized(text), done)
        if masks_identifiers:
            found = masked(found, done)
        if not (found := found.strip()):
            raise Malformed("nothing but boilerplate")
        return found

    return over_texts(content, clean), done


def over_texts(content: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The content with every text of it changed: of messages, running text, a question and its options."""
    if "messages" in content:
        return {"messages": [{**turn, "content": change(turn["content"])} for turn in content["messages"]]}
    if "text" in content:
        return {"text": change(content["text"])}
    options = {letter: change(option) for letter, option in content["options"].items()}
    return {"question": change(content["question"]), "options": options, "answer": content["answer"]}


def texts_of(content: dict[str, Any]) -> list[str]:
    """Every text of the content."""
    found: list[str] = []
    over_texts(content, lambda text: found.append(text) or text)  # type: ignore[func-returns-value]
    return found


def normalized(text: str) -> str:
    """The text in one Unicode form, with plain spaces, and at most one blank line between paragraphs."""
    # Bytes are looked through in a fifth of the time that characters take, and most texts need no more than that.
    encoded = text.encode("utf-8", "surrogatepass")
    if odd := {it for it in set(encoded.translate(None, PLAIN).decode("utf-8", "surrogatepass")) if not stays(it)}:
        text = text.replace("\r\n", "\n")
        for character in odd & CHARACTERS.keys():
            text = text.replace(character, CHARACTERS[character])
        # Only now: what went may have stood between a letter and its accent.
        text = composed(text, odd - CHARACTERS.keys())
    if SPARE_SPACE.search(text) or text.endswith((" ", "\t")):
        text = "\n".join(line.rstrip(" \t") for line in text.split("\n"))
        text = BLANK_LINES.sub("\n\n", text)
    return text


def composed(text: str, marks: set[str]) -> str:
    """NFC of the lines in which one of these stands. Nothing is composed across a line's end."""
    if not marks:
        return text
    lines = text.split("\n")
    return "\n".join(
        unicodedata.normalize("NFC", line) if any(mark in line for mark in marks) else line for line in lines
    )


@functools.cache
def stays(character: str) -> bool:
    """Whether a character is the same in a normalized text, whatever stands before it: no mark, no part of a Korean syllable."""
    may_join = unicodedata.category(character).startswith("M") or character in KOREAN_ENDINGS
    return character not in CHARACTERS and not may_join and unicodedata.is_normalized("NFC", character)


def without_boilerplate(text: str, done: Counter[str]) -> str:
    """The text without the paragraphs and lines that publishers put into every article; they are counted in `done`."""
    if not LIKE_BOILERPLATE.search(f"\n{text}") and NEUTRALITY not in text:
        return text
    kept = []
    for paragraph in text.split("\n\n"):
        if "\n" in paragraph:
            lines = paragraph.split("\n")
            left = [it for it in lines if not BOILERPLATE_LINE.fullmatch(it)]
            done["boilerplate"] += len(lines) - len(left)
            if not left:
                continue
            paragraph = "\n".join(left)
        if len(paragraph) > LONGEST_BOILERPLATE or not BOILERPLATE.match(paragraph.lstrip()):
            kept.append(paragraph)
        else:
            done["boilerplate"] += 1
    return "\n\n".join(kept)


def masked(text: str, done: Counter[str]) -> str:
    """The text with each likely identifier replaced by its kind in brackets."""
    for kind, mask in MASKS.items():
        text, count = IDENTIFIERS[kind].subn(mask, text)
        done[f"masked {kind}"] += count
    return text


def likely_identifiers(content: dict[str, Any]) -> set[str]:
    """The kinds of identifiers of people that the content seems to hold."""
    found = set()
    for text in texts_of(content):
        for kind, pattern in IDENTIFIERS.items():
            text, count = pattern.subn("", text)  # what is one kind is no other: a link's password is no e-mail address
            found |= {kind} if count else set()
    return found


def language_of(content: dict[str, Any]) -> str:
    """The likeliest language of the content, as an ISO 639-1 code."""
    import py3langid

    return str(py3langid.classify(" ".join(texts_of(content))[:2000])[0])
