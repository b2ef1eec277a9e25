"""Training a LoRA at a real model's shape: tokens a second, share of the device's measured ceiling, and peak memory; ours beside
TRL's plain SFTTrainer, in one run, at the same length and batch.

    python -m benchmarks.train                      # 7B on a GPU; the small CPU shape where there is none
    python -m benchmarks.train --shape 1.1b --steps 20

The base is random: what a step costs depends on the shape alone. Two loads: rows full to the last token, and records of MedQuAD's
lengths. Padding does not count as tokens. The ceiling is a product of the model's own matrices, timed here in the same precision.
SFTTrainer is left at its defaults but for LoRA and length, and for full rows the batch, which is ours; of records it takes 8 at a
time, as it does by itself. On a GPU ours runs with several settings, in under ten minutes; one that fails is told and left behind.

Seconds are the device's: on a CPU, processor time of one thread, which other work hardly lengthens. Peak memory is what PyTorch has
taken of the GPU; on a CPU it is the process's resident memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import math
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, ProgressCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.measure import machine
from benchmarks.random_model import SHAPES, TOKENIZER
from finetune.train_config import TrainConfig
from finetune.training.adapter import add_lora, hugging_face_tokenizer
from finetune.training.base import choose_dtype, quiet_libraries
from finetune.training.metrics import Metrics
from finetune.training.packing import as_rows
from finetune.training.phases import choose_attention, prepared, training_device
from finetune.training.tokenized import TokenizedRecord
from finetune.training.trainer import AdapterTrainer, trainer_arguments
from finetune.training.training_data import open_base
from medllama.rundir import measuring, versions
from medllama.training_cost import training_operations

SMALL = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 8,
         "num_key_value_heads": 8, "vocab_size": 3072, "max_position_embeddings": 1024}  # fmt: skip
# Every twentieth quantile of 15,079 answers with their questions, at four characters a token; the longest few are left out.
MEDQUAD_LENGTHS = (
    29,
    69,
    96,
    112,
    132,
    149,
    167,
    184,
    203,
    223,
    244,
    269,
    297,
    334,
    380,
    413,
    455,
    506,
    589,
    770,
    7288,
)
PROMPT_SHARE = 0.1  # of a record's tokens, which is not learned
WARM_UP = 3  # steps that are not counted: kernels are chosen or compiled, memory is first taken
RECORDS_OF_TRL = 8  # SFTTrainer's own batch
THEIRS = "SFTTrainer"
RECOMPUTED = {"ours": {"gradient_checkpointing": True}}  # as SFTTrainer does
VARIANTS: dict[str, dict[str, Any]] = {
    **RECOMPUTED,
    "ours, kept": {},
    "ours, kept, compiled": {"compile": True},
    "ours, kept, Liger": {"liger": True},  # last: it changes Transformers' classes for good
}


class StepTimes(TrainerCallback):
    """Seconds of each optimizer step, the device's work included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.begun = seconds()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(seconds() - self.begun)


def seconds() -> float:
    """A clock of the device: when its work is done, or the processor time that this process has had."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def make_records(load: str, tokens: int, max_length: int, vocabulary: int, seed: int = 0) -> list[TokenizedRecord]:
    """Random records of at least `tokens` together."""
    draw = random.Random(seed)
    records: list[TokenizedRecord] = []
    made = 0
    while made < tokens:
        length = max_length
        if load == "medquad":
            place = draw.random() * (len(MEDQUAD_LENGTHS) - 1)
            low, high = MEDQUAD_LENGTHS[int(place)], MEDQUAD_LENGTHS[int(place) + 1]
            length = min(max_length, round(low + (high - low) * (place % 1)))
        ids = numpy.array([draw.randrange(3, vocabulary) for _ in range(length)], dtype=numpy.int32)
        labels = ids.copy()
        labels[: max(1, int(PROMPT_SHARE * length))] = -100
        records.append(TokenizedRecord(ids, labels, str(len(records))))
        made += length
    return records


def ceiling(shape: dict[str, Any], tokens: int, dtype: torch.dtype) -> float:
    """Operations a second of the model's largest product: the best of ten."""
    device = training_device()
    left = torch.randn(tokens, shape["hidden_size"], device=device, dtype=dtype)
    right = torch.randn(shape["hidden_size"], shape["intermediate_size"], device=device, dtype=dtype)
    best = float("inf")
    for _ in range(10):
        begun = seconds()
        left @ right
        best = min(best, seconds() - begun)
    return 2 * left.numel() * shape["intermediate_size"] / best


