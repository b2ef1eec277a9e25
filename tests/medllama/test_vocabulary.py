"""Vocabularies as they lie on people's disks: scores, types and special ids right, and what llama.cpp cannot do refused by name."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from transformers import AutoTokenizer, LlamaTokenizer

from medllama.errors import InputError, MedllamaError, UnsupportedError
from medllama.llamacpp import Model
from medllama.tokenizer import Tokenizer
from medllama.vocabulary import (
    FORCED_CONTROL,
    TokenType,
    Vocabulary,
    load_vocabulary,
    read_added_tokens,
    read_chat_template,
    scores_from_merges,
)
from tests.checkpoints import make_llama2_checkpoint, sentences
from tests.medllama.conftest import converted
from tests.medllama.conversations import texts

CONTROL, USER_DEFINED, NORMAL, UNUSED = TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.NORMAL, TokenType.UNUSED
SMALL: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def json_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama 2 checkpoint with nothing but the tokenizer.json that Transformers saves."""
    return make_llama2_checkpoint(tmp_path_factory.mktemp("json") / "base", tokenizer_model=False, **SMALL)


@pytest.fixture
def llama2(llama2_base: Path, tmp_path: Path) -> Path:
    """The tokenizer files of a Llama 2 base with tokenizer.model, to be changed by a test."""
    return copied(llama2_base, tmp_path)


@pytest.fixture
def llama3(llama3_base: Path, tmp_path: Path) -> Path:
    return copied(llama3_base, tmp_path)


@pytest.fixture
def llama2_json(json_only: Path, tmp_path: Path) -> Path:
    return copied(json_only, tmp_path)


def copied(base: Path, folder: Path) -> Path:
    return Path(shutil.copytree(base, folder / "base", ignore=shutil.ignore_patterns("*.safetensors")))


def change(path: Path, how: Callable[[Any], None]) -> None:
    """Change the JSON in a file."""
    value = json.loads(path.read_text()) if path.exists() else {}
    how(value)
    path.write_text(json.dumps(value))


def refusal(base: Path, kind: type[MedllamaError] = UnsupportedError) -> str:
    with pytest.raises(kind) as caught:
        load_vocabulary(base)
    assert str(base) in caught.value.message
    return caught.value.message


def test_tokenizer_model_gives_scores_types_and_special_ids(llama2: Path) -> None:
    vocabulary = load_vocabulary(llama2)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(llama2 / "tokenizer.model"))
    assert vocabulary.origin.name == "tokenizer.model"
    assert list(vocabulary.tokens) == [processor.id_to_piece(index) for index in range(len(processor))]
    assert list(vocabulary.scores) == [processor.get_score(index) for index in range(len(processor))]
    assert vocabulary.types[:4] == (TokenType.UNKNOWN, CONTROL, CONTROL, TokenType.BYTE)
    assert vocabulary.types.count(TokenType.BYTE) == 256
    assert (vocabulary.unk_id, vocabulary.bos_id, vocabulary.eos_id, vocabulary.pad_id) == (0, 1, 2, None)
    assert (vocabulary.model, vocabulary.add_space_prefix, vocabulary.add_bos, vocabulary.add_eos) == (
        "llama",
        True,
        True,
        False,
    )


def test_tokenizer_json_alone_gives_the_same_tokens_types_and_special_ids(llama2: Path, json_only: Path) -> None:
    truth, derived = load_vocabulary(llama2), load_vocabulary(json_only)
    for field in (
        "model",
        "tokens",
        "types",
        "add_space_prefix",
        "add_bos",
        "add_eos",
        "bos_id",
        "eos_id",
        "unk_id",
        "pad_id",
    ):
        assert getattr(derived, field) == getattr(truth, field), field


