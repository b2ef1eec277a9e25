"""What a GGUF is made of: base, adapter, tokenizer and template, read and checked before the first byte is written.

source = read_source(config)
source.merged(source.targets[0], slice(0, 256))         # (256, columns) float32
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy
import numpy.typing
import yaml

from convert.adapter import WEIGHTS as ADAPTER_WEIGHTS
from convert.adapter import Adapter, read_adapter
from convert.architecture import Shape, read_shape
from convert.config import ConvertConfig
from convert.dequantize import read_base_tensors
from convert.metadata import Provenance
from convert.tensors import EMBEDDING, HEAD, Target, plan_tensors
from convert.weights import EVERY_ROW, StoredTensor, changed, count_not_finite
from medllama import progress
from medllama.chat import Chat, choose_template
from medllama.checkpoint import find_base, read_config, require_llama, safetensors_files
from medllama.errors import InputError
from medllama.files import file_state, has_state, read_json, sha256_file
from medllama.template_guard import guarded
from medllama.tokenizer import Tokenizer
from medllama.vocabulary import Vocabulary, load_vocabulary

Array = numpy.typing.NDArray[Any]
DESCRIPTIONS = {
    "dequantized": "quantized by bitsandbytes; its values dequantized",
    "nf4": "its linear layers rounded to NF4 and back, as QLoRA's training saw them",
}


@dataclass(frozen=True)
class Source:
    """Everything that a GGUF is made of."""

    base: Path
    shape: Shape
    stored: dict[str, StoredTensor]
    adapter: Adapter | None
    targets: list[Target]
    vocabulary: Vocabulary
    template: str | None
    ends: list[int]
    provenance: Provenance
    weight_files: dict[Path, dict[str, int]]  # state of each file when its header was read
    trained_on: dict[Path, str]  # SHA-256 in training, of the base's files that may have been written to since

    @property
    def parameters(self) -> int:
        return sum(math.prod(target.shape) for target in self.targets)

    @property
    def stored_type(self) -> str:
        """The type of the base's embedding, "F32", "F16" or "BF16": config.json need not say it, and may be wrong."""
        return self.stored[self.targets[0].stored].dtype

    def is_merged(self, target: Target) -> bool:
        """Whether the adapter changes this tensor."""
        return self.adapter is not None and not target.is_untouched and self.adapter.touches(target.source)

    def expect(self, target: Target, rows: slice) -> None:
        """Rows of the base will be read soon."""
        if (base := self.stored.get(target.stored)) is not None:
            base.expect(rows)

    def merged(self, target: Target, rows: slice = EVERY_ROW) -> Array:
        """Rows of the tensor with the adapter merged, float32, in Transformers' layout."""
        base = self.stored.get(target.stored)
        if not self.is_merged(target):
            assert base is not None, "every target that no adapter brings is in the base"
            return base.float32(rows)
        assert self.adapter is not None
        with numpy.errstate(over="ignore", invalid="ignore", divide="ignore"):
            values = self.adapter.merge(target.source, base, rows)
        if count_not_finite(values, "F32"):
            raise InputError(
                f"{target.source} merged with {self.adapter.path} holds values that are NaN or infinite",
                hint="the adapter is damaged, or its training diverged; train it again with a lower learning rate",
            )
        return values

    def require_trained_base(self) -> None:
        """Raise InputError where the adapter was trained on another base. Reads every file: done beside other work."""
        for file, digest in self.trained_on.items():
            if not file.is_file() or sha256_file(file) != digest:
                assert self.adapter is not None, "it says what it was trained on"
                raise InputError(
                    f"{self.adapter.path} was trained on another base: {file.name} of {self.base} is not the file it was "
                    "trained with",
                    hint="name the base that the adapter was trained on, in the same version",
                )

    def require_unchanged(self) -> None:
        """Raise InputError where a file of weights was written to since: what was read is of two models."""
        for path, state in self.weight_files.items():
            if not has_state(path, state):
                raise changed(path)


