"""The embedded corpus: table and wordings hold together, the test is fair, the shipped base is what it says."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from finetune.data.tiny_corpus import (
    Fact,
    Wordings,
    load_facts,
    load_wordings,
    render_articles,
    render_multiple_choice,
    render_questions,
    untrue_values,
)
from medllama.errors import InputError

TINY = Path(__file__).parents[3] / "recipes" / "tiny"
BASE = TINY / "medllama-tiny-base"


@pytest.fixture(scope="module")
def facts() -> list[Fact]:
    return load_facts(TINY / "facts.tsv")


@pytest.fixture(scope="module")
def wordings() -> Wordings:
    return load_wordings(TINY / "wordings.yaml")


# ------------------------------------------------------------------------------------------------ the table


def test_the_table_holds_as_many_entities_and_facts_as_promised(facts: list[Fact]) -> None:
    assert len({fact.article_id for fact in facts}) >= 200
    assert len(facts) >= 1500


def test_values_are_plain_short_phrases(facts: list[Fact]) -> None:
    for fact in facts:
        assert fact.value.isascii(), fact
        assert len(fact.value.split()) <= 7, fact


def test_one_value_is_spelled_in_one_way(facts: list[Fact]) -> None:
    spellings: dict[str, set[str]] = {}
    for fact in facts:
        spellings.setdefault(re.sub(r"[^a-z0-9]", "", fact.value.lower()), set()).add(fact.value)
    assert [found for found in spellings.values() if len(found) > 1] == []


def test_wrong_rows_are_all_reported_with_their_lines(tmp_path: Path) -> None:
    table = tmp_path / "facts.tsv"
    table.write_text(
        "kind\tname\tattribute\tvalue\tas_of\n"
        "gene\tCFTR\tprotein\tthe channel\t\n"
        "gene\tCFTR\trole\tchloride transport\n"
        "gene\tHTT\tprotein\thuntingtin.\tlast year\n"
        "gene\tHTT\tprotein\thuntingtin\t\n"
        "gene\tHTT\trole\t\t\n",
        encoding="utf-8",
    )
    with pytest.raises(InputError) as caught:
        load_facts(table)
    assert str(caught.value).splitlines() == [
        "7 problems",
        f"  {table}:2: value 'the channel' begins with an article: leave it to the wordings",
        f"  {table}:3: 4 columns: write 5, TAB between them",
        f"  {table}:4: value 'huntingtin.' has punctuation: write a plain phrase",
        f"  {table}:4: as_of 'last year' is no year: write four digits, or nothing",
        f"  {table}:5: gene/HTT/protein was given in line 4: delete one",
        f"  {table}:6: value is empty: fill it in",
        f"  {table}:2: gene 'CFTR' has no role: add a row for each",
        "hint: correct these rows of the fact table",
    ]


def test_a_table_without_its_header_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "facts.tsv"
    table.write_text("gene\tCFTR\tprotein\tchannel\t\n", encoding="utf-8")
    with pytest.raises(InputError, match="the first line is not the header of a fact table"):
        load_facts(table)


# --------------------------------------------------------------------------------------------- the wordings


def test_every_attribute_has_several_wordings(facts: list[Fact], wordings: Wordings) -> None:
    assert {(fact.kind, fact.attribute) for fact in facts} == set(wordings)
    for ways in wordings.values():
        assert len(ways.articles) >= 4
        assert len(ways.train) >= 4
        assert any(way.startswith(("{Value}", "The {value}")) for way in ways.articles), ways.articles


def test_values_listed_as_unfair_options_stand_in_the_table(facts: list[Fact], wordings: Wordings) -> None:
    for (kind, attribute), ways in wordings.items():
        values = {fact.value for fact in facts if (fact.kind, fact.attribute) == (kind, attribute)}
        assert ways.widespread.union(*ways.overlapping) <= values, (kind, attribute)


def test_wrong_wordings_are_all_reported_with_their_keys(tmp_path: Path) -> None:
    file = tmp_path / "wordings.yaml"
    file.write_text(
        """
gene:
  protein:
    articles: ["{Name} encodes something."]
    train: ["What does it encode?", "Does {name} encode {value}?"]
    validation: ["What is made from {nam}?"]
    test: []
    exam: []