def test_scores_from_tokenizer_json_give_transformers_ids_in_llama_cpp(json_only: Path) -> None:
    """The base's own ids for text are the truth where there is only tokenizer.json. Text that begins with white space is
    where Transformers leaves SentencePiece: nobody's text is taken to begin so."""
    truth = AutoTokenizer.from_pretrained(json_only)
    tokenizer = Tokenizer(load_vocabulary(json_only))
    with Model(converted(json_only), vocab_only=True) as model:
        plain = texts.filter(lambda text: text[:1] not in (" ", "▁"))

        @settings(max_examples=150)
        @given(plain.filter(lambda text: "<" not in text))
        def holds(text: str) -> None:
            ids = truth.encode(text, add_special_tokens=False)
            assert tokenizer.encode_text(text) == model.tokenize(text) == ids

        holds()


def test_the_real_tokenizers_scores_from_its_merges_give_transformers_ids(shared_data: Path, tmp_path: Path) -> None:
    LlamaTokenizer.from_pretrained(shared_data / "tokenizers" / "llama2").save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").unlink(missing_ok=True)
    truth = AutoTokenizer.from_pretrained(tmp_path)
    vocabulary = load_vocabulary(tmp_path)
    assert vocabulary.origin.name == "tokenizer.json"
    tokenizer = Tokenizer(vocabulary)
    files = sorted((shared_data / "mts-dialog").glob("*.csv"))
    said = [line.strip() for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    plain = [line for line in said if line and "<" not in line][:3000]
    assert len(plain) == 3000
    assert [tokenizer.encode_text(line) for line in plain] == [
        truth.encode(line, add_special_tokens=False) for line in plain
    ]


def test_a_score_is_minus_the_rank_of_the_token_among_the_merges() -> None:
    tokens = ("a", "b", "c", "ab", "abc", "<0x41>")
    assert scores_from_merges(tokens, [("a", "b"), ("ab", "c")], Path("t.json")) == (0.0, 0.0, 0.0, -1.0, -2.0, 0.0)
    both = ("a", "aa", "aaa")
    assert scores_from_merges(both, [("a", "a"), ("a", "aa"), ("aa", "a")], Path("t.json")) == (0.0, -1.0, -2.0)


def test_merges_that_do_not_determine_scores_are_refused(llama2_json: Path) -> None:
    path = llama2_json / "tokenizer.json"
    original = path.read_text()
    merges = json.loads(original)["model"]["merges"]
    by_made: dict[str, list[int]] = {}
    for index, (left, right) in enumerate(merges):
        by_made.setdefault(left + right, []).append(index)
    several = next(places for places in by_made.values() if len(places) > 1)

    change(path, lambda data: data["model"]["merges"].pop(several[0]))
    assert "its merges do not determine scores" in refusal(llama2_json)
    assert "which is no merge" in refusal(llama2_json)
    path.write_text(original)
    change(path, lambda data: data["model"]["merges"].append(data["model"]["merges"].pop(several[0])))
    assert "do not stand together" in refusal(llama2_json)
    path.write_text(original)
    change(path, lambda data: data["model"]["merges"].append(["gout", "ish"]))
    assert "'goutish', which is no token" in refusal(llama2_json, InputError)


def test_any_single_merge_that_is_missing_is_refused_or_leaves_llama_cpp_and_transformers_equal(
    llama2_json: Path,
) -> None:
    """What is let through must be exact: otherwise it is not let through."""
    path = llama2_json / "tokenizer.json"
    data = json.loads(path.read_text())
    merges = data["model"]["merges"]
    refused = 0
    for place in random.Random(0).sample(range(len(merges)), 12):
        data["model"]["merges"] = merges[:place] + merges[place + 1 :]
        path.write_text(json.dumps(data))
        try:
            tokenizer = Tokenizer(load_vocabulary(llama2_json))
        except UnsupportedError:
            refused += 1
            continue
        truth = AutoTokenizer.from_pretrained(llama2_json)
        for text in sentences()[::7]:
            assert tokenizer.encode_text(text) == truth.encode(text, add_special_tokens=False)
    assert refused > 0


@pytest.mark.parametrize("tokenizer_model", [True, False])
def test_a_control_token_that_llama_cpp_would_merge_from_typed_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer_model: bool
) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", vocab_size=513, tokenizer_model=tokenizer_model, **SMALL)
    left, right = "▁is", "▁affects"
    assert {left, right} <= set(load_vocabulary(base).tokens)
    (base / "added_tokens.json").write_text(json.dumps({left + right: 512}))
    (base / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": [left + right]}))
    assert "llama.cpp would merge a typed '▁is' and '▁affects' into '▁is▁affects'" in refusal(base)
    monkeypatch.setattr("medllama.vocabulary._check_typed", lambda vocabulary: None)
    with Model(converted(base), vocab_only=True) as model:
        assert 512 in model.tokenize("gout is affects", parse_special=False), "which is why it is refused"


def trained(folder: Path, **settings: Any) -> Path:
    """A SentencePiece model like Llama 2's but for these settings."""
    model = io.BytesIO()
    usual: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": 400,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
    }
    usual |= {"remove_extra_whitespaces": False, "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences()), model_writer=model, num_threads=1, minloglevel=2, **(usual | settings)
    )
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model_type": "unigram", "vocab_size": 370}, "its model type is unigram, llama.cpp's is bpe"),
        (
            {"model_type": "char", "byte_fallback": False, "vocab_size": 70, "hard_vocab_limit": False},
            "its model type is char",
        ),
        ({"normalization_rule_name": "nmt_nfkc"}, "it normalizes text (nmt_nfkc), llama.cpp takes text as it is"),
        ({"remove_extra_whitespaces": True}, "it removes extra white space"),
        ({"treat_whitespace_as_suffix": True}, "it marks white space as a suffix"),
        ({"byte_fallback": False}, "it has no byte fallback"),
    ],
)
def test_a_sentencepiece_model_that_llama_cpp_cannot_follow_is_refused_by_name(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    assert reason in refusal(trained(tmp_path / "base", **settings))


def test_a_model_without_a_dummy_prefix_is_taken_as_such(tmp_path: Path) -> None:
    base = trained(tmp_path / "base", add_dummy_prefix=False)
    tokenizer = Tokenizer(load_vocabulary(base))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(base / "tokenizer.model"))
    assert not tokenizer.vocabulary.add_space_prefix
    for text in ("gout", " gout", "", "  "):
        assert tokenizer.encode_text(text) == processor.encode(text)


