"""What the stylesheet made of an article -> paragraphs: citations go without gluing or stranding words, white space is clean.

    readable("\\ufdd0Gout hurts [\\ufdd3,\\ufdd3].") == "Gout hurts."

A citation by number goes with its brackets, ranges, separators and filling words ("see", "and references therein"); so does one by
name in brackets. A name that is a word of its sentence stays without its year: "Rossi et al. (2010) found" -> "Rossi et al.
found".
"""

from __future__ import annotations

import re

PARAGRAPH, LINE, TAB, CITED, NAME, END, STEP = (chr(0xFDD0 + number) for number in range(7))
STEPS = re.compile(f"^{STEP}+", re.MULTILINE)
NOTHING_TO_MOVE = re.compile(f"{STEP}[{STEP} ]*(?=[{LINE}{PARAGRAPH}]|$)")
# All that str.isspace() knows, but the space itself.
WIDTHS = "".join(map(chr, range(0x2000, 0x200B)))
OTHER_SPACES = f"\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\xa0\u1680{WIDTHS}\u2028\u2029\u202f\u205f\u3000"
# A space before another, or before a sign that wants none. This and what follows begins with one character, which is found fast.
NEEDLESS_SPACE = re.compile(f" (?=[ )\\]^.,;])(?: *(?= )|(?![.,;][^ {PARAGRAPH}{LINE}]))")
EMPTY = (re.compile(r"\((?:e\.g\.|i\.e\.)?[\s,;.]*\)"), re.compile(r"\[[\s,;.]*\]"))
EMPTY_WITH_SPACE = re.compile("|".join(f" ?{empty.pattern}" for empty in EMPTY))
NEARBY = 120  # characters before a citation that may belong to it

ONE = f"(?:{CITED}|{NAME}[^{NAME}{END}{PARAGRAPH}]*{END})"
BETWEEN = r"(?:[\s,;/&–—−‐-]|\d{1,3}(?!\d)|and\b|or\b|to\b|e\.g\.|[\])]\s*[,;–—-]?\s*[\[(])"
GROUP = re.compile(f"{ONE}(?:{BETWEEN}*{ONE})*")
OPENING = re.compile(f"\\s*[\\[(]([^\\[\\](){PARAGRAPH}]{{0,80}})$")
CLOSING = re.compile(f"([^\\[\\](){PARAGRAPH}]{{0,80}})[\\])]")
FILLER = re.compile(
    # Each text can be read in one way only: with a second way to read a digit or a period, forty of them take hours.
    r"(?:see|also|but|e\.?g|i\.?e|cf|and|or|in|by|from|as|of|for|the|an?|recent(?:ly)?|previously|references?|refs?|"
    r"therein|citations?|review(?:s|ed)?|summari[sz]ed|described|discussed|reported|shown|example|details?|more|others?|among|"
    r"pp?\.|chapters?|ch\.|[\d\s,;:.–—−&-])*",
    re.IGNORECASE,
)
CLOSING_SIGN = re.compile(r"[\])]")
END_OF_BRACKETS = re.compile(r"\s*[\])]")
GLUED = re.compile(r"[.,;:][^\W\d_]")
LETTER = re.compile(r"[^\W\d_]{2}")  # a citation that holds a word is one by name: "Rossi et al. 2010"
HEAD = re.compile(r"([\[(])\s*(?:(?:see|also|e\.g\.,?|reviewed in)\s*)*$")
SEPARATOR = re.compile(r"\s*[;,]\s*|\s+and\s+")
TAIL = re.compile(r"(?:\s*[;,]\s*|\s+and\b\s*)(?:(?:see|also|e\.g\.,?|and|reviewed in)\s*)*$")
# "as described in [3]" and "see [3]" lose their last word too; "in [3], Rossi" begins anew.
POINTERS = (
    "in",
    "by",
    "from",
    "of",
    "see",
    "also",
    "cf",
    "cf.",
    "ref",
    "ref.",
    "refs",
    "refs.",
    "reference",
    "references",
)
POINTING = re.compile(
    f"(^|[\\s({PARAGRAPH}{LINE}])"
    r"(?:(?:in|by|from|of|see|see also) )?(?:in|by|from|of|see|also|cf\.?|refs?\.?|references?)\s*$",
    re.IGNORECASE,
)
# "as in [3]," and "as in [3] and": what the word compared with is gone.
DANGLING_AS = re.compile(r"(?<!\w)as$", re.IGNORECASE)
ENDS_A_THOUGHT = re.compile(r"\s*(?:[.,;:)\]]|(?:and|or)\b|$)")
YEAR = re.compile(r"[\s,]*[\[(]?\s*\b(?:1[89]|20)\d\d[a-z]?\s*[\])]?\s*$")


