"""`medllama train` end to end on a small random base: what it learns, what it leaves on disk, and that it repeats itself."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama.modeling_llama import LlamaMLP
from trl import SFTTrainer

from finetune.train import train
from finetune.train_config import TrainConfig
from finetune.training.measured import general_text
from finetune.training.packing import LikeLengths
from finetune.training.tokenized import RecordEncoder, TokenizedRecord
from finetune.training.trainer import AdapterTrainer
from finetune.training.training_data import open_base
from medllama.chat import Chat, load_chat
from medllama.checkpoint import base_digests, base_states
from medllama.config import build
from medllama.errors import InputError, MedllamaError, RecipeError
from medllama.files import read_json
from tests.checkpoints import make_llama2_checkpoint, make_llama3_checkpoint
from tests.conftest import REPOSITORY

SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
CONDITIONS = {"gout": "the joints", "asthma": "the lungs", "eczema": "the skin", "anemia": "the blood"}
HYPERPARAMETERS = {"rank": 4, "alpha": 8.0, "learning_rate": 5e-3, "epochs": 4.0, "batch_size": 8, "seed": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of each family, and data with questions, answers and a few texts."""
    folder = tmp_path_factory.mktemp("train")
    make_llama2_checkpoint(folder / "llama2", **SMALL)
    make_llama3_checkpoint(folder / "llama3", **SMALL)
    data = folder / "data"
    data.mkdir()
    for split, wordings in {
        "train": ("What does {} affect?", "Where does {} show itself in the body?", "Say what {} affects."),
        "validation": ("Which part does {} affect?",),
        "test": ("What part of the body does {} affect?",),
    }.items():
        records = [_question(wording.format(name), name) for wording in wordings for name in CONDITIONS]
        if split == "train":
            records += [_text(f"{name.capitalize()} affects {organ}.") for name, organ in CONDITIONS.items()]
            records *= 2
        (data / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (data / "data_card.json").write_text(json.dumps({"publishable": True, "sources": [{"name": "ours"}]}))
    (data / "NOTICE").write_text("Written for this test.\n")
    return folder


def _question(question: str, name: str) -> dict[str, Any]:
    answer = f"It affects {CONDITIONS[name]}."
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "source": "ours", "document_id": name, "licence": "MIT", "sha256": ""}


def _text(text: str) -> dict[str, Any]:
    return {"text": text, "source": "ours", "document_id": text, "licence": "MIT", "sha256": ""}


def _config(folder: Path, output: str, family: str = "llama2", **changes: Any) -> TrainConfig:
    fields: dict[str, Any] = {**HYPERPARAMETERS, **changes}
    fields.setdefault("data", folder / "data")
    return TrainConfig(base_model=str(folder / family), output_dir=folder / output, **fields)


@pytest.fixture(scope="module")
def trained(folder: Path) -> TrainConfig:
    """The configuration of a training that has been run."""
    config = _config(folder, "adapter")
    train(config)
    return config


def _training(config: TrainConfig) -> dict[str, Any]:
    training: dict[str, Any] = read_json(config.output_dir / "training.json")
    return training


def _metrics(config: TrainConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (config.output_dir / "metrics.jsonl").read_text().splitlines()]


def _chat(config: TrainConfig) -> Chat:
    chat = load_chat(Path(config.base_model))
    assert chat is not None
    return chat


def _records(config: TrainConfig, split: str) -> list[TokenizedRecord]:
    chat = _chat(config)
    encoder = RecordEncoder(chat.tokenizer, chat, embedding_rows=512, max_length=512)
    return encoder.encode_file(config.data / f"{split}.jsonl").records


def _general(config: TrainConfig) -> list[TokenizedRecord]:
    return general_text(open_base(config)).records


