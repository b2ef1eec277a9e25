"""`medllama convert`: a base and an adapter in, GGUF files out.

    medllama convert --base-model DIR --adapter DIR --types F16,Q4_K_M --output-dir OUT --name NAME

The base is read once, in slabs of rows, which are merged with the adapter in float32, rounded once to a 16-bit type, and
written; quantized types are made from those 16-bit values by llama.cpp's own quantizer, with its own mixture of types.
The 16-bit type is the one in `--types` if there is exactly one, else BF16 for a bfloat16 base and F16 for any other.
Nothing is approximated: what has no exact counterpart in llama.cpp is refused by name (docs/fidelity.md).
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from convert.adapter_gguf import adapter_bytes, check_fits_format, write_adapter_gguf
from convert.checkpoint import CheckpointPlan, open_checkpoint, plan_checkpoint
from convert.config import CHECKPOINT, UNQUANTIZED, ConvertConfig
from convert.folder import held, reader_folder, require_apart, require_room
from convert.importance import Importance, kept_beside, make_importance, read_importance, training_prompts
from convert.output import Plan, open_output, plan_outputs
from convert.source import Source, read_source
from convert.stream import Output, write_tensors
from medllama import progress
from medllama.errors import UnsupportedError
from medllama.files import atomic_directory, atomic_file
from medllama.stages import StageResult


def convert(config: ConvertConfig) -> StageResult:
    """Write every file that `config` asks for. Raises InputError, UnsupportedError or ResourceError; never half a file."""
    require_apart(config)
    source = read_source(config)
    for note in _notes(config):
        progress.message(f"note: {note}")
    if config.adapter_only:
        return _convert_adapter(config, source)
    intermediate = intermediate_type(config.file_types, source.stored_type)
    work = [(config, source)]
    if (baseline := config.baseline()) is not None:
        # The same template, so that both models are asked the same.
        work.append((baseline, replace(read_source(baseline), template=source.template)))
    planned = [(its, its_source, _plans(its, its_source, intermediate)) for its, its_source in work]
    checkpoint = plan_checkpoint(source) if CHECKPOINT in config.file_types else None
    needed_bytes = checkpoint.data_bytes if checkpoint is not None else 0
    needed_bytes += sum(plan.data_bytes for _, _, plans in planned for plan in plans)
    # Of the model that reads the text for an importance matrix nothing is left when the files are begun.
    reads = config.importance == "auto" and config.weighted_types
    reader = plan_outputs(source, ["Q8_0"], intermediate) if reads else []
    require_room(config, max(needed_bytes, sum(plan.data_bytes for plan in reader)))
    importance = _given_importance(config, source)
    prompts = _prompts(config, source)
    with held(config):
        if importance is not None:
            importance = kept_beside(importance, config.output_dir)
        elif prompts:
            importance = _made_importance(config, source, reader, intermediate, prompts)
        for its, its_source, plans in planned:
            weighted = [plan.weighted_by(importance) for plan in plans]
            _write(its, its_source, weighted, checkpoint if its is config else None, intermediate)
    return _result(config, source, intermediate, importance)


def _notes(config: ConvertConfig) -> list[str]:
    """What is asked for and has no effect."""
    if config.importance == "none" or config.weighted_types:
        return []
    shown = "an adapter GGUF" if config.adapter_only else ", ".join(config.file_types)
    return [f"--importance {config.importance} is not read: it changes nothing in {shown}"]


def _given_importance(config: ConvertConfig, source: Source) -> Importance | None:
    """The importance matrix in the file that is named, where a type uses one."""
    if config.importance in ("none", "auto") or not config.weighted_types:
        return None
    found = read_importance(Path(config.importance))
    found.check_against(source)
    return found


def _prompts(config: ConvertConfig, source: Source) -> list[list[int]]:
    """What the model reads for a matrix of our own, where a type uses one."""
    if config.importance != "auto" or not config.weighted_types:
        return []
    assert config.importance_data is not None, "ConvertConfig.problems asks for it"
    return training_prompts(config.importance_data, source, config.importance_tokens)


def _made_importance(
    config: ConvertConfig, source: Source, plans: list[Plan], intermediate: str, prompts: list[list[int]]
) -> Importance:
    """A matrix of our own, made with a Q8_0 of the model, which is small, quick, and as good as exact."""
    assert config.importance_data is not None, "there are prompts"
    replaced = [path for path in (*config.gguf_paths(), config.baseline_path()) if path is not None]
    with reader_folder(config) as folder:
        reader = replace(config, types=("Q8_0",), output_dir=folder)
        _write(reader, source, plans, None, intermediate)
        return make_importance(
            reader.gguf_path("Q8_0"), prompts, source.provenance.datasets or (config.importance_data.name,),
            config.importance_path(), replaced,
        )  # fmt: skip


def _plans(config: ConvertConfig, source: Source, intermediate: str) -> list[Plan]:
    file_types = [name for name in config.file_types if name != CHECKPOINT]
    return plan_outputs(source, file_types, intermediate, has_importance=config.importance != "none")


def _write(
    config: ConvertConfig, source: Source, plans: list[Plan], checkpoint: CheckpointPlan | None, intermediate: str
) -> None:
    """Write the files in one pass; each has its final name when all are complete."""
    with contextlib.ExitStack() as partials:
        paths = [partials.enter_context(atomic_file(config.gguf_path(plan.file_type))) for plan in plans]
        with contextlib.ExitStack() as files:
            outputs: list[Output] = [
                files.enter_context(open_output(plan, source, path)) for plan, path in zip(plans, paths, strict=True)
            ]
            if checkpoint is not None:
                folder = partials.enter_context(atomic_directory(config.checkpoint_path()))
                outputs.append(files.enter_context(open_checkpoint(checkpoint, source, config.adapter, folder)))
            write_tensors(source, outputs, intermediate)
        source.require_unchanged()


def _convert_adapter(config: ConvertConfig, source: Source) -> StageResult:
    """Write the adapter alone, in the unquantized types among those asked for."""
    assert source.adapter is not None, "ConvertConfig.problems asks for an adapter"
    check_fits_format(source.adapter, source.stored)
    source.require_trained_base()
    file_types = [name for name in config.file_types if name in UNQUANTIZED]
    if not file_types:
        raise UnsupportedError("an adapter GGUF is not quantized", hint="name F32, F16 or BF16 in --types")
    require_room(config, sum(adapter_bytes(source.adapter, file_type) for file_type in file_types))
    with held(config):
        for file_type in file_types:
            with atomic_file(config.gguf_path(file_type)) as partial:
                write_adapter_gguf(source.adapter, source.targets, source.shape, source.provenance, partial, file_type)
    sizes = {file_type: config.gguf_path(file_type).stat().st_size for file_type in file_types}
    shown = ", ".join(f"{file_type} {size / 1e6:,.1f} MB" for file_type, size in sizes.items())
    files = {file_type: str(config.gguf_path(file_type)) for file_type in file_types}
    line = f"adapter of {len(source.adapter.modules)} modules -> {shown}"
    return StageResult(config.output_dir, {"line": line, "files": files, "bytes": sizes})


def intermediate_type(file_types: list[str], stored_type: str) -> str:
    """The 16-bit type whose values quantized files are made from; `stored_type` is the base's."""
    sixteen = [name for name in file_types if name in ("F16", "BF16")]
    if len(sixteen) == 1:
        return sixteen[0]
    return "BF16" if stored_type == "BF16" else "F16"


def _result(config: ConvertConfig, source: Source, intermediate: str, importance: Importance | None) -> StageResult:
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
            "importance": importance.path.name if importance is not None else None,
            "baseline": str(baseline) if baseline else None,
            "base_values": config.base_values,
            "tokenizer": source.vocabulary.origin.name,
            "notes": [*source.vocabulary.notes, *_notes(config)],
        },
    )