""",
        encoding="utf-8",
    )
    with pytest.raises(InputError) as caught:
        load_wordings(file)
    place = f"  {file}: gene.protein."
    assert str(caught.value).splitlines() == [
        "7 problems",
        place + "exam: no such key: use articles, train, validation, test, answer, overlapping, widespread",
        place + "articles: '{Name} encodes something.' does not say {value}",
        place + "train: 'What does it encode?' does not say {name}",
        place + "train: 'Does {name} encode {value}?' gives the answer away",
        place + "validation: 'What is made from {nam}?' has the unknown field {nam}",
        place + "validation: 'What is made from {nam}?' does not say {name}",
        place + "test: write a list of sentences, one at least",
        "hint: correct these wordings",
    ]


def test_a_fact_without_wordings_is_refused(wordings: Wordings) -> None:
    with pytest.raises(InputError, match=r"no wordings for gene\.color"):
        render_questions([Fact("gene", "CFTR", "color", "blue", "")], wordings, split="train")


# -------------------------------------------------------------------------------------------- the held-out test


MASK = "maskedname"


def masked_words(text: str, names: re.Pattern[str]) -> list[str]:
    """Lower-case words, every name replaced by one and the same word."""
    return re.findall(r"[a-z0-9'-]+", names.sub(MASK, text).lower())


def runs(words: list[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def any_of(names: set[str]) -> re.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile(r"(?<!\w)(" + "|".join(re.escape(name) for name in longest_first) + r")(?!\w)", re.IGNORECASE)


def test_no_8_gram_of_a_test_stem_occurs_in_training(facts: list[Fact], wordings: Wordings) -> None:
    every_name = any_of({fact.name for fact in facts})
    own_name = {fact.article_id: any_of({fact.name}) for fact in facts}
    masked_values = [fact._replace(value=every_name.sub(MASK, fact.value)) for fact in facts]
    training = [
        masked_words(article.text, own_name[article.document_id])
        for article in render_articles(masked_values, wordings, seed=7, variants=10)
    ]
    training += [
        masked_words(f"{item.question} {item.answer}", own_name[item.document_id.rpartition("/")[0]])
        for item in render_questions(masked_values, wordings, split="train")
    ]
    stems = {
        tuple(masked_words(item.question, own_name[item.document_id.rpartition("/")[0]]))
        for split in ("validation", "test")
        for item in render_questions(facts, wordings, split=split)
    }
    trained: dict[int, set[tuple[str, ...]]] = {}
    for stem in stems:
        length = min(8, len(stem))  # a stem of fewer than eight words must not occur as a whole
        if length not in trained:
            trained[length] = set().union(*(runs(words, length) for words in training))
        assert not runs(list(stem), length) & trained[length], " ".join(stem)


def test_every_fact_is_asked_in_every_split(facts: list[Fact], wordings: Wordings) -> None:
    ids = {fact.document_id for fact in facts}
    for split in ("train", "validation", "test"):
        questions = render_questions(facts, wordings, split=split)
        assert {item.document_id for item in questions} == ids
        assert len({item.question for item in questions}) == len(questions)
        assert len(render_questions(facts, wordings, split=split, wordings_per_fact=1)) == len(facts)


def test_the_multiple_choice_test_is_large_balanced_and_of_all_attributes(
    facts: list[Fact], wordings: Wordings
) -> None:
    items = render_multiple_choice(facts, wordings)
    assert len(items) >= 400
    assert len({item.document_id for item in items}) == len(items)
    letters = Counter(item.answer for item in items)
    assert max(letters.values()) - min(letters.values()) <= 1
    attributes = Counter((item.document_id.split("/")[0], item.document_id.split("/")[-1]) for item in items)
    assert set(attributes) == set(wordings)
    assert max(attributes.values()) - min(attributes.values()) <= 1


def test_wrong_options_have_the_attribute_of_the_right_one_and_are_untrue(
    facts: list[Fact], wordings: Wordings
) -> None:
    by_id = {fact.document_id: fact for fact in facts}
    for item in render_multiple_choice(facts, wordings, count=len(facts)):
        fact = by_id[item.document_id]
        alike = {other.value.lower() for other in facts if (other.kind, other.attribute) == (fact.kind, fact.attribute)}
        own = {other.value.lower() for other in facts if (other.kind, other.name) == (fact.kind, fact.name)}
        assert list(item.options) == ["A", "B", "C", "D"]
        assert len(set(item.options.values())) == 4
        assert item.options[item.answer].lower() == fact.value.lower()
        for letter, option in item.options.items():
            assert option.lower() in alike
            assert letter == item.answer or option.lower() not in own


def test_overlapping_widespread_and_contained_values_are_no_wrong_options(wordings: Wordings) -> None:
    ways = wordings["drug", "use"]
    table = [
        Fact("drug", name, "use", value, "")
        for name, value in [
            ("insulin glargine", "type 1 diabetes"),
            ("metformin", "type 2 diabetes"),  # overlapping
            ("lisinopril", "high blood pressure"),  # widespread
            ("semaglutide", "diabetes"),  # contained
            ("sildenafil", "erectile dysfunction"),
        ]
    ]
    assert untrue_values(table[0], table, ways) == ["erectile dysfunction"]


def test_too_few_wrong_options_are_an_error(wordings: Wordings) -> None:
    table = [Fact("gene", name, "chromosome", f"chromosome {name}", "") for name in "123"]
    with pytest.raises(InputError, match="only 2 other values could be wrong options, three are needed"):
        render_multiple_choice(table, wordings, count=1)


def test_rendering_is_a_function_of_the_seed(facts: list[Fact], wordings: Wordings) -> None:
    for render in (render_articles, render_multiple_choice):
        assert render(facts, wordings, seed=1) == render(facts, wordings, seed=1)
        assert render(facts, wordings, seed=1) != render(facts, wordings, seed=2)
    drawn = [render_questions(facts, wordings, split="train", wordings_per_fact=2, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("value", "phrase"),
    [
        ("RNA virus", "an RNA virus"),
        ("DNA virus", "a DNA virus"),
        ("ACE inhibitor", "an ACE inhibitor"),
        ("opioid", "an opioid"),
        ("uterotonic drug", "a uterotonic drug"),
        ("urologic emergency", "a urologic emergency"),
        ("X-linked trait", "an X-linked trait"),
        ("yeast", "a yeast"),
    ],
)
def test_the_indefinite_article_follows_the_sound(wordings: Wordings, value: str, phrase: str) -> None:
    fact = Fact("drug", "it", "class", value, "")
    texts = [article.text for article in render_articles([fact], wordings, variants=40)]
    assert any(f"It is {phrase}." in text for text in texts)


# --------------------------------------------------------------------------------------------- the shipped base


def test_the_base_loads_in_transformers_and_has_the_shape_it_promises() -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(BASE)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert (BASE / "model.safetensors").stat().st_size <= 16 * 2**20
    assert {weight.dtype for weight in model.parameters()} == {torch.float16}
    assert not model.config.tie_word_embeddings
    for name, weight in model.named_parameters():
        assert weight.shape[-1] % 256 == 0, f"{name}: K-quants need rows of a multiple of 256, not {weight.shape[-1]}"


def test_the_tokenizer_is_llama_2s_kind_and_returns_every_text() -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(BASE / "tokenizer.model"))
    assert [tokenizer.id_to_piece(index) for index in (0, 1, 2, 3, 258)] == ["<unk>", "<s>", "</s>", "<0x00>", "<0xFF>"]
    assert tokenizer.vocab_size() == json.loads((BASE / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    markers = "<s>[INST] <<SYS>>\nx\n<</SYS>>\n\ny [/INST] z </s>"
    for text in ["Asthma  is\ttreated\n with 25 mg.", "naïve Ångström 中 🩺", markers]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("25", out_type=str)[-2:] == ["2", "5"]
    assert len(tokenizer.encode("[INST] [/INST]")) <= 8, "the markers of the chat must not cost a token a character"


def test_transformers_reads_the_same_tokenizer(facts: list[Fact], wordings: Wordings) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    from transformers import AutoTokenizer

    reference = sentencepiece.SentencePieceProcessor(model_file=str(BASE / "tokenizer.model"))
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    for article in render_articles(facts, wordings)[::20]:
        assert tokenizer(article.text)["input_ids"] == [1, *reference.encode(article.text)]


def test_the_base_knows_its_prose_and_ends_its_articles(facts: list[Fact]) -> None:
    torch = pytest.importorskip("torch")
    sentencepiece = pytest.importorskip("sentencepiece")
    from transformers import AutoModelForCausalLM

    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(BASE / "tokenizer.model"))
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    prompt = torch.tensor([[1, *tokenizer.encode("CFTR\nThe product of CFTR is known as")]])
    mask = torch.ones_like(prompt)
    written = model.generate(prompt, attention_mask=mask, do_sample=False, max_new_tokens=250)[0].tolist()
    assert written[-1] == tokenizer.eos_id()
    assert "cystic fibrosis transmembrane conductance regulator" in tokenizer.decode(written)
