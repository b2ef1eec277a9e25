"""What probably happened to a tensor that differs: the mistakes that converters make, tried one after another."""

from __future__ import annotations

import numpy as np

from convert.checks.gguf_file import Header, to_float32
from convert.checks.reference import Weights, checkpoint_rows

NEAR = 0.05  # share of the squares; the roughest quantization stays below it for the right guess

OTHER_VALUES = 0.1  # how much nearer the other choice of --base-values must lie, in squares


def likely_cause(header: Header, weights: Weights, name: str) -> str:
    """A sentence for people; the first rows are looked at, two heads of them where they are in heads."""
    tensor, expected = header.tensors[name], weights.expected[name]
    rows = min(tensor.rows, 2 * (expected.head_dim or 32))
    found = to_float32(header.read_rows(tensor, 0, rows), tensor.type).astype(np.float64)
    truth = weights.rows(name, 0, rows)
    if not found.any():
        return f"{name} is all zeros"
    alike = [other for other, entry in weights.expected.items() if other != name and entry.shape == expected.shape]
    for other in alike:
        if _is_near(found, weights.rows(other, 0, rows)):
            return f"{name} holds {other}: tensors were swapped or mapped to the wrong name"
    if expected.head_dim is not None and len(expected.shape) > 1:
        order = checkpoint_rows(np.arange(rows), expected.head_dim)
        if _is_near(found[order], truth):
            return f"the rows of {name} were not permuted into llama.cpp's RoPE order"
        if _is_near(found, truth[order]):
            return f"the rows of {name} were permuted into llama.cpp's RoPE order twice"
    if weights.is_changed(name) and (share := _share_of_change(found, truth, weights, name)) is not None:
        if abs(share) < 0.02:
            return f"the adapter is missing from {name}"
        if abs(share - 1) > 0.02:
            return f"{name} holds {share:.3g} times the adapter's change: merged twice, or its scale mistaken (rsLoRA?)"
    if (other_reference := weights.reference.otherwise) is not None:
        misfit = float(((found - other_reference.weights("merged").rows(name, 0, rows)) ** 2).sum())
        if misfit < OTHER_VALUES * float(((found - truth) ** 2).sum()):
            return f"{name} is merged into the base's {other_reference.values} values: see --base-values"
    wrong = ((found - truth) ** 2).sum(axis=1) > NEAR * (truth**2).sum(axis=1)
    if 0 < wrong.sum() <= rows // 4:
        return f"{int(wrong.sum())} of the first {rows} rows of {name} are not its own: zeroed, swapped or damaged"
    scale = float((found * truth).sum() / max(float((truth**2).sum()), 1e-30))
    if abs(scale - 1) > 1e-3 and _is_near(found, scale * truth):
        return f"{name} is {scale:.4g} times what it should be"
    if expected.head_dim is not None:
        return f"the rows of {name} may have been permuted with a wrong number of heads"
    return f"{name} does not hold this model's values"


def _share_of_change(found: np.ndarray, truth: np.ndarray, weights: Weights, name: str) -> float | None:
    """How much of the adapter's change a tensor holds, where it is the base and a multiple of that change; else None."""
    base = weights.reference.weights("base").rows(name, 0, len(truth))
    change = truth - base
    size = float((change**2).sum())
    if size == 0.0:
        return None
    share = float(((found - base) * change).sum()) / size
    return share if _is_near(found - base - share * change, np.zeros_like(base), size) else None


def _is_near(found: np.ndarray, truth: np.ndarray, size: float | None = None) -> bool:
    size = float((truth**2).sum()) if size is None else size
    return float(((found - truth) ** 2).sum()) < NEAR * size + 1e-30