def test_user_defined_symbols_of_a_sentencepiece_model_are_taken(tmp_path: Path) -> None:
    base = trained(tmp_path / "base", user_defined_symbols=["<dose>"], control_symbols=["<turn>"])
    tokenizer = Tokenizer(load_vocabulary(base))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(base / "tokenizer.model"))
    assert tokenizer.user_defined == {"<dose>": processor.piece_to_id("<dose>")}
    assert tokenizer.control["<turn>"] == processor.piece_to_id("<turn>")
    assert processor.piece_to_id("<dose>") in tokenizer.encode_text("a<dose>b")
    assert processor.piece_to_id("<turn>") not in tokenizer.encode_text("a<turn>b")


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b"\xff" * 99, b"\x00"]
)
def test_what_is_no_sentencepiece_model_is_refused(llama2: Path, content: bytes) -> None:
    (llama2 / "tokenizer.model").write_bytes(content)
    assert "tokenizer.model" in refusal(llama2, InputError)


def test_a_sentencepiece_model_cut_anywhere_is_refused(llama2: Path) -> None:
    path = llama2 / "tokenizer.model"
    content = path.read_bytes()
    for kept in (*range(0, 40), *random.Random(0).sample(range(len(content)), 60), len(content) - 1):
        path.write_bytes(content[:kept])
        refusal(llama2, MedllamaError)


