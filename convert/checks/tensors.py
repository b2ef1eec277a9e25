"""Check 3: every tensor, against a computation that shares no code with the converter (`reference.py`, `lora.py`).

A copied tensor of F32, F16 or BF16 must be the checkpoint's, rounded once, bit for bit. A merged one must be within one unit in
the last place of its 16-bit type, 99.9% of it equal; F32 within 1e-6 of its row's largest value. A quantized one must lie as near
to the truth as llama.cpp's own round trip of the truth does: relative root mean square error at most 1.25 times, and no row more
than twice, which is how one wrong row of 32,000 shows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.certificate import Check
from convert.checks.gguf_file import Header, Tensor, to_float32
from convert.checks.importance import NAME, importance_of
from convert.checks.likely_cause import likely_cause
from convert.checks.reference import Weights
from medllama import progress
from medllama.cores import usable_cores
from medllama.llamacpp.quantizer import quantize_rows

CHUNK_VALUES = 1 << 22
SAMPLED_ROWS = 96  # of each large matrix with --sample
SAMPLED_ABOVE_VALUES = 1 << 20
UNEQUAL_SHARE, MAY_DIFFER = 1e-3, 3  # of a small tensor, a few values are more than their share
# Of a base rounded to NF4: a scale halfway between two of its 256 codes may fall to either, at most 14% apart, and take its
# 64 values along; of a small matrix, two scales.
SCALE_SHARE, MAY_DIFFER_ROUNDED = 0.15, 128
ROW_SHARE = 1e-6
RMSE_RATIO, ROW_RATIO = 1.25, 2.0
UNQUANTIZED = (0, 1, 32)  # LLAMA_FTYPE of F32, F16 and BF16
NEEDS_IMPORTANCE = ("IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M", "IQ2_S")
REASON = (
    "copied: equal bits; merged: 1 unit in the last place, 99.9% equal (F32: 1e-6 of the row); quantized: 1.25 times the "
    "error of llama.cpp's own round trip, no row twice"
)


@dataclass
class Tally:
    """What was found in one tensor. `excess` above 1 is a failure: the figure over its bound."""

    values: int = 0
    unequal: int = 0
    excess: float = 0.0
    worst_row: int = 0
    what: str = ""
    error: float = 0.0  # sums of squares, for the relative errors
    round_trip: float = 0.0
    norm: float = 0.0

    def worsen(self, excess: float, row: int, what: str) -> None:
        if excess > self.excess or np.isnan(excess):
            self.excess, self.worst_row, self.what = (float("inf") if np.isnan(excess) else excess), row, what


def check_tensors(header: Header, weights: Weights, *, sample: bool, seed: int) -> Check:
    """Every tensor of the file; with `sample` a part of the rows of each."""
    rng = np.random.default_rng(seed)
    worst: tuple[float, str, Tally] | None = None
    failures: list[str] = []
    values = unequal = 0
    largest_ratio = 0.0
    names = [name for name in header.tensors if name in weights.expected]
    importance = importance_of(header)
    tallies = _tallies(header, weights, importance, names, sample, rng)
    for done, (name, tally) in enumerate(zip(names, tallies, strict=True)):
        progress.update(f"{header.path.name}: comparing {name}", done, len(names))
        values, unequal = values + tally.values, unequal + tally.unequal
        if tally.round_trip:
            largest_ratio = max(largest_ratio, float(np.sqrt(tally.error / tally.round_trip)))
        if tally.excess > 1.0:
            failures.append(name)
        if worst is None or tally.excess > worst[0]:
            worst = (tally.excess, name, tally)
    assert worst is not None, "the file check found the embedding"
    excess, name, tally = worst
    details: dict[str, Any] = {
        "tensors": len(names), "values": values, "values_unequal": unequal, "largest_rmse_ratio": largest_ratio or None,
        "importance": header.metadata.get(NAME) if importance else None,
    }  # fmt: skip
    if not failures:
        return Check("tensors", "pass", excess, 1.0, REASON, details=details)
    where = f"{name}, row {tally.worst_row}: {tally.what}"
    if others := [other for other in failures if other != name]:
        where += f"; also {', '.join(others[:4])}"
    figure, cause = f"{len(failures)} of {len(names)} tensors differ", likely_cause(header, weights, name)
    return Check("tensors", "fail", figure, "0", REASON, cause, where, details)


def _tallies(
    header: Header,
    weights: Weights,
    importance: dict[str, np.ndarray],
    names: list[str],
    sample: bool,
    rng: np.random.Generator,
) -> Iterator[Tally]:
    """The comparison of each tensor, in order; NumPy and ggml compute without Python's lock, so all cores take part."""
    tensors = [header.tensors[name] for name in names]
    runs = [row_runs(tensor.shape, sample, rng) for tensor in tensors]
    with ThreadPoolExecutor(usable_cores()) as pool:
        yield from pool.map(functools.partial(compare, header, weights, importance), tensors, runs)


