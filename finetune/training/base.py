"""Load a base for training: a LlamaForCausalLM with every weight from the files, in the dtype that the device is good at.

model = load_base(folder, choose_dtype("auto"))
model = load_base(folder, choose_dtype("auto"), quantization="nf4")         # QLoRA: the linear layers in 4 bits
"""

from __future__ import annotations

import importlib.util
import logging as logging_of_python
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from medllama.errors import InputError, UnsupportedError


def choose_dtype(choice: str) -> torch.dtype:
    """The dtype of the base while training. "auto": float32 on a CPU, on a GPU bfloat16 where it has that, else float16."""
    has_gpu = torch.cuda.is_available()
    if choice == "float16" and not has_gpu:
        raise UnsupportedError("dtype float16 trains on a GPU only", hint="leave out --dtype, or choose bfloat16")
    if choice != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[choice]
    if not has_gpu:
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def load_base(folder: Path, dtype: torch.dtype, *, attention: str = "sdpa", quantization: str = "none") -> Any:
    """The model in memory. Raises InputError where the files hold other weights than config.json describes.

    Quantized, it is put on its device at once: the first GPU of this process, or the CPU.
    """
    from transformers import LlamaForCausalLM

    extra: dict[str, Any] = {}
    if quantization == "nf4":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
        extra = {"quantization_config": nf4(dtype), "device_map": {"": device}}
    try:
        model, report = LlamaForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **extra,
        )
    except RuntimeError as error:  # shapes that differ
        raise InputError(
            f"{folder} cannot be loaded: {str(error).splitlines()[0]}",
            hint="config.json and the weights are of different models; copy both from one place",
        ) from None
    if quantization == "nf4":
        _keep_trainable_on_a_cpu(model)
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"{folder} lacks {len(missing)} weights that its config.json describes: {', '.join(missing[:3])}",
            hint="config.json and the weights are of different models; copy both from one place",
        )
    return model


def nf4(dtype: torch.dtype) -> Any:
    """QLoRA's settings (Dettmers et al. 2023): normal-float 4 bits in blocks of 64, whose scales are quantized too."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UnsupportedError("quantization nf4 needs bitsandbytes", hint='pip install "medllama[gpu]"')
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _keep_trainable_on_a_cpu(model: Any) -> None:
    """On some CPUs bitsandbytes 0.50 turns a layer's weights into a format for inference the first time it is evaluated, and then
    gives no gradient: a measurement before the training would leave nothing to train through."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


# What the libraries warn of among themselves; nobody who trains can mend it.
LIBRARY_WARNINGS = (
    "`is_gradient_checkpointing` is deprecated",  # PEFT 0.21 asks Transformers 5.23 by the old name
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No bars, no advice and no telemetry of the Hugging Face libraries inside the block; afterwards all is as before.

    TRL sends a message when a trainer is made. The variable stops it where the hub's library is not imported yet; where it is,
    the constant that it was read into does. bitsandbytes fetches a kernel from the hub when it is imported on some CPUs: offline,
    it says that it could not, and uses its own.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets
    from huggingface_hub import constants
    from transformers.utils import logging

    constants.HF_HUB_DISABLE_TELEMETRY = True
    was_offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    logging_of_python.getLogger("bitsandbytes").setLevel(logging_of_python.ERROR)
    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    had_data_bars = not datasets.are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            for message in LIBRARY_WARNINGS:
                warnings.filterwarnings("ignore", message=re.escape(message))
            yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()
        if had_data_bars:
            datasets.enable_progress_bars()
