"""The loss is PyTorch's cross entropy over the learned tokens whatever the batch, its error that of a sample of documents."""

from __future__ import annotations

import math
import random
import statistics
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from peft.helpers import disable_input_dtype_casting

from finetune.train_config import TrainConfig
from finetune.training import losses
from finetune.training.adapter import add_lora
from finetune.training.base import choose_dtype, load_base
from finetune.training.losses import add_token_nats, measure, summarize, token_nats
from finetune.training.tokenized import TokenizedRecord
from medllama.errors import InputError, UnsupportedError
from tests.checkpoints import make_llama2_checkpoint, make_llama3_checkpoint

SMALL = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama2_checkpoint(tmp_path_factory.mktemp("losses") / "base", **SMALL)


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    model = load_base(base, torch.float32)
    add_token_nats(model)
    return model


def _records(count: int, *, seed: int = 0) -> list[TokenizedRecord]:
    draw = random.Random(seed)
    records = []
    for index in range(count):
        ids = numpy.array([draw.randrange(512) for _ in range(draw.randrange(4, 40))], dtype=numpy.int32)
        labels = ids.copy()
        labels[: draw.randrange(1, len(ids) - 1)] = -100
        records.append(TokenizedRecord(ids, labels, f"document {index // 3}"))
    return records


def _plain_nats(model: Any, record: TokenizedRecord) -> float:
    """The sum of nats of one record by itself: no padding, no mask, all logits."""
    with torch.no_grad():
        logits = model(torch.from_numpy(record.input_ids)[None].long()).logits[0, :-1]
    targets = torch.from_numpy(record.labels)[1:].long()
    return float(torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum"))


def test_the_loss_is_pytorchs_cross_entropy_of_the_learned_tokens(model: Any) -> None:
    records = _records(10)
    loss = measure(model, records, "test")
    expected = sum(_plain_nats(model, record) for record in records) / sum(record.learned_tokens for record in records)
    assert loss.nats == pytest.approx(expected, rel=1e-5)  # float32 sums in another order
    assert loss.perplexity == pytest.approx(math.exp(expected), rel=1e-4)
    assert (loss.records, loss.documents) == (10, 4)


def test_the_loss_does_not_depend_on_the_batches(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    records = _records(10)
    together = measure(model, records, "test").nats
    monkeypatch.setattr(losses, "BATCH_TOKENS", 1)
    monkeypatch.setattr(losses, "HEAD_TOKENS", 3)
    assert measure(model, records[::-1], "test").nats == pytest.approx(together, rel=1e-6)


def test_padding_changes_no_loss_and_no_gradient(model: Any) -> None:
    record = _records(1)[0]
    ids, labels = (torch.from_numpy(row)[None].long() for row in (record.input_ids, record.labels))
    padding = torch.full((1, 7), 5)
    gradients = []
    for more in (padding[:, :0], padding):
        model.zero_grad()
        padded_labels = torch.cat([labels, torch.full_like(more, -100)], dim=1)
        nats = token_nats(model, torch.cat([ids, more], dim=1), padded_labels)
        assert len(nats) == record.learned_tokens
        nats.sum().backward()
        gradients.append(model.model.layers[0].self_attn.q_proj.weight.grad.clone())
    model.zero_grad()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


def test_the_head_taken_in_parts_changes_no_loss_and_no_gradient(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    record = max(_records(10), key=lambda record: record.learned_tokens)
    ids, labels = (torch.from_numpy(row)[None].long() for row in (record.input_ids, record.labels))
    gradients = []
    for head_tokens in (1024, 3):
        monkeypatch.setattr(losses, "HEAD_TOKENS", head_tokens)
        assert record.learned_tokens > 3
        model.zero_grad()
        token_nats(model, ids, labels).sum().backward()
        gradients.append(model.model.layers[0].self_attn.q_proj.weight.grad.clone())
    model.zero_grad()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


def test_measuring_leaves_the_model_in_its_mode(model: Any) -> None:
    for mode in (True, False):
        model.train(mode)
        measure(model, _records(2), "test")
        assert model.training is mode


def test_with_one_equal_record_a_document_the_error_is_that_of_a_mean() -> None:
    ids = numpy.array([1, 2, 3], dtype=numpy.int32)
    labels = numpy.array([-100, 2, 3], dtype=numpy.int32)
    nats = [2.0, 3.0, 7.0, 8.5]
    loss = summarize(nats, [TokenizedRecord(ids, labels, str(number)) for number in range(4)])
    per_token = [value / 2 for value in nats]
    assert loss.nats == pytest.approx(statistics.mean(per_token))
    assert loss.standard_error == pytest.approx(statistics.stdev(per_token) / math.sqrt(4))
    assert summarize([2.0], [TokenizedRecord(ids, labels, "one")]).standard_error is None


def test_the_error_agrees_with_a_bootstrap_over_documents() -> None:
    draw = random.Random(0)
    records, nats = [], []
    for record in _records(240):
        records.append(record)
        nats.append(record.learned_tokens * draw.gauss(2.0, 0.5))
    documents: dict[str, list[int]] = {}
    for position, record in enumerate(records):
        documents.setdefault(record.document_id, []).append(position)
    means = []
    for _ in range(400):
        chosen = [place for name in draw.choices(list(documents), k=len(documents)) for place in documents[name]]
        means.append(sum(nats[place] for place in chosen) / sum(records[place].learned_tokens for place in chosen))
    # 400 resamples know a standard deviation to 3.5%; four of those.
    assert summarize(nats, records).standard_error == pytest.approx(statistics.stdev(means), rel=0.15)


def test_a_base_whose_weights_do_not_fit_its_config_is_refused(base: Path, tmp_path: Path) -> None:
    import json
    import shutil

    folder = Path(shutil.copytree(base, tmp_path / "base"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(InputError, match="lacks 9 weights"):
        load_base(folder, torch.float32)
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}))
    with pytest.raises(InputError, match="cannot be loaded"):
        load_base(folder, torch.float32)


def test_a_tied_base_has_all_its_weights(tmp_path: Path) -> None:
    folder = make_llama3_checkpoint(tmp_path / "base", tie_word_embeddings=True, **SMALL)
    tied = load_base(folder, torch.float32)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what holds on a CPU")
def test_a_cpu_trains_in_float32_and_refuses_float16() -> None:
    assert choose_dtype("auto") is torch.float32
    assert choose_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(UnsupportedError, match="float16"):
        choose_dtype("float16")


def test_under_autocast_pefts_own_cast_of_the_inputs_changes_no_bit(base: Path) -> None:
    config = TrainConfig(base_model=str(base), data=base, output_dir=base, rank=4)
    model = load_base(base, torch.bfloat16)
    add_token_nats(model)
    tuned = add_lora(model, config)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    record = _records(1)[0]
    ids, labels = (torch.from_numpy(row)[None].long() for row in (record.input_ids, record.labels))
    found = []
    for is_active in (False, True):
        with torch.autocast("cpu", torch.bfloat16), disable_input_dtype_casting(tuned, active=is_active):
            nats = tuned(input_ids=ids, learned_labels=labels)
        nats.sum().backward()
        found += [[nats.detach(), *(weight.grad.clone() for weight in tuned.parameters() if weight.requires_grad)]]
        tuned.zero_grad()
    for with_cast, without in zip(*found, strict=True):
        assert torch.equal(with_cast, without)