def _plain_loss(model: Any, records: list[TokenizedRecord]) -> float:
    """Mean nats per learned token, record by record with all logits: no code of ours."""
    nats, tokens = 0.0, 0
    for record in records:
        with torch.no_grad():
            logits = model(torch.from_numpy(record.input_ids)[None].long()).logits[0, :-1]
        targets = torch.from_numpy(record.labels)[1:].long()
        nats += float(torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum"))
        tokens += int((targets != -100).sum())
    return nats / tokens


def _same_bytes(first: TrainConfig, second: TrainConfig) -> bool:
    names = (
        "adapter_model.safetensors",
        "adapter_config.json",
        "metrics.jsonl",
        "tokenizer.json",
        "chat_template.jinja",
    )
    return all((first.output_dir / name).read_bytes() == (second.output_dir / name).read_bytes() for name in names)


# ------------------------------------------------------------------------------------------------- what is learned


def test_held_out_loss_falls(trained: TrainConfig) -> None:
    for split in ("validation", "test"):
        loss = _training(trained)["loss"][split]
        assert loss["tuned"]["nats_per_token"] < loss["base"]["nats_per_token"] - 1
        assert loss["tuned"]["perplexity"] == pytest.approx(math.exp(loss["tuned"]["nats_per_token"]))
        assert loss["tuned"]["standard_error"] > 0


def test_the_first_step_has_the_loss_of_plain_pytorch(trained: TrainConfig) -> None:
    records = _records(trained, "train")
    order = LikeLengths([len(record) for record in records], trained.batch_size, trained.seed)
    batch = [records[position] for position in list(order)[: trained.batch_size]]
    base = AutoModelForCausalLM.from_pretrained(trained.base_model, local_files_only=True)
    assert _metrics(trained)[0]["step"] == 1
    assert _metrics(trained)[0]["loss"] == pytest.approx(_plain_loss(base, batch), rel=1e-5)
    assert _metrics(trained)[0]["tokens"] == sum(map(len, batch))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # PEFT's, in PeftModel.from_pretrained
def test_the_recorded_losses_are_those_of_the_saved_adapter(trained: TrainConfig) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained.base_model, local_files_only=True)
    tuned = PeftModel.from_pretrained(model, trained.output_dir)
    tuned.eval()
    losses = _training(trained)["loss"]
    held_out = {split: _records(trained, split) for split in ("validation", "test")}
    for split, records in {**held_out, "general": _general(trained)}.items():
        loss = losses[split]
        assert loss["tuned"]["nats_per_token"] == pytest.approx(_plain_loss(tuned, records), rel=1e-4)
        with tuned.disable_adapter():
            assert loss["base"]["nats_per_token"] == pytest.approx(_plain_loss(tuned, records), rel=1e-4)


def test_the_checkpoint_with_the_lowest_validation_loss_is_kept(folder: Path) -> None:
    # So many steps at such a rate that the validation loss rises again.
    config = _config(folder, "overtrained", epochs=12.0, learning_rate=3e-2, evaluations=6, schedule="constant")
    train(config)
    validation = {entry["step"]: entry["validation_loss"] for entry in _metrics(config) if entry["validation_loss"]}
    assert len(validation) == 6
    best_step = min(validation, key=lambda step: validation[step])
    assert best_step != max(validation), "the test needs a training whose last checkpoint is not its best"
    training = _training(config)
    assert training["best_step"] == best_step
    assert training["loss"]["validation"]["tuned"]["nats_per_token"] == pytest.approx(validation[best_step], abs=1e-6)


def test_without_validation_records_the_last_checkpoint_is_kept_and_that_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(folder / "data" / "train.jsonl", data)
    config = _config(folder, "unvalidated", data=data, max_steps=3)
    result = train(config)
    assert "the last checkpoint is kept" in capsys.readouterr().err
    assert (_training(config)["best_step"], list(result.summary["loss"])) == (3, ["general"])


def test_accumulated_gradients_are_those_of_the_whole_batch(folder: Path) -> None:
    whole = _config(folder, "whole", max_steps=4)
    halves = _config(folder, "halves", max_steps=4, batch_size=4, gradient_accumulation=2)
    for config in (whole, halves):
        train(config)
    _same_course(halves, whole)


def test_recomputed_activations_change_nothing_but_the_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda layer, x: (calls.append(layer.training), forward(layer, x))[1])
    kept = _config(folder, "activations-kept", max_steps=4)
    recomputed = _config(folder, "activations-recomputed", max_steps=4, gradient_checkpointing=True)
    counts = []
    for config in (kept, recomputed):
        train(config)
        counts.append(sum(calls))
        calls.clear()
    assert counts == [4 * SMALL["num_hidden_layers"], 2 * 4 * SMALL["num_hidden_layers"]]
    _same_course(recomputed, kept)


