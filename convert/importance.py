"""An importance matrix: how much each column of a matrix matters, so that quantizing errs where it matters least.

    medllama convert ... --types Q3_K_M --importance auto --importance-data data      # made of the training text
    medllama convert ... --types Q3_K_M --importance other.imatrix.gguf               # anybody's

A column's weight is the mean square of the activations that it is multiplied with when the tuned model reads text. The file
is llama.cpp's imatrix GGUF: its own tools read ours, and we read theirs, those of its older format too. It stands beside the
models, named as they are.

Source followed: llama.cpp's tools/imatrix/imatrix.cpp, common/imatrix-loader.cpp and tools/quantize/quantize.cpp.
"""

from __future__ import annotations

import contextlib
import filecmp
import random
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy
import numpy.typing

from convert.importance_dat import read_dat
from convert.source import Source
from medllama import progress
from medllama.chat import Chat
from medllama.errors import InputError
from medllama.files import atomic_file, read_jsonl
from medllama.llamacpp import Model
from medllama.llamacpp.importance import BATCH_TOKENS, Activations, collect_activations
from medllama.tokenizer import Tokenizer

Weights = numpy.typing.NDArray[numpy.float32]
SUMS, COUNTS = ".in_sum2", ".counts"
FILE_KEY = "quantize.imatrix.file"
# What gguf-py and NumPy raise where a file is no GGUF, or cannot be read.
UNREADABLE = (ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError, OSError)


@dataclass(frozen=True)
class Importance:
    """A weight for each column of each tensor, (columns,) float32, and where they come from."""

    path: Path
    weights: dict[str, Weights]
    datasets: tuple[str, ...]
    chunks: int

    def check_against(self, source: Source) -> None:
        """Raise InputError unless there is a weight for each column of every matrix in the layers, and of any other it names."""
        for target in source.targets:
            found = self.weights.get(target.name)
            if len(target.shape) < 2 or (found is None and not target.name.startswith("blk.")):
                continue
            if found is None or found.size != target.shape[1]:
                has = "nothing" if found is None else f"{found.size} columns"
                raise InputError(
                    f"{self.path} is not of this model: it has {has} for {target.name}, whose columns are {target.shape[1]}",
                    hint="make one with --importance auto",
                )


