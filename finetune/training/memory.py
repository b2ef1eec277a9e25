"""Out of memory, told with the settings that would have fitted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from finetune.train_config import TrainConfig
from medllama.errors import ResourceError
from medllama.training_cost import advice, training_memory


@contextmanager
def told_of_memory(config: TrainConfig, shape: dict[str, Any], device: torch.device) -> Iterator[None]:
    """Turn an allocation that failed inside the block into a ResourceError that says which setting to lower, and how far."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise out_of_memory(config, shape, device) from None


def _is_out_of_memory(error: Exception) -> bool:
    # PyTorch's allocator of CPU memory raises a plain RuntimeError.
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "DefaultCPUAllocator: can't allocate memory" in str(error)


def out_of_memory(config: TrainConfig, shape: dict[str, Any], device: torch.device) -> ResourceError:
    shape = {"num_key_value_heads": shape["num_attention_heads"], **shape}
    on_gpu = device.type == "cuda"
    has = torch.cuda.get_device_properties(device).total_memory if on_gpu else psutil.virtual_memory().total
    value_bytes = 4 if config.dtype == "float32" or (config.dtype == "auto" and not on_gpu) else 2
    needed = training_memory(shape, config, value_bytes=value_bytes)
    told = advice(shape, config, value_bytes=value_bytes, available_bytes=has)
    return ResourceError(
        f"out of memory on {device}, which has {has / 1e9:,.1f} GB: batch_size {config.batch_size} of {config.max_length:,} tokens "
        f"takes about {needed.total / 1e9:,.1f} GB, {needed.weights / 1e9:,.1f} GB of it weights",
        hint=told,
    )
