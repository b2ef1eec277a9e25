"""The embedded corpus: a table of medical facts and their wordings, rendered into articles, questions and a test.

    facts.tsv      kind, name, attribute, value, as_of         what is true
    wordings.yaml  kind -> attribute -> ways of saying it      how it is said

    render_articles         prose: the pretraining text of the tiny base       (recipes/tiny/make_base.py)
    render_questions        question and answer, in wordings of one split      (training, validation, held-out test)
    render_multiple_choice  a held-out question and four options of one kind   (the score of the tuned model)

One table for all of them, so that a person corrects a fact in one place and the base, the training data and the test
follow. The splits share the facts and differ in the wordings: what the test measures is whether the model can be asked
about what it knows in words that it was not trained on. Everything is a function of its arguments and a seed.

    python -c "from finetune.data.tiny_corpus import *; from pathlib import Path; t = Path('recipes/tiny');
    print(render_questions(load_facts(t / 'facts.tsv'), load_wordings(t / 'wordings.yaml'), split='test')[0])"

It does not judge whether a fact is true, and it writes no files.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any, Literal, NamedTuple, get_args

import yaml

from medllama.errors import InputError

COLUMNS = ("kind", "name", "attribute", "value", "as_of")
LETTERS = ("A", "B", "C", "D")
Split = Literal["train", "validation", "test"]


class Fact(NamedTuple):
    """One row of the table: the `attribute` of `name` is `value`; `as_of` is a year where the fact may age, else ''."""

    kind: str
    name: str
    attribute: str
    value: str
    as_of: str

    @property
    def article_id(self) -> str:
        """The document that tells of this entity: 'gene/CFTR'."""
        return f"{self.kind}/{self.name.replace(' ', '-')}"

    @property
    def document_id(self) -> str:
        """The document of this one fact: 'gene/CFTR/protein'."""
        return f"{self.article_id}/{self.attribute}"


class Article(NamedTuple):
    document_id: str
    text: str


class Question(NamedTuple):
    document_id: str
    question: str
    answer: str


class MultipleChoiceItem(NamedTuple):
    document_id: str
    question: str
    options: dict[str, str]
    answer: str


@dataclass(frozen=True)
class AttributeWordings:
    """The ways of saying one attribute of one kind, and which of its values are no fair wrong options.

    `overlapping` groups hold values that can be true of one entity at once. `widespread` values are true of entities
    beyond those that the table gives them to.
    """

    articles: tuple[str, ...]
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    answer: str = "{Value}."
    overlapping: tuple[frozenset[str], ...] = ()
    widespread: frozenset[str] = frozenset()


Wordings = dict[tuple[str, str], AttributeWordings]
"""(kind, attribute) -> its wordings."""


# ---------------------------------------------------------------------------------------------------- rendering


def render_articles(facts: Sequence[Fact], wordings: Wordings, *, seed: int = 0, variants: int = 1) -> list[Article]:
    """`variants` articles on each entity: its name as heading, then its facts in any order and wording."""
    _require_wordings(facts, wordings)
    draw = random.Random(f"articles {seed}")
    articles = []
    for entity_facts in _by_entity(facts).values():
        for _ in range(variants):
            ordered = draw.sample(entity_facts, len(entity_facts))
            sentences = [_say(draw.choice(wordings[fact.kind, fact.attribute].articles), fact) for fact in ordered]
            heading = _capitalized(ordered[0].name)
            articles.append(Article(ordered[0].article_id, f"{heading}\n{' '.join(sentences)}"))
    return articles


def render_questions(
    facts: Sequence[Fact],
    wordings: Wordings,
    *,
    split: Split,
    wordings_per_fact: int | None = None,
    seed: int = 0,
) -> list[Question]:
    """Every fact asked in `wordings_per_fact` wordings of the split, drawn at random; in all of them by default."""
    _require_wordings(facts, wordings)
    if split not in get_args(Split):
        raise InputError(f"no split is called {split!r}", hint=f"it is one of {', '.join(get_args(Split))}")
    draw = random.Random(f"questions {split} {seed}")
    questions = []
    for fact in facts:
        ways = wordings[fact.kind, fact.attribute]
        asked: tuple[str, ...] = getattr(ways, split)
        if wordings_per_fact is not None:
            asked = tuple(draw.sample(asked, min(wordings_per_fact, len(asked))))
        questions += [Question(fact.document_id, _say(way, fact), _say(ways.answer, fact)) for way in asked]
    return questions


def render_multiple_choice(
    facts: Sequence[Fact], wordings: Wordings, *, count: int = 500, seed: int = 0
) -> list[MultipleChoiceItem]:
    """`count` held-out questions with four options each: the answer and three values that other entities have.

    The attributes take turns, so that each has about as many items; the right letters are balanced. A wrong option has
    the kind and the attribute of the right one and is not true of the entity as far as is known: it is no value of the
    entity, is not `widespread`, shares no `overlapping` group with the right one, and neither contains the other.
    """
    _require_wordings(facts, wordings)
    draw = random.Random(f"multiple choice {seed}")
    chosen = _taking_turns(facts, count, draw)
    letters = [LETTERS[index % len(LETTERS)] for index in range(len(chosen))]
    draw.shuffle(letters)

    items = []
    for fact, right_letter in zip(chosen, letters, strict=True):
        ways = wordings[fact.kind, fact.attribute]
        untrue = untrue_values(fact, facts, ways)
        if len(untrue) < len(LETTERS) - 1:
            raise InputError(
                f"{fact.document_id}: only {len(untrue)} other values could be wrong options, three are needed",
                hint=f"give the {fact.attribute} of more {fact.kind} entities, or list fewer values as overlapping",
            )
        wrong = iter(draw.sample(untrue, len(LETTERS) - 1))
        options = {letter: _capitalized(fact.value if letter == right_letter else next(wrong)) for letter in LETTERS}
        items.append(MultipleChoiceItem(fact.document_id, _say(draw.choice(ways.test), fact), options, right_letter))
    return items


def untrue_values(fact: Fact, facts: Sequence[Fact], ways: AttributeWordings) -> list[str]:
    """The values of the fact's attribute that other entities of its kind have and its own does not."""
    alike = [other for other in facts if other.kind == fact.kind]
    candidates = dict.fromkeys(other.value for other in alike if other.attribute == fact.attribute)
    own_values = [other.value for other in alike if other.name == fact.name]
    return [
        value
        for value in candidates
        if value not in ways.widespread and not any(_may_be_one(value, own, ways.overlapping) for own in own_values)
    ]


