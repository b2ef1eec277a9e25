"""How much quicker `medllama eval` asks than the usual loop, on the same file and the same items, with the same choices.

    python -m benchmarks.eval --gguf medllama-Q4_K_M.gguf --items 4        # some minutes at 1.1B on two cores

The usual loop is llama-cpp-python's `reset(); eval()` with one full prompt per option. Three ways of asking: letters, option texts,
letters behind five examples; and llama.cpp's own batched speed on a prompt of 512 tokens (llama-bench's pp512) beside the tokens a
second of ours. Items that are chosen otherwise are listed with their margins; only those under 0.5 nats are excused.

Times are CPU seconds of this process, all threads together, so that other work on the same cores does not count.
The usual loop takes minutes: with `--usual-items` it asks fewer of the items, and the ratio is of the mean times of an item.
Weights stay in the file's layout on both sides (medllama/llamacpp.py says why).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

from benchmarks.measure import machine
from eval.config import EvalConfig
from eval.prepared import Prepared, prepare
from eval.prompts import Answers
from eval.scoring import decoded_tokens, log_sum_exp, plan_batches, score
from eval.tasks import Question, Task
from medllama.chat import IGNORED_LABEL
from medllama.gguf_metadata import read_gguf_metadata
from medllama.llamacpp import Context, Model, library

GOALS = {"letters": 3.6, "texts": 3.0, "letters, 5-shot": 15.0}
EXCUSED_MARGIN = 0.5  # nats: another batch moves a quantized model's logits by up to 0.2
PROMPT_TOKENS = 512
SPEED_ROUNDS = 3
FINDINGS = (
    "fever",
    "cough",
    "swollen joints",
    "night sweats",
    "weight loss",
    "chest pain",
    "a rash",
    "thirst",
    "pale skin",
)
DRUGS = (
    "allopurinol twice daily",
    "a course of amoxicillin",
    "inhaled salbutamol",
    "metformin with meals",
    "rest and fluids",
)


def questions(count: int, seed: int) -> list[Question]:
    """Vignettes of MedQA's length with four options of a few words. Their sense does not matter, their lengths do."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        visits = " ".join(
            f"On day {draw.randint(1, 90)} the patient, aged {draw.randint(20, 80)}, has {draw.choice(FINDINGS)} and "
            f"{draw.choice(FINDINGS)}, a pulse of {draw.randint(50, 130)} and a temperature of {draw.randint(36, 40)} C."
            for _ in range(draw.randint(4, 7))
        )
        options = dict(zip("ABCD", draw.sample(DRUGS, 4), strict=True))
        text = f"{visits} Which treatment is best?"
        found.append(Question(str(number), str(number), "", text, options, draw.choice("ABCD")))
    return found


def usual_loop(gguf: Path, prompts: Sequence[Answers], threads: int) -> tuple[list[list[float]], float]:
    """The log-likelihood of every option by one full prompt each through llama-cpp-python's `Llama`, and the seconds."""
    c = library()
    original = c.llama_model_default_params

    def plain_layout() -> Any:
        parameters = original()
        parameters.use_extra_bufts = False
        return parameters

    c.llama_cpp.llama_model_default_params = plain_layout
    longest = max(len(answer.input_ids) for answers in prompts for answer in answers)
    is_last = all(
        sum(label != IGNORED_LABEL for label in answer.labels) == 1 for answers in prompts for answer in answers
    )
    llama = c.Llama(
        str(gguf),
        n_ctx=longest + 8,
        n_batch=512,
        n_threads=threads,
        n_threads_batch=threads,
        logits_all=not is_last,
        verbose=False,
    )
    started, found = time.process_time(), []
    for answers in prompts:
        sums = []
        for answer in answers:
            llama.reset()
            llama.eval(answer.input_ids[:-1])
            if is_last:  # its cheapest form: one row of logits
                row = numpy.ctypeslib.as_array(llama._ctx.get_logits(), shape=(llama.n_vocab(),))
                sums.append(float(row[answer.input_ids[-1]]) - log_sum_exp(row))
                continue
            wanted = [place for place, label in enumerate(answer.labels) if label != IGNORED_LABEL]
            rows = llama.scores
            sums.append(sum(float(rows[it - 1][answer.labels[it]]) - log_sum_exp(rows[it - 1]) for it in wanted))
        found.append(sums)
    seconds = time.process_time() - started
    llama.close()
    c.llama_cpp.llama_model_default_params = original
    return found, seconds


