"""What the usual route from an adapter to a GGUF makes of ordinary checkpoints, beside medllama: right or wrong, and at what cost.

    python -m benchmarks.usual_route                                          # two minutes, nothing needed but the checkout
    python -m benchmarks.usual_route --tokenizers DIR --source medquad:DIR --shape 1.1b --json results.json

The usual route is PEFT's merge_and_unload and save_pretrained, then llama.cpp's convert_hf_to_gguf.py, then its quantizer. Three
questions are put to both routes:

1. Ten small checkpoints as Transformers 5 saves them, each with a LoRA: does the file load in llama.cpp, does it cut text into the
   tokenizer's ids, and has it the logits of PEFT's float32 model (mean Kullback-Leibler divergence below 1e-6 nats)?
2. Which share of the sentences of a source is cut otherwise than by the checkpoint's own tokenizer?
3. Time, memory and bytes written from base and adapter to Q4_K_M (`benchmarks/usual_route_cost.py`).

`--tokenizers` names a folder with Meta's own, llama2/ and llama3/; without it the embedded base's tokenizer and a small byte-level
one stand in, and the converter is told the latter's pre-tokenizer, which it would refuse. `--source` is one of
`medllama prepare`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.measure import machine
from benchmarks.official_converter import Job, convert_officially, find_or_fetch
from benchmarks.random_model import SHAPES
from benchmarks.usual_route_cost import measure_cost
from convert.config import ConvertConfig
from convert.convert import convert
from finetune.data.records import Record
from finetune.sources import load_source, parse
from medllama.errors import MedllamaError
from medllama.llamacpp import Context, Model
from medllama.recipe import RECIPES
from tests.adapters import make_adapter, peft_logits
from tests.checkpoints import make_llama2_checkpoint, make_llama3_checkpoint

EMBEDDED_BASE = RECIPES / "tiny" / "medllama-tiny-base"
SAME_LOGITS = 1e-6  # nats a position; float32 on both sides gives 1e-10, a wrong row or frequency 1e-3
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
SENTENCES, PROMPT_TOKENS = 4000, 120
SHORT_SENTENCES = 400  # of them, for each of the ten


@dataclass(frozen=True)
class Kind:
    """One of the ten: the family of its tokenizer and what differs from a plain checkpoint."""

    family: str
    settings: dict[str, Any]
    extra_rows: int = 0
    has_old_spelling: bool = False


KINDS = {
    "Llama 2": Kind("llama2", {"num_key_value_heads": 4}),
    "Llama 2, grouped-query": Kind("llama2", {}),
    "Llama 2, explicit head_dim": Kind("llama2", {"head_dim": 32}),
    "Llama 2, biases": Kind("llama2", {"attention_bias": True, "mlp_bias": True}),
    "Llama 2, tied": Kind("llama2", {"tie_word_embeddings": True}),
    "Llama 2, padded vocabulary": Kind("llama2", {}, extra_rows=64),
    "Llama 3, linear RoPE": Kind("llama3", {"rope_parameters": LINEAR_ROPE}),
    "Llama 3, llama3 RoPE": Kind("llama3", {}),
    "Llama 3, llama3 RoPE, old spelling": Kind("llama3", {}, has_old_spelling=True),
    "the embedded trained base": Kind("embedded", {}),
}


@dataclass(frozen=True)
class Outcome:
    """What a file is worth: whether it loads, the share of sentences with other ids, the mean divergence of its logits.

    None where it does not load; `reason` says why."""

    wrong_tokens: float | None = None
    divergence: float | None = None
    reason: str = ""

    @property
    def is_right(self) -> bool:
        return self.wrong_tokens == 0 and self.divergence is not None and self.divergence < SAME_LOGITS

    def cells(self) -> tuple[str, str, str]:
        """Loads, tokens and logits, for people."""
        if self.wrong_tokens is None or self.divergence is None:
            return "no", "-", "-"
        tokens = "equal" if self.wrong_tokens == 0 else f"{self.wrong_tokens:.0%} wrong"
        return "yes", tokens, "equal" if self.divergence < SAME_LOGITS else f"KLD {self.divergence:.1g}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure the usual route from an adapter to a GGUF beside medllama's.")
    parser.add_argument("--tokenizers", type=Path, help="folder with llama2/ and llama3/, Meta's own tokenizers")
    parser.add_argument("--source", default="tiny", help="where sentences come from, as in medllama prepare")
    parser.add_argument("--shape", choices=SHAPES, default="30m", help="of the model whose conversion is timed")
    parser.add_argument("--kinds", type=int, default=len(KINDS), help="how many of the ten checkpoints to make")
    parser.add_argument(
        "--work-dir", type=Path, help="for the files of the timed model; a temporary folder if not given"
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    converter = find_or_fetch()
    sentences = sentences_of(given.source)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = compare(list(KINDS)[: given.kinds], sentences, given.tokenizers, converter, Path(folder))
    print_outcomes(outcomes, given.source)
    with tempfile.TemporaryDirectory(dir=given.work_dir) as folder:
        cost = measure_cost(given.shape, converter, Path(folder))
    print_cost(cost, given.shape)
    if given.json:
        figures = {
            "source": given.source,
            "checkpoints": {name: [asdict(outcome) for outcome in pair] for name, pair in outcomes.items()},
            "shape": given.shape,
            "cost": cost,
            "machine": machine(),
        }
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


def sentences_of(source: str) -> list[str]:
    """Up to 4,000 different sentences of a source, drawn with a fixed seed; white space is one space."""
    request = parse(source)
    found: dict[str, None] = {}
    for entry in load_source(request.kind).read(request):
        if isinstance(entry, Record):
            messages = entry.content.get("messages") or [{"content": entry.content.get("text", "")}]
            for message in messages:
                found |= dict.fromkeys(re.split(r"(?<=[.!?])\s+", " ".join(message["content"].split())))
    sentences = [sentence for sentence in found if sentence]
    return random.Random(0).sample(sentences, min(SENTENCES, len(sentences)))


def compare(
    names: Iterable[str], sentences: list[str], tokenizers: Path | None, converter: Path, folder: Path
) -> dict[str, tuple[Outcome, Outcome]]:
    """For each kind of checkpoint what the usual route makes of it, and what medllama does."""
    outcomes = {}
    for position, name in enumerate(names):
        room = folder / str(position)
        base = make_checkpoint(KINDS[name], room, tokenizers)
        adapter = make_adapter(base, room / "adapter")
        # The first checkpoint stands for question 2; the others need enough sentences to see a fault.
        asked = sentences if position == 0 else sentences[:SHORT_SENTENCES]
        told = "llama-bpe" if KINDS[name].family == "llama3" and tokenizers is None else ""
        theirs, ours = room / "usual.gguf", room / "gguf" / "medllama-F32.gguf"
        reason = go_the_usual_route(base, adapter, theirs, converter, told)
        convert(ConvertConfig(str(base), ours.parent, adapter, types=("F32",)))
        outcomes[name] = (
            Outcome(reason=reason) if reason else examine(theirs, base, adapter, asked),
            examine(ours, base, adapter, asked),
        )
        shutil.rmtree(room)
    return outcomes


def make_checkpoint(kind: Kind, folder: Path, tokenizers: Path | None) -> Path:
    """A base loaded and saved by Transformers: what a person has after any work with it."""
    made, base = folder / "made", folder / "base"
    own = tokenizers / kind.family if tokenizers and kind.family != "embedded" else None
    if kind.family == "embedded":
        made = EMBEDDED_BASE
    elif kind.family == "llama2":
        own = own or EMBEDDED_BASE
        make_llama2_checkpoint(
            made, vocab_size=len(AutoTokenizer.from_pretrained(own)) + kind.extra_rows, **kind.settings
        )
    else:
        real = {"vocab_size": 128256, "bos_token_id": 128000, "eos_token_id": 128001, "hidden_size": 128}
        make_llama3_checkpoint(made, **(real if own else {}) | kind.settings)
    AutoModelForCausalLM.from_pretrained(made, dtype="auto").save_pretrained(base)
    AutoTokenizer.from_pretrained(own or made).save_pretrained(base)
    if kind.has_old_spelling:
        spell_as_before(base)
    return base


def spell_as_before(folder: Path) -> None:
    """RoPE as Transformers 4 wrote it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    path.write_text(json.dumps(config, indent=2))