def read_source(config: ConvertConfig) -> Source:
    """Read and check base and adapter. Nothing is written; what takes no reading of every byte is refused here."""
    base = find_base(config.base_model)
    config_json = read_config(base)
    require_llama(config_json, base, config.base_values)
    shape = read_shape(config_json, base / "config.json")
    files = safetensors_files(base)
    weight_files = {path: file_state(path) for path in files}
    stored = read_base_tensors(files, config.base_values, config.adapter)
    _check_rows(config_json, stored, base)
    if (
        config.adapter and (weights := config.adapter / ADAPTER_WEIGHTS).is_file()
    ):  # else reading it says what is missing
        weight_files[weights] = file_state(weights)
    adapter = read_adapter(config.adapter) if config.adapter else None
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    if shape.is_tied and "lm_head.weight" in shapes:
        shapes.setdefault("model.embed_tokens.weight", shapes["lm_head.weight"])
    if adapter is not None:
        adapter.check_against(shapes, is_tied=shape.is_tied, origin=base)
    replaced = {name: tensor.shape for name, tensor in adapter.saved.items()} if adapter else {}
    targets = plan_tensors(stored, shape, replaced, base, keeps_tie=adapter.keeps_tie if adapter else False)
    rows = targets[0].shape[0]
    vocabulary = load_vocabulary(base, config.adapter).fitted(rows)
    for note in vocabulary.notes:
        progress.message(f"note: {note}")
    tokenizer = Tokenizer(vocabulary)
    template = choose_template(tokenizer, base, config.adapter, config.chat_template)
    chat = guarded(Chat(template, tokenizer)) if template is not None else None
    return Source(
        base=base,
        shape=shape,
        stored=stored,
        adapter=adapter,
        targets=targets,
        vocabulary=vocabulary,
        template=chat.template if chat is not None else None,
        ends=_end_ids(base, config_json, rows, chat),
        provenance=_provenance(config, base),
        weight_files=weight_files,
        trained_on=_trained_on(adapter.path, base) if adapter is not None else {},
    )


def _check_rows(config: dict[str, Any], stored: dict[str, StoredTensor], base: Path) -> None:
    """Raise InputError unless the embedding is as high as config.json says: Transformers does not load it otherwise."""
    embedding = stored.get(EMBEDDING) or stored.get(HEAD)
    said = config.get("vocab_size", 32_000)  # LlamaConfig's default
    if embedding is not None and embedding.shape[:1] != (said,):
        raise InputError(
            f"{base}: the embedding is {embedding.shape}, and config.json says vocab_size {said!r}",
            hint="the weights and config.json are not of one model; copy both again",
        )


def _trained_on(adapter: Path, base: Path) -> dict[Path, str]:
    """The digests of the base's files that `medllama train` left with the adapter, but for files that are as it left them."""
    path = adapter / "training.json"
    if not path.is_file():
        return {}
    recorded = read_json(path).get("base") or {}
    digests, states = recorded.get("files") or {}, recorded.get("states") or {}
    return {base / name: digest for name, digest in digests.items() if not has_state(base / name, states.get(name))}


def _end_ids(base: Path, config: dict[str, Any], rows: int, chat: Chat | None) -> list[int]:
    """The ids at which generation must end: generation_config.json's, else config.json's, and the template's end of turn."""
    path = base / "generation_config.json"
    named = (read_json(path) if path.is_file() else {}).get("eos_token_id", config.get("eos_token_id"))
    ends = [int(index) for index in (named if isinstance(named, list) else [named]) if isinstance(index, int)]
    if chat is not None and (end_of_turn := chat.end_of_turn()) is not None:
        ends.append(end_of_turn)
    return [index for index in dict.fromkeys(ends) if 0 <= index < rows]


def _provenance(config: ConvertConfig, base: Path) -> Provenance:
    name = config.base_model.split("@")[0]
    is_hub_id = not Path(name).exists()
    datasets: tuple[str, ...] = ()
    if config.adapter and (path := config.adapter / "training.json").is_file():
        data = read_json(path).get("data") or {}
        datasets = tuple(str(entry.get("name") or entry.get("kind")) for entry in data.get("sources", []))
    return Provenance(
        name=config.name,
        base_name=name if is_hub_id else base.resolve().name,
        base_url=f"https://huggingface.co/{name}" if is_hub_id else "",
        licence=_stated_licence(base),
        datasets=datasets,
        is_tuned=config.adapter is not None,
        base_values=DESCRIPTIONS.get(config.base_values, ""),
    )


def _stated_licence(base: Path) -> str:
    """The licence that the base's model card names, as Hugging Face spells it; empty where it names none."""
    try:
        licence = gguf.Metadata.load_model_card(base).get("license")
    except (yaml.YAMLError, UnicodeDecodeError):  # a card is prose for people: no reason to fail
        return ""
    return licence if isinstance(licence, str) else ""