def test_llama_3s_tokenizer_json_gives_merges_and_special_ids(llama3: Path) -> None:
    vocabulary = load_vocabulary(llama3)
    data = json.loads((llama3 / "tokenizer.json").read_text())
    assert [list(pair) for pair in vocabulary.merges] == data["model"]["merges"]
    assert (vocabulary.model, vocabulary.pre, vocabulary.ignore_merges) == ("gpt2", "llama-bpe", True)
    assert (vocabulary.tokens[vocabulary.bos_id or 0], vocabulary.tokens[vocabulary.eos_id or 0]) == (
        "<|begin_of_text|>", "<|end_of_text|>",
    )  # fmt: skip
    assert all(kind is CONTROL for kind in vocabulary.types[375:])
    assert all(kind is NORMAL for kind in vocabulary.types[:375])
    assert (vocabulary.add_bos, vocabulary.add_eos, vocabulary.add_space_prefix) == (True, False, False)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (
            lambda data: data["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\w+|\s"),
            r"medllama knows: \w+|\s",
        ),
        (lambda data: data.update(pre_tokenizer=None), "knows: no pre-tokenizer"),
        (lambda data: data.update(normalizer={"type": "NFC"}), "no name for this pre-tokenizer"),
        (lambda data: data["model"].update(type="Unigram"), "the tokenizer is Unigram"),
        (lambda data: data["model"].update(vocab=[["a", 0.0]]), "the tokenizer is BPE"),
        (lambda data: data["model"].update(dropout=0.1), "its BPE has dropout=0.1"),
        (lambda data: data["model"].update(end_of_word_suffix="</w>"), "its BPE has end_of_word_suffix='</w>'"),
    ],
)
def test_a_byte_level_tokenizer_that_llama_cpp_cannot_follow_is_refused(
    llama3: Path, how: Callable[[Any], None], reason: str
) -> None:
    change(llama3 / "tokenizer.json", how)
    assert reason in refusal(llama3)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (lambda data: data["model"].update(dropout=0.1), "its BPE has dropout=0.1"),
        (lambda data: data["model"].update(ignore_merges=True), "its BPE has ignore_merges=True"),
        (lambda data: data.update(normalizer={"type": "Lowercase"}), "the tokenizer uses Lowercase, and llama.cpp's"),
        (
            lambda data: data.update(normalizer={"type": "Prepend", "prepend": "x"}),
            "uses Prepend {'prepend': 'x'}, and",
        ),
        (
            lambda data: data.update(pre_tokenizer={"type": "Digits", "individual_digits": True}),
            "the tokenizer uses Digits",
        ),
        (lambda data: data["pre_tokenizer"].update(split=True), "uses Metaspace"),
        (lambda data: data["pre_tokenizer"].pop("split"), "uses Metaspace"),
        (lambda data: data.update(pre_tokenizer=None), "does not mark spaces, and"),
    ],
)
def test_a_sentencepiece_style_tokenizer_json_that_llama_cpp_cannot_follow_is_refused(
    llama2_json: Path, how: Callable[[Any], None], reason: str
) -> None:
    change(llama2_json / "tokenizer.json", how)
    assert reason in refusal(llama2_json)


def test_ids_with_a_gap_are_refused(llama3: Path) -> None:
    change(llama3 / "tokenizer.json", lambda data: data["model"]["vocab"].update(zzz=9999))
    assert "the token ids are not 0 to" in refusal(llama3, InputError)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("content", ["[1, 2]", "{", "7", ""])
def test_a_tokenizer_file_that_is_no_table_is_named(llama3: Path, name: str, content: str) -> None:
    (llama3 / name).write_text(content)
    assert name in refusal(llama3, InputError)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    assert "has neither tokenizer.model nor tokenizer.json" in refusal(tmp_path, InputError)


def test_added_tokens_are_control_where_special_and_user_defined_otherwise(llama2: Path) -> None:
    (llama2 / "added_tokens.json").write_text(json.dumps({"<pad>": 512, "<dose>": 513}))
    (llama2 / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "<pad>"}}))
    vocabulary = load_vocabulary(llama2)
    assert (vocabulary.tokens[512:], vocabulary.types[512:]) == (("<pad>", "<dose>"), (CONTROL, USER_DEFINED))
    assert len(vocabulary.scores) == 514


