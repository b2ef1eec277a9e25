"""medllama verify: is this GGUF the model that was trained? A certificate of nine checks, each with a figure and a bound.

    medllama verify --base-model DIR --adapter DIR --gguf medllama-F16.gguf --gguf medllama-Q4_K_M.gguf --output certificate.json

In go the Hugging Face side (config.json, safetensors, the PEFT adapter, the tokenizer's files) and GGUF files; out comes
certificate.json, and exit status 1 where a check fails. It shares no code with `medllama convert`: the truth is computed again by
other means (checks/reference.py, checks/lora.py, SentencePiece, `tokenizers`, Transformers with PEFT), and the GGUF is read by
hand before llama.cpp opens it (checks/gguf_file.py).

A file is held against the merged model; with --adapter-gguf, a file that holds the base's weights is held against the base, and the
adapter's GGUF on top of it against the merged model. --sample looks at a part of the rows, strings and prompts, and says at which.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from convert.certificate import Certificate, Check, FileReport, failed, skipped
from convert.checks.adapter_gguf import check_adapter_file, check_products, largest_type
from convert.checks.ends import check_ends
from convert.checks.file import check_file
from convert.checks.gguf_file import Header, read_header, to_float32
from convert.checks.greedy import check_greedy
from convert.checks.logits import check_logits
from convert.checks.metadata import check_metadata, file_type_of
from convert.checks.prompts import check_prompts
from convert.checks.reference import Reference, Which
from convert.checks.subject import Subject, read_subject
from convert.checks.tensors import check_tensors
from convert.checks.tokenizer import check_texts, check_tokenizer
from convert.config import VerifyConfig
from medllama import progress
from medllama.errors import CheckFailed, InputError
from medllama.files import sha256_file, write_json
from medllama.llamacpp import LlamaCppError, Model
from medllama.stages import StageResult

NAMED = 6  # failed checks that the error names; all stand in the table above it
OF_A_MODEL = ("file", "metadata", "tensors", "tokenizer", "prompts", "logits", "greedy", "ends")


def verify(config: VerifyConfig) -> StageResult:
    """Check every GGUF, write the certificate, and raise CheckFailed where a check failed."""
    paths = [Path(name) for name in config.gguf]
    for path in [*paths, *([config.adapter_gguf] if config.adapter_gguf else [])]:
        if not path.is_file():
            raise InputError(f"{path} does not exist", hint="medllama convert makes GGUF files")
    if config.adapter_gguf is not None and config.adapter is None:
        raise InputError("--adapter-gguf needs --adapter", hint="name the adapter that the file was made from")
    subject = read_subject(config)
    reports = [check_model_file(subject, path) for path in paths]
    if config.adapter_gguf is not None:
        right = [path for path, report in zip(paths, reports, strict=True) if report.verdict == "pass"]
        bases = [path for path in right if holds_base(read_header(path), subject.reference)]
        reports.append(check_adapter(subject, config.adapter_gguf, bases))
    certificate = Certificate(subject.facts(), tuple(reports))
    write_json(config.output, certificate.as_json())
    if failures := certificate.failures():
        for line in certificate.table():
            progress.message(line)
        raise CheckFailed(
            f"{len(failures)} check{'s' * (len(failures) != 1)} failed: {', '.join(failures[:NAMED])}"
            + (f", and {len(failures) - NAMED} more" if len(failures) > NAMED else ""),
            hint=f"{config.output} says for each what was found, the bound, the likely cause and where",
        )
    return StageResult(config.output, summarize(certificate) | {"table": list(certificate.table())})


def summarize(certificate: Certificate) -> dict[str, Any]:
    """The figures for the manifest, and the one line for people."""
    checks = [check for file in certificate.files for check in file.checks if check.verdict == "pass"]
    files, divergences = (
        len(certificate.files),
        [check.details["mean_kld"] for check in checks if check.name == "logits"],
    )
    line = f"{files} file{'s' * (files != 1)}, {len(checks)} checks passed"
    if divergences:
        line += f", mean KLD at most {max(divergences):.2g}"
    return {"line": line, "verdict": certificate.verdict, "files": files, "checks_passed": len(checks)}


def check_model_file(subject: Subject, path: Path) -> FileReport:
    """All checks of one GGUF of a whole model. What could end the process in llama.cpp is not opened there."""
    reference = subject.reference
    which: Which = "base" if reference.adapter is None else "merged"
    file_check, header = check_file(path, reference.weights(which).expected, reference.has_rope_factors)
    checks, reason = [file_check], "the file is broken"
    if header is not None and file_check.verdict == "pass":
        if subject.config.adapter_gguf is not None and holds_base(header, reference):
            which = "base"
        weights = reference.weights(which)
        metadata_check, may_open = check_metadata(header, weights, subject.table, subject.ends)
        checks += [
            metadata_check,
            check_tensors(header, weights, sample=subject.config.sample, seed=subject.config.seed),
        ]
        reason = "llama.cpp was not given this file, which could end the process there"
        if may_open and (fault := check_texts(header, subject.table, weights.vocabulary_rows)) is not None:
            checks.append(fault)
        elif may_open:
            try:
                checks += checks_in_llama_cpp(subject, header, which, are_weights_right=checks[-1].verdict == "pass")
            except LlamaCppError as error:
                reason = "llama.cpp refuses this file"
                checks.append(_refused("logits", error, path.name))
    found = {check.name for check in checks}
    checks += [skipped(name, reason) for name in OF_A_MODEL if name not in found]
    kind = file_type_of(header) if header is not None else None
    return FileReport(path.name, sha256_file(path), path.stat().st_size, kind, which, tuple(checks))


def checks_in_llama_cpp(subject: Subject, header: Header, which: Which, *, are_weights_right: bool) -> list[Check]:
    """The checks that load the GGUF into llama.cpp; LlamaCppError where it refuses the file."""
    weights, truth = subject.reference.weights(which), subject.truth(which)
    with Model(header.path, threads=subject.threads) as model:
        progress.update(f"{header.path.name}: tokenizing")
        tokenizer_check = check_tokenizer(model, header, subject.table, weights.vocabulary_rows, subject.cases)
        prompts_check = check_prompts(model, header, subject.chat)
        noise = subject.imitation(header, weights, with_adapter=False) if are_weights_right else None
        logits_check, measured = check_logits(model, file_type_of(header), subject.prompts, truth, noise)
        if logits_check.verdict == "pass":
            texts = functools.partial(subject.read, which)
            room = measured.largest_difference
            greedy_check = check_greedy(model, subject.openings, subject.new_tokens, texts, room)
        else:
            greedy_check = skipped("greedy", "what is a near tie is measured by the logits, which do not hold")
        return [tokenizer_check, prompts_check, logits_check, greedy_check, check_ends(model, subject.ends)]


def check_adapter(subject: Subject, path: Path, base_files: list[Path]) -> FileReport:
    """All checks of an adapter's GGUF. The forward pass is made on each GGUF of the base, which must be right itself."""
    file_check, header = check_adapter_file(path)
    checks, reason = [file_check], "the file is broken"
    if header is not None and file_check.verdict == "pass":
        checks.append(check_products(header, subject.reference))
        reason = "the file does not hold the adapter"
        if checks[-1].verdict == "pass":
            checks += [check_on_base(subject, path, base_file) for base_file in base_files] or [_without_a_base()]
    found = {check.name for check in checks}
    checks += [skipped(name, reason) for name in ("tensors", "adapter_gguf") if name not in found]
    kind = largest_type(header) if header is not None else None
    return FileReport(path.name, sha256_file(path), path.stat().st_size, kind, "adapter", tuple(checks))