def row_runs(shape: tuple[int, ...], sample: bool, rng: np.random.Generator) -> list[tuple[int, int]]:
    """The runs of rows to compare: all, or of a large matrix its first rows, its last, and some between."""
    rows, run = shape[0] if len(shape) > 1 else 1, SAMPLED_ROWS // 3
    if not sample or rows <= SAMPLED_ROWS or rows * shape[-1] <= SAMPLED_ABOVE_VALUES:
        return [(0, rows)]
    middle = int(rng.integers(run, rows - 2 * run + 1))
    return [(0, run), (middle, middle + run), (rows - run, rows)]


def compare(
    header: Header, weights: Weights, importance: dict[str, np.ndarray], tensor: Tensor, runs: list[tuple[int, int]]
) -> Tally:
    """One tensor against the truth. `importance` weights the columns where the file was quantized with such weights."""
    tally = _compare(header, weights, importance, tensor, runs)
    if tally.excess <= 1.0 or tensor.type != "F16" or header.metadata.get("general.file_type") in UNQUANTIZED:
        return tally
    # A quantized file has F16 where a row divides into no blocks, made of the 16-bit file's values, which may be BF16.
    twice = _compare(header, weights, importance, tensor, runs, is_rounded_twice=True)
    return min(tally, twice, key=lambda found: found.excess)


def _compare(
    header: Header,
    weights: Weights,
    importance: dict[str, np.ndarray],
    tensor: Tensor,
    runs: list[tuple[int, int]],
    *,
    is_rounded_twice: bool = False,
) -> Tally:
    tally = Tally()
    changed = weights.is_changed(tensor.name)
    rounded = weights.reference.is_rounded(weights.expected[tensor.name].parameter)
    for start, stop in _chunks(runs, tensor.shape[-1]):
        raw = header.read_rows(tensor, start, stop)
        truth = weights.rows(tensor.name, start, stop)
        truth = _bfloat16(truth) if is_rounded_twice else truth
        tally.values += truth.size
        if tensor.type in ("F32", "F16", "BF16"):
            if changed:
                unit_type = "BF16" if is_rounded_twice else tensor.type
                _compare_merged(raw, truth, tensor.type, unit_type, start, tally, rounded=rounded)
            else:
                _compare_copied(raw, truth, tensor.type, start, tally)
        else:
            _compare_quantized(raw, truth, tensor.type, importance.get(tensor.name), start, tally)
    if tally.round_trip:
        ratio = float(np.sqrt(tally.error / tally.round_trip))
        what = f"relative error {np.sqrt(tally.error / tally.norm):.3g}, {ratio:.2f} times llama.cpp's own"
        tally.worsen(ratio / RMSE_RATIO, tally.worst_row, what)
    if changed and not tally.round_trip and tally.unequal > (MAY_DIFFER_ROUNDED if rounded else MAY_DIFFER):
        what = f"{tally.unequal} of {tally.values} values are not equal"
        tally.worsen(tally.unequal / (UNEQUAL_SHARE * tally.values), 0, what)
    return tally


