"""The importance matrix that a quantized file says it was made with, where it lies beside the file.

llama-quantize writes the matrix's file name into the GGUF, and so does medllama. With the same weights llama.cpp's own round trip
makes the same errors, which is what the tensors are compared with; without the matrix the bound is that of a plain round trip, and
a file that traded errors from column to column may not keep it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convert.checks.gguf_file import Header, Malformed, read_header

NAME = "quantize.imatrix.file"


def importance_of(header: Header) -> dict[str, np.ndarray]:
    """The weight of each column of each tensor, (columns,) float32; empty where no readable matrix lies beside the file."""
    said = header.metadata.get(NAME)
    path = header.path.parent / Path(said).name if isinstance(said, str) and said else None
    if path is None or not path.is_file():
        return {}
    try:
        matrix = read_header(path)
    except Malformed:
        return {}
    found = {}
    for name, tensor in header.tensors.items():
        sums, counts = matrix.tensors.get(f"{name}.in_sum2"), matrix.tensors.get(f"{name}.counts")
        if sums is None or counts is None or {sums.type, counts.type} != {"F32"}:
            continue
        weights = matrix.read_rows(sums).view("<f4").ravel()
        count = float(matrix.read_rows(counts).view("<f4").ravel()[0])
        if weights.shape == tensor.shape[-1:] and np.isfinite(weights).all():
            # What no token reached weighs the same everywhere, in llama-quantize too.
            found[name] = (weights / np.float32(count) if count > 0 else np.ones_like(weights)).astype(np.float32)
    return found
