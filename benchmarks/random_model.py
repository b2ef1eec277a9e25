"""A base and an adapter of a real model's shape with random weights: what it costs to convert, verify or train one depends on the
shape alone.

    python -m benchmarks.random_model 1.1b OUT        # OUT/base and OUT/adapter

The tokenizer is the tiny base's, its vocabulary padded to the shape's. Weights are drawn from a normal distribution as wide as
trained ones are, so that the numbers stay in range; they are written a layer at a time.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medllama.checkpoint import base_digests, base_states
from medllama.recipe import RECIPES

TOKENIZER = RECIPES / "tiny" / "medllama-tiny-base"
SHAPES: dict[str, dict[str, Any]] = {
    "30m": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 6, "num_attention_heads": 8,
            "num_key_value_heads": 4, "vocab_size": 4096, "max_position_embeddings": 2048},
    "134m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
             "num_key_value_heads": 4, "vocab_size": 32000, "max_position_embeddings": 2048},
    # TinyLlama 1.1B
    "1.1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
             "num_key_value_heads": 4, "vocab_size": 32000, "max_position_embeddings": 2048},
    # Llama 2 7B
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096},
}  # fmt: skip
WIDTH = 0.02
RANK = 16


def make_base(folder: Path, shape: str, seed: int = 0) -> Path:
    """A float16 LlamaForCausalLM checkpoint, a shard per layer."""
    from safetensors.numpy import save_file

    config = SHAPES[shape]
    folder.mkdir(parents=True)
    for name in ("tokenizer.model", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(TOKENIZER / name, folder / name)
    place: dict[str, str] = {}
    rng = np.random.default_rng(seed)
    shards = [list(shapes) for shapes in _parts(config)]
    for number, part in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: _draw(rng, dimensions) for name, dimensions in part}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        place |= dict.fromkeys(tensors, file)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": place})
    described = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float16", "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "attention_bias": False, "mlp_bias": False, "rope_theta": 10000.0, **config,
    }  # fmt: skip
    _write_json(folder / "config.json", described)
    return folder


def make_adapter(folder: Path, base: Path, shape: str, seed: int = 1) -> Path:
    """A LoRA of rank 16 on all linear layers, as PEFT saves it and `medllama train` leaves it: with its base's digests."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    tensors = {}
    for part in _parts(SHAPES[shape]):
        for name, dimensions in part:
            if "_proj" in name:
                rows, columns = dimensions
                module = f"base_model.model.{name.removesuffix('.weight')}"
                tensors[f"{module}.lora_A.weight"] = _draw(rng, (RANK, columns)).astype(np.float32)
                tensors[f"{module}.lora_B.weight"] = _draw(rng, (rows, RANK)).astype(np.float32) / np.float32(10)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = sorted({name.split(".")[-2] for part in _parts(SHAPES[shape]) for name, _ in part if "_proj" in name})
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": targets,
        "base_model_name_or_path": str(base), "inference_mode": True,
    }  # fmt: skip
    _write_json(folder / "adapter_config.json", settings)
    _write_json(folder / "training.json", {"base": {"files": base_digests(base), "states": base_states(base)}})
    return folder


def _parts(config: dict[str, Any]) -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    """Names and shapes of the tensors, a shard at a time."""
    width, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    yield [("model.embed_tokens.weight", (vocabulary, width))]
    for layer in range(config["num_hidden_layers"]):
        linear = {
            "self_attn.q_proj": (width, width), "self_attn.k_proj": (keys, width), "self_attn.v_proj": (keys, width),
            "self_attn.o_proj": (width, width), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner), "input_layernorm": (width,), "post_attention_layernorm": (width,),
        }  # fmt: skip
        yield [(f"model.layers.{layer}.{name}.weight", dimensions) for name, dimensions in linear.items()]
    yield [("model.norm.weight", (width,)), ("lm_head.weight", (vocabulary, width))]


def _draw(rng: np.random.Generator, dimensions: tuple[int, ...]) -> np.ndarray:
    """Values of a tensor; a norm's lie around 1."""
    values = rng.standard_normal(dimensions, dtype=np.float32) * WIDTH
    return (values + (1.0 if len(dimensions) == 1 else 0.0)).astype(np.float16)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("output", type=Path)
    given = parser.parse_args()
    base = make_base(given.output / "base", given.shape)
    make_adapter(given.output / "adapter", base, given.shape)


if __name__ == "__main__":
    main()
