"""Records to the trainer's rows and batches: one padded row a record, or rows packed full of whole records.

Packed rows are TRL's "best fit, longest first" and its padding-free batch: one row of all tokens, position ids that begin at 0
with every record, and the boundaries between records, within which attention stays (`finetune.training.attention`; for `sdpa`
and `eager` Transformers' own mask, made from the position ids). No record is cut to fill a row.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from datasets import Dataset
from torch import Tensor
from torch.utils.data import Sampler
from trl import pack_dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from finetune.training.tokenized import TokenizedRecord

PADDING_ID = 0  # any id does: padding is learned nowhere and seen by nobody, and many bases have no pad token
POOL_BATCHES = 50  # records are sorted by length within so many batches: little padding, and still random
MASK = "attention_mask"
PACKED_KEYS = ("position_ids", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")


def as_rows(records: Sequence[TokenizedRecord], *, max_length: int, packing: bool) -> Dataset:
    """The trainer's data set. A packed row has its records' lengths in `seq_lengths`."""
    rows = Dataset.from_dict(
        {"input_ids": [record.input_ids for record in records], "labels": [record.labels for record in records]}
    )
    return pack_dataset(rows, max_length, "bfd") if packing else rows


def row_lengths(rows: Dataset) -> list[int]:
    return [len(ids) for ids in rows["input_ids"]]


class Collator:
    """Rows to a batch of tensors: `input_ids`, `labels`, and either what keeps documents apart or what marks the padding."""

    def __init__(self, *, packing: bool) -> None:
        self.keys = ("input_ids", "labels", *(PACKED_KEYS if packing else (MASK,)))
        self.by_trl = DataCollatorForLanguageModeling(pad_token_id=PADDING_ID, padding_free=packing)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.by_trl(rows)
        return {key: batch[key] for key in self.keys}


def tokens_in(batch: dict[str, Any]) -> Tensor | int:
    """Tokens of a batch; padding does not count."""
    return batch[MASK].sum() if MASK in batch else batch["input_ids"].numel()


def for_the_model(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch as `losses.token_nats` takes it: padding at the right needs no mask, and without one kernels are faster."""
    return {key: value for key, value in batch.items() if key not in (MASK, "labels")}


class LikeLengths(Sampler[int]):
    """The order of an epoch: shuffled, sorted by length within pools of batches, the batches shuffled again.

    Only the last batch is incomplete. The order depends on the seed and the epoch, not on what ran before.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        draw = random.Random(f"order {self.seed} {self.epoch}")
        order = list(range(len(self.lengths)))
        draw.shuffle(order)
        whole = len(order) - len(order) % self.batch_size
        pool = self.batch_size * POOL_BATCHES
        batches: list[list[int]] = []
        for start in range(0, whole, pool):
            alike = sorted(order[start : min(start + pool, whole)], key=self.lengths.__getitem__)
            batches += [alike[first : first + self.batch_size] for first in range(0, len(alike), self.batch_size)]
        draw.shuffle(batches)
        return iter([position for batch in [*batches, order[whole:]] for position in batch])
