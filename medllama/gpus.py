"""GPUs that a plan can be made for: their memory, and the bfloat16 operations a second that their makers state.

Sources: NVIDIA's data sheets and architecture papers of each card; dense tensor operations with float32 sums, no sparsity, SXM
boards where a name has several. A T4 and a V100 have no bfloat16: the figure is float16's.
"""

from __future__ import annotations

from dataclasses import dataclass

from medllama.errors import UsageError

# The share of the stated peak that a LoRA training of whole layers reaches. An assumption until `benchmarks/train.py` has run on
# a GPU: published figures lie between 0.34 (torchtune, 3B on an A100) and 0.5.
REACHED_SHARE = 0.4


@dataclass(frozen=True)
class Gpu:
    """Memory in bytes, and operations a second in 16 bits."""

    name: str
    memory_bytes: float
    operations_per_second: float


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("t4-16gb", 16e9, 65e12),
        Gpu("v100-32gb", 32e9, 125e12),
        Gpu("a10-24gb", 24e9, 125e12),
        Gpu("l4-24gb", 24e9, 121e12),
        Gpu("rtx3090-24gb", 24e9, 71e12),
        Gpu("rtx4090-24gb", 24e9, 165e12),
        Gpu("l40s-48gb", 48e9, 362e12),
        Gpu("a100-40gb", 40e9, 312e12),
        Gpu("a100-80gb", 80e9, 312e12),
        Gpu("h100-80gb", 80e9, 989e12),
        Gpu("h200-141gb", 141e9, 989e12),
        Gpu("b200-180gb", 180e9, 2250e12),
    )
}


def find_gpu(name: str) -> Gpu:
    """The GPU of that name."""
    if name.lower() in GPUS:
        return GPUS[name.lower()]
    raise UsageError(f"--gpu: {name} is not known", hint=f"known are {', '.join(GPUS)}")
