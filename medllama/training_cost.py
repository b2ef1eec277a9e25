"""What training a LoRA costs: memory, operations and disk, from the base's shape and the settings alone.

    training_memory(shape, config, value_bytes=2).total
    training_operations(shape, config, tokens, record_tokens)

Memory is counted, not fitted to one machine: weights, the adapter with its gradients and optimizer, what the layers keep of each
token for the backward pass (the tensors that PyTorch saves in a Llama block with LoRA: a test counts them again), and the logits of
the part of a batch that the loss takes at a time. `config` is anything with the fields of `finetune.train_config.TrainConfig`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from medllama.shapes import count_parameters

HEAD_TOKENS = 1024  # whose logits exist at once (`finetune.training.losses`)
NF4_BYTES = (
    0.5 + 1 / 64 + 4 / (64 * 256)
)  # a weight: 4 bits, a scale of 8 bits a block of 64, a float32 a block of those
OPTIMIZER_BYTES = {
    "adamw_bnb_8bit": 2,
    "paged_adamw_8bit": 2,
    "adafactor": 1,
}  # a parameter; AdamW's two float32 otherwise
CUDA_BYTES = 1.0e9  # of the context and the kernels' workspaces
FRAGMENTED = 1.1  # of what comes and goes
TOKENIZER_BYTES = 20_000_000  # Llama 3's tokenizer.json has 17 MB
CHECKPOINTS = 3  # the best, the last, and the one that is being written


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes by what they hold, at the longest batch."""

    weights: float
    adapter: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return self.weights + self.adapter + FRAGMENTED * (self.activations + self.logits)

    def as_json(self) -> dict[str, float]:
        return {**asdict(self), "total": self.total}


def training_memory(shape: dict[str, Any], config: Any, *, value_bytes: int) -> TrainingMemory:
    """Of one device. `value_bytes` is 2 for bfloat16 and float16, 4 for float32."""
    parameters, linear = count_parameters(shape), linear_parameters(shape)
    weights = value_bytes * float(parameters)
    if config.quantization == "nf4":
        weights = NF4_BYTES * linear + value_bytes * (parameters - linear)
    lora = lora_parameters(shape, config)
    tokens = config.batch_size * min(config.max_length, shape.get("max_position_embeddings") or config.max_length)
    head_bytes = 2 * value_bytes + 12  # logits and their gradient; as float32, their softmax and its gradient
    return TrainingMemory(
        weights,
        lora * (8 + OPTIMIZER_BYTES.get(config.optimizer, 8)),
        float(tokens * _kept_bytes(shape, config, value_bytes)),
        float(min(HEAD_TOKENS, tokens) * shape["vocab_size"] * head_bytes),
    )


def _kept_bytes(shape: dict[str, Any], config: Any, value_bytes: int) -> float:
    """Bytes that all layers keep of a token until its backward pass."""
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    key_width = _head_width(shape) * shape["num_key_value_heads"]
    inner = shape["intermediate_size"]
    # Bytes a hidden value: in 16 bits the norms still work in float32; DoRA's inputs are cast to float32, and back for each product.
    kept = 16 if value_bytes == 2 and not config.dora else 24
    layer = kept * hidden + value_bytes * (4 * inner + 2 * key_width) + 28 * config.rank
    if config.dropout:
        layer += (value_bytes + 1) * (6 * hidden + inner)  # each LoRA's own input, and the mask
    if config.gradient_checkpointing:
        return float(layers * value_bytes * hidden + layer)  # each layer's input, and the one layer that is recomputed
    return float(layers * layer)


def training_operations(shape: dict[str, Any], config: Any, tokens: float, record_tokens: float) -> float:
    """Floating-point operations of training on `tokens`, whose records are of about `record_tokens`."""
    embedding = shape["vocab_size"] * shape["hidden_size"]
    matrices = linear_parameters(shape) + embedding
    # Forward, the gradient of the activations (the frozen weights have none), and forward again where it is recomputed.
    passes = 3 if config.gradient_checkpointing else 2
    width = _head_width(shape) * shape["num_attention_heads"]
    attention = 2 * record_tokens * width * shape["num_hidden_layers"]  # forward, causal: half of 4
    return tokens * (2 * matrices * passes + attention * (passes + 1.5))


