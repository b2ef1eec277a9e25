"""`medllama package`: certified GGUF files in, a folder that Ollama, llama.cpp and people can use out.

    medllama package --gguf FILE ... --certificate FILE --base-model DIR --output-dir OUT --name NAME
    medllama package --from-modelfile FILE --certificate FILE --base-model DIR --output-dir OUT --name NAME
    medllama package --gguf BASE.gguf ADAPTER.gguf --base-in-ollama NAME --certificate FILE ...       the adapter alone

    OUT/NAME-TYPE.gguf ...    hard links where the disk allows it, else copies; their bytes are the certified ones
    OUT/Modelfile             ollama create NAME -f Modelfile; beside it one per file: Modelfile.q4_K_M, Modelfile.f16
    OUT/README.md             the model card
    OUT/LICENSE, NOTICE       the base's own texts, and what they and the data's licences want said
    OUT/certificate.json      as verify wrote it, without the paths of the machine it was made on
    OUT/SHA256SUMS            sha256sum --check SHA256SUMS

A package of an adapter alone holds its GGUF; its Modelfile names the base in Ollama, FROM NAME, and prompt format and context are
those of the base's GGUF that the adapter was proven on, which stays outside.

Refused: bytes that no passing certificate vouches for, a TEMPLATE other than the certified one, another base than the certified
one, a base without its licence text, and a name that Ollama or the base's licence does not allow. Data that may not be given on
does not stop a package, which may be for its maker alone: card, NOTICE and summary say that it is not for publishing.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from medllama import progress
from medllama.checkpoint import find_base
from medllama.config import looks_like_hub_id
from medllama.errors import CheckFailed, InputError, UnsupportedError
from medllama.files import atomic_directory, require_disk, sha256_file
from medllama.gguf_metadata import GgufMetadata, read_gguf_metadata
from medllama.stages import StageResult
from publish.card import Facts, licence_file, model_card, notice_file
from publish.certificate import AGAIN, Certificate, CertifiedFile, read_certificate
from publish.config import PackageConfig
from publish.evaluation import read_evaluation
from publish.from_modelfile import with_modelfile
from publish.licences import check_ollama_name, read_terms
from publish.modelfile import Command, is_kept, write_modelfile
from publish.prompt_format import (
    PromptFormat,
    context_tokens,
    modelfile_commands,
    prompt_format,
    require_system_place,
    runs,
)  # fmt: skip
from publish.reference import parse_name
from publish.sources import kind_of_file

OWN_FILES = {"Modelfile", "README.md", "LICENSE", "NOTICE", "certificate.json", "SHA256SUMS"}
DEFAULT_TYPE = "Q4_K_M"


def package(config: PackageConfig) -> StageResult:
    """Write the package as a whole or not at all."""
    check_ollama_name(config.name)
    config, further = with_modelfile(config)
    certificate = read_certificate(config.certificate)
    base, base_name = _base(config, certificate)
    terms = read_terms(base, base_name)
    terms.check_name(config.name)
    sources, base_file = _without_base(_sources(config, certificate), config, certificate)
    _require_replaceable(config.output_dir, sources)

    with atomic_directory(config.output_dir) as partial:
        files = tuple(
            _place(source, partial / source.name, certificate, is_adapter=base_file is not None) for source in sources
        )
        _require_different_types(files)
        default = next(file for file in files if file.name == default_file([file.name for file in files]))
        metadata = read_gguf_metadata(base_file or partial / default.name)
        form = _certified_format(metadata, certificate)
        require_system_place(metadata.chat, config.system or "")
        facts = Facts(
            name=config.name,
            base_name=base_name,
            terms=terms,
            files=files,
            default=default,
            is_tuned=certificate.adapter is not None,
            data=certificate.data,
            trained_records=certificate.trained_records,
            evaluation=read_evaluation(config.evaluation, files) if config.evaluation else None,
            obstacles=obstacles(certificate),
            template_note=form.note,
            system=config.system or "",
            temperature=config.sampling_temperature,
            num_ctx=context_tokens(config.num_ctx, certificate.max_length, metadata.context_length),
            base_in_ollama=config.base_in_ollama or "",
            base_values=certificate.base.get("values", "stored"),
        )
        for name, text in _texts(facts, form, certificate, further).items():
            (partial / name).write_text(text, encoding="utf-8")
        _write_sums(partial, files)
    if form.template is None:
        progress.message(f"note: {form.note}")
    return StageResult(config.output_dir, _summary(facts, form))


def _base(config: PackageConfig, certificate: Certificate) -> tuple[Path, str]:
    """The base's folder and its name: a hub id where it has one, else as the certificate calls it."""
    given = config.base_model or certificate.base.get("path")
    if not given:
        raise InputError(
            f"{certificate.path} does not say where the base is, and its licence is needed",
            hint="name the base's folder: --base-model DIR",
        )
    base, is_hub_id = find_base(given), looks_like_hub_id(given) and not Path(given).exists()
    _require_certified_base(base, certificate)
    if is_hub_id:
        return base, given.split("@")[0]
    return base, str(certificate.base.get("name") or Path(given).resolve().name)


