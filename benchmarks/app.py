"""What the comparison page costs: a second voice's memory, the time to the first token, a second turn, and twenty people at once.

    python -m benchmarks.app --shape 30m
    python -m benchmarks.app --shape 1.1b --work DIR --no-people     # keeps the models; the people would take ten minutes

Random weights: an answer is cut, never ended. Each figure stands beside what it is measured against, taken in the same run:
llama.cpp's own decode of the same prompt, one voice without a second, a conversation from nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from app.conversation import Sampling, Voice
from app.voices import open_voices
from benchmarks.measure import machine, medllama
from benchmarks.random_model import SHAPES, make_adapter, make_base
from medllama import llamacpp
from medllama.llamacpp import Context, Sampler

CONTEXT_TOKENS = 2048  # what the random models see
LONG = [{"role": "user", "content": "gout " * (CONTEXT_TOKENS // 4)}]
PEOPLE, ROUNDS = 20, 3
TRIES, LENGTHS = 7, (2, 4, 10, 17)  # times that a question repeats itself: 92 to 452 tokens, one batch of llama.cpp
SUBJECTS = ("gout", "asthma", "anemia", "angina", "eczema", "sepsis", "stroke", "measles", "rickets", "scurvy")


def question(number: int, *, times: int = 1) -> list[dict[str, str]]:
    """A question of about 70 tokens, and 35 more for each further time; no two begin alike."""
    subject = SUBJECTS[number % len(SUBJECTS)]
    text = (
        f"{number} people ask about {subject}: "
        + "what is it, who gets it, how is it found, and what is done about it? " * times
    )
    return [{"role": "user", "content": text + "Answer for somebody who has never heard of it, in a few plain words."}]


def make_models(folder: Path, shape: str) -> tuple[Path, Path]:
    """The base as Q4_K_M and an adapter as F16, made where they are not there yet."""
    base, adapter, gguf = folder / "base", folder / "adapter", folder / "gguf"
    if not base.exists():
        make_adapter(adapter, make_base(base, shape), shape)
    paths = gguf / "base-Q4_K_M.gguf", gguf / "voice-lora-F16.gguf"
    if not paths[0].exists():
        medllama("convert", "--base-model", base, "--types", "Q4_K_M", "--output-dir", gguf, "--name", "base")
    if not paths[1].exists():
        medllama(
            "convert", "--base-model", base, "--adapter", adapter, "--adapter-only", "--output-dir", gguf, "--name", "voice"
        )  # fmt: skip
    return paths


def second_voice(resident_bytes: Callable[..., int], base: Path, adapter: Path) -> dict[str, Any]:
    """Resident memory of a process with one voice and of one with two, after each has filled its cache."""
    one, two = resident_bytes(base), resident_bytes(base, adapter)
    with open_voices([base], context_tokens=CONTEXT_TOKENS) as (voice,):
        assert isinstance(voice, Voice)
        cache_bytes = CONTEXT_TOKENS * voice.model.cache_bytes_per_token
    allowed = adapter.stat().st_size + cache_bytes + 0.05 * one
    return {
        "one_voice_bytes": one, "second_voice_bytes": two - one, "adapter_bytes": adapter.stat().st_size,
        "cache_bytes": cache_bytes, "beyond_adapter_and_cache": (two - one - adapter.stat().st_size - cache_bytes) / one,
        "is_within_bound": two - one <= allowed,
    }  # fmt: skip


def of_the_page(base: Path, adapter: Path | None = None) -> int:
    """The resident memory of `medllama app`, which somebody has asked."""
    with server("--model", str(base), *(["--adapter-gguf", str(adapter)] if adapter else [])) as (url, process):
        asked = {"messages": LONG, "max_tokens": 4}
        assert httpx.post(f"{url}compare", json=asked, timeout=900).status_code == 200
        return int(process.memory_info().rss)


def of_the_models(*paths: Path) -> int:
    """The resident memory of a process that does nothing but ask them."""
    command = [sys.executable, "-m", "benchmarks.app", "--resident", *map(str, paths)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def print_resident(base: Path, adapter: Path | None) -> None:
    """The resident memory of this process once every voice has filled its cache."""
    with open_voices([base], adapter=adapter, context_tokens=CONTEXT_TOKENS) as voices:
        for voice in voices:
            for _ in voice.answer(LONG, Sampling(max_tokens=4)):
                pass
        print(psutil.Process().memory_info().rss)


def first_tokens(base: Path) -> list[dict[str, Any]]:
    """Seconds to the first token of the page's voice and of llama.cpp itself, in turn, each on prompts it has not seen."""
    with open_voices([base], context_tokens=CONTEXT_TOKENS) as (voice,):
        assert isinstance(voice, Voice)
        with Context(voice.model, context_tokens=CONTEXT_TOKENS, exact=False) as context:
            return [first_token(voice, context, times) for times in LENGTHS]