def disk_bytes(trainable_parameters: int) -> int:
    """What a training writes at most: checkpoints with AdamW's state, and the adapter."""
    return CHECKPOINTS * (12 * trainable_parameters + TOKENIZER_BYTES) + 4 * trainable_parameters + TOKENIZER_BYTES


def lora_parameters(shape: dict[str, Any], config: Any) -> int:
    """The adapter's parameters: rank x (inputs + outputs) of each layer that has one; DoRA adds a length a row."""
    sizes, targets = layer_sizes(shape), config.target_modules
    chosen = sizes.values() if targets == ("all-linear",) else [sizes[name] for name in targets]
    each = [config.rank * (rows + columns) + (rows if config.dora else 0) for rows, columns in chosen]
    return int(shape["num_hidden_layers"] * sum(each))


def linear_parameters(shape: dict[str, Any]) -> int:
    """The weights of the layers' matrices: those that QLoRA quantizes."""
    return int(shape["num_hidden_layers"] * sum(rows * columns for rows, columns in layer_sizes(shape).values()))


def layer_sizes(shape: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of a block's matrices, by their names."""
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    query = _head_width(shape) * shape["num_attention_heads"]
    key = _head_width(shape) * shape["num_key_value_heads"]
    return {
        "q_proj": (query, hidden), "k_proj": (key, hidden), "v_proj": (key, hidden), "o_proj": (hidden, query),
        "gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner),
    }  # fmt: skip


def _head_width(shape: dict[str, Any]) -> int:
    return int(shape.get("head_dim") or shape["hidden_size"] // shape["num_attention_heads"])


def smaller(config: Any) -> Iterator[tuple[Any, list[str]]]:
    """Ever smaller trainings of the same optimizer step, each with the flags that make it; the cheapest changes first."""
    flags: list[str] = []
    if not config.gradient_checkpointing:
        config, flags = replace(config, gradient_checkpointing=True), ["--gradient-checkpointing"]
        yield config, flags
    accumulation = config.gradient_accumulation
    batch_size = config.batch_size
    while batch_size > 1:
        accumulation, batch_size = accumulation * 2, (batch_size + 1) // 2
        config = replace(config, batch_size=batch_size, gradient_accumulation=accumulation)
        yield config, [*flags, f"--batch-size {batch_size}", f"--gradient-accumulation {accumulation}"]
    if config.batch_size != 1 or flags or accumulation != 1:
        flags = [*flags, f"--batch-size {config.batch_size}", f"--gradient-accumulation {accumulation}"]
    if config.quantization == "none":
        config, flags = replace(config, quantization="nf4"), [*flags, "--quantization nf4"]
        yield config, flags
    while config.max_length > 128:
        config = replace(config, max_length=config.max_length // 2)
        yield config, [*flags, f"--max-length {config.max_length}"]


def advice(shape: dict[str, Any], config: Any, *, value_bytes: int, available_bytes: float) -> str:
    """Which flags make a training that ran out of memory fit, and what they bring it to. Where it should have fitted, something
    else holds memory, and a quarter less is aimed at."""
    needed = training_memory(shape, config, value_bytes=value_bytes).total
    wanted = min(available_bytes - CUDA_BYTES, 0.75 * needed) if available_bytes > 2 * CUDA_BYTES else 0.75 * needed
    for changed, flags in smaller(config):
        total = training_memory(shape, changed, value_bytes=value_bytes).total
        if total <= wanted:
            return f"{' '.join(flags)} would need about {total / 1e9:,.1f} GB"
    return "take a smaller base, or a device with more memory"
