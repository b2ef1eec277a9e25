"""`medllama convert`: a base and an adapter in, GGUF files out.

    medllama convert --base-model DIR --adapter DIR --types F16,Q4_K_M --output-dir OUT --name NAME

The base's tensors are read one at a time, merged with the adapter in float32, rounded once to the file's 16-bit type, and
written. Quantized types are then made from that file's values by llama.cpp's own quantizer, with its own mixture of types.
The 16-bit type is the one in `--types` if there is exactly one, else BF16 for a bfloat16 base and F16 for any other.
Nothing is approximated: what has no exact counterpart in llama.cpp is refused by name (docs/fidelity.md).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy
import numpy.typing
import yaml

from convert.adapter import Adapter, read_adapter
from convert.adapter_gguf import check_fits_format, write_adapter_gguf
from convert.architecture import Shape, read_shape
from convert.checkpoint import write_checkpoint
from convert.config import CHECKPOINT, FILE_TYPES, UNQUANTIZED, ConvertConfig
from convert.metadata import Provenance, write_architecture, write_provenance, write_tokenizer
from convert.tensors import Target, plan_tensors, to_llama_cpp_layout
from convert.weights import RAW_TYPES, StoredTensor, read_tensors, round_to
from medllama import progress
from medllama.chat import Chat, choose_template
from medllama.checkpoint import find_base, read_config, require_llama, safetensors_files
from medllama.errors import InputError, UnsupportedError
from medllama.files import atomic_directory, atomic_file, read_json, require_disk, sha256_file
from medllama.llamacpp import quantize
from medllama.stages import StageResult
from medllama.tokenizer import Tokenizer
from medllama.vocabulary import Vocabulary, load_vocabulary

Array = numpy.typing.NDArray[Any]
BITS = {"F32": 32, "F16": 16, "BF16": 16}


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

    @property
    def stored_type(self) -> str:
        """The type of the base's embedding, "F32", "F16" or "BF16": config.json need not say it, and may be wrong."""
        return self.stored[self.targets[0].stored].dtype

    def is_merged(self, target: Target) -> bool:
        """Whether the adapter changes this tensor."""
        return self.adapter is not None and not target.is_untouched and self.adapter.touches(target.source)

    def merged(self, target: Target) -> Array:
        """The tensor with the adapter merged, float32, in Transformers' layout."""
        if self.adapter is None or not self.is_merged(target):
            return self.stored[target.stored].float32()
        base = self.stored.get(target.stored)
        return self.adapter.merge(target.source, numpy.empty(0) if base is None else base.float32())

    def float32(self, target: Target) -> Array:
        """The merged tensor in llama.cpp's layout, float32."""
        return to_llama_cpp_layout(self.merged(target), target.source, self.shape)


def convert(config: ConvertConfig) -> StageResult:
    """Write every file that `config` asks for. Raises InputError, UnsupportedError or ResourceError; never half a file."""
    source = read_source(config)
    if config.adapter_only:
        return _convert_adapter(config, source)
    intermediate = intermediate_type(config.file_types, source.stored_type)
    work = [(config, source)]
    if (baseline := config.baseline()) is not None:
        # The same template, so that both models are asked the same.
        work.append((baseline, replace(read_source(baseline), template=source.template)))
    needed_bytes = sum(_needed_bytes(its_source, its.file_types, intermediate) for its, its_source in work)
    require_disk(config.output_dir, needed_bytes, "convert")
    for its, its_source in work:
        _write_files(its, its_source, intermediate)
    return _result(config, source, intermediate)


def _write_files(config: ConvertConfig, source: Source, intermediate: str) -> None:
    """Write the files of all types; quantized ones are made from a file of the type `intermediate`."""
    quantized = config.quantized_types
    for file_type in config.file_types:
        if file_type in UNQUANTIZED:
            with atomic_file(config.gguf_path(file_type)) as partial:
                write_gguf(source, partial, file_type)
    if CHECKPOINT in config.file_types:
        _write_checkpoint(config, source)
    if quantized and intermediate in config.file_types:
        _quantize_all(config, config.gguf_path(intermediate), quantized)
    elif quantized:
        temporary = config.output_dir / f".{config.name}-{intermediate}.gguf.partial"
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_gguf(source, temporary, intermediate)
            _quantize_all(config, temporary, quantized)
        finally:
            temporary.unlink(missing_ok=True)


