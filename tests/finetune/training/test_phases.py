"""What is trained, in which order and how: kinds of records, phases, variants of LoRA, early stopping, reporters, refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c
from transformers import AutoModelForCausalLM

from finetune.train import train
from finetune.train_config import TrainConfig
from finetune.training.metrics import has_exploded
from finetune.training.phases import choose_attention
from finetune.training.trainer import AdapterTrainer, require_device_for
from finetune.training.training_data import open_base, read_phases
from medllama.config import build
from medllama.errors import InputError, RecipeError, ResourceError, UnsupportedError
from medllama.files import read_json

SETTINGS: dict[str, Any] = {"rank": 4, "alpha": 8.0, "learning_rate": 5e-3, "batch_size": 4, "max_steps": 4}


def config(folder: Path, output: str, **changes: Any) -> TrainConfig:
    fields = {"base_model": str(folder / "base"), "data": folder / "data", "output_dir": folder / output}
    return TrainConfig(**{**fields, **SETTINGS, **changes})


def training(of: TrainConfig) -> dict[str, Any]:
    found: dict[str, Any] = read_json(of.output_dir / "training.json")
    return found


def metrics(of: TrainConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (of.output_dir / "metrics.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------------------------------------------- what is learned


@pytest.mark.parametrize(("learn", "records"), [("messages", 12), ("text", 4), ("all", 16)])
def test_only_records_of_the_named_kind_are_read(folder: Path, learn: str, records: int) -> None:
    used = config(folder, "unused", learn=learn)
    (phase,) = read_phases(used, open_base(used)).values()
    assert len(phase.data["train"].records) == records


def test_a_kind_of_which_there_is_no_record_is_refused(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "data" / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(line for line in lines if '"messages"' in line))
    with pytest.raises(InputError, match=r"train\.jsonl has no record with text to learn from"):
        train(config(folder, "refused", data=tmp_path, learn="text"))


def test_phases_follow_each_other_with_one_adapter(folder: Path) -> None:
    phases = {"reading": {"learn": "text", "max_steps": 3}, "answering": {"learn": "messages", "learning_rate": 1e-3}}
    used = config(folder, "sequence", phases=phases)
    train(used)
    told = training(used)
    assert list(told["phases"]) == ["reading", "answering"]
    assert [told["phases"][name]["steps"] for name in phases] == [3, 4]
    assert (told["steps"], told["records"]["train"]["records"]) == (7, 16)
    trained = [entry for entry in metrics(used) if entry["loss"] is not None]
    assert [(entry["step"], entry["phase"]) for entry in trained] == [
        *((step, "reading") for step in (1, 2, 3)), *((step, "answering") for step in (4, 5, 6, 7)),
    ]  # fmt: skip
    assert [entry["tokens"] for entry in trained] == sorted(entry["tokens"] for entry in trained)
    assert (
        max(entry["learning_rate"] for entry in trained[3:])
        <= 1e-3
        < max(entry["learning_rate"] for entry in trained[:3])
    )
    # The second phase began where the first one ended: its first loss is not that of the base.
    alone = config(folder, "alone", learn="messages", learning_rate=1e-3)
    train(alone)
    assert abs(metrics(alone)[0]["loss"] - trained[3]["loss"]) > 1e-3


def test_texts_and_conversations_are_measured_after_phases_of_both(folder: Path) -> None:
    phases = {"reading": {"learn": "text", "max_steps": 1}, "answering": {"learn": "messages", "max_steps": 1}}
    used = config(folder, "both-measured", phases=phases)
    train(used)
    assert training(used)["loss"]["test"]["tuned"]["records"] == 8
    assert set(training(used)["loss"]) == {"validation", "test", "general"}


def test_packed_training_learns_and_reports_how_full_its_rows_are(folder: Path) -> None:
    used = config(folder, "packed", packing=True, max_length=64, batch_size=2, max_steps=12)
    train(used)
    told = training(used)
    assert told["attention"] == "documents"
    assert told["phases"]["train"]["rows"] < 12
    assert 0.7 < told["phases"]["train"]["row_fill"] <= 1
    assert told["loss"]["test"]["tuned"]["nats_per_token"] < told["loss"]["test"]["base"]["nats_per_token"] - 0.3


def test_one_packed_batch_takes_the_step_of_the_same_records_padded(folder: Path) -> None:
    padded = config(folder, "one-step-padded", batch_size=16, max_steps=2)
    packed = config(folder, "one-step-packed", batch_size=16, max_steps=2, packing=True, max_length=64)
    for used in (padded, packed):
        train(used)
    for one, other in zip(metrics(padded), metrics(packed), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4) if one["loss"] else one["loss"] == other["loss"]
        assert one["tokens"] == other["tokens"]


# ------------------------------------------------------------------------------------------------------ how it is trained


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
@pytest.mark.parametrize("variant", [{"rslora": True}, {"dora": True}, {"dropout": 0.1}, {"optimizer": "adafactor"}])
def test_variants_of_lora_train_and_load_in_peft(folder: Path, variant: dict[str, Any]) -> None:
    used = config(folder, f"variant-{next(iter(variant))}", **variant)
    train(used)
    settings = read_json(used.output_dir / "adapter_config.json")
    assert (settings["use_rslora"], settings["use_dora"]) == (used.rslora, used.dora)
    assert settings["lora_dropout"] == used.dropout
    weights = load_file(used.output_dir / "adapter_model.safetensors")
    assert any("magnitude" in name for name in weights) == used.dora
    model = AutoModelForCausalLM.from_pretrained(used.base_model, local_files_only=True)
    PeftModel.from_pretrained(model, used.output_dir)
    losses = [entry["loss"] for entry in metrics(used) if entry["loss"] is not None]
    assert losses[-1] < losses[0]


def test_attention_is_chosen_by_what_the_training_needs(folder: Path) -> None:
    used = config(folder, "unused")
    assert choose_attention(used) == "sdpa"
    assert choose_attention(dataclasses.replace(used, packing=True)) == "documents"
    assert choose_attention(dataclasses.replace(used, phases={"a": {}, "b": {"packing": True}})) == "documents"
    assert choose_attention(dataclasses.replace(used, attention="eager", packing=True)) == "eager"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what holds on a CPU")
@pytest.mark.parametrize(
    ("field", "asked", "named"),
    [
        ("optimizer", "paged_adamw_8bit", "optimizer paged_adamw_8bit"),
        ("liger", True, "liger"),
        ("attention", "flash_attention_2", "attention flash_attention_2"),
        ("attention", "flex_attention", "attention flex_attention"),
    ],
)
def test_what_needs_a_gpu_is_refused_on_a_cpu(folder: Path, field: str, asked: Any, named: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{named} needs a CUDA GPU") as caught:
        train(config(folder, "refused", **{field: asked}))
    assert caught.value.hint


def test_several_gpus_without_a_launcher_are_told_how_to_be_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(InputError, match="4 GPUs are here, and one process uses one") as caught:
        require_device_for(config(folder, "refused"))
    assert "accelerate launch --multi_gpu --num_processes 4" in caught.value.hint


# ---------------------------------------------------------------------------------------------------------------- safe


def test_training_stops_early_when_validation_gets_no_better(folder: Path) -> None:
    used = config(folder, "early", max_steps=60, evaluations=20, learning_rate=5e-2, schedule="constant", patience=2)
    train(used)
    told = training(used)
    assert told["steps"] < 60
    measured = {entry["step"]: entry["validation_loss"] for entry in metrics(used) if entry["validation_loss"]}
    best = min(measured, key=lambda step: measured[step])
    assert told["best_step"] == best
    assert [step for step in measured if step > best] == list(measured)[-2:], "two measurements after the best one"


def test_a_loss_that_explodes_is_told_from_one_that_wavers() -> None:
    assert has_exploded([2.0, 2.1, 5.0, 5.1, 6.0])
    assert not has_exploded([2.0, 9.0, 2.0, 9.0, 9.0]), "not three in a row"
    assert not has_exploded([2.0, 3.0, 3.5, 4.4, 4.4]), "below twice the first and a half"
    assert not has_exploded([9.0, 9.0, 9.0])


def test_an_exploded_loss_stops_with_what_to_change(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A random base knows too little to get much worse, whatever the rate: the loss is made to.
    plain = AdapterTrainer.compute_loss
    worse = lambda self, *given, **named: plain(self, *given, **named) * (3 if self.state.global_step > 3 else 1)  # noqa: E731
    monkeypatch.setattr(AdapterTrainer, "compute_loss", worse)
    used = config(folder, "exploded", max_steps=20)
    with pytest.raises(
        InputError, match=r"the loss rose from 6\.\d+ to \d\d\.\d+ and stayed there at step 7: learning_rate 0.005"
    ) as caught:
        train(used)
    assert "--learning-rate 0.0005" in caught.value.hint
    assert not used.output_dir.exists()


def test_out_of_memory_says_what_to_lower_and_how_far(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(AdapterTrainer, "compute_loss", fail)
    with pytest.raises(
        ResourceError, match=r"out of memory on cpu, .*: batch_size 4 of 1,024 tokens takes about"
    ) as caught:
        train(config(folder, "no-memory"))
    assert "--gradient-checkpointing" in caught.value.hint
    assert "GB" in caught.value.hint


def test_a_full_disk_shows_before_the_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medllama.files.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ResourceError, match="training an adapter needs"):
        train(config(folder, "no-disk"))


# ------------------------------------------------------------------------------------------------------------- reporters


def events(folder: Path) -> list[Event]:
    found = []
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        data, start = path.read_bytes(), 0
        while start < len(data):
            length = int.from_bytes(data[start : start + 8], "little")
            assert int.from_bytes(data[start + 8 : start + 12], "little") == masked_crc32c(data[start : start + 8])
            found.append(Event.FromString(data[start + 12 : start + 12 + length]))
            start += 16 + length
    return found


def test_tensorboard_gets_the_losses_of_metrics_jsonl(folder: Path) -> None:
    used = config(folder, "tensorboard")
    train(used)
    written = {
        (event.step, value.simple_value)
        for event in events(used.output_dir / "tensorboard" / "train")
        for value in event.summary.value
        if value.tag == "train/loss"
    }
    expected = {(entry["step"], entry["loss"]) for entry in metrics(used) if entry["loss"] is not None}
    assert {step for step, _ in written} == {step for step, _ in expected}
    assert sorted(loss for _, loss in written) == pytest.approx(sorted(loss for _, loss in expected), rel=1e-5)


def test_no_reporter_writes_nothing(folder: Path) -> None:
    used = config(folder, "silent", reporters=("none",), max_steps=1)
    train(used)
    assert not (used.output_dir / "tensorboard").exists()


def test_a_reporter_that_transformers_does_not_know_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="Transformers knows no 'tensorbord'") as caught:
        train(config(folder, "refused", reporters=("tensorbord",)))
    assert "tensorboard" in caught.value.hint


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"phases": {"a": {"rank": 8}}}, "phases.a: 'rank' cannot differ between phases"),
        ({"phases": {"a": {"epochs": 0}}}, "phases.a.epochs: expected a number above 0, found 0.0"),
        ({"phases": {"a": {"epochs": "x"}}}, "phases.a.epochs: expected a number, found 'x'"),
        ({"phases": {"a": 3}}, "phases.a: expected a table, found 3"),
        ({"phases": {"a/b": {}}}, "phases: 'a/b' must be letters, digits, '-' and '_' (it names a folder)"),
        (
            {"reporters": ["all"]},
            "reporters: name them; all would send the run to every service that is installed here",
        ),
        ({"attention": "documents"}, "attention: documents is for packed rows; add packing, or choose auto"),
        ({"patience": 0}, "patience: expected at least 1, found 0"),
    ],
)
def test_settings_that_make_no_sense_are_named(wrong: dict[str, Any], problem: str) -> None:
    paths = {"base_model": "base", "data": "data", "output_dir": "adapter"}
    with pytest.raises(RecipeError) as caught:
        build(TrainConfig, {**paths, **wrong}, origin="train")
    assert caught.value.problems == [problem]
