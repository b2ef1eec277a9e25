"""Check 6: logits at every position of 64 prompts, the Hugging Face model in float32 against the GGUF in llama.cpp.

Nothing but the forward pass shows a model that is right in every part and wrong as a whole. The figures are the Kullback-Leibler
divergence KL(Hugging Face || GGUF) in nats, its mean and maximum, how often both put the same token first, and the logit
difference relative to the logits' own spread, which shows faults that a nearly flat distribution hides.

The stated bounds hold for trained models (llama.cpp's tools/perplexity README). A model with random or extreme weights amplifies
honest rounding past them. So when one is exceeded, and only then, the rounding is imitated in the Hugging Face model (the file's
own weights, activations rounded as llama.cpp rounds them before each product: `rounding.py`), and the bounds follow from what
that shows. A fault of the file is not rounding and stays above them.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.certificate import Check
from convert.checks.hugging_face import Run, torch_threads
from medllama import progress
from medllama.chat import Chat
from medllama.llamacpp import Context, Model

PROMPTS, TOKENS, LONG_PROMPT = 64, 2_500, 1_040
SAMPLE_PROMPTS, SAMPLE_TOKENS, SAMPLE_LONG_PROMPT = 12, 700, 384
BATCH_TOKENS = 512  # other batches move the logits of a quantized model by up to 0.2
CHUNK_VALUES = 1 << 19  # what is compared at once stays in the processor's cache
# Over shapes, types and scales of random weights the imitation's mean was within 3% of llama.cpp's; a maximum is one position's.
MEAN_RATIO, MAXIMUM_RATIO = 2.0, 4.0


@dataclass(frozen=True)
class Figures:
    """Divergences in nats, a share, and a ratio: what is measured, and what bounds it. Only the agreement is to be high."""

    mean_kld: float
    max_kld: float
    top1_agreement: float
    relative_difference: float

    def beyond(self, bounds: Figures) -> list[str]:
        """What is not within the bounds, in words; NaN is within none."""
        found = []
        for field in dataclasses.fields(self):
            value, bound = getattr(self, field.name), getattr(bounds, field.name)
            is_within = value >= bound if field.name == "top1_agreement" else value <= bound
            if not is_within:
                found.append(f"{field.name} {value:.3g} (bound {bound:.3g})")
        return found


# Unquantized types only round (F32 sums in another order); quantized ones follow the README's figures with room for small models.
STATED = {
    "F32": Figures(1e-6, 1e-4, 0.995, 1e-3),
    "F16": Figures(1e-4, 5e-3, 0.98, 1e-2),
    "BF16": Figures(5e-4, 2e-2, 0.96, 5e-2),
    "8 bits": Figures(5e-3, 0.1, 0.95, 0.08),
    "6 bits": Figures(0.02, 0.3, 0.90, 0.15),
    "5 bits": Figures(0.03, 0.6, 0.88, 0.20),
    "4 bits": Figures(0.08, 1.5, 0.80, 0.35),
    "3 bits": Figures(0.25, 3.0, 0.70, 0.55),
    "2 bits": Figures(1.0, 8.0, 0.50, 0.90),
    "1 bits": Figures(2.0, 16.0, 0.25, 1.20),
}


def stated_bounds(file_type: str | None) -> Figures:
    """The stated bounds of a file type, by its bits: Q4_K_M, IQ4_XS and MXFP4 are of 4."""
    if file_type in STATED:
        return STATED[file_type]
    bits = next((character for character in file_type or "" if character.isdigit()), "2")
    return STATED.get(f"{bits} bits", STATED["2 bits"])


@dataclass(frozen=True)
class Measured:
    """A comparison over `tokens` positions. `largest_difference` is of two logits; `worst` says where KLD is largest."""

    figures: Figures
    tokens: int
    largest_difference: float
    worst: str


def is_text(number: int) -> bool:
    """Whether the prompt of this number is text, and not ids drawn from the whole vocabulary."""
    return number % 3 != 1


def make_prompts(
    chat: Chat | None, encode: Callable[[str], list[int]], text: Callable[[random.Random], str],
    vocabulary: int, bos: int | None, context: int, seed: int, *, sample: bool,
) -> list[list[int]]:  # fmt: skip
    """Prompts of ids: medical text, chat prompts, and ids drawn from the whole vocabulary, so that every part of the embedding
    is likely to be looked at; the first is the long one."""
    source = random.Random(seed)
    count, tokens, long = (
        (SAMPLE_PROMPTS, SAMPLE_TOKENS, SAMPLE_LONG_PROMPT) if sample else (PROMPTS, TOKENS, LONG_PROMPT)
    )
    long = min(long, context)
    each = min(context, -(-(tokens - long) // (count - 1)) + 1)
    begin = [] if bos is None else [bos]

    def fill(length: int) -> list[int]:
        ids = list(begin)
        while len(ids) < length:
            ids += encode(text(source))
        return ids[:length]

    def asked(length: int) -> list[int]:
        if chat is None:
            return fill(length)
        ids = chat.encode([{"role": "user", "content": text(source)}], add_generation_prompt=True)
        return (ids + fill(length))[:length]

    prompts = [fill(long)]
    for number in range(1, count):
        if not is_text(number):
            prompts.append([*begin, *(source.randrange(vocabulary) for _ in range(each - len(begin)))])
        else:
            prompts.append(fill(each) if number % 3 == 0 else asked(each))
    return prompts


def compare(prompts: list[list[int]], truth: Run, found: Callable[[list[int]], np.ndarray]) -> Measured:
    """`found(ids)` gives the (tokens, vocab) float32 logits of a prompt."""
    with torch_threads(1):  # pieces that fit the cache are too small to share out
        return _compare(prompts, truth, found)


def _compare(prompts: list[list[int]], truth: Run, found: Callable[[list[int]], np.ndarray]) -> Measured:
    import torch

    divergences: list[np.ndarray] = []
    same = tokens = 0
    square = spread = largest = 0.0
    for number, ids in enumerate(prompts):
        progress.update("comparing logits", number, len(prompts))
        logits, expected = found(ids), truth.of(ids)
        step = max(1, CHUNK_VALUES // logits.shape[1])
        for start in range(0, len(ids), step):
            p = torch.from_numpy(expected[start : start + step])
            q = torch.from_numpy(logits[start : start + step])
            divergences.append(kl_divergence(p, q).numpy())
            same += int((p.argmax(1) == q.argmax(1)).sum())
            tokens += len(p)
            # A constant added to all logits changes nothing, so both are centred.
            p -= p.mean(1, keepdim=True)
            q -= q.mean(1, keepdim=True)
            spread += float((p * p).sum(1).double().sum())
            p -= q
            square += float((p * p).sum(1).double().sum())
            largest = max(largest, float(p.abs().max()))
    together = np.nan_to_num(np.concatenate(divergences).astype(np.float64), nan=np.inf)
    worst = int(together.argmax())
    relative = float(np.sqrt(square / max(spread, 1e-30)))
    figures = Figures(float(together.mean()), float(together.max()), same / tokens, relative)
    return Measured(figures, tokens, largest, _position(worst, prompts))


def kl_divergence(p: Any, q: Any) -> Any:
    """KL(softmax(p) || softmax(q)) per row, in nats: (rows, vocab) float32 logits -> (rows,).

    Summed as p (d + exp(-d) - 1) with d = log p - log q: equal to the sum of p d, since both distributions sum to one, but each
    term is positive and of second order, so that float32 resolves divergences down to 1e-13.
    """
    import torch

    log_p = torch.log_softmax(p, dim=1)
    difference = log_p - torch.log_softmax(q, dim=1)
    return (log_p.exp() * (difference + torch.expm1((-difference).clamp(max=80)))).sum(1)


def _position(index: int, prompts: list[list[int]]) -> str:
    for number, ids in enumerate(prompts):
        if index < len(ids):
            return f"prompt {number}, position {index}"
        index -= len(ids)
    raise AssertionError("the index is one of a position")


def check_logits(
    model: Model,
    file_type: str | None,
    prompts: list[list[int]],
    truth: Run,
    noise: Callable[[], Run] | None,
    adapter: Any = None,
    name: str = "logits",
) -> tuple[Check, Measured]:
    """The check, and what was measured. `noise` computes the run of the imitation; None where the file's own weights are not
    trusted. Raises LlamaCppError where llama.cpp cannot compute."""
    longest = max(map(len, prompts))
    with Context(model, context_tokens=longest, batch_tokens=BATCH_TOKENS) as context:
        if adapter is not None:
            context.set_adapter(adapter)
        measured = compare(prompts, truth, context.logits)
    bounds, reason = stated_bounds(file_type), f"stated for {file_type}, at batches of {BATCH_TOKENS} tokens"
    details: dict[str, Any] = {
        "tokens": measured.tokens, "prompts": len(prompts), "longest_prompt": longest,
        "longest_prompt_fills_the_context": longest == model.n_ctx_train,
        **dataclasses.asdict(measured.figures), "largest_difference": measured.largest_difference,
    }  # fmt: skip
    if measured.figures.beyond(bounds) and noise is not None:
        imitated = compare(prompts, truth, noise().of)
        details["imitated_rounding"] = dataclasses.asdict(imitated.figures)
        bounds = _widened(bounds, imitated)
        reason = (
            f"{MEAN_RATIO:g} times the rounding of {file_type} imitated in this model, which is beyond the stated bound"
        )
    details["bounds"] = dataclasses.asdict(bounds)
    mean = measured.figures.mean_kld
    if not (beyond := measured.figures.beyond(bounds)):
        return Check(name, "pass", mean, bounds.mean_kld, reason, details=details), measured
    cause = f"{', '.join(beyond)}: the file computes another function; see the metadata and tensors checks for the part"
    return Check(name, "fail", mean, bounds.mean_kld, reason, cause, measured.worst, details), measured


def _widened(bounds: Figures, imitated: Measured) -> Figures:
    """Bounds by the imitation, where they are wider than the stated ones."""
    noise = imitated.figures
    disagreement = 1.0 - noise.top1_agreement
    agreement = 1.0 - MEAN_RATIO * disagreement - 3.0 * (disagreement / imitated.tokens) ** 0.5
    return Figures(
        max(bounds.mean_kld, MEAN_RATIO * noise.mean_kld),
        max(bounds.max_kld, MAXIMUM_RATIO * noise.max_kld),
        min(bounds.top1_agreement, max(0.0, agreement)),
        max(bounds.relative_difference, MEAN_RATIO**0.5 * noise.relative_difference),
    )
