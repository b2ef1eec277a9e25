"""What is verified: the model as the Hugging Face side has it, and how closely it is looked at.

Everything that the checks share is computed once and kept: the generated strings with their true ids, the prompts, and what the
Hugging Face model says to them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.checks import hugging_face, logits, texts
from convert.checks.ends import Ends, read_ends
from convert.checks.gguf_file import Header
from convert.checks.greedy import NEW_TOKENS, OPENING_TOKENS, OPENINGS, SAMPLE_NEW_TOKENS, SAMPLE_OPENINGS
from convert.checks.reference import Reference, Weights, Which, read_reference
from convert.checks.rounding import FileWeights
from convert.checks.tensors import SAMPLED_ROWS
from convert.checks.tokenizer import Case, make_cases, transformers_differences
from convert.checks.tokens import Table, read_table
from convert.config import VerifyConfig
from medllama import progress
from medllama.chat import Chat, load_chat
from medllama.checkpoint import find_base
from medllama.errors import InputError, UnsupportedError
from medllama.files import read_json, sha256_file
from medllama.go_template import derive_go_template, go_template_sha256
from medllama.rundir import versions
from medllama.template_guard import guarded

STRINGS, SAMPLE_STRINGS = 20_000, 4_000
SMALL_MODEL_PARAMETERS = 20_000_000  # below this, threads wait for each other longer than they compute


@dataclass(frozen=True)
class Subject:
    """A checkpoint with its adapter, tokenizer, chat format and ends."""

    config: VerifyConfig
    base: Path
    reference: Reference
    table: Table
    chat: Chat | None
    ends: Ends

    @functools.cached_property
    def threads(self) -> int | None:
        """How many threads compute a forward pass; None leaves it to the libraries."""
        shapes = (entry.shape for entry in self.reference.weights("base").expected.values())
        return 1 if sum(math.prod(shape) for shape in shapes) < SMALL_MODEL_PARAMETERS else None

    @functools.cached_property
    def cases(self) -> list[Case]:
        """The strings of the tokenizer check."""
        return make_cases(self.table, self.config.seed, SAMPLE_STRINGS if self.config.sample else STRINGS)

    @functools.cached_property
    def prompts(self) -> list[list[int]]:
        """The prompts of the logits check; they use only ids that the base knows too."""
        rows = self.reference.weights("base").vocabulary_rows

        def encode(text: str) -> list[int]:
            return [index for index in self.table.encode(text, with_control=False) if index < rows]

        return logits.make_prompts(
            self.chat, encode, texts.medical, min(rows, len(self.table.texts)), self.ends.bos,
            self.reference.config.max_position_embeddings, self.config.seed, sample=self.config.sample,
        )  # fmt: skip

    def truth(self, which: Which) -> hugging_face.Run:
        """What the Hugging Face model says to the prompts; once for all files."""
        if which not in self._runs:
            self._runs[which] = self.read(which, self.prompts)
        return self._runs[which]

    def read(self, which: Which, sequences: Sequence[Sequence[int]]) -> hugging_face.Run:
        """What the Hugging Face model says to any sequences of ids."""
        rows = self.reference.weights(which).vocabulary_rows
        return hugging_face.run(self.reference, rows, sequences, with_adapter=which == "merged", threads=self.threads)

    @functools.cached_property
    def _runs(self) -> dict[Which, hugging_face.Run]:
        return {}

    @property
    def openings(self) -> list[list[int]]:
        """Openings of one length for the greedy check: the beginnings of the prompts that are text."""
        count = SAMPLE_OPENINGS if self.config.sample else OPENINGS
        of_text = [ids for number, ids in enumerate(self.prompts) if logits.is_text(number)]
        length = min(OPENING_TOKENS, *map(len, of_text))
        return [ids[:length] for ids in of_text[:count]]

    @property
    def new_tokens(self) -> int:
        """How many tokens the greedy check lets the model write after an opening."""
        room = self.reference.config.max_position_embeddings - OPENING_TOKENS
        return max(1, min(SAMPLE_NEW_TOKENS if self.config.sample else NEW_TOKENS, room))

    def imitation(self, header: Header, weights: Weights, *, with_adapter: bool) -> Callable[[], hugging_face.Run]:
        """The run of the Hugging Face model with this file's weights and rounding, for when it is needed."""
        return lambda: hugging_face.run(
            self.reference, weights.vocabulary_rows, self.prompts, with_adapter=with_adapter,
            weights=FileWeights(header, weights), threads=self.threads,
        )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """What the certificate says of the model itself, and of how it was looked at."""
        config, chat = self.config, self.chat
        end = chat.end_of_turn() if chat is not None else None
        return {
            "base": {
                "path": config.base_model,
                "name": self.base.resolve().name,
                "config_sha256": sha256_file(self.base / "config.json"),
                "values": config.base_values,
            },
            "adapter": _adapter_facts(config.adapter),
            **_training_facts(config.adapter),
            "chat_template_sha256": chat.sha256 if chat is not None else None,
            "go_template_sha256": _go_template_sha256(chat),
            "end_of_turn": self.table.texts[end] if end is not None else None,
            "transformers_ids_differ": transformers_differences(self.base, self.cases),
            "sampled": self._sampled(),
            "seed": config.seed,
            "versions": versions(),
        }

    def _sampled(self) -> dict[str, Any] | None:
        """What --sample looked at, in place of everything."""
        if not self.config.sample:
            return None
        return {
            "rows_of_each_large_matrix": SAMPLED_ROWS,
            "strings": len(self.cases),
            "prompts": len(self.prompts),
            "prompt_tokens": sum(map(len, self.prompts)),
            "longest_prompt": max(map(len, self.prompts)),
        }


def read_subject(config: VerifyConfig) -> Subject:
    """Read the Hugging Face side. Raises InputError or UnsupportedError for what is missing, broken or beyond verify."""
    progress.update("reading the checkpoint")
    base = find_base(config.base_model)
    reference = read_reference(base, config.adapter, config.base_values)
    chat = load_chat(base, config.adapter, config.chat_template)
    chat = guarded(chat) if chat is not None else None
    table = read_table(base, config.adapter).fitted(reference.weights("merged").vocabulary_rows)
    end_of_turn = chat.end_of_turn() if chat is not None else None
    return Subject(config, base, reference, table, chat, read_ends(base, reference.config, table, end_of_turn))


def _adapter_facts(adapter: Path | None) -> dict[str, str] | None:
    if adapter is None:
        return None
    return {
        "path": str(adapter),
        "sha256": sha256_file(adapter / "adapter_model.safetensors"),
        "config_sha256": sha256_file(adapter / "adapter_config.json"),
    }


def _training_facts(adapter: Path | None) -> dict[str, Any]:
    """What `train` wrote beside the adapter, for package: the data, how many records of it were trained on, and the longest in
    tokens. None each where it is not recorded."""
    path = adapter / "training.json" if adapter is not None else None
    training = read_json(path) if path is not None and path.is_file() else {}

    def recorded(*keys: str) -> Any:
        value = training
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    return {
        "data": recorded("data"),
        "trained_records": recorded("records", "train", "records"),
        "max_length": recorded("hyperparameters", "max_length"),
    }


def _go_template_sha256(chat: Chat | None) -> str | None:
    """The SHA-256 of the Modelfile's TEMPLATE; None where there is no template, or none that Go's templates can say."""
    if chat is None:
        return None
    try:
        return go_template_sha256(derive_go_template(chat))
    except (UnsupportedError, InputError):
        return None
