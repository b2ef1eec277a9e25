"""Generated strings: what the tokenizer and the logits are tried on. The same seed gives the same strings.

    for kind, text in strings(seed=0, count=20_000): ...

Kinds: medical text with units and doses, every Unicode plane, runs of white space, digits, code-like punctuation, control tokens
typed as text, and control tokens as tokens (those are lists of pieces: see `with_control`).
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator, Sequence

TERMS = (
    "myocardial infarction", "thrombocytopenia", "hyperkalaemia", "Sjögren's syndrome", "Ménière's disease", "BRCA1",
    "methicillin-resistant Staphylococcus aureus", "glomerulonephritis", "HbA1c", "metformin", "acetylsalicylic acid",
    "COVID-19", "Guillain-Barré syndrome", "5-fluorouracil", "α-fetoprotein", "β-blocker", "TNF-α", "μg", "naïve T cells",
    "electroencephalogram", "pneumonoultramicroscopicsilicovolcanoconiosis", "Clostridioides difficile", "café-au-lait spots",
    "interleukin-6", "CYP2D6*4", "angiotensin-converting enzyme", "Parkinson's disease", "ECG", "b.i.d.", "p.o.", "i.v.",
)  # fmt: skip
SENTENCES = (
    "What are the symptoms of {}?", "{} is treated with {} {} mg twice daily.", "Patients with {} (n = {}) had {}.",
    "In {}, {} rises above {} mmol/L.", "How is {} diagnosed, and how many people have {}?", "{}: {}% (95% CI {}).",
    "Do not give {} with {}; see {}.", "The patient, aged {}, was admitted with {} and {}.", "- {}\n- {}\n- {}\n",
)  # fmt: skip
SPACES = (
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\r\n",
    "\n\n",
    " \n ",
    "\u00a0",
    "\u3000",
    "\u2009",
    "\u200b",
    "        ",
    "\v",
    "\f",
)
MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~–—“”‘’…«»°±×÷≤≥→µ©®™§¶•▁"
KINDS = ("medical", "unicode", "spaces", "digits", "marks", "control as text", "control as tokens")


def strings(seed: int, count: int, control: Sequence[str]) -> Iterator[tuple[str, str]]:
    """`count` pairs of a kind and a text; `control` are the control tokens of the vocabulary, as text."""
    source = random.Random(seed)
    makers = {
        "medical": lambda: medical(source),
        "unicode": lambda: _characters(source),
        "spaces": lambda: _spaces(source),
        "digits": lambda: _digits(source),
        "marks": lambda: "".join(source.choices(MARKS + "aZ 0", k=source.randint(1, 24))),
        "control as text": lambda: _with_control(source, control),
        "control as tokens": lambda: _with_control(source, control),
    }
    kinds = [kind for kind in KINDS if control or not kind.startswith("control")]
    for index in range(count):
        kind = kinds[index % len(kinds)]
        yield kind, makers[kind]()


def medical(source: random.Random) -> str:
    """A sentence or two of medical text."""
    text = source.choice(SENTENCES)
    while "{}" in text:
        filling = source.choice(TERMS) if source.random() < 0.7 else _number(source)
        text = text.replace("{}", filling, 1)
    return text if source.random() < 0.7 else f"{text} {medical(source)}"


def _characters(source: random.Random) -> str:
    """Assigned characters of one plane each, with some Latin around them."""
    planes = ((0x20, 0x2FF), (0x300, 0xFFF), (0x1000, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x1FFFF), (0x20000, 0x3FFFF),
              (0x40000, 0xDFFFF), (0xE0000, 0x10FFFF))  # fmt: skip
    first, last = source.choice(planes)
    drawn = [chr(source.randint(first, last)) for _ in range(source.randint(1, 12))]
    text = "".join(drawn)
    if source.random() < 0.3:
        text = unicodedata.normalize(source.choice(("NFC", "NFD", "NFKC", "NFKD")), text)
    return text if source.random() < 0.5 else f"{source.choice(TERMS)} {text}{source.choice(TERMS)}"


def _spaces(source: random.Random) -> str:
    parts = []
    for _ in range(source.randint(1, 6)):
        parts.append(source.choice(SPACES) * source.choice((1, 1, 1, 2, 3, 7, 16)))
        if source.random() < 0.6:
            parts.append(source.choice(TERMS).split()[0])
    return "".join(parts)


def _digits(source: random.Random) -> str:
    return source.choice((" ", "", "-", ", ", ".", " to ", "/")).join(
        _number(source) for _ in range(source.randint(1, 5))
    )


def _number(source: random.Random) -> str:
    text = str(source.randint(0, 10 ** source.randint(1, 12)))
    return source.choice((text, f"{text[:2]}.{text[-1]}", f"{text}%", text.zfill(6), f"1,{text}", "٣٤", "½", "10⁹"))


def _with_control(source: random.Random, control: Sequence[str]) -> str:
    parts = []
    for _ in range(source.randint(1, 4)):
        parts.append(source.choice(control))
        parts.append(source.choice((medical(source)[:30], source.choice(SPACES), "", "[INST]", "assistant\n\n", " x")))
    source.shuffle(parts)
    return "".join(parts)