def _by_entity(facts: Sequence[Fact]) -> dict[tuple[str, str], list[Fact]]:
    entities: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in facts:
        entities[fact.kind, fact.name].append(fact)
    return entities


def _taking_turns(facts: Sequence[Fact], count: int, draw: random.Random) -> list[Fact]:
    """`count` facts, one of each (kind, attribute) in turn until enough are drawn."""
    if count > len(facts):
        raise InputError(f"{count} items were asked for, the table has {len(facts)} facts", hint="ask for fewer")
    stacks: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in draw.sample(list(facts), len(facts)):
        stacks[fact.kind, fact.attribute].append(fact)
    chosen: list[Fact] = []
    while len(chosen) < count:
        chosen += [stack.pop() for _, stack in sorted(stacks.items()) if stack]
    return chosen[:count]


def _may_be_one(value: str, true: str, overlapping: Sequence[frozenset[str]]) -> bool:
    """Whether an entity with the value `true` may have `value` too."""
    words, true_words = set(value.lower().split()), set(true.lower().split())
    return words <= true_words or true_words <= words or any({value, true} <= group for group in overlapping)


def _say(wording: str, fact: Fact) -> str:
    return wording.format(
        name=fact.name,
        Name=_capitalized(fact.name),
        value=fact.value,
        Value=_capitalized(fact.value),
        a_value=f"{_indefinite_article(fact.value)} {fact.value}",
    )


def _capitalized(phrase: str) -> str:
    return phrase[0].upper() + phrase[1:]


def _indefinite_article(phrase: str) -> str:
    """'a' or 'an' by sound: an RNA virus, an ACE inhibitor, an NSAID, a uricosuric drug, a DNA virus."""
    word = re.split(r"[\s-]", phrase)[0]
    if re.fullmatch(r"[A-Z][A-Z0-9]*", word):
        return "an" if word[0] in "AEFHILMNORSX" else "a"
    sounds_like_you = re.match(r"(?i)eu|uni|ur[aeio]|us[aeu]|ut[aei]", word)
    return "an" if word[0].lower() in "aeiou" and not sounds_like_you else "a"


# ------------------------------------------------------------------------------------------- reading and checking


def load_facts(path: Path) -> list[Fact]:
    """The rows of the table, in its order. All wrong rows are reported at once, each with its line."""
    lines = _read_text(path).splitlines()
    if not lines or tuple(lines[0].split("\t")) != COLUMNS:
        raise InputError(
            f"{path}:1: the first line is not the header of a fact table",
            hint=f"begin it with the names of the columns, TAB between them: {' '.join(COLUMNS)}",
        )
    facts: list[Fact] = []
    problems: list[str] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != len(COLUMNS):
            problems.append(f"{path}:{number}: {len(cells)} columns: write {len(COLUMNS)}, TAB between them")
            continue
        fact = Fact(*cells)
        problems += [f"{path}:{number}: {problem}" for problem in _problems_of_row(fact)]
        key = fact.document_id.lower()
        if key in first_line:
            problems.append(f"{path}:{number}: {fact.document_id} was given in line {first_line[key]}: delete one")
        first_line.setdefault(key, number)
        facts.append(fact)
    problems += [f"{path}:{first_line[key.lower()]}: {problem}" for key, problem in _missing_attributes(facts)]
    _report(problems, "correct these rows of the fact table")
    return facts


