"""`medllama convert`: a base and an adapter in, GGUF files out.

    medllama convert --base-model DIR --adapter DIR --types F16,Q4_K_M --output-dir OUT --name NAME

The base's tensors are read one at a time, merged with the adapter in float32, rounded once to the file's 16-bit type, and
written. Quantized types are then made from that file's values by llama.cpp's own quantizer, with its own mixture of types.
The 16-bit type is the one in `--types` if there is exactly one, else BF16 for a bfloat16 base and F16 for any other.
Nothing is approximated: what has no exact counterpart in llama.cpp is refused by name (docs/fidelity.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy
import numpy.typing
from medllama.checkpoint import find_base, read_config, safetensors_files

from convert.adapter import Adapter, read_adapter
from convert.architecture import Shape, read_shape
from convert.config import FILE_TYPES, UNQUANTIZED, ConvertConfig
from convert.metadata import Provenance, write_architecture, write_provenance, write_tokenizer
from convert.tensors import Target, plan_tensors, to_llama_cpp_layout
from convert.weights import StoredTensor, read_tensors, round_to
from medllama import progress
from medllama.chat import Chat, choose_template
from medllama.errors import InputError
from medllama.files import atomic_file, read_json, require_disk, sha256_file
from medllama.llamacpp import quantize
from medllama.stages import StageResult
from medllama.tokenizer import Tokenizer
from medllama.vocabulary import Vocabulary, load_vocabulary

Array = numpy.typing.NDArray[Any]
BITS = {"F32": 32, "F16": 16, "BF16": 16}
RAW_TYPES = {
    "F32": gguf.GGMLQuantizationType.F32,
    "F16": gguf.GGMLQuantizationType.F16,
    "BF16": gguf.GGMLQuantizationType.BF16,
}


@dataclass(frozen=True)
class Source:
    """Everything that a GGUF is made of, read and checked before the first byte is written."""

    base: Path
    shape: Shape
    stored: dict[str, StoredTensor]
    adapter: Adapter | None
    targets: list[Target]
    vocabulary: Vocabulary
    template: str | None
    ends: list[int]
    provenance: Provenance

    @property
    def parameters(self) -> int:
        return sum(int(numpy.prod(target.shape)) for target in self.targets)

    def float32(self, target: Target) -> Array:
        """The merged tensor in llama.cpp's layout, float32."""
        if self.adapter is None or target.is_untouched or not self.adapter.touches(target.source):
            values = self.stored[target.stored].float32()
        else:
            base = self.stored.get(target.stored)
            values = self.adapter.merge(target.source, numpy.empty(0) if base is None else base.float32())
        return to_llama_cpp_layout(values, target.source, self.shape)


def convert(config: ConvertConfig) -> StageResult:
    """Write every file that `config` asks for. Raises InputError, UnsupportedError or ResourceError; never half a file."""
    source = read_source(config)
    file_types = _spelled(config.types)
    intermediate = intermediate_type(file_types, source.shape.dtype)
    require_disk(config.output_dir, _needed_bytes(source, file_types, intermediate), "convert")
    files: dict[str, Path] = {}
    for file_type in [name for name in UNQUANTIZED if name in file_types]:
        files[file_type] = _path(config, file_type)
        with atomic_file(files[file_type]) as partial:
            write_gguf(source, partial, file_type)
    quantized = [name for name in file_types if name not in UNQUANTIZED]
    if quantized and intermediate not in files:
        temporary = config.output_dir / f".{config.name}-{intermediate}.gguf.partial"
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_gguf(source, temporary, intermediate)
            _quantize_all(config, temporary, quantized, files)
        finally:
            temporary.unlink(missing_ok=True)
    elif quantized:
        _quantize_all(config, files[intermediate], quantized, files)
    return _result(config, source, files, intermediate if quantized else None)


def read_source(config: ConvertConfig) -> Source:
    """Read and check base and adapter. Nothing is written; every refusal happens here."""
    base = find_base(config.base_model)
    config_json = read_config(base)
    shape = read_shape(config_json, base / "config.json")
    stored = read_tensors(safetensors_files(base))
    adapter = read_adapter(config.adapter) if config.adapter else None
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    if shape.is_tied and "lm_head.weight" in shapes:
        shapes.setdefault("model.embed_tokens.weight", shapes["lm_head.weight"])
    if adapter is not None:
        adapter.check_against(shapes, is_tied=shape.is_tied, origin=base)
        _check_trained_on(adapter.path, base)
    replaced = {name: tensor.shape for name, tensor in adapter.saved.items()} if adapter else {}
    targets = plan_tensors(stored, shape, replaced, base, keeps_tie=adapter.keeps_tie if adapter else False)
    rows = targets[0].shape[0]
    vocabulary = load_vocabulary(base, config.adapter).fitted(rows)
    for note in vocabulary.notes:
        progress.message(f"note: {note}")
    tokenizer = Tokenizer(vocabulary)
    template = choose_template(tokenizer, base, config.adapter, config.chat_template)
    return Source(
        base=base,
        shape=shape,
        stored=stored,
        adapter=adapter,
        targets=targets,
        vocabulary=vocabulary,
        template=template,
        ends=_end_ids(base, config_json, rows, Chat(template, tokenizer) if template is not None else None),
        provenance=_provenance(config, base),
    )