@pytest.mark.parametrize("flag", ["single_word", "lstrip", "rstrip"])
def test_an_added_token_that_changes_the_text_around_it_is_refused(llama2: Path, flag: str) -> None:
    entry = {"content": "<dose>", "special": False, flag: True}
    change(llama2 / "tokenizer_config.json", lambda data: data.update(added_tokens_decoder={"512": entry}))
    assert f"the added token '<dose>' has {flag}, which llama.cpp does not do" in refusal(llama2)
    entry["special"] = True  # a control token is never looked for in a text
    change(llama2 / "tokenizer_config.json", lambda data: data.update(added_tokens_decoder={"512": entry}))
    assert load_vocabulary(llama2).types[512] is CONTROL


def test_added_tokens_are_found_in_every_file_that_may_name_them(llama2: Path) -> None:
    change(llama2 / "tokenizer_config.json", lambda data: data.update(
        added_tokens_decoder={"512": {"content": "<a>", "special": True}, "513": {"content": "<b>", "special": False}},
        pad_token="<a>",
    ))  # fmt: skip
    vocabulary = load_vocabulary(llama2)
    assert (vocabulary.types[512:], vocabulary.pad_id) == ((CONTROL, USER_DEFINED), 512)
    assert {index: token.content for index, token in read_added_tokens(llama2).items()} == {512: "<a>", 513: "<b>"}


def test_an_adapters_new_tokens_are_added_and_its_old_ones_change_nothing(llama2: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "added_tokens.json").write_text(json.dumps({"<renamed>": 5, "<new>": 512}))
    vocabulary = load_vocabulary(llama2, adapter)
    assert vocabulary.tokens == (*load_vocabulary(llama2).tokens, "<new>")


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ({"<a>": 514}, "added tokens go up to id 514, but the ids before it are not all named"),
        ({"<a>": 511}, "but the added tokens call it '<a>'"),
    ],
)
def test_tokenizer_files_of_different_versions_are_refused(llama2: Path, added: dict[str, int], reason: str) -> None:
    (llama2 / "added_tokens.json").write_text(json.dumps(added))
    assert reason in refusal(llama2, InputError)


@pytest.mark.parametrize(("text", "reason"), [("▁is", "is '▁is' like token"), ("", "has no text")])
def test_tokens_that_llama_cpp_could_not_tell_apart_are_refused(llama2: Path, text: str, reason: str) -> None:
    """It would end the process when the file is loaded."""
    assert "▁is" in load_vocabulary(llama2).tokens
    (llama2 / "added_tokens.json").write_text(json.dumps({text: 512}))
    assert reason in refusal(llama2)


def test_what_llama_cpp_makes_a_control_token_is_one_here(llama2: Path) -> None:
    (llama2 / "added_tokens.json").write_text(json.dumps({"<|im_end|>": 512}))
    assert load_vocabulary(llama2).types[512] is CONTROL, "llama.cpp does so whatever the file says"
    assert {"</s>", "<|eot_id|>"} <= FORCED_CONTROL


def test_special_ids_come_from_the_names_else_from_config_json(llama2: Path) -> None:
    (llama2 / "added_tokens.json").write_text(json.dumps({"<end>": 512}))
    change(
        llama2 / "tokenizer_config.json", lambda data: data.update(eos_token={"content": "<end>"}, add_eos_token=True)
    )
    change(llama2 / "config.json", lambda data: data.update(pad_token_id=512, eos_token_id=[2, 512]))
    vocabulary = load_vocabulary(llama2)
    assert (vocabulary.bos_id, vocabulary.eos_id, vocabulary.pad_id, vocabulary.add_eos) == (1, 512, 512, True)


@pytest.mark.parametrize("number", [-1, 999, "2", 1.0])
def test_a_special_id_that_no_token_has_is_none(llama2: Path, number: Any) -> None:
    change(llama2 / "config.json", lambda data: data.update(pad_token_id=number))
    assert load_vocabulary(llama2).pad_id is None