def readable(marked: str) -> str:
    """The paragraphs, apart by blank lines; lines within one (list items, formulas, table rows) by line breaks."""
    text = without_citations(marked) if CITED in marked or NAME in marked else marked
    text = tidy(text)
    if STEP in text:  # an item that is empty leaves no line of spaces
        text = NOTHING_TO_MOVE.sub("", text)
    paragraphs = (
        "\n".join(filter(None, map(str.strip, block.split(LINE)))) if LINE in block else block.strip()
        for block in text.split(PARAGRAPH)
    )
    text = "\n\n".join(filter(None, paragraphs))
    if TAB in text:
        text = text.replace(f" {TAB}", TAB).replace(f"{TAB} ", TAB).replace(TAB, "\t")
    if STEP in text:
        text = STEPS.sub(lambda steps: "  " * len(steps.group()), text).replace(STEP, "")
    for mark in (CITED, NAME, END):  # of an article that holds such characters of its own
        text = text.replace(mark, "")
    return text


def tidy(text: str) -> str:
    """White space made single and taken from where none belongs; brackets that lost their content gone."""
    for space in OTHER_SPACES:
        text = text.replace(space, " ")
    text = NEEDLESS_SPACE.sub("", text).strip(" ")
    for opening in "([^":
        first, *others = text.split(opening)
        text = opening.join([first, *(it.removeprefix(" ") for it in others)])
    if any(empty.search(text) for empty in EMPTY):
        text = EMPTY_WITH_SPACE.sub("", text)
    return text.replace(",.", ".")


def without_citations(text: str) -> str:
    """A marked text without its citations."""
    parts: list[str] = []
    position = 0
    for group in GROUP.finditer(text):
        near = max(position, group.start() - NEARBY)
        parts.append(text[position:near])
        before, after = text[near : group.start()], text[group.end() : group.end() + NEARBY]
        kept, before, consumed = _resolved(before, group.group(), after)
        position = group.end() + consumed
        parts += [_joined(before, kept or text[position : position + 1]), kept]
        if GLUED.match(text, position):  # "[3].The"
            parts.append(text[position] + " ")
            position += 1
    parts.append(text[position:])
    return "".join(parts)


def _resolved(before: str, group: str, after: str) -> tuple[str, str, int]:
    """What stays in a group's place, what stays before it, and how many characters go behind it."""
    consumed, is_alone = 0, False
    if before.endswith(("[", "(")) and after.startswith(("]", ")")):  # nearly all, so it is worth a shorter way
        before, consumed, is_alone = before[:-1].rstrip(), 1, True
    # Brackets go from the inside out: "(see [3] and references therein)".
    while ("(" in before or "[" in before) and CLOSING_SIGN.search(after, consumed):
        opening, closing = OPENING.search(before), CLOSING.match(after, consumed)
        if not (opening and closing and FILLER.fullmatch(opening[1]) and FILLER.fullmatch(closing[1])):
            break
        before, consumed, is_alone = before[: opening.start()], closing.end(), True
    if ("(" in before or "[" in before) and HEAD.search(before) and (separator := SEPARATOR.match(after, consumed)):
        return "", HEAD.sub(r"\1", before), separator.end()  # "([3]; mice only)"
    if END_OF_BRACKETS.match(after, consumed) and (tail := TAIL.search(before)):
        return "", before[: tail.start()], consumed  # "(mice only; [3])"
    if not is_alone and LETTER.search(group):
        return _spoken(group), before, 0
    return _without_pointing(before, after, consumed)


def _without_pointing(before: str, after: str, consumed: int) -> tuple[str, str, int]:
    """Without a word that pointed at the citation, where white space stood between the two; a capital may take the place."""
    words = before.rstrip()
    stood_apart = consumed or words != before
    pointing = POINTING.search(words) if stood_apart and words.lower().endswith(POINTERS) else None
    if pointing is None:
        return "", before, consumed
    kept = words[: pointing.end(1)].rstrip()
    if ENDS_A_THOUGHT.match(after, consumed):
        kept = DANGLING_AS.sub("", kept).rstrip()
    begins_sentence = not kept or (kept[-1] in ".?!" + PARAGRAPH + LINE and not kept.endswith("al."))
    if begins_sentence:
        comma = re.match(r"\s*,\s*", after[consumed:])
        if comma is None:  # "In [3] mice ran" is no better without its "In"
            return "", before, consumed
        begins = consumed + comma.end()
        return after[begins : begins + 1].upper(), f"{kept} " if kept else "", begins + 1
    return "", kept, consumed


def _spoken(group: str) -> str:
    """Names that are words of a sentence, without their years."""
    return re.sub(
        f"{NAME}([^{END}]*){END}", lambda name: YEAR.sub("", name[1]) or name[1], group.replace(CITED, "")
    ).strip()


def _joined(before: str, following: str) -> str:
    """`before`, ending so that `following` stands well behind it."""
    trimmed = before.rstrip()
    if following[:1] in (".", ",", ";", ":", ")", "]", "?", "!"):
        if following in ".,;)]":  # "(Rossi, 2010; Li, 2011)" -> "(Rossi; Li)"
            trimmed = trimmed.rstrip(" ,;")
        return trimmed[:-1] if following == "." and trimmed.endswith(".") else trimmed
    if trimmed == before and before and following and not following.isspace():
        is_glued = before[-1].isalnum() or (before[-1] in ".,;:)" and following[:1].isalpha())
        return before + " " if is_glued and following[:1].isalnum() else before
    return before