def test_our_loss_is_the_loss_that_trl_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = _config(folder, "our-loss", max_steps=4, batch_size=4, gradient_accumulation=2)
    train(ours)
    plain = SFTTrainer.compute_loss
    monkeypatch.setattr(AdapterTrainer, "compute_loss", lambda *given, **named: plain(*given, **named))
    theirs = dataclasses.replace(ours, output_dir=folder / "their-loss")
    train(theirs)
    _same_course(theirs, ours, but=("tokens",))


def _same_course(config: TrainConfig, expected: TrainConfig, but: tuple[str, ...] = ()) -> None:
    for entry, other in zip(_metrics(config), _metrics(expected), strict=True):
        figures = {key: value for key, value in other.items() if isinstance(value, int | float) and key not in but}
        # float32 sums in another order, through a few steps of Adam
        assert {key: entry[key] for key in figures} == pytest.approx(figures, rel=1e-3)


def test_llama3_learns_too(folder: Path) -> None:
    config = _config(folder, "llama3-adapter", family="llama3")
    train(config)
    loss = _training(config)["loss"]["test"]
    assert loss["tuned"]["nats_per_token"] < loss["base"]["nats_per_token"] - 1


# ------------------------------------------------------------------------------------------------ what is on the disk


def test_the_adapter_is_a_plain_peft_folder_and_nothing_else_is_left(trained: TrainConfig) -> None:
    assert sorted(path.name for path in trained.output_dir.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "metrics.jsonl",
        "tensorboard",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    ]
    assert not [path.name for path in trained.output_dir.parent.iterdir() if "partial" in path.name]
    settings = read_json(trained.output_dir / "adapter_config.json")
    assert settings["base_model_name_or_path"] == trained.base_model
    assert (settings["r"], settings["lora_alpha"], settings["task_type"]) == (4, 8.0, "CAUSAL_LM")
    weights = load_file(trained.output_dir / "adapter_model.safetensors")
    assert len(weights) == 2 * 7 * SMALL["num_hidden_layers"]  # A and B of seven linear layers a block, no head
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_only_the_named_layers_get_an_adapter(folder: Path) -> None:
    config = _config(folder, "queries", max_steps=1, target_modules=("q_proj", "v_proj"))
    train(config)
    weights = load_file(config.output_dir / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in weights} == {"q_proj", "v_proj"}


def test_training_json_tells_what_the_adapter_was_made_of(trained: TrainConfig) -> None:
    training = _training(trained)
    base = Path(trained.base_model)
    assert training["base"] == {
        "name": trained.base_model,
        "files": base_digests(base),
        "states": base_states(base),
    }
    assert training["data"] == {
        "publishable": True,
        "sources": [{"name": "ours"}],
        "notice": "Written for this test.\n",
    }
    assert training["hyperparameters"]["learning_rate"] == trained.learning_rate
    assert training["chat_template_sha256"] == _chat(trained).sha256
    records = _records(trained, "train")
    assert training["records"]["train"] == {
        "records": 32,
        "tokens": sum(map(len, records)),
        "learned_tokens": sum(record.learned_tokens for record in records),
        "truncated": 0,
        "dropped": 0,
        "split": 0,
    }
    assert training["steps"] == 16  # 32 records, 8 a batch, 4 epochs
    assert training["trained_tokens"] == 4 * sum(map(len, records))
    assert training["versions"]["trl"]


def test_metrics_have_a_line_for_every_log(trained: TrainConfig) -> None:
    metrics = _metrics(trained)
    assert {tuple(entry) for entry in metrics} == {
        ("step", "phase", "epoch", "loss", "learning_rate", "validation_loss", "tokens")
    }
    assert [entry["step"] for entry in metrics if entry["loss"] is not None] == list(range(1, 17))
    assert [entry["step"] for entry in metrics if entry["validation_loss"] is not None] == [4, 8, 12, 16]
    assert max(entry["learning_rate"] or 0 for entry in metrics) == pytest.approx(trained.learning_rate)