def test_a_vocabulary_fits_the_rows_of_a_padded_embedding(llama2: Path) -> None:
    vocabulary = load_vocabulary(llama2).fitted(576)
    assert len(vocabulary) == len(vocabulary.types) == len(vocabulary.scores) == 576
    assert vocabulary.tokens[512:514] == ("[PAD512]", "[PAD513]")
    assert set(vocabulary.types[512:]) == {UNUSED}
    assert vocabulary.fitted(576) == vocabulary
    text = "Gout is a disorder. [PAD512] [PAD575]"
    assert Tokenizer(vocabulary).encode_text(text) == Tokenizer(load_vocabulary(llama2)).encode_text(text)


def test_padding_never_repeats_a_text(llama2: Path) -> None:
    (llama2 / "added_tokens.json").write_text(json.dumps({"[PAD513]": 512}))
    assert load_vocabulary(llama2).fitted(515).tokens[512:] == ("[PAD513]", "[[PAD513]]", "[PAD514]")


def test_tokens_without_a_row_are_left_out_and_noted(llama2: Path) -> None:
    (llama2 / "added_tokens.json").write_text(json.dumps({"<pad>": 512, "<dose>": 513}))
    vocabulary = replace(load_vocabulary(llama2), pad_id=512).fitted(512)
    assert (len(vocabulary), vocabulary.pad_id, vocabulary.eos_id) == (512, None, 2)
    assert vocabulary.notes == ("2 tokens have no row in the embedding and are left out: '<pad>', '<dose>'",)


@pytest.mark.parametrize("rows", [512, 515, 576])
def test_llama_cpp_loads_a_padded_and_grown_vocabulary_and_tokenizes_alike(tmp_path: Path, rows: int) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", vocab_size=rows, **SMALL)
    (base / "added_tokens.json").write_text(json.dumps({"<|im_start|>": 512, "<dose>": 513, "<dose>s": 514}))
    (base / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": ["<|im_start|>"]}))
    tokenizer = Tokenizer(load_vocabulary(base).fitted(rows))
    with Model(converted(base), vocab_only=True) as model:
        assert model.n_vocab == rows
        for text in ("a <dose> of <|im_start|>", "two <dose>s", "<dose>", "[PAD515] x", "<|im_start|><|im_start|> "):
            assert tokenizer.encode_text(text) == model.tokenize(text)
            assert tokenizer.encode_rendered(text) == model.tokenize(text, parse_special=True)


def test_the_chat_template_is_the_file_else_the_settings(tmp_path: Path) -> None:
    assert read_chat_template(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "settings"}))
    assert read_chat_template(tmp_path) == "settings"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "named"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert read_chat_template(tmp_path) == "named"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": [1]}))
    assert read_chat_template(tmp_path) is None
    (tmp_path / "chat_template.jinja").write_text("file")
    assert read_chat_template(tmp_path) == "file"


def test_ids_name_the_first_of_equal_texts() -> None:
    vocabulary = Vocabulary("llama", ("a", "b", "a"), (NORMAL,) * 3, Path("t"))
    assert vocabulary.ids == {"a": 0, "b": 1}
    assert vocabulary.special(NORMAL).keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer.json", {"added_tokens": "abc"}),
        ("tokenizer.json", {"added_tokens": [{}]}),
        ("tokenizer.json", {"pre_tokenizer": [1]}),
        ("tokenizer.json", {"post_processor": {"type": "TemplateProcessing"}}),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}),
    ],
)
def test_a_tokenizer_file_that_is_none_is_refused(
    file: str, change: dict[str, Any], json_only: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(json_only, tmp_path / "base")
    content = json.loads((base / file).read_text()) | change
    (base / file).write_text(json.dumps(content))
    with pytest.raises(InputError, match="not as Transformers writes them") as caught:
        load_vocabulary(base)
    assert caught.value.hint


@pytest.mark.parametrize("merge", [1, ["a"], ["a", "b", "c"], ["no", "token"]])
def test_a_merge_that_makes_no_token_is_refused(merge: Any, json_only: Path, tmp_path: Path) -> None:
    base = shutil.copytree(json_only, tmp_path / "base")
    content = json.loads((base / "tokenizer.json").read_text())
    content["model"]["merges"].append(merge)
    (base / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError):
        load_vocabulary(base)