def training_prompts(data: Path, source: Source, tokens: int) -> list[list[int]]:
    """About `tokens` tokens of `data`/train.jsonl: records as the model was trained on them, each cut to a batch.

    They are spread over the whole file, which is read once and of which little is tokenized: of each run of `step` records one is
    drawn, and whenever too many are drawn, of each two neighbors one, and runs are twice as long. The same file gives the same.
    """
    tokenizer = Tokenizer(source.vocabulary)
    chat = Chat(source.template, tokenizer) if source.template is not None else None
    generator = random.Random(0)
    drawn: list[list[int]] = []
    step, at, taken = 1, 0, 0
    speaking = ((place, record) for place, record in read_jsonl(data / "train.jsonl") if _says_something(record))
    for number, (place, record) in enumerate(speaking):
        if number % step == 0:
            at = number + generator.randrange(step)
        if number == at:
            drawn.append(encode_record(place, record, tokenizer, chat))
            taken += len(drawn[-1])
        if taken > 2 * tokens and (number + 1) % (2 * step) == 0:
            drawn = [generator.choice(pair) for pair in zip(drawn[::2], drawn[1::2], strict=True)]
            step, taken = 2 * step, sum(map(len, drawn))
    if not any(drawn):
        raise InputError(f"{data / 'train.jsonl'} holds no text", hint="name a folder that medllama prepare made")
    drawn = [ids for ids in drawn if ids]
    count = max(1, round(len(drawn) * min(1.0, tokens / taken)))
    return [drawn[index * len(drawn) // count] for index in range(count)]


def _says_something(record: dict[str, Any]) -> bool:
    return bool(record.get("messages") or (isinstance(record.get("text"), str) and record["text"]))


def encode_record(place: str, record: dict[str, Any], tokenizer: Tokenizer, chat: Chat | None) -> list[int]:
    """The ids of a record, cut to a batch; without a template those of what is said in it. None where it says nothing."""
    messages, text = record.get("messages"), record.get("text")
    try:
        if messages and chat is not None:
            return chat.encode(messages)[:BATCH_TOKENS]
        if messages:
            text = "\n".join(message["content"] for message in messages)
    except (TypeError, KeyError, AttributeError):
        hint = 'messages are objects of "role" and "content", as medllama prepare writes them'
        raise InputError(f"{place} is no conversation", hint=hint) from None
    if not isinstance(text, str) or not text:
        return []
    start = [tokenizer.vocabulary.bos_id] if tokenizer.vocabulary.bos_id is not None else []
    return (start + tokenizer.encode_text(text))[:BATCH_TOKENS]


def make_importance(
    model: Path, prompts: list[list[int]], datasets: tuple[str, ...], path: Path, replaced: Collection[Path]
) -> Importance:
    """Let a GGUF of the model read `prompts`, and write `path`; `datasets` says where they come from.

    Raises InputError where this is another matrix than stands at `path`, and a file that is not `replaced` now was made with that.
    """
    progress.update(f"importance matrix from {sum(map(len, prompts)):,} tokens")
    with Model(model) as loaded:
        found = collect_activations(loaded, prompts)
    tokens = max(entry.count for entry in found.values())
    with atomic_file(path) as partial:
        _write(found, partial, datasets, max(1, tokens // BATCH_TOKENS))
        if path.exists() and not filecmp.cmp(partial, path, shallow=False):
            _require_unnamed(path, replaced)
    return read_importance(path)


def _require_unnamed(path: Path, replaced: Collection[Path]) -> None:
    for other in sorted(path.parent.glob("*.gguf")):
        if other not in replaced and _named_by(other) == path.name:
            raise InputError(
                f"{other} was made with {path}, which would be another matrix now",
                hint="make both in one pass, all their types in --types; or remove that file; or choose another --name",
            )


def _named_by(path: Path) -> str | None:
    """The matrix that a file says it was made with; None where it says nothing that can be read."""
    try:
        field = gguf.GGUFReader(path).fields.get(FILE_KEY)
        return field.contents() if field is not None else None
    except UNREADABLE:
        return None


def kept_beside(importance: Importance, folder: Path) -> Importance:
    """The same matrix with its file in the folder of the files that are made with it, which name it: the certificate looks for it
    there. An older format is kept as GGUF."""
    path = importance.path
    copy = folder / (path.name if _is_gguf(path) else f"{path.name}.gguf")
    if copy.exists() and copy.samefile(path):
        return importance
    with atomic_file(copy) as partial:
        if _is_gguf(path):
            shutil.copyfile(path, partial)
        else:
            sums, datasets, chunks = read_dat(path)
            _write(sums, partial, datasets or (path.name,), chunks)
        if copy.exists() and not filecmp.cmp(partial, copy, shallow=False):
            raise InputError(f"{copy} is another matrix than {path}", hint="rename one of them")
    return read_importance(copy)


def _write(found: dict[str, Activations], path: Path, datasets: tuple[str, ...], chunks: int) -> None:
    """Write llama.cpp's imatrix GGUF."""
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.kv_data[0].pop("general.architecture")  # an imatrix is of no architecture of its own
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", list(datasets))
    writer.add_uint32("imatrix.chunk_count", chunks)
    writer.add_uint32("imatrix.chunk_size", BATCH_TOKENS)
    for name, entry in sorted(found.items()):
        writer.add_tensor(name + SUMS, entry.sums.astype(numpy.float32)[None])
        writer.add_tensor(name + COUNTS, numpy.array([[entry.count]], dtype=numpy.float32))
    with contextlib.closing(writer):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def read_importance(path: Path) -> Importance:
    """Read a matrix in GGUF, or in llama.cpp's older format. Raises InputError where it is none, or damaged."""
    if not path.is_file():
        said = "is no file" if path.exists() else "does not exist"
        raise InputError(f"{path} {said}", hint="llama.cpp's llama-imatrix makes such files, and --importance auto")
    try:
        found, datasets, chunks = _read_gguf(path) if _is_gguf(path) else read_dat(path)
    except UNREADABLE as error:
        said = f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        hint = "llama.cpp's llama-imatrix makes such files, and --importance auto"
        raise InputError(f"{path} is not an importance matrix: {said}", hint=hint) from None
    weights = {}
    for name, entry in found.items():
        if not numpy.isfinite(entry.sums).all() or (entry.sums < 0).any():
            raise InputError(f"{path}: the weights of {name} are damaged", hint="make or copy the file again")
        weights[name] = entry.mean_squares() if entry.count > 0 else numpy.ones(entry.sums.size, numpy.float32)
    if not weights:
        raise InputError(f"{path} holds no weights", hint="--importance auto makes some")
    return Importance(path, weights, datasets, chunks)


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _read_gguf(path: Path) -> tuple[dict[str, Activations], tuple[str, ...], int]:
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    found = {}
    for name in (key.removesuffix(SUMS) for key in tensors if key.endswith(SUMS)):
        sums, counts = tensors[name + SUMS], tensors[name + COUNTS]
        if {sums.tensor_type, counts.tensor_type} != {gguf.GGMLQuantizationType.F32} or counts.data.size != 1:
            raise ValueError(f"the weights of {name} are not one row of float32 and one count")
        found[name] = Activations(sums.data.ravel().astype(numpy.float64), round(float(counts.data.ravel()[0])))
    datasets = tuple(map(str, reader.fields["imatrix.datasets"].contents()))
    return found, datasets, int(reader.fields["imatrix.chunk_count"].contents())


def write_importance_origin(writer: gguf.GGUFWriter, importance: Importance) -> None:
    """Say in a quantized file which matrix it was made with, in llama-quantize's keys; the file's name without its folder."""
    writer.add_string(FILE_KEY, importance.path.name)
    if importance.datasets:
        writer.add_string("quantize.imatrix.dataset", importance.datasets[0])
    writer.add_uint32("quantize.imatrix.entries_count", len(importance.weights))
    writer.add_uint32("quantize.imatrix.chunks_count", importance.chunks)
