"""Text to ids: equal to llama.cpp's for any text, to SentencePiece's where it is the truth, and back again."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from medllama.llamacpp import Model
from medllama.tokenizer import Tokenizer, common_prefix, hugging_face_backend, merges_by_score
from medllama.vocabulary import TokenType, load_vocabulary
from tests.medllama.conversations import CONTROL_TEXTS, REAL_VECTORS, texts

FAMILIES = ("llama2", "llama3")
every_family = pytest.mark.parametrize("family", FAMILIES)
Pairs = dict[str, tuple[Tokenizer, Model]]


@pytest.fixture(scope="module")
def pairs(llama2_base: Path, llama3_base: Path, llama2_words: Model, llama3_words: Model) -> Pairs:
    """By family our tokenizer and llama.cpp's of the same checkpoint."""
    return {
        "llama2": (Tokenizer(load_vocabulary(llama2_base)), llama2_words),
        "llama3": (Tokenizer(load_vocabulary(llama3_base)), llama3_words),
    }


def typed(family: str) -> st.SearchStrategy[str]:
    """Text in which somebody may have typed control tokens."""
    return texts | st.lists(st.sampled_from(CONTROL_TEXTS[family]) | texts, max_size=5).map("".join)


@every_family
def test_text_has_llama_cpps_ids(pairs: Pairs, family: str) -> None:
    tokenizer, model = pairs[family]

    @settings(max_examples=150)
    @given(typed(family))
    @example("")
    @example(" ")
    @example("  two  spaces  ")
    @example("</s> and <|eot_id|> typed")
    def holds(text: str) -> None:
        ids = tokenizer.encode_text(text)
        assert ids == model.tokenize(text)
        assert not {tokenizer.vocabulary.types[index] for index in ids} & {TokenType.CONTROL, TokenType.UNKNOWN}

    holds()


@every_family
def test_a_rendered_template_has_llama_cpps_ids(pairs: Pairs, family: str) -> None:
    tokenizer, model = pairs[family]

    @settings(max_examples=150)
    @given(typed(family))
    def holds(text: str) -> None:
        assert tokenizer.encode_rendered(text) == model.tokenize(text, parse_special=True)

    holds()


@every_family
def test_ids_decode_as_in_llama_cpp_and_back_to_the_text(pairs: Pairs, family: str) -> None:
    tokenizer, model = pairs[family]

    @settings(max_examples=150)
    @given(st.lists(st.integers(0, model.n_vocab - 1), max_size=12), st.booleans())
    def decodes(ids: list[int], show_control: bool) -> None:
        assert tokenizer.decode(ids, show_control=show_control) == model.detokenize(ids, show_control=show_control)

    @settings(max_examples=150)
    @given(texts)
    def returns(text: str) -> None:
        # SentencePiece has no character of its own for a space: a typed U+2581 comes back as one.
        expected = " " * bool(text) + text.replace("▁", " ") if family == "llama2" else text
        assert tokenizer.decode(tokenizer.encode_text(text)) == expected

    decodes()
    returns()


def test_plain_text_has_sentencepieces_ids(llama2_base: Path, pairs: Pairs) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(llama2_base / "tokenizer.model"))
    tokenizer, _ = pairs["llama2"]

    @settings(max_examples=200)
    @given(typed("llama2"))
    def holds(text: str) -> None:
        assert tokenizer.encode_text(text) == processor.encode(text)

    holds()


@every_family
def test_plain_transformers_with_the_saved_backend_gives_the_same_ids_for_a_prompt(pairs: Pairs, family: str) -> None:
    tokenizer, model = pairs[family]
    wrapped = PreTrainedTokenizerFast(tokenizer_object=hugging_face_backend(tokenizer.vocabulary))

    @settings(max_examples=150)
    @given(typed(family))
    def holds(text: str) -> None:
        ids = wrapped.encode(text, add_special_tokens=False)
        assert ids == tokenizer.encode_rendered(text) == model.tokenize(text, parse_special=True)
        assert wrapped.encode(text) == model.tokenize(text, parse_special=True, add_special=True)

    holds()


def test_merges_are_the_ways_to_make_a_token_best_score_first(pairs: Pairs) -> None:
    vocabulary = pairs["llama2"][0].vocabulary
    merges = merges_by_score(vocabulary)
    scores = dict(zip(vocabulary.tokens, vocabulary.scores, strict=True))
    ranked = [scores[left + right] for left, right in merges]
    assert ranked == sorted(ranked, reverse=True)
    assert len(set(merges)) == len(merges) > 200
    assert all(left in scores and right in scores for left, right in merges)


def test_a_common_prefix_is_counted_in_ids() -> None:
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix([1, 2], [1, 2, 3]) == 2
    assert common_prefix([], [1]) == 0


@every_family
def test_llama_cpps_own_vectors_hold_for_the_real_tokenizers(
    shared_data: Path, real_tokenizers: dict[str, Tokenizer], family: str
) -> None:
    vectors = shared_data / "tokenizers" / "vectors" / REAL_VECTORS[family]
    given_texts = Path(f"{vectors}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    expected = [[int(index) for index in line.split()] for line in Path(f"{vectors}.out").read_text().split("\n")]
    assert len(given_texts) == len(expected) == 47
    assert [real_tokenizers[family].encode_text(text) for text in given_texts] == expected


@every_family
def test_the_real_tokenizers_have_llama_cpps_ids(
    shared_data: Path, real_tokenizers: dict[str, Tokenizer], family: str
) -> None:
    tokenizer = real_tokenizers[family]
    with Model(shared_data / "tokenizers" / "vectors" / REAL_VECTORS[family], vocab_only=True) as model:

        @settings(max_examples=150)
        @given(typed(family))
        def holds(text: str) -> None:
            assert tokenizer.encode_text(text) == model.tokenize(text)
            assert tokenizer.encode_rendered(text) == model.tokenize(text, parse_special=True)

        holds()
