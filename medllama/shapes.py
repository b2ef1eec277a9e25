"""The shape of a Llama and what follows from it: parameters, those of a LoRA, the bytes of a file.

shape, where = find_shape("meta-llama/Llama-2-7b-hf")
count_parameters(shape)        # 6,738,415,616
"""

from __future__ import annotations

from typing import Any

from medllama.checkpoint import read_config, require_llama
from medllama.config import looks_like_hub_id
from medllama.errors import InputError
from medllama.files import expand

# Published shapes of the bases that the shipped recipes name, for planning before their weights are here.
PUBLISHED_SHAPES = {
    "meta-llama/Llama-2-7b-hf": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False,
    },
    "meta-llama/Llama-3.2-1B": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True,
    },
}  # fmt: skip
BITS_PER_WEIGHT = {
    "F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q6_K": 6.57, "Q5_K_M": 5.69, "Q5_K_S": 5.53, "Q4_K_M": 4.86,
    "Q4_K_S": 4.58, "Q4_0": 4.55, "Q3_K_M": 3.91, "Q2_K": 3.0,
}  # fmt: skip


def file_bytes(parameters: int, file_type: str) -> int:
    """About how large a GGUF of this type is; 16 bits a weight where the type is not in the table."""
    return round(parameters * BITS_PER_WEIGHT.get(file_type, 16) / 8)


def find_shape(base_model: str) -> tuple[dict[str, Any], str]:
    """The shape of a base, and whether it is a folder ("here") or still to be downloaded ("hub")."""
    name = base_model.split("@")[0]
    if (folder := expand(base_model)).is_dir():
        shape = read_config(folder)
        require_llama(shape, folder)
        return shape | {"num_key_value_heads": shape.get("num_key_value_heads") or shape["num_attention_heads"]}, "here"
    if name in PUBLISHED_SHAPES:
        return PUBLISHED_SHAPES[name], "hub"
    hint = "download it first: hf download " + name if looks_like_hub_id(name) else "name a folder with a config.json"
    raise InputError(f"the shape of {base_model} is not known here", hint=hint)


def count_parameters(shape: dict[str, Any]) -> int:
    """The parameters of a Llama of this shape, biases left out."""
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    embedding = shape["vocab_size"] * hidden * (1 if shape.get("tie_word_embeddings") else 2)
    matrices = sum(rows * columns for rows, columns in _linear_layers(shape))
    return embedding + layers * (matrices + 2 * hidden) + hidden


def count_lora_parameters(shape: dict[str, Any], rank: int) -> int:
    """The parameters of a LoRA of this rank on every linear layer."""
    return shape["num_hidden_layers"] * sum(rank * (rows + columns) for rows, columns in _linear_layers(shape))


def _linear_layers(shape: dict[str, Any]) -> list[tuple[int, int]]:
    hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
    head_dim = shape.get("head_dim") or hidden // heads
    query, key = heads * head_dim, shape["num_key_value_heads"] * head_dim
    feed_forward = shape["intermediate_size"]
    attention = [(query, hidden), (key, hidden), (key, hidden), (hidden, query)]
    return [*attention, (feed_forward, hidden), (feed_forward, hidden), (hidden, feed_forward)]