def _problems_of_row(fact: Fact) -> list[str]:
    problems = [f"{column} is empty: fill it in" for column in COLUMNS[:4] if not getattr(fact, column)]
    for column, cell in zip(COLUMNS, fact, strict=True):
        if cell != " ".join(cell.split()):
            problems.append(f"{column} {cell!r} has needless spaces: take them out")
    if re.match(r"(?i)(a|an|the) ", fact.value):
        problems.append(f"value {fact.value!r} begins with an article: leave it to the wordings")
    if re.search(r"[.;/(){}]|:$|: ", fact.value):
        problems.append(f"value {fact.value!r} has punctuation: write a plain phrase")
    if not re.fullmatch(r"(\d{4})?", fact.as_of):
        problems.append(f"as_of {fact.as_of!r} is no year: write four digits, or nothing")
    return problems


def _missing_attributes(facts: Sequence[Fact]) -> list[tuple[str, str]]:
    """(document id of the entity's first fact, problem) for every attribute that others of its kind have."""
    attributes: dict[str, dict[str, None]] = defaultdict(dict)
    for fact in facts:
        attributes[fact.kind][fact.attribute] = None
    missing = []
    for (kind, name), its_facts in _by_entity(facts).items():
        absent = [key for key in attributes[kind] if key not in {fact.attribute for fact in its_facts}]
        if absent:
            problem = f"{kind} {name!r} has no {', '.join(absent)}: add a row for each"
            missing.append((its_facts[0].document_id, problem))
    return missing


def load_wordings(path: Path) -> Wordings:
    """The wordings by kind and attribute. All problems are reported at once, each with the key where it stands."""
    tree = yaml.safe_load(_read_text(path))
    wordings: Wordings = {}
    problems: list[str] = []
    for kind, attributes in _mapping(tree, str(path), problems).items():
        for attribute, entry in _mapping(attributes, f"{path}: {kind}", problems).items():
            place = f"{path}: {kind}.{attribute}"
            found = _problems_of_entry(_mapping(entry, place, problems))
            problems += [f"{place}.{problem}" for problem in found]
            if not found and isinstance(entry, dict):
                wordings[kind, attribute] = AttributeWordings(
                    **{key: tuple(entry[key]) for key in ("articles", *get_args(Split))},
                    answer=entry.get("answer", AttributeWordings.answer),
                    overlapping=tuple(frozenset(group) for group in entry.get("overlapping", ())),
                    widespread=frozenset(entry.get("widespread", ())),
                )
    _report(problems, "correct these wordings")
    return wordings


_VALUE_FIELDS = frozenset({"value", "Value", "a_value"})
_NAME_FIELDS = frozenset({"name", "Name"})


def _problems_of_entry(entry: dict[str, Any]) -> list[str]:
    """What is wrong with the wordings of one attribute, each problem beginning with the key where it stands."""
    known = ("articles", *get_args(Split), "answer", "overlapping", "widespread")
    problems = [f"{key}: no such key: use {', '.join(known)}" for key in entry if key not in known]
    seen: dict[str, str] = {}
    for key in ("articles", *get_args(Split)):
        ways = entry.get(key)
        if not isinstance(ways, list) or not ways or not all(isinstance(way, str) for way in ways):
            problems.append(f"{key}: write a list of sentences, one at least")
            continue
        for way in ways:
            found = _problems_of_wording(way, is_article=key == "articles")
            problems += [f"{key}: {way!r} {problem}" for problem in found]
            if way in seen:
                problems.append(f"{key}: {way!r} stands in {seen[way]} too: delete one")
            seen[way] = key
    groups = entry.get("overlapping", [])
    if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
        problems.append("overlapping: write a list of lists of values")
    if not isinstance(entry.get("widespread", []), list):
        problems.append("widespread: write a list of values")
    return problems


def _problems_of_wording(way: str, *, is_article: bool) -> list[str]:
    try:
        fields = {field for _, field, _, _ in Formatter().parse(way) if field is not None}
    except ValueError as error:
        return [f"has unpaired braces ({error})"]
    problems = [f"has the unknown field {{{field}}}" for field in sorted(fields - _NAME_FIELDS - _VALUE_FIELDS)]
    if not fields & _NAME_FIELDS:
        problems.append("does not say {name}")
    if is_article and not fields & _VALUE_FIELDS:
        problems.append("does not say {value}")
    if not is_article and fields & _VALUE_FIELDS:
        problems.append("gives the answer away")
    return problems


def _mapping(node: object, place: str, problems: list[str]) -> dict[str, Any]:
    if isinstance(node, dict):
        return node
    problems.append(f"{place}: write keys and values here, not {node!r}")
    return {}


def _require_wordings(facts: Sequence[Fact], wordings: Wordings) -> None:
    missing = sorted({f"{fact.kind}.{fact.attribute}" for fact in facts if (fact.kind, fact.attribute) not in wordings})
    if missing:
        raise InputError(f"no wordings for {', '.join(missing)}", hint="add them to wordings.yaml, or delete the facts")


def _read_text(path: Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist", hint="name the file of the embedded corpus") from None


def _report(problems: list[str], hint: str) -> None:
    if problems:
        raise InputError("\n  ".join([f"{len(problems)} problems", *problems]), hint=hint)
