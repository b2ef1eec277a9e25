"""Small random LoRA adapters, made by PEFT itself, of every kind that convert takes or refuses.

adapter = make_adapter(base, tmp_path / "adapter", use_rslora=True)
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaForCausalLM

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def load_base(base: Path, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """The base in Transformers, in float32 unless asked otherwise."""
    return AutoModelForCausalLM.from_pretrained(base, dtype=dtype)


def make_adapter(base: Path, folder: Path, *, seed: int = 1, strength: float = 0.02, **settings: Any) -> Path:
    """An adapter whose every trained tensor is moved away from its start, so that no part of it is without effect."""
    settings = {"r": 4, "lora_alpha": 12, "target_modules": LINEAR, "task_type": "CAUSAL_LM", **settings}
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(load_base(base), LoraConfig(**settings))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    size = 0.05 if "magnitude" in name else strength
                    parameter.add_(torch.randn_like(parameter) * size)
        model.save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """PEFT's own merge of the float32 model: tensor by Hugging Face name; a tied head is named only if it differs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(load_base(base), adapter).merge_and_unload()
    tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings and torch.equal(
        tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]
    ):
        del tensors["lm_head.weight"]
    return tensors


def peft_logits(base: Path, adapter: Path | None, ids: list[int]) -> torch.Tensor:
    """Logits (n, vocabulary) of base and adapter in float32, the adapter not merged."""
    with torch.no_grad():
        return load_unmerged(base, adapter)(torch.tensor([ids])).logits[0]


def load_unmerged(base: Path, adapter: Path | None) -> Any:
    """The base in float32 with the adapter on top of it, as Transformers and PEFT load them."""
    model: Any = load_base(base)
    if adapter is None:
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(model, adapter)