def _check_trained_on(adapter: Path, base: Path) -> None:
    """Compare the base's digests that `medllama train` left with the adapter, where it did."""
    path = adapter / "training.json"
    if not path.is_file():
        return
    recorded = (read_json(path).get("base") or {}).get("files") or {}
    for name, digest in recorded.items():
        file = base / name
        expected = digest["sha256"] if isinstance(digest, dict) else digest
        if not file.is_file() or sha256_file(file) != expected:
            raise InputError(
                f"{adapter} was trained on another base: {name} of {base} is not the file it was trained with",
                hint="name the base that the adapter was trained on, in the same version",
            )


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
        datasets = tuple(str(entry.get("kind") or entry.get("name")) for entry in data.get("sources", []))
    return Provenance(
        name=config.name,
        base_name=name if is_hub_id else base.resolve().name,
        base_url=f"https://huggingface.co/{name}" if is_hub_id else "",
        datasets=datasets,
        is_tuned=config.adapter is not None,
    )


def intermediate_type(file_types: list[str], base_dtype: str) -> str:
    """The 16-bit type whose values quantized files are made from."""
    sixteen = [name for name in file_types if BITS.get(name) == 16]
    if len(sixteen) == 1:
        return sixteen[0]
    return "BF16" if base_dtype == "bfloat16" else "F16"


def write_gguf(source: Source, path: Path, file_type: str) -> None:
    """Write one unquantized GGUF. Matrices get the file's type, vectors stay float32, as llama.cpp wants them."""
    writer = gguf.GGUFWriter(path, "llama")
    write_provenance(writer, source.provenance, source.parameters)
    write_architecture(writer, source.shape, len(source.vocabulary))
    writer.add_file_type(FILE_TYPES[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_tokenizer(writer, source.vocabulary, source.template, source.ends)
    factors = source.shape.rope.frequency_factors(source.shape.head_dim)
    for target in source.targets:
        stored_type = file_type if len(target.shape) > 1 else "F32"
        size_bytes = int(numpy.prod(target.shape)) * BITS[stored_type] // 8
        writer.add_tensor_info(
            target.name, target.shape, numpy.dtype(numpy.float32), size_bytes, RAW_TYPES[stored_type]
        )
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for position, target in enumerate(source.targets):
        progress.update(f"{file_type}  {target.name}", position, len(source.targets))
        values = numpy.ascontiguousarray(source.float32(target), dtype=numpy.float32)
        writer.write_tensor_data(round_to(values, file_type if values.ndim > 1 else "F32", target.source))
    if factors is not None:
        writer.write_tensor_data(factors)
    writer.close()


def _quantize_all(config: ConvertConfig, intermediate: Path, file_types: list[str], files: dict[str, Path]) -> None:
    for file_type in file_types:
        progress.update(f"{file_type}  quantizing")
        files[file_type] = _path(config, file_type)
        with atomic_file(files[file_type]) as partial:
            quantize(intermediate, partial, FILE_TYPES[file_type])


def _spelled(file_types: tuple[str, ...]) -> list[str]:
    """The types in llama.cpp's spelling, each once, in the order given."""
    spelling = {name.upper(): name for name in FILE_TYPES}
    return list(dict.fromkeys(spelling[name.upper()] for name in file_types))


def _path(config: ConvertConfig, file_type: str) -> Path:
    return config.output_dir / f"{config.name}-{file_type}.gguf"


def _needed_bytes(source: Source, file_types: list[str], intermediate: str) -> int:
    """An upper estimate of the bytes that will be written, the intermediate file included."""
    is_quantizing = any(name not in UNQUANTIZED for name in file_types)
    kept = {name for name in file_types if name in UNQUANTIZED} | ({intermediate} if is_quantizing else set())
    bits = sum(BITS[name] for name in kept) + 9 * sum(1 for name in file_types if name not in UNQUANTIZED)
    return source.parameters * bits // 8


def _result(config: ConvertConfig, source: Source, files: dict[str, Path], intermediate: str | None) -> StageResult:
    sizes = {file_type: files[file_type].stat().st_size for file_type in _spelled(config.types)}
    shown = ", ".join(f"{file_type} {size / 1e6:,.1f} MB" for file_type, size in sizes.items())
    return StageResult(
        config.output_dir,
        {
            "line": f"{len(source.targets)} tensors of {source.parameters / 1e6:,.1f} M parameters -> {shown}",
            "files": {file_type: str(files[file_type]) for file_type in sizes},
            "bytes": sizes,
            "parameters": source.parameters,
            "quantized_from": intermediate,
            "tokenizer": source.vocabulary.origin.name,
            "notes": list(source.vocabulary.notes),
        },
    )