def first_token(voice: Voice, context: Context, times: int) -> dict[str, Any]:
    """The same of questions of one length."""
    ours, theirs, prompt_tokens = [], [], 0
    for number in range(TRIES + 1):
        messages = question(number, times=times)
        theirs.append(llama_cpp_seconds(voice, context, messages))
        begun = time.perf_counter()
        *_, state = voice.answer(messages, Sampling(max_tokens=1))
        ours.append(time.perf_counter() - begun)
        assert state.tokens == 1
        assert state.reused_tokens == 0
        prompt_tokens = state.prompt_tokens
    medians = statistics.median(ours[1:]), statistics.median(theirs[1:])  # the first of each reads the file
    return {
        "prompt_tokens": prompt_tokens, "seconds": medians[0], "llama_cpp_seconds": medians[1],
        "ratio": medians[0] / medians[1],
    }  # fmt: skip


def llama_cpp_seconds(voice: Voice, context: Context, messages: list[dict[str, str]]) -> float:
    """llama.cpp alone: tokenize the rendered prompt, decode it in one call, sample."""
    c = llamacpp.library()
    text = voice.chat.render(messages, add_generation_prompt=True)
    context.clear()
    with Sampler() as sampler:
        begun = time.perf_counter()
        ids = voice.model.tokenize(text, parse_special=True)
        tokens = (c.llama_token * len(ids))(*ids)
        assert c.llama_decode(context.handle, c.llama_batch_get_one(tokens, len(ids))) == 0
        sampler.sample(context)
        return time.perf_counter() - begun


def second_turn(base: Path) -> dict[str, Any]:
    """Seconds to the first token of a second turn, after its first turn and from nothing."""
    turns = [
        *question(0),
        {"role": "assistant", "content": "A joint. " * 20},
        {"role": "user", "content": "And who treats it?"},
    ]
    with open_voices([base], context_tokens=CONTEXT_TOKENS) as (voice,):
        *_, first = voice.answer(question(0), Sampling(max_tokens=40))
        turns[1]["content"] = first.text
        *_, after = voice.answer(turns, Sampling(max_tokens=1))
        for _ in voice.answer(question(1), Sampling(max_tokens=1)):
            pass
        *_, anew = voice.answer(turns, Sampling(max_tokens=1))
    return {
        "prompt_tokens": after.prompt_tokens, "reused_tokens": after.reused_tokens,
        "seconds": after.first_token_seconds, "seconds_from_nothing": anew.first_token_seconds,
    }  # fmt: skip


