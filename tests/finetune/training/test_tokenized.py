"""What the model learns, decoded; and every record that cannot be learned is refused or counted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.training.tokenized import RecordEncoder, TokenizedRecord
from medllama.chat import IGNORED_LABEL, load_chat
from medllama.errors import InputError
from medllama.tokenizer import Tokenizer
from tests.checkpoints import make_llama2_checkpoint, make_llama3_checkpoint

SMALL = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
FAMILIES = {"llama2": make_llama2_checkpoint, "llama3": make_llama3_checkpoint}
TURNS = {
    "messages": [
        {"role": "system", "content": "You answer briefly."},
        {"role": "user", "content": "What is gout?"},
        {"role": "assistant", "content": "A disorder of the joints."},
        {"role": "user", "content": "Is </s> or <|eot_id|> text?"},
        {"role": "assistant", "content": "Yes: 1 < 2."},
    ]
}
TEXT = {"text": "Gout is a disorder.\nIt affects the joints."}

Encoder = Callable[..., RecordEncoder]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = tmp_path_factory.mktemp("bases")
    chats = {name: load_chat(make(folder / name, **SMALL)) for name, make in FAMILIES.items()}

    def make_encoder(
        family: str = "llama2", *, max_length: int = 512, rows: int = 512, chat: bool = True, has_bos: bool = True
    ) -> RecordEncoder:
        found = chats[family]
        assert found is not None
        tokenizer = found.tokenizer
        if not has_bos:
            tokenizer = Tokenizer(dataclasses.replace(tokenizer.vocabulary, bos_id=None))
        return RecordEncoder(tokenizer, found if chat else None, embedding_rows=rows, max_length=max_length)

    return make_encoder


def _write(path: Path, *records: dict[str, Any] | str) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _learned(encoder: RecordEncoder, record: TokenizedRecord) -> list[str]:
    """The learned stretches of a record, decoded with control tokens shown."""
    stretches: list[list[int]] = [[]]
    for token, label in zip(record.input_ids.tolist(), record.labels.tolist(), strict=True):
        assert label in (token, IGNORED_LABEL)
        if label == IGNORED_LABEL:
            stretches.append([])
        else:
            stretches[-1].append(token)
    return [encoder.tokenizer.decode(stretch, show_control=True) for stretch in stretches if stretch]


@pytest.mark.parametrize(
    ("family", "answers"),
    [
        ("llama2", [" A disorder of the joints. </s>", " Yes: 1 < 2. </s>"]),
        ("llama3", ["A disorder of the joints.<|eot_id|>", "Yes: 1 < 2.<|eot_id|>"]),
    ],
)
def test_exactly_the_answers_and_their_end_tokens_are_learned(
    encoder: Encoder, tmp_path: Path, family: str, answers: list[str]
) -> None:
    used = encoder(family)
    (record,) = used.encode_file(_write(tmp_path / "train.jsonl", TURNS)).records
    assert _learned(used, record) == answers
    assert used.chat is not None
    assert record.input_ids.tolist() == used.chat.encode(TURNS["messages"])


@pytest.mark.parametrize(("family", "end"), [("llama2", "</s>"), ("llama3", "<|end_of_text|>")])
def test_a_text_is_learned_whole_after_its_first_token(encoder: Encoder, tmp_path: Path, family: str, end: str) -> None:
    used = encoder(family, chat=False)
    (record,) = used.encode_file(_write(tmp_path / "train.jsonl", TEXT)).records
    (learned,) = _learned(used, record)
    assert learned.removeprefix(" ") == TEXT["text"] + end
    vocabulary = used.tokenizer.vocabulary
    assert record.input_ids[0] == vocabulary.bos_id
    assert record.input_ids.tolist()[1:-1] == used.tokenizer.encode_text(TEXT["text"])


def test_a_long_conversation_is_cut_and_one_without_an_answer_left_is_dropped(encoder: Encoder, tmp_path: Path) -> None:
    path = _write(tmp_path / "train.jsonl", TURNS, TEXT)
    chat, text = encoder().encode_file(path).records
    first_answer = next(place for place, label in enumerate(chat.labels) if label != IGNORED_LABEL)
    assert len(text) < first_answer

    cut = encoder(max_length=first_answer + 2).encode_file(path)
    assert (cut.truncated, cut.dropped, cut.split, len(cut.records)) == (1, 0, 0, 2)
    assert cut.records[0].input_ids.tolist() == chat.input_ids[: first_answer + 2].tolist()
    assert cut.records[0].labels.tolist() == chat.labels[: first_answer + 2].tolist()

    without_answer = encoder(max_length=first_answer).encode_file(path)
    assert (without_answer.truncated, without_answer.dropped, len(without_answer.records)) == (1, 1, 1)


@pytest.mark.parametrize("family", ["llama2", "llama3"])
@pytest.mark.parametrize("has_bos", [True, False])
def test_a_long_text_is_split_and_each_of_its_tokens_is_learned_once(
    encoder: Encoder, tmp_path: Path, family: str, has_bos: bool
) -> None:
    path = _write(
        tmp_path / "train.jsonl", {"text": "Ménière 12.5 mg, twice daily; not for asthma. " * 4, "document_id": "one"}
    )
    (whole,) = encoder(family, chat=False, has_bos=has_bos).encode_file(path).records
    for length in (2, 3, 7, len(whole) // 2, len(whole) - 1):
        found = encoder(family, chat=False, has_bos=has_bos, max_length=length).encode_file(path)
        assert (found.truncated, found.dropped, found.split) == (0, 0, 1)
        learned = [id for record in found.records for id in record.labels.tolist() if id != IGNORED_LABEL]
        assert learned == whole.input_ids.tolist()[1:]
        assert all(len(record) == length for record in found.records[:-1]), "no piece is shorter than it could be"
        seen_before = 0
        for record in found.records:
            assert record.document_id == "one"
            assert record.labels.tolist() == [IGNORED_LABEL, *record.input_ids.tolist()[1:]]
            assert record.input_ids[0] == whole.input_ids[0 if has_bos else seen_before]
            seen_before += record.learned_tokens
    assert encoder(family, chat=False, has_bos=has_bos, max_length=len(whole)).encode_file(path).split == 0


def test_counts_are_of_tokens_and_of_learned_tokens(encoder: Encoder, tmp_path: Path) -> None:
    tokenized = encoder().encode_file(_write(tmp_path / "train.jsonl", TURNS, TEXT))
    assert tokenized.as_json() == {
        "records": 2,
        "tokens": sum(len(record.input_ids) for record in tokenized.records),
        "learned_tokens": sum(sum(label >= 0 for label in record.labels) for record in tokenized.records),
        "truncated": 0,
        "dropped": 0,
        "split": 0,
    }


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ('{"text": "cut', "train.jsonl:2 is not JSON"),
        ("[1]", "train.jsonl:2 is not a JSON object"),
        ({"prompt": "What?"}, "train.jsonl:2: neither messages nor text: prompt"),
        ({"messages": "What?"}, "train.jsonl:2: messages is not a list"),
        ({"messages": [{"role": "user"}]}, "train.jsonl:2: content is not text"),
        ({"messages": TURNS["messages"][:2]}, "train.jsonl:2: no assistant turn"),
        ({"messages": TURNS["messages"][2:]}, "train.jsonl:2: turns do not alternate"),
        ({"text": 5}, "train.jsonl:2: text is not text"),
        ({"text": " "}, "train.jsonl:2: empty text"),
    ],
)
def test_a_malformed_record_is_named_by_file_and_line(
    encoder: Encoder, tmp_path: Path, record: dict[str, Any] | str, reason: str
) -> None:
    with pytest.raises(InputError) as caught:
        encoder().encode_file(_write(tmp_path / "train.jsonl", TEXT, record))
    assert reason in caught.value.message
    assert caught.value.hint


def test_a_conversation_without_a_template_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.jsonl:1 is a conversation") as caught:
        encoder(chat=False).encode_file(_write(tmp_path / "train.jsonl", TURNS))
    assert "--chat-template" in caught.value.hint


def test_ids_beyond_the_embedding_are_refused(encoder: Encoder, tmp_path: Path) -> None:
    path = _write(tmp_path / "train.jsonl", TEXT)
    (record,) = encoder().encode_file(path).records
    highest = int(record.input_ids.max())
    encoder(rows=highest + 1).encode_file(path)
    with pytest.raises(InputError, match=rf"train\.jsonl:1: .* has the id {highest}, .* only {highest} rows"):
        encoder(rows=highest).encode_file(path)


def test_another_encoding_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes('{"text": "Ménière"}'.encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8"):
        encoder().encode_file(tmp_path / "train.jsonl")