def _chunks(runs: list[tuple[int, int]], columns: int) -> Iterator[tuple[int, int]]:
    step = max(1, CHUNK_VALUES // columns)
    for first, last in runs:
        for start in range(first, last, step):
            yield start, min(start + step, last)


def round_to(values: np.ndarray, type_name: str) -> np.ndarray:
    """float64 (rows, columns) -> the bits of a type, rounded once to nearest even: uint16, or uint32 for F32."""
    if type_name == "F16":
        with np.errstate(over="ignore"):
            return values.astype("<f2").view("<u2")
    single = values.astype("<f4")
    if type_name == "F32":
        return single.view("<u4")
    # BF16 keeps the upper half of float32. Going through float32 rounds twice, so its rounding error is looked at in a tie.
    bits = single.view("<u4").astype(np.uint64)
    lower = bits & 0xFFFF
    up = lower > 0x8000
    tie = lower == 0x8000
    if tie.any():
        away = np.abs(values) > np.abs(single.astype(np.float64))
        exact = values == single.astype(np.float64)
        up |= tie & np.where(exact, (bits >> 16) & 1 == 1, away)
    return ((bits >> 16) + up).astype("<u2")


def _compare_copied(raw: np.ndarray, truth: np.ndarray, type_name: str, start: int, tally: Tally) -> None:
    wrong = raw.view("<u4" if type_name == "F32" else "<u2") != round_to(truth, type_name)
    if wrong.any():
        tally.unequal += int(wrong.sum())
        row = int(np.argmax(wrong.any(axis=1)))
        tally.worsen(
            float(wrong.sum()) + 1.0, start + row, f"{int(wrong.sum())} of {wrong.size} values are not the checkpoint's"
        )


def _compare_merged(
    raw: np.ndarray, truth: np.ndarray, type_name: str, unit_type: str, start: int, tally: Tally, *, rounded: bool
) -> None:
    """Rows of `type_name` within one unit of `unit_type`, the coarsest that they were rounded to."""
    found = to_float32(raw, type_name).astype(np.float64)
    # Under cancellation no float32 merge can do better than a share of the row's largest value, whatever the type.
    largest = np.maximum(np.abs(truth).max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    room = ROW_SHARE * largest
    if type_name != "F32":
        tally.unequal += int((raw.view("<u2") != round_to(truth, type_name)).sum())
        room = np.maximum(room, unit_in_last_place(truth, unit_type))
    excess = np.abs(found - truth) / room
    if rounded and (beyond := excess > 1.0).any():
        tally.unequal += int(beyond.sum()) if type_name == "F32" else 0
        excess = np.where(beyond, np.abs(found - truth) / (SCALE_SHARE * largest), excess)
    row, column = np.unravel_index(int(np.argmax(excess)), excess.shape)
    tally.worsen(float(excess[row, column]), start + int(row),
                 f"column {column} is {found[row, column]:.6g} where {truth[row, column]:.6g} is right")  # fmt: skip


def unit_in_last_place(values: np.ndarray, type_name: str) -> np.ndarray:
    """The distance between neighbours of a 16-bit type at these values, and half of it for the truth's own rounding."""
    mantissa, lowest = (10, -14) if type_name == "F16" else (7, -126)
    exponent = np.maximum(np.frexp(values)[1] - 1, lowest)
    return 1.5 * np.ldexp(1.0, exponent - mantissa)


def _bfloat16(values: np.ndarray) -> np.ndarray:
    return (round_to(values, "BF16").astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def _compare_quantized(
    raw: np.ndarray, truth: np.ndarray, type_name: str, importance: np.ndarray | None, start: int, tally: Tally
) -> None:
    single = truth.astype(np.float32)
    if importance is None and type_name in NEEDS_IMPORTANCE:
        importance = np.ones(single.shape[1], np.float32)
    own = to_float32(quantize_rows(single, type_name, importance), type_name)
    found = to_float32(raw, type_name)
    error = ((found - single).astype(np.float64) ** 2).sum(axis=1)
    round_trip = ((own - single).astype(np.float64) ** 2).sum(axis=1)
    # What is quantized are the values of a 16-bit file, BF16 the coarser. Where one value outweighs its row, 8 bits are finer.
    round_trip += ((_bfloat16(truth) - truth) ** 2).sum(axis=1)
    norm = (truth**2).sum(axis=1)
    tally.error, tally.norm = tally.error + float(error.sum()), tally.norm + float(norm.sum())
    tally.round_trip += float(round_trip.sum()) + 1e-30
    room = ROW_RATIO * np.sqrt(round_trip) + 1e-3 * np.sqrt(norm) + 1e-12
    excess = np.sqrt(error) / room
    row = int(np.argmax(np.nan_to_num(excess, nan=np.inf)))
    tally.worsen(float(excess[row]), start + row, f"relative error {np.sqrt(error[row] / max(norm[row], 1e-30)):.3g}, "
                 f"llama.cpp's own {np.sqrt(round_trip[row] / max(norm[row], 1e-30)):.3g}")  # fmt: skip