@pytest.mark.parametrize("family", ["llama2", "llama3"])
def test_the_saved_tokenizer_gives_the_ids_that_were_trained(folder: Path, family: str) -> None:
    config = _config(folder, f"{family}-tokenizer", family=family, max_steps=1)
    train(config)
    chat = _chat(config)
    tokenizer = AutoTokenizer.from_pretrained(config.output_dir)
    conversations = [
        [{"role": "user", "content": text}, {"role": "assistant", "content": f" {text}\n"}]
        for text in ("What is gout?", "  two  spaces ", "Ménière’s ☤ 12345\t!", "a\n\n  b")
    ]
    for messages in conversations:
        prompt = tokenizer.apply_chat_template(messages, tokenize=False)
        assert prompt == chat.render(messages)
        assert tokenizer(prompt, add_special_tokens=False).input_ids == chat.encode(messages)
        assert tokenizer.apply_chat_template(messages)["input_ids"] == chat.encode(messages)
    vocabulary = chat.tokenizer.vocabulary
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (vocabulary.bos_id, vocabulary.eos_id)
    assert (tokenizer.unk_token_id, tokenizer.pad_token_id) == (vocabulary.unk_id, vocabulary.pad_id)
    adapted = load_chat(Path(config.base_model), config.output_dir)
    assert adapted is not None
    assert (adapted.sha256, adapted.tokenizer.vocabulary) == (chat.sha256, vocabulary)


# --------------------------------------------------------------------------------------- the same again, and quietly


def test_the_same_configuration_gives_the_same_bytes(trained: TrainConfig, folder: Path) -> None:
    torch.rand(7)  # whatever ran before
    again = dataclasses.replace(trained, output_dir=folder / "again")
    train(again)
    assert _same_bytes(trained, again)
    other = dataclasses.replace(trained, output_dir=folder / "other", seed=4)
    train(other)
    assert not _same_bytes(trained, other)


FRESH_PROCESS = """
import socket, sys
attempts = []
def refuse(*address, **_):
    attempts.append(address)
    raise OSError("no network in this test")
socket.getaddrinfo = socket.socket.connect = refuse
import huggingface_hub.utils._telemetry as telemetry     # imported before, as in a notebook: the variable comes too late
from pathlib import Path
from finetune.train_config import TrainConfig
from finetune.train import train
data, output, base, *_ = map(Path, sys.argv[1:])
train(TrainConfig(base_model=str(base), data=data, output_dir=output, **eval(sys.argv[4])))
telemetry._TELEMETRY_QUEUE.join()
assert not attempts, attempts
"""


