"""The loss: nats per learned token, for the training step and for the measurement before and after.

`token_nats` is cross entropy at the learned places only: prompts and padding cost no head and no softmax. It is one code on every
device, and through `add_token_nats` the model's own forward, so that DDP and FSDP wrap it like any other. `measure` runs a model
over whole records and gives the mean with its standard error. Perplexity is e to the mean.

The records of one document resemble each other, so the standard error is that of a ratio over whole documents (Cochran,
Sampling Techniques, section 6.5): documents are drawn, their tokens come along.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from finetune.training.tokenized import TokenizedRecord
from medllama import progress
from medllama.chat import IGNORED_LABEL

BATCH_TOKENS = 8192  # of a measurement: padding included
HEAD_TOKENS = 1024  # logits that exist at once: at a vocabulary of 128,256, 0.5 GB in float32


@dataclass(frozen=True)
class Loss:
    """Mean nats per learned token with its standard error (None where a single document cannot have one)."""

    nats: float
    standard_error: float | None
    tokens: int
    records: int
    documents: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.nats, 700.0))

    def as_json(self) -> dict[str, Any]:
        return {
            "nats_per_token": self.nats,
            "standard_error": self.standard_error,
            "perplexity": self.perplexity,
            "tokens": self.tokens,
            "records": self.records,
            "documents": self.documents,
        }


def add_token_nats(causal_model: Any) -> None:
    """Give a LlamaForCausalLM's forward one more argument, `learned_labels`: with it, it returns `token_nats`."""
    plain_forward = causal_model.forward

    def forward(*arguments: Any, learned_labels: Tensor | None = None, **named: Any) -> Any:
        if learned_labels is None:
            return plain_forward(*arguments, **named)
        given = {key: value for key, value in named.items() if value is not None}  # PEFT names all that there could be
        return token_nats(causal_model, labels=learned_labels, **given)

    causal_model.forward = forward


def token_nats(causal_model: Any, input_ids: Tensor, labels: Tensor, **packed: Any) -> Tensor:
    """Cross entropy of every learned token: (k,) float32 nats, row by row.

    `causal_model` is a LlamaForCausalLM, its layers with or without LoRA. `input_ids` and `labels` (rows, tokens) are padded at
    the right, where a causal model's other tokens cannot see it, so no attention mask is needed. `packed` holds the position ids
    and the boundaries of the documents of a packed row (`finetune.training.packing`).
    """
    hidden = causal_model.model(input_ids=input_ids, use_cache=False, **packed).last_hidden_state
    hidden = hidden[:, :-1]  # (rows, tokens-1, width)
    targets = labels[:, 1:]  # (rows, tokens-1): the token after each place
    is_learned = targets != IGNORED_LABEL
    hidden, targets = hidden[is_learned], targets[is_learned]  # (k, width), (k,)
    parts = list(zip(hidden.split(HEAD_TOKENS), targets.split(HEAD_TOKENS), strict=True))
    head = causal_model.lm_head
    if torch.is_grad_enabled() and len(parts) > 1:  # the logits of one part at a time exist in the backward pass too
        pieces = [checkpoint(_head_nats, head, part, target, use_reentrant=False) for part, target in parts]
    else:
        pieces = [_head_nats(head, part, target) for part, target in parts]
    return torch.cat(pieces)


def _head_nats(head: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """`hidden` (k, width), `targets` (k,) -> (k,) float32 nats."""
    return cross_entropy(head(hidden).float(), targets, reduction="none")


@torch.no_grad()
def measure(model: Any, records: Sequence[TokenizedRecord], label: str) -> Loss:
    """The loss of a model over records, dropout off. The same records give the same figure, whatever came before.

    `model` is one that `add_token_nats` was applied to, with or without LoRA or a wrapper around it.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    sums = torch.zeros(len(records), dtype=torch.float64)
    done = 0
    for batch in _batches(records):
        input_ids, labels = _padded([records[position] for position in batch])
        nats = model(input_ids=input_ids.to(device), learned_labels=labels.to(device)).double().cpu()
        rows = (labels[:, 1:] != IGNORED_LABEL).nonzero()[:, 0]
        sums.index_add_(0, torch.tensor(batch)[rows], nats)
        done += len(batch)
        progress.update(f"{label}: {done:,} of {len(records):,} records")
    model.train(was_training)
    return summarize(sums.tolist(), records)


def summarize(nats: Sequence[float], records: Sequence[TokenizedRecord]) -> Loss:
    """Sums of nats per record -> mean per token, and the standard error of this ratio over documents."""
    documents: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for record, total in zip(records, nats, strict=True):
        documents[record.document_id][0] += total
        documents[record.document_id][1] += record.learned_tokens
    tokens = sum(count for _, count in documents.values())
    mean = sum(total for total, _ in documents.values()) / tokens
    number = len(documents)
    standard_error = None
    if number > 1:
        squares = sum((total - mean * count) ** 2 for total, count in documents.values())
        standard_error = math.sqrt(squares * number / (number - 1)) / tokens
    return Loss(mean, standard_error, int(tokens), len(records), number)


def _batches(records: Sequence[TokenizedRecord]) -> list[list[int]]:
    """Positions in batches of like length, the longest first, each of at most BATCH_TOKENS with its padding."""
    batches: list[list[int]] = []
    for position in sorted(range(len(records)), key=lambda position: -len(records[position])):
        if batches and len(records[batches[-1][0]]) * (len(batches[-1]) + 1) <= BATCH_TOKENS:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches


def _padded(records: Sequence[TokenizedRecord]) -> tuple[Tensor, Tensor]:
    """`input_ids` and `labels` (records, tokens) int64; the padding is id 0, learned nowhere."""
    shape = (len(records), max(map(len, records)))
    input_ids, labels = torch.zeros(shape, dtype=torch.int64), torch.full(shape, IGNORED_LABEL)
    for row, record in enumerate(records):
        input_ids[row, : len(record)] = torch.from_numpy(record.input_ids)
        labels[row, : len(record)] = torch.from_numpy(record.labels)
    return input_ids, labels