def _convert_adapter(config: ConvertConfig, source: Source) -> StageResult:
    """Write the adapter alone, in the unquantized types among those asked for."""
    assert source.adapter is not None, "ConvertConfig.problems asks for an adapter"
    check_fits_format(source.adapter, source.stored)
    file_types = [name for name in config.file_types if name in UNQUANTIZED]
    if not file_types:
        raise UnsupportedError("an adapter GGUF is not quantized", hint="name F32, F16 or BF16 in --types")
    for file_type in file_types:
        with atomic_file(config.gguf_path(file_type)) as partial:
            write_adapter_gguf(source.adapter, source.targets, source.shape, source.provenance, partial, file_type)
    sizes = {file_type: config.gguf_path(file_type).stat().st_size for file_type in file_types}
    shown = ", ".join(f"{file_type} {size / 1e6:,.1f} MB" for file_type, size in sizes.items())
    files = {file_type: str(config.gguf_path(file_type)) for file_type in file_types}
    line = f"adapter of {len(source.adapter.modules)} modules -> {shown}"
    return StageResult(config.output_dir, {"line": line, "files": files, "bytes": sizes})


def _write_checkpoint(config: ConvertConfig, source: Source) -> None:
    """Write the merged model as a Hugging Face checkpoint, every tensor in its own dtype of the base."""
    dtypes = {
        target.source: source.stored[target.stored].dtype if target.stored in source.stored else source.stored_type
        for target in source.targets
    }

    def tensor(target: Target) -> Array:
        progress.update(f"safetensors  {target.source}")
        if not source.is_merged(target):
            return source.stored[target.stored].raw()
        return round_to(source.merged(target), dtypes[target.source], target.source)

    with atomic_directory(config.output_dir / f"{config.name}-{CHECKPOINT}") as folder:
        write_checkpoint(folder, source.targets, dtypes, tensor, source.base, config.adapter)


def read_source(config: ConvertConfig) -> Source:
    """Read and check base and adapter. Nothing is written; every refusal happens here."""
    base = find_base(config.base_model)
    config_json = read_config(base)
    require_llama(config_json, base)
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
        licence=_stated_licence(base),
        datasets=datasets,
        is_tuned=config.adapter is not None,
    )


def _stated_licence(base: Path) -> str:
    """The licence that the base's model card names, as Hugging Face spells it; empty where it names none."""
    try:
        licence = gguf.Metadata.load_model_card(base).get("license")
    except (yaml.YAMLError, UnicodeDecodeError):  # a card is prose for people: no reason to fail
        return ""
    return licence if isinstance(licence, str) else ""


def intermediate_type(file_types: list[str], stored_type: str) -> str:
    """The 16-bit type whose values quantized files are made from; `stored_type` is the base's."""
    sixteen = [name for name in file_types if BITS.get(name) == 16]
    if len(sixteen) == 1:
        return sixteen[0]
    return "BF16" if stored_type == "BF16" else "F16"


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
    with contextlib.closing(writer):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for position, target in enumerate(source.targets):
            progress.update(f"{file_type}  {target.name}", position, len(source.targets))
            values = numpy.ascontiguousarray(source.float32(target), dtype=numpy.float32)
            writer.write_tensor_data(round_to(values, file_type if values.ndim > 1 else "F32", target.source))
        if factors is not None:
            writer.write_tensor_data(factors)


def _quantize_all(config: ConvertConfig, intermediate: Path, file_types: list[str]) -> None:
    for file_type in file_types:
        progress.update(f"{file_type}  quantizing")
        with atomic_file(config.gguf_path(file_type)) as partial:
            quantize(intermediate, partial, FILE_TYPES[file_type])


def _needed_bytes(source: Source, file_types: list[str], intermediate: str) -> int:
    """An upper estimate of the bytes that will be written, the intermediate file included."""
    kept = {name: BITS.get(name, 16 if name == CHECKPOINT else 9) for name in (*file_types, intermediate)}
    return source.parameters * sum(kept.values()) // 8


def _result(config: ConvertConfig, source: Source, intermediate: str) -> StageResult:
    sizes = {path.stem.rpartition("-")[2]: path.stat().st_size for path in config.gguf_paths()}
    shown = [f"{file_type} {size / 1e6:,.1f} MB" for file_type, size in sizes.items()]
    shown += [CHECKPOINT] if CHECKPOINT in config.file_types else []
    baseline = config.baseline_path()
    shown += [f"the base {baseline.stat().st_size / 1e6:,.1f} MB"] if baseline else []
    return StageResult(
        config.output_dir,
        {
            "line": f"{len(source.targets)} tensors, {source.parameters / 1e6:,.1f} M parameters -> {', '.join(shown)}",
            "files": [str(path) for path in config.gguf_paths()],
            "bytes": sizes,
            "parameters": source.parameters,
            "quantized_from": intermediate if config.quantized_types else None,
            "baseline": str(baseline) if baseline else None,
            "tokenizer": source.vocabulary.origin.name,
            "notes": list(source.vocabulary.notes),
        },
    )