def _require_certified_base(base: Path, certificate: Certificate) -> None:
    """The licence of another model would be published with the weights of this one."""
    certified, path = certificate.base.get("config_sha256"), base / "config.json"
    if certified and not (path.is_file() and sha256_file(path) == certified):
        raise CheckFailed(
            f"{base} is not the base that {certificate.path} speaks of: its config.json is another one, or missing",
            hint="its licence is what binds the model; name the folder that was verified: --base-model DIR",
        )


def _sources(config: PackageConfig, certificate: Certificate) -> list[Path]:
    """The files to package. What cannot be a certified file by its size is refused before any hashing."""
    sources = [Path(name) for name in config.gguf]
    sizes = {file.bytes for file in certificate.files}
    for number, source in enumerate(sources):
        if not source.is_file():
            raise InputError(f"there is no GGUF {source}", hint="make it with medllama convert")
        if source.name in {other.name for other in sources[:number]}:
            raise InputError(f"two files are called {source.name}", hint="rename one of them")
        if source.stat().st_size not in sizes:
            raise CheckFailed(
                f"{source} is not a file that {certificate.path} vouches for: it has {source.stat().st_size:,} bytes",
                hint=f"it changed since, or is another file; {AGAIN}",
            )
    return sources


def _without_base(
    sources: list[Path], config: PackageConfig, certificate: Certificate
) -> tuple[list[Path], Path | None]:
    """The files to place; and of an adapter alone, the base's file that it was proven on, which is not one of them."""
    adapters = [source for source in sources if kind_of_file(source) == "adapter"]
    if not adapters:
        if config.base_in_ollama:
            raise InputError(
                "there is no adapter for --base-in-ollama", hint="leave it out, or give the adapter's GGUF"
            )
        return sources, None
    if not config.base_in_ollama:
        raise InputError(
            f"{adapters[0]} is an adapter, and what its base is called in Ollama is not said",
            hint="name it: --base-in-ollama NAME; or convert without --adapter-only, and package the whole model",
        )
    parse_name(config.base_in_ollama)
    for source in sources:
        if source not in adapters and certificate.for_digest(sha256_file(source), source).model == "base":
            return adapters, source
    raise InputError(
        f"{adapters[0]} is an adapter, and the GGUF of its base is not among the files",
        hint="give the one that the certificate proves the adapter on: --gguf BASE.gguf ADAPTER.gguf",
    )


def _require_replaceable(output_dir: Path, sources: Sequence[Path]) -> None:
    """The folder is replaced as a whole, so it must hold nothing but an earlier package, least of all the sources."""
    if any(output_dir.resolve() in source.resolve().parents for source in sources):
        raise InputError(f"{output_dir} holds the files to package", hint="choose another --output-dir")
    if not output_dir.exists():
        return
    if not output_dir.is_dir():
        raise InputError(f"{output_dir} is a file, not a folder", hint="choose another --output-dir")
    foreign = sorted(
        path.name
        for path in output_dir.iterdir()
        if path.name not in OWN_FILES and path.suffix != ".gguf" and not path.name.startswith("Modelfile.")
    )
    if foreign:
        raise InputError(
            f"{output_dir} holds {foreign[0]}, which is no part of a package", hint="choose another --output-dir"
        )


def _place(source: Path, target: Path, certificate: Certificate, *, is_adapter: bool) -> CertifiedFile:
    """Link or copy one GGUF, then hash what lies in the package: those bytes are what the certificate must vouch for."""
    progress.update(f"{source.name}: linking and hashing")
    real = source.resolve()
    try:
        os.link(real, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP):
            raise
        require_disk(target, real.stat().st_size, f"packaging {source.name}")
        shutil.copyfile(real, target)
    found = certificate.for_digest(sha256_file(target), source)
    if not certificate.is_whole(found) and not is_adapter:
        raise UnsupportedError(
            f"{source} is the {found.model} alone, and a package takes the merged model",
            hint="convert without --adapter-only",
        )
    return dataclasses.replace(found, name=source.name)


def _require_different_types(files: Sequence[CertifiedFile]) -> None:
    """A type is a tag, and a tag names one file."""
    by_tag: dict[str, CertifiedFile] = {}
    for file in files:
        if (other := by_tag.setdefault(file.tag, file)) is not file:
            raise InputError(
                f"{other.name} and {file.name} are both {file.type}, and would be one tag", hint="package one of them"
            )