def check_on_base(subject: Subject, path: Path, base_file: Path) -> Check:
    """Check 7: the base's GGUF with the adapter on it, against the merged model."""
    header = read_header(base_file)
    noise = subject.imitation(header, subject.reference.weights("base"), with_adapter=True)
    truth = subject.truth("merged")
    try:
        with Model(base_file, threads=subject.threads) as model:
            adapter = model.load_adapter(path)
            return check_logits(model, file_type_of(header), subject.prompts, truth, noise, adapter, "adapter_gguf")[0]
    except LlamaCppError as error:
        return _refused("adapter_gguf", error, f"{path.name} on {base_file.name}")


def _without_a_base() -> Check:
    cause, reason = "no right GGUF of the base among --gguf to apply it to", "an adapter is proven on top of its base"
    return failed("adapter_gguf", cause, where="--gguf", figure="0 bases", bound="1 or more", reason=reason)


def _refused(name: str, error: LlamaCppError, where: str) -> Check:
    reason = "Ollama and llama-server load a file just so"
    return failed(name, error.message, where=where, figure="not loaded", bound="loaded", reason=reason)


def holds_base(header: Header, reference: Reference) -> bool:
    """Whether a file's weights are the base's rather than the merged model's, by tensors that the adapter changes."""
    base, merged = reference.weights("base"), reference.weights("merged")
    distances = np.zeros(2)
    for name in [name for name in header.tensors if name in base.expected and merged.is_changed(name)][:4]:
        tensor = header.tensors[name]
        rows = min(tensor.rows, 64)
        found = to_float32(header.read_rows(tensor, 0, rows), tensor.type)
        for number, weights in enumerate((base, merged)):
            distances[number] += float(((found - weights.rows(name, 0, rows)) ** 2).sum())
    return bool(distances[0] < distances[1])