def compare(gguf: Path, prepared: Prepared, usual_items: int, threads: int) -> dict[str, Any]:
    """Both ways on the same items: seconds an item, their ratio, and the items chosen otherwise."""
    prompts = prepared.prompts
    with Model(gguf, threads=threads) as model:
        started = time.process_time()
        ours = [
            [float(values.sum()) for values in answers] for answers in score(model, prompts, "ours", prepared.families)
        ]
        our_seconds = (time.process_time() - started) / len(prompts)
    theirs, seconds = usual_loop(gguf, prompts[:usual_items], threads)
    their_seconds = seconds / len(theirs)
    flips = []
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        ranked = sorted(other, reverse=True)
        if numpy.argmax(mine) != numpy.argmax(other):
            flips.append({"item": number, "margin": ranked[0] - ranked[1]})
    computed = _computed_tokens(prompts, prepared.families)
    return {
        "items": len(prompts), "usual_items": len(theirs), "tokens_of_a_prompt": decoded_tokens(prompts[0]),
        "our_seconds_an_item": our_seconds, "usual_seconds_an_item": their_seconds, "ratio": their_seconds / our_seconds,
        "limit": sum(len(answer.input_ids) for answers in prompts for answer in answers) / computed,
        "our_tokens_per_second": computed / (our_seconds * len(prompts)),
        "largest_difference": max(
            abs(a - b) for mine, other in zip(ours, theirs, strict=False) for a, b in zip(mine, other, strict=True)
        ),
        "flips": flips, "unexcused_flips": sum(flip["margin"] > EXCUSED_MARGIN for flip in flips),
    }  # fmt: skip


def batched_speed(gguf: Path, threads: int) -> float:
    """Prompt tokens a second of llama.cpp itself in its own default settings, as llama-bench's pp512."""
    with Model(gguf, threads=threads) as model, Context(model, context_tokens=PROMPT_TOKENS, exact=False) as context:
        ids = [3 + number % 200 for number in range(PROMPT_TOKENS)]
        seconds = []
        for _ in range(2):  # the first reads the file
            context.clear()
            started = time.process_time()
            list(context.decode(ids, start=0, every=False))
            seconds.append(time.process_time() - started)
    return PROMPT_TOKENS / seconds[-1]


def prompt_speed(gguf: Path, prepared: Prepared, threads: int) -> float:
    """Prompt tokens a second of ours over llama.cpp's own, taken before and after it: the median of some rounds."""
    prompts, families = prepared.prompts, prepared.families
    shares = []
    for _ in range(SPEED_ROUNDS):
        before = batched_speed(gguf, threads)
        with Model(gguf, threads=threads) as model:
            started = time.process_time()
            score(model, prompts, "ours", families)
            ours = _computed_tokens(prompts, families) / (time.process_time() - started)
        shares.append(2 * ours / (before + batched_speed(gguf, threads)))
    return float(numpy.median(shares))


def _computed_tokens(prompts: Sequence[Answers], families: Sequence[str]) -> int:
    batches = plan_batches(prompts, families)
    own = sum(sum(decoded_tokens(prompts[it]) - batch.trunk for it in batch.members) for batch in batches)
    return own + batches[0].trunk


def measure(gguf: Path, items: int, usual_items: int, threads: int, asked: Sequence[str]) -> dict[str, Any]:
    """The ways of asking that are named."""
    metadata = read_gguf_metadata(gguf)
    task = Task("questions", Path("questions"), "", tuple(questions(items, seed=0)))
    examples = tuple(questions(5, seed=1))
    ways: dict[str, tuple[dict[str, Any], Task]] = {
        "letters": ({"scored_by": "letter"}, task),
        "texts": ({"scored_by": "text"}, task),
        "letters, 5-shot": ({"scored_by": "letter", "shots": 5}, dataclasses.replace(task, examples=examples)),
    }
    found: dict[str, Any] = {"gguf_bytes": gguf.stat().st_size, "threads": threads}
    for name in asked:
        options, its = ways[name]
        config = EvalConfig(gguf=gguf, output=Path("results.json"), task=("questions",), prompt="plain", **options)
        prepared = prepare(its, metadata, config, ())
        found[name] = compare(gguf, prepared, usual_items, threads) | {"goal": GOALS[name]}
        found[name]["of_batched_speed"] = prompt_speed(gguf, prepared, threads)
        print(
            f"{name:<16}{found[name]['ratio']:>7.2f} times ({found[name]['our_tokens_per_second']:.0f} tokens/s, "
            f"{found[name]['of_batched_speed']:.2f} of llama.cpp's own batched speed)",
            flush=True,
        )
    return found | {"machine": machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--usual-items", type=int, default=2, help="items that the usual loop is given (default: 2)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--way", action="append", choices=GOALS, help="one way of asking (default: all of them)")
    given = parser.parse_args()
    asked = given.way or list(GOALS)
    found = measure(given.gguf, given.items, given.usual_items, given.threads, asked)
    print(f"{'':<16}{'ratio':>7}{'goal':>7}{'limit':>7}{'ours s/item':>13}{'usual s/item':>13}{'flips':>7}")
    for name in asked:
        its = found[name]
        print(
            f"{name:<16}{its['ratio']:>7.2f}{its['goal']:>7.1f}{its['limit']:>7.2f}{its['our_seconds_an_item']:>13.2f}"
            f"{its['usual_seconds_an_item']:>13.2f}{len(its['flips']):>7}"
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