def go_the_usual_route(base: Path, adapter: Path, target: Path, converter: Path, pre_tokenizer: str) -> str:
    """Merge, save and convert with the usual tools; the reason where that fails."""
    merged = target.with_suffix("")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), adapter)
        model.merge_and_unload().save_pretrained(merged)
    AutoTokenizer.from_pretrained(base).save_pretrained(merged)
    return convert_officially(converter, [Job(str(merged), str(target), "F32", pre_tokenizer)])[0]


def examine(gguf: Path, base: Path, adapter: Path, sentences: list[str]) -> Outcome:
    """Load a file in llama.cpp and hold it against the checkpoint's own tokenizer and PEFT's logits."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = numpy.random.default_rng(0).integers(3, 380, PROMPT_TOKENS).tolist()
    try:
        with Model(gguf) as model, Context(model, context_tokens=len(ids)) as context:
            wrong = sum(model.tokenize(text) != tokenizer.encode(text, add_special_tokens=False) for text in sentences)
            found = torch.log_softmax(torch.tensor(context.logits(ids)).double(), dim=-1)
    except MedllamaError as error:
        return Outcome(reason=error.message)
    truth = torch.log_softmax(peft_logits(base, adapter, ids).double(), dim=-1)
    divergence = (truth.exp() * (truth - found[:, : truth.shape[1]])).sum(-1).mean()
    return Outcome(wrong / len(sentences), float(divergence))


def print_outcomes(outcomes: dict[str, tuple[Outcome, Outcome]], source: str) -> None:
    print(f"{'':36}{'usual route':^30}{'medllama':^30}")
    print(f"{'checkpoint':36}" + f"{'loads':7}{'tokens':12}{'logits':11}" * 2)
    for name, pair in outcomes.items():
        cells = "".join(f"{loads:7}{tokens:12}{logits:11}" for loads, tokens, logits in (each.cells() for each in pair))
        print(f"{name:36}{cells}".rstrip())
    theirs, ours = (sum(pair[side].is_right for pair in outcomes.values()) for side in (0, 1))
    print(f"right: usual route {theirs} of {len(outcomes)}, medllama {ours} of {len(outcomes)}")
    name, pair = next(iter(outcomes.items()))
    shares = [f"{each.wrong_tokens:.1%}" if each.wrong_tokens is not None else "does not load" for each in pair]
    print(f"sentences of {source} cut otherwise than by the tokenizer ({name}): {shares[0]}, medllama {shares[1]}")


def print_cost(cost: dict[str, list[dict[str, Any]]], shape: str) -> None:
    print(f"\nfrom base and adapter to Q4_K_M, shape {shape}, {os.cpu_count()} cores")
    print(f"{'step':42}{'seconds':>9}{'peak RSS':>11}{'written':>11}")
    for route, steps in cost.items():
        together = {
            "step": f"{route}, together",
            "seconds": sum(step["seconds"] for step in steps),
            "peak_memory_bytes": max(step["peak_memory_bytes"] for step in steps),
            "written_bytes": sum(step["written_bytes"] for step in steps),
        }
        for step in [*steps, together] if len(steps) > 1 else [together]:
            memory, written = step["peak_memory_bytes"] / 1e9, step["written_bytes"] / 1e9
            print(f"{step['step']:42}{step['seconds']:9.1f}{memory:8.2f} GB{written:8.2f} GB")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