def make_model(shape: dict[str, Any], dtype: torch.dtype, attention: str) -> Any:
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(training_device()):
            return LlamaForCausalLM(LlamaConfig(**shape, attn_implementation=attention))
    finally:
        torch.set_default_dtype(before)


def our_trainer(records: list[TokenizedRecord], shape: dict[str, Any], config: TrainConfig, folder: Path) -> Any:
    """The trainer of `medllama train`, without validation and checkpoints."""
    dtype = choose_dtype("auto")
    model = prepared(make_model(shape, dtype, choose_attention(config)), config)
    assert config.max_steps is not None
    arguments = trainer_arguments(config, steps=config.max_steps, dtype=dtype, scratch=folder, validates=False)
    arguments.save_strategy = "no"
    metrics = Metrics(folder / "metrics.jsonl", "train", learning_rate=1e-4, steps_before=0, tokens_before=0)
    metrics.begin(resumed_step=0, writes=True)
    rows = as_rows(records, max_length=config.max_length, packing=config.packing)
    return AdapterTrainer(
        model, arguments, config, rows=rows, validation=[], tokenizer=tokenizer_of(config), metrics=metrics
    )


def their_trainer(records: list[TokenizedRecord], shape: dict[str, Any], config: TrainConfig, folder: Path) -> Any:
    on_gpu, dtype = torch.cuda.is_available(), choose_dtype("auto")
    is_full = all(len(record) == config.max_length for record in records)
    assert config.max_steps is not None
    arguments = SFTConfig(
        output_dir=str(folder), max_steps=config.max_steps, max_length=config.max_length, use_cpu=not on_gpu,
        per_device_train_batch_size=config.batch_size if is_full else RECORDS_OF_TRL, bf16=dtype == torch.bfloat16,
        report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=add_lora(make_model(shape, dtype, "sdpa"), config),
        args=arguments,
        train_dataset=as_rows(records, max_length=config.max_length, packing=False),
        processing_class=tokenizer_of(config),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def tokenizer_of(config: TrainConfig) -> Any:
    base = open_base(config)
    return hugging_face_tokenizer(base.tokenizer, base.chat, context=base.context)


def time_training(which: str, load: str, shape: dict[str, Any], config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Run one trainer on one load; tokens a second over the steps after the warm-up, and the peak memory."""
    assert config.max_steps is not None
    records = make_records(
        load, config.batch_size * config.max_length * config.max_steps, config.max_length, shape["vocab_size"]
    )
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    cost: dict[str, float] = {}
    with measuring(cost):
        trainer = (their_trainer if which == THEIRS else our_trainer)(records, shape, config, folder)
        times, counted = StepTimes(), count_tokens(trainer)
        trainer.add_callback(times)
        trainer.train()
    trainer.accelerator.free_memory()
    speeds = [tokens / taken for tokens, taken in zip(counted, times.seconds, strict=True)][WARM_UP:]
    on_gpu = torch.cuda.is_available()
    return {
        "which": which, "load": load, "steps": len(speeds),
        "tokens_per_second": sum(counted[WARM_UP:]) / sum(times.seconds[WARM_UP:]),
        "tenth_to_ninetieth": [float(numpy.quantile(speeds, share)) for share in (0.1, 0.9)],
        "median_step_seconds": statistics.median(times.seconds[WARM_UP:]),
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else cost["peak_memory_bytes"],
        "operations_per_token": training_operations(shape, config, 1, sum(map(len, records)) / len(records)),
    }  # fmt: skip


def count_tokens(trainer: Any) -> list[int]:
    """A list that gets each step's tokens, padding left out, as the batch reaches the trainer."""
    counted: list[int] = []
    plain = trainer.training_step

    def training_step(model: Any, inputs: dict[str, Any], *given: Any, **named: Any) -> Any:
        mask = inputs.get("attention_mask")
        counted.append(int(mask.sum()) if mask is not None else inputs["input_ids"].numel())
        return plain(model, inputs, *given, **named)

    trainer.training_step = training_step
    return counted


def benchmark(name: str, steps: int, minutes: float) -> dict[str, Any]:
    """SFTTrainer and each variant of ours on both loads, as long as there is time."""
    begun = time.monotonic()
    shape = SMALL if name == "small" else SHAPES[name]
    length = min(4096, shape["max_position_embeddings"])
    config = TrainConfig(
        base_model=str(TOKENIZER), data=Path("none"), output_dir=Path("none"), batch_size=1 if length == 4096 else 4,
        max_length=length, packing=True, max_steps=WARM_UP + steps, reporters=("none",),
    )  # fmt: skip
    variants = VARIANTS if torch.cuda.is_available() else RECOMPUTED
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "one CPU thread"
    top = ceiling(shape, config.batch_size * length, choose_dtype("auto"))
    print(
        f"{name} on {device}: {config.batch_size} x {length} tokens, ceiling {top / 1e12:,.3g} T operations/s",
        flush=True,
    )
    found = []
    for which, changes in {THEIRS: RECOMPUTED["ours"], **variants}.items():
        for load in ("full", "medquad"):
            if time.monotonic() - begun > 60 * minutes:
                print(f"{load:<8} {which:<21} left out: {minutes:g} minutes are over", flush=True)
                continue
            one = _guarded(which, load, shape, dataclasses.replace(config, **changes))
            gc.collect()  # a failed one's model hangs on its traceback until here
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if "tokens_per_second" in one:
                one["share_of_ceiling"] = one["tokens_per_second"] * one["operations_per_token"] / top
            found.append(one)
            print(_line(one), flush=True)
    return {
        "shape": name, "device": device, "dtype": str(choose_dtype("auto")).removeprefix("torch."), "length": length,
        "batch_size": config.batch_size, "ceiling_operations_per_second": top, "results": found, "machine": machine(),
        "versions": versions(),
    }  # fmt: skip


def _guarded(which: str, load: str, shape: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """The figures; or why there are none, so that the others are measured all the same."""
    try:
        with tempfile.TemporaryDirectory() as folder, quiet_libraries():
            return time_training(which, load, shape, config, Path(folder))
    except Exception as error:
        if not torch.cuda.is_available():  # nothing there is so dear that a fault may be passed over
            raise
        return {"which": which, "load": load, "failed": f"{type(error).__name__}: {str(error)[:300]}"}


def _line(one: dict[str, Any]) -> str:
    if "failed" in one:
        return f"{one['load']:<8} {one['which']:<21} {one['failed']}"
    low, high = one["tenth_to_ninetieth"]
    return (
        f"{one['load']:<8} {one['which']:<21} {one['tokens_per_second']:>8,.0f} tokens/s ({low:,.0f} to {high:,.0f})  "
        f"{one['share_of_ceiling']:4.0%} of the ceiling  {one['peak_memory_bytes'] / 1e9:6.2f} GB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = "7b" if torch.cuda.is_available() else "small"
    parser.add_argument("--shape", choices=["small", *SHAPES], default=default)
    few = 12 if torch.cuda.is_available() else 6
    parser.add_argument("--steps", type=int, default=few, help="counted optimizer steps of each trainer and load")
    limit = 8.0 if torch.cuda.is_available() else math.inf
    parser.add_argument("--minutes", type=float, default=limit, help="after which no further trainer begins")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    figures = benchmark(given.shape, given.steps, given.minutes)
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    speeds = {(one["load"], one["which"]): one.get("tokens_per_second") for one in figures["results"]}
    for (load, which), ours in speeds.items():
        if ours and which != THEIRS and (theirs := speeds[load, THEIRS]):
            print(f"{load}: {which}: {ours / theirs:.2f} times SFTTrainer")
    print(f"machine: {figures['machine']}, versions: {figures['versions']}")


if __name__ == "__main__":
    main()