@contextlib.contextmanager
def server(*arguments: str) -> Iterator[tuple[str, psutil.Process]]:
    """`medllama app` in a process of its own, and where it is."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "medllama", "app", "--port", "0", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
        log = Path(folder) / "log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, cwd=folder, env=environment)
        try:
            while "(Ctrl-C ends)" not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            yield (
                next(word for word in log.read_text().split() if word.startswith("http://")),
                psutil.Process(process.pid),
            )
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


def twenty_people(base: Path, adapter: Path) -> dict[str, Any]:
    """Everybody asks both voices at once, several times over: errors, the order of the answers, and the server's memory."""
    rounds = []
    with server("--model", str(base), "--adapter-gguf", str(adapter), "--max-tokens", "32") as (url, process):
        for turn in range(ROUNDS):
            finished: list[tuple[int, int]] = []
            begun = time.perf_counter()
            client = httpx.Client(base_url=url, timeout=900, limits=httpx.Limits(max_connections=PEOPLE))
            people = [threading.Thread(target=ask, args=(client, turn, who, finished)) for who in range(PEOPLE)]
            for person in people:
                person.start()
                time.sleep(0.1)  # so that there is an order of arrival
            for person in people:
                person.join()
            order = [who for who, _ in finished]
            rounds.append({
                "seconds": time.perf_counter() - begun, "errors": sum(status != 200 for _, status in finished),
                "overtaken": sum(one > other for place, one in enumerate(order) for other in order[place + 1 :]),
                "resident_bytes": process.memory_info().rss,
            })  # fmt: skip
    return {
        "people": PEOPLE,
        "rounds": rounds,
        "growth": rounds[-1]["resident_bytes"] / rounds[0]["resident_bytes"] - 1,
    }


def ask(client: httpx.Client, turn: int, who: int, finished: list[tuple[int, int]]) -> None:
    """One person's question; whoever is answered is put down."""
    body = {"messages": question(turn * PEOPLE + who), "user": f"person {who}"}
    answer = client.post("/compare", json=body)
    finished.append((who, answer.status_code))


def measure(shape: str, folder: Path, *, with_people: bool) -> dict[str, Any]:
    """All of it on models of one shape."""
    base, adapter = make_models(folder, shape)
    return {
        "shape": shape,
        "gguf_bytes": base.stat().st_size,
        "second_voice": second_voice(of_the_page, base, adapter),
        "second_voice_without_server": second_voice(of_the_models, base, adapter),
        "first_tokens": first_tokens(base),
        "second_turn": second_turn(base),
        "people": twenty_people(base, adapter) if with_people else None,
        "machine": machine(),
    }


def print_table(found: dict[str, Any]) -> None:
    """The figures for people."""
    turn, people = found["second_turn"], found["people"]
    for where in ("second_voice", "second_voice_without_server"):
        voice = found[where]
        print(f"{where}: one voice {voice['one_voice_bytes'] / 1e6:,.0f} MB, the second {voice['second_voice_bytes'] / 1e6:,.0f} MB "
              f"more: adapter {voice['adapter_bytes'] / 1e6:,.0f}, cache {voice['cache_bytes'] / 1e6:,.0f}, "
              f"and {voice['beyond_adapter_and_cache']:.1%} of the first")  # fmt: skip
    for token in found["first_tokens"]:
        print(f"first token of {token['prompt_tokens']} tokens: {token['seconds']:.3f} s, llama.cpp itself "
              f"{token['llama_cpp_seconds']:.3f} s: {token['ratio']:.3f}")  # fmt: skip
    print(f"second turn: {turn['reused_tokens']} of {turn['prompt_tokens']} tokens reused, {turn['seconds']:.3f} s instead of "
          f"{turn['seconds_from_nothing']:.3f} s")  # fmt: skip
    for number, it in enumerate(people["rounds"] if people else (), start=1):
        print(f"{PEOPLE} people, round {number}: {it['seconds']:.1f} s, {it['errors']} errors, "
              f"{it['overtaken']} overtaken, {it['resident_bytes'] / 1e6:,.0f} MB")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="30m")
    parser.add_argument("--work", type=Path, help="folder to keep the models in (default: a temporary one)")
    parser.add_argument("--no-people", action="store_true", help="leave the twenty people out")
    parser.add_argument("--resident", type=Path, nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as medllama itself: waiting threads leave the cores to others
    if given.resident:
        print_resident(*given.resident, *[None] * (2 - len(given.resident)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(given.shape, (given.work or Path(temporary)) / given.shape, with_people=not given.no_people)
    print_table(found)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
