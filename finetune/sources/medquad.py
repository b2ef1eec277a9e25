"""`medquad:DIR`: MedQuAD's question-answer pairs from NIH websites (CC BY 4.0), from a full copy or one of its folders.

    medllama prepare --source medquad:MedQuAD --output-dir OUT

A file is `<Document id><QAPairs><QAPair><Question/><Answer/>`, but some are `<doc docid><qaPairs><pair><question/>...` or
`<DiseaseFile fid>`, so names are compared without case and namespace and any root will do that holds pairs. Every pair
becomes a record or is counted with its reason; three folders have no answers, their publisher took them out. A file
that cannot be read, or is XML of another kind, is counted as one bad thing and named.

The document id is `FOLDER/ID`. Ten files of the real set share two ids: they are parts of two web pages, so sharing an
id rightly keeps them in one split.

The files are hostile input: entities are never expanded, nothing is fetched, size and depth are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lxml import etree

from finetune.data.records import Dropped, Malformed, Record, conversation
from finetune.sources import Source, SourceRequest
from medllama.errors import InputError

LICENCE = "CC-BY-4.0"
MAXIMUM_FILE_BYTES = 16_000_000  # the largest real file has 60 kB

CONTAINERS, PAIRS = {"qapairs"}, {"qapair", "pair"}
ID_ATTRIBUTES = ("id", "docid", "fid")
BLOCK_TAGS = {"p", "div", "section", "br", "ul", "ol", "table", "tr", "h1", "h2", "h3", "h4", "h5", "h6"}


@dataclass
class Pair:
    """One question and what answers it, as found; `line` is where it begins."""

    line: int
    question: str | None = None
    answers: list[str] = field(default_factory=list)


def read(request: SourceRequest) -> Iterator[Record | Dropped]:
    """A Record or a Dropped for each pair, and a Dropped for each file that is no MedQuAD file."""
    for path in inputs(request):
        yield from read_file(request, path)


def read_file(request: SourceRequest, path: Path) -> Iterator[Record | Dropped]:
    """The same for one file."""
    try:
        root = parse_file(path)
        pairs = pairs_of(root)
    except Malformed as error:
        yield Dropped(error.reason, str(path), error.detail)
        return
    except etree.XMLSyntaxError as error:
        yield Dropped("not XML", f"{path}:{error.lineno or 1}", " ".join(str(error.msg).split()))
        return
    attributes = {_local_name(key): value.strip() for key, value in root.attrib.items()}
    identity = next((attributes[key] for key in ID_ATTRIBUTES if attributes.get(key)), path.stem)
    document_id = f"{path.absolute().parent.name}/{identity}"
    for pair in pairs:
        yield _outcome(pair, request, document_id, path)


def inputs(request: SourceRequest) -> list[Path]:
    """The XML files at any depth, sorted; InputError where there are none."""
    folder = request.required_path()
    if not folder.is_dir():
        raise InputError(
            f"{folder} is {'a file, not a folder' if folder.exists() else 'missing'}",
            hint="give the folder of a copy of MedQuAD (https://github.com/abachaa/MedQuAD), or one of its folders",
        )
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".xml" and path.is_file())
    if not files:
        raise InputError(f"{folder} holds no .xml file", hint="give the folder that holds 1_CancerGov_QA and its like")
    return files


def _outcome(pair: Pair, request: SourceRequest, document_id: str, path: Path) -> Record | Dropped:
    place = f"{path}:{pair.line}"
    question = " ".join((pair.question or "").split())
    answer = "\n\n".join(filter(None, map(clean_answer, pair.answers)))
    if not answer:
        return Dropped("empty answer", place, is_bad=False)
    if not question:
        return Dropped("no question", place)
    try:
        content = conversation([("user", question), ("assistant", answer)])
    except Malformed as error:
        return Dropped(error.reason, place, error.detail)
    return Record(content, request.kind, document_id, LICENCE)


# ------------------------------------------------------------------------------------------------------------- XML


def parse_file(path: Path) -> Any:
    """The root element of a file. Raises XMLSyntaxError, or Malformed for what is well-formed and refused."""
    if (size := path.stat().st_size) > MAXIMUM_FILE_BYTES:
        raise Malformed("file too large", f"{size:,} bytes, at most {MAXIMUM_FILE_BYTES:,} are read")
    # Nothing may stand before an XML declaration, but in copies a blank line does. It goes, and is no line of the file.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    root = etree.fromstring(path.read_bytes().lstrip(b" \t\r\n"), parser)
    document_type = root.getroottree().docinfo.internalDTD
    declares = document_type is not None and any(True for _ in document_type.iterentities())
    if declares or any(True for _ in root.iter(etree.Entity)):
        raise Malformed("XML entities", "entities of a file's own are never expanded, so its text would be incomplete")
    return root


def pairs_of(root: Any) -> list[Pair]:
    """The pairs in the order of the document, also where a question and its answer have no element around them.

    Raises Malformed, naming the root, where the file is XML of another kind.
    """
    names = {_local_name(element.tag) for element in root.iter(etree.Element)}
    if not names & (CONTAINERS | PAIRS):
        raise Malformed("not MedQuAD", f"root <{etree.QName(root).localname}> holds no QAPairs")
    pairs: list[Pair] = []
    _collect(root, pairs)
    return pairs


def _collect(element: Any, pairs: list[Pair]) -> None:
    """Add the pairs below `element`; depth is bounded by the parser."""
    for child in element.iterchildren(etree.Element):
        name = _local_name(child.tag)
        if name == "question":
            if not pairs or pairs[-1].question is not None:
                pairs.append(Pair(child.sourceline))
            pairs[-1].question = _text_of(child)
        elif name == "answer":
            if not pairs:
                pairs.append(Pair(child.sourceline))
            pairs[-1].answers.append(_text_of(child))
        else:
            if name in PAIRS:
                pairs.append(Pair(child.sourceline))
            _collect(child, pairs)


def _text_of(element: Any) -> str:
    """The text of an element and all inside it; markup of blocks and list items becomes line breaks."""
    parts = [element.text or ""]
    for child in element:
        if isinstance(child.tag, str):  # comments and processing instructions have a function there
            name = _local_name(child.tag)
            before = "\n\n" if name in BLOCK_TAGS else "\n- " if name == "li" else " " if name in ("td", "th") else ""
            parts += [before, _text_of(child), before and "\n"]
        parts.append(child.tail or "")
    return "".join(parts)


def _local_name(tag: str) -> str:
    """`{namespace}QAPair` -> `qapair`."""
    return tag.rpartition("}")[2].lower()


# ------------------------------------------------------------------------------------------------------------ text


def clean_answer(text: str) -> str:
    """The answer with its paragraphs and lists as lines and without other runs of whitespace.

    The set was scraped: a break is a blank line, a newline with an indent, or a run of three spaces and more; two
    spaces end a sentence, unless a list item (`- `) follows.
    """

    def replacement(run: re.Match[str]) -> str:
        start, end = run.span()
        if text[start - 1 : start] == "-" and (start == 1 or text[start - 2].isspace()):
            return " "  # after the dash of a list item
        item_follows = text[end : end + 1] == "-" and text[end + 1 : end + 2].isspace()
        breaks = run.group().count("\n")
        if item_follows and end - start > 1:
            return "\n"
        if breaks > 1:
            return "\n\n"
        return "\n" if breaks or end - start > 2 else " "

    return re.sub(r"\s+", replacement, text).strip()


SOURCE = Source(
    example="medquad:DIR",
    read=read,
    read_file=read_file,
    inputs=inputs,
    licence=LICENCE,
    attribution=(
        "MedQuAD, from NIH websites: Asma Ben Abacha and Dina Demner-Fushman, A Question-Entailment Approach to Question "
        "Answering, BMC Bioinformatics 20, 511 (2019), https://doi.org/10.1186/s12859-019-3119-4"
    ),
    url="https://github.com/abachaa/MedQuAD",
    # A stray file among pairs is named and passed over; a folder of which most is unreadable is not MedQuAD.
    maximum_bad_share=0.5,
)
