"""Training a LoRA at a real model's shape: tokens a second, share of the device's measured ceiling, and peak memory; ours beside
TRL's plain SFTTrainer, in one run, at the same length and batch.

    python -m benchmarks.train                      # 7B on a GPU; the small CPU shape where there is none
    python -m benchmarks.train --shape 1.1b --steps 20

The base is random: what a step costs depends on the shape alone. Two loads: rows full to the last token, and records of MedQuAD's
lengths. Padding does not count as tokens. The ceiling is a product of the model's own matrices, timed here in the same precision.
SFTTrainer is left at its defaults but for length, batch and LoRA. Peak memory is the GPU's; on a CPU it is not told.
"""

from __future__ import annotations

import argparse
import gc
import json
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
from finetune.training.attention import register
from finetune.training.base import choose_dtype, quiet_libraries
from finetune.training.losses import add_token_nats
from finetune.training.metrics import Metrics
from finetune.training.packing import as_rows
from finetune.training.phases import choose_attention, training_device
from finetune.training.tokenized import TokenizedRecord
from finetune.training.trainer import AdapterTrainer, trainer_arguments
from finetune.training.training_data import open_base
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
WARM_UP = 3  # steps that are not counted: kernels are chosen, memory is first taken


class StepTimes(TrainerCallback):
    """Seconds of each optimizer step, the device's work included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        synchronize()
        self.begun = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        synchronize()
        self.seconds.append(time.perf_counter() - self.begun)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


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
        synchronize()
        begun = time.perf_counter()
        left @ right
        synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2 * left.numel() * shape["intermediate_size"] / best


def make_model(shape: dict[str, Any], config: TrainConfig, dtype: torch.dtype, attention: str) -> Any:
    torch.manual_seed(0)
    register()
    with torch.device(training_device()):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = LlamaForCausalLM(LlamaConfig(**shape, attn_implementation=attention))
        finally:
            torch.set_default_dtype(before)
    add_token_nats(model)
    return add_lora(model, config)


def time_training(
    which: str, load: str, shape: dict[str, Any], config: TrainConfig, steps: int, folder: Path
) -> dict[str, Any]:
    """Run one trainer on one load; tokens a second over the steps after the warm-up, and the peak memory."""
    dtype = choose_dtype("auto")
    steps += WARM_UP
    per_step = config.batch_size * config.max_length
    records = make_records(load, per_step * steps, config.max_length, shape["vocab_size"])
    attention = choose_attention(config) if which == "ours" else "sdpa"
    model = make_model(shape, config, dtype, attention)
    base = open_base(config)
    tokenizer = hugging_face_tokenizer(base.tokenizer, base.chat, context=base.context)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    times = StepTimes()
    counted: list[int] = []
    if which == "ours":
        arguments = trainer_arguments(config, steps=steps, dtype=dtype, scratch=folder, validates=False)
        arguments.save_strategy = "no"
        metrics = Metrics(folder / "metrics.jsonl", "train", learning_rate=1e-4, steps_before=0, tokens_before=0)
        rows = as_rows(records, max_length=config.max_length, packing=config.packing)
        trainer: Any = AdapterTrainer(
            model, arguments, config, rows=rows, validation=[], tokenizer=tokenizer, metrics=metrics
        )
        metrics.begin(resumed_step=0, writes=True)
    else:
        arguments = SFTConfig(
            output_dir=str(folder), max_steps=steps, per_device_train_batch_size=config.batch_size, max_length=config.max_length,
            report_to="none", save_strategy="no", use_cpu=not torch.cuda.is_available(), disable_tqdm=True,
            bf16=torch.cuda.is_available() and dtype == torch.bfloat16,
        )  # fmt: skip
        rows = as_rows(records, max_length=config.max_length, packing=False)
        trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
    counting(trainer, counted)
    trainer.add_callback(times)
    trainer.train()
    speeds = [tokens / seconds for tokens, seconds in zip(counted, times.seconds, strict=True)][WARM_UP:]
    total = sum(counted[WARM_UP:]) / sum(times.seconds[WARM_UP:])
    on_gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if on_gpu else None
    trainer.accelerator.free_memory()
    del trainer, model
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
    mean_length = sum(map(len, records)) / len(records)
    return {
        "which": which, "load": load, "steps": len(speeds), "tokens_per_second": total,
        "tenth_to_ninetieth": [float(numpy.quantile(speeds, share)) for share in (0.1, 0.9)],
        "median_step_seconds": statistics.median(times.seconds[WARM_UP:]), "peak_memory_bytes": peak, "attention": attention,
        "operations_per_token": training_operations(shape, config, 1, mean_length),
    }  # fmt: skip


def counting(trainer: Any, counted: list[int]) -> None:
    """Count each step's tokens, padding left out, as the batch reaches the trainer."""
    plain = trainer.training_step

    def training_step(model: Any, inputs: dict[str, Any], *given: Any, **named: Any) -> Any:
        mask = inputs.get("attention_mask")
        counted.append(int(mask.sum()) if mask is not None else inputs["input_ids"].numel())
        return plain(model, inputs, *given, **named)

    trainer.training_step = training_step


def benchmark(name: str, steps: int) -> dict[str, Any]:
    """Both trainers on both loads."""
    shape = SMALL if name == "small" else SHAPES[name]
    length = min(4096, shape["max_position_embeddings"])
    config = TrainConfig(
        base_model=str(TOKENIZER), data=Path("none"), output_dir=Path("none"), batch_size=1 if length == 4096 else 4,
        max_length=length, packing=True, gradient_checkpointing=True, max_steps=steps, reporters=("none",),
    )  # fmt: skip
    dtype = choose_dtype("auto")
    top = ceiling(shape, config.batch_size * length, dtype)
    found = []
    for load in ("full", "medquad"):
        for which in ("SFTTrainer", "ours"):
            with tempfile.TemporaryDirectory() as folder, quiet_libraries():
                one = time_training(which, load, shape, config, steps, Path(folder))
            one["share_of_ceiling"] = one["tokens_per_second"] * one["operations_per_token"] / top
            found.append(one)
            print(_line(one), flush=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {
        "shape": name, "device": device, "dtype": str(dtype).removeprefix("torch."), "length": length,
        "batch_size": config.batch_size, "ceiling_operations_per_second": top, "results": found, "machine": machine(),
    }  # fmt: skip


def _line(one: dict[str, Any]) -> str:
    low, high = one["tenth_to_ninetieth"]
    peak = "" if one["peak_memory_bytes"] is None else f"  {one['peak_memory_bytes'] / 1e9:6.2f} GB"
    return (
        f"{one['load']:<8} {one['which']:<11} {one['tokens_per_second']:>9,.0f} tokens/s ({low:,.0f} to {high:,.0f})  "
        f"{one['share_of_ceiling']:4.0%} of the ceiling{peak}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = "7b" if torch.cuda.is_available() else "small"
    parser.add_argument("--shape", choices=["small", *SHAPES], default=default)
    parser.add_argument(
        "--steps", type=int, default=12, help="optimizer steps that are counted, of each trainer and load"
    )
    parser.add_argument("--json", type=Path, help="write the figures there too")
    given = parser.parse_args()
    figures = benchmark(given.shape, given.steps)
    for load in ("full", "medquad"):
        theirs, ours = (one["tokens_per_second"] for one in figures["results"] if one["load"] == load)
        print(f"{load}: {ours / theirs:.2f} times SFTTrainer")
    text = json.dumps(figures, indent=2)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