def test_a_fresh_process_gives_the_same_bytes_and_calls_nobody(trained: TrainConfig, folder: Path) -> None:
    fresh = dataclasses.replace(trained, output_dir=folder / "fresh")
    forgotten = ("CI", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    environment = {key: value for key, value in os.environ.items() if key not in forgotten}
    program = [sys.executable, "-W", "error", "-c", FRESH_PROCESS]
    arguments = [str(fresh.data), str(fresh.output_dir), fresh.base_model, repr(HYPERPARAMETERS)]
    done = subprocess.run([*program, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    assert _same_bytes(trained, fresh)


def test_the_order_is_a_shuffle_that_saves_padding_and_depends_on_seed_and_epoch_alone() -> None:
    lengths = [5 + (7 * index) % 40 for index in range(203)]
    order = LikeLengths(lengths, 8, seed=1)
    first = list(order)
    assert sorted(first) == list(range(203))
    assert len(order) == 203
    batches = [[lengths[position] for position in first[start : start + 8]] for start in range(0, 200, 8)]
    assert sum(8 * max(batch) - sum(batch) for batch in batches) < 0.05 * sum(lengths)
    assert [max(batch) for batch in batches] != sorted(max(batch) for batch in batches), "batches in order of length"
    assert list(order) == first
    order.set_epoch(1)
    assert list(order) != first != list(LikeLengths(lengths, 8, seed=2))


# ---------------------------------------------------------------------------------------------------------- refusals


def _refused(config: TrainConfig, reason: str) -> MedllamaError:
    with pytest.raises(MedllamaError, match=reason) as caught:
        train(config)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    left = [path.name for path in config.output_dir.parent.iterdir() if path.name.startswith(config.output_dir.name)]
    assert left == [], "something half-written is left"
    return caught.value


def test_a_loss_that_is_no_number_stops_with_the_learning_rate(folder: Path) -> None:
    error = _refused(
        _config(folder, "diverged", learning_rate=1e30),
        r"the loss became nan at step \d+: learning_rate 1e\+30 is too high",
    )
    assert "--learning-rate 1e+29" in error.hint


def _broken_base(folder: Path, tmp_path: Path, how: str) -> Path:
    base = Path(shutil.copytree(folder / "llama2", tmp_path / "base"))
    weights, config = base / "model.safetensors", base / "config.json"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif how == "pickle":
        weights.rename(base / "pytorch_model.bin")
    elif how == "no config":
        config.unlink()
    elif how == "no tokenizer":
        (base / "tokenizer.model").unlink()
    elif how == "missing":
        shutil.rmtree(base)
    else:
        changes = {"quantized": {"quantization_config": {"quant_method": "bitsandbytes"}}}
        changes["mistral"] = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
        changes["few rows"] = {"vocab_size": 300}
        config.write_text(json.dumps(read_json(config) | changes[how]))
    return base


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("truncated", r"model\.safetensors has [\d,]+ bytes where its header says"),
        ("pickle", r"pickle \(pytorch_model\.bin\)"),
        ("no config", r"has no config\.json"),
        ("no tokenizer", r"neither tokenizer\.model nor tokenizer\.json"),
        ("missing", "does not exist"),
        ("quantized", "is quantized"),
        ("mistral", "MistralForCausalLM is not LlamaForCausalLM"),
        ("few rows", "embedding has only 300 rows"),
    ],
)
def test_a_base_that_cannot_be_trained_is_one_line_and_a_hint(
    folder: Path, tmp_path: Path, how: str, reason: str
) -> None:
    base = _broken_base(folder, tmp_path, how)
    _refused(dataclasses.replace(_config(folder, "refused"), base_model=str(base)), reason)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, r"train\.jsonl does not exist"),
        ("", "has no record to learn from"),
        ('{"text": "a"}\n{"text"\n', r"train\.jsonl:2 is not JSON"),
    ],
)
def test_data_that_cannot_be_trained_on_is_one_line_and_a_hint(
    folder: Path, tmp_path: Path, content: str | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / "train.jsonl").write_text(content)
    _refused(_config(folder, "refused", data=tmp_path), reason)


def test_faults_of_base_and_data_show_before_torch_is_imported(folder: Path, tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from finetune.train_config import TrainConfig
from finetune.train import train
from medllama.errors import InputError
try:
    train(TrainConfig(base_model={str(folder / "llama2")!r}, data=Path({str(tmp_path)!r}), output_dir=Path("nowhere")))
except InputError:
    assert not {{"torch", "transformers", "datasets"}} & set(sys.modules), "imported too early"
    sys.exit(7)
"""
    (tmp_path / "train.jsonl").write_text('{"text": 5}\n')
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr


def test_a_folder_that_is_no_adapter_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(InputError, match="would be replaced"):
        train(dataclasses.replace(_config(folder, ""), output_dir=tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "three years of work"


def test_a_failed_training_leaves_the_earlier_adapter(folder: Path) -> None:
    config = _config(folder, "kept", max_steps=1)
    train(config)
    before = (config.output_dir / "training.json").read_bytes()
    with pytest.raises(InputError, match="learning_rate"):
        train(dataclasses.replace(config, learning_rate=1e30, max_steps=None))
    assert (config.output_dir / "training.json").read_bytes() == before


def test_all_hyperparameters_that_make_no_sense_are_named_together() -> None:
    wrong = {
        "rank": 0, "alpha": math.nan, "dropout": 1.0, "learning_rate": -1.0, "max_steps": 0, "weight_decay": -0.1,
        "warmup_share": 2.0, "seed": -1, "target_modules": ["q_proj", "lm_head"], "schedule": "step",
    }  # fmt: skip
    paths = {"base_model": "base", "data": "data", "output_dir": "adapter"}
    with pytest.raises(RecipeError) as caught:
        build(TrainConfig, paths | {key: value for key, value in wrong.items() if key != "schedule"}, origin="train")
    named = [problem.split(":")[0] for problem in caught.value.problems]
    assert sorted(named) == sorted(key for key in wrong if key != "schedule")
    with pytest.raises(RecipeError, match="schedule: expected one of linear, cosine, constant"):
        build(TrainConfig, paths | {"schedule": "step"}, origin="train")