def default_file(names: Sequence[str]) -> str:
    """The file that the Modelfile runs: Q4_K_M where there is one, the type that Ollama's own library gives by default and
    that a laptop runs; else the one named last."""
    return next((name for name in names if name.endswith(f"-{DEFAULT_TYPE}.gguf")), names[-1])


def _certified_format(metadata: GgufMetadata, certificate: Certificate) -> PromptFormat:
    """The prompt format inside the GGUF. Raises CheckFailed where it is not the one that was certified."""
    chat, form = metadata.chat, prompt_format(metadata.chat)
    found = {"chat_template_sha256": chat.sha256 if chat else None, "go_template_sha256": form.derived_sha256}
    for key, digest in found.items():
        if certificate.text(key) != digest:
            raise CheckFailed(
                f"the {key.removesuffix('_sha256').replace('_', ' ')} is not the certified one: its SHA-256 is {digest},"
                f" {certificate.path} has {certificate.text(key)}",
                hint=f"the certificate was made by another version of medllama; {AGAIN}",
            )
    return form


def obstacles(certificate: Certificate) -> tuple[str, ...]:
    """Why what was trained on may not be given on; empty where it may, or where nothing was trained."""
    if certificate.adapter is None:
        return ()
    data = certificate.data
    if data is None or not data.get("sources"):
        return ("What the model was trained on, and under which licence, is not recorded",)
    reasons = [
        f"The licence of the training data {source.get('name')} ({source.get('licence') or 'none stated'}) does not"
        " clearly allow it"
        for source in data["sources"]
        if source.get("publishable") is not True
    ]
    if not reasons and data.get("publishable") is not True:
        reasons.append("The data card does not say that the training data may be published")
    return tuple(reasons)


def _texts(facts: Facts, form: PromptFormat, certificate: Certificate, further: Sequence[Command]) -> dict[str, str]:
    """The text files of the package, by name."""
    notice = notice_file(facts)
    modelfiles = {"": facts.default, **{f":{file.tag}": file for file in facts.files}}
    return {
        **{
            _modelfile_name(tag): _modelfile(facts, form, tag, file, notice, further)
            for tag, file in modelfiles.items()
        },
        "README.md": model_card(facts),
        "LICENSE": licence_file(facts.terms),
        "NOTICE": notice,
        "certificate.json": certificate.without_paths(),
    }


def _modelfile_name(tag: str) -> str:
    return "Modelfile" + tag.replace(":", ".")


def _modelfile(
    facts: Facts, form: PromptFormat, tag: str, file: CertifiedFile, notice: str, further: Sequence[Command]
) -> str:
    """The Modelfile of one tag. They differ in their file alone, so that tags share every other layer."""
    commands = modelfile_commands(
        runs(file.name, facts.base_in_ollama),
        form,
        system=facts.system,
        temperature=facts.temperature,
        num_ctx=facts.num_ctx,
        licences=[_without_dropped(text) for text in [*facts.terms.licence_and_policy.values(), notice]],
        further=further,
    )
    how = f"ollama create {facts.name.lower()}{tag} -f {_modelfile_name(tag)}"
    if facts.base_in_ollama:
        how = f"medllama publish --package . --to store:DIR; or, before Ollama 0.34.1, {how}"
    return write_modelfile(commands, [f"{facts.title}, made by medllama package: {how}"])


def _without_dropped(text: str) -> str:
    """A licence as a Modelfile can hold it: no-break spaces and their like become spaces. LICENSE has it as it is."""
    return "".join(character if is_kept(character) else " " for character in text)


def _write_sums(folder: Path, files: Sequence[CertifiedFile]) -> None:
    known = {file.name: file.sha256 for file in files}
    names = sorted(path.name for path in folder.iterdir())
    lines = [f"{known.get(name) or sha256_file(folder / name)}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def _summary(facts: Facts, form: PromptFormat) -> dict[str, object]:
    files = ", ".join(file.name for file in facts.files)
    on = f" on {facts.base_in_ollama}" if facts.base_in_ollama else ""
    line = f"{files}; the Modelfile runs {facts.default.name}{on}; licence {facts.terms.identifier}"
    return {
        "line": line + ("; not for publishing" if facts.obstacles else ""),
        "name": facts.name,
        "files": {file.name: file.sha256 for file in facts.files},
        "from": facts.default.name,
        "licence": facts.terms.identifier,
        "template": form.note,
        "publishable": not facts.obstacles,
        "obstacles": list(facts.obstacles),
    }
