"""The gate before every target: a package is published exactly as it was made and certified, or it is refused.

    package = open_package(Path("runs/tiny/package"))    everything hashed and held against its certificate
    package.terms.check_name("tiny")                      Llama 3 asks for a name that begins with "Llama"

Refused, each with what to do about it: a file changed, added or missing since `medllama package`; bytes or a TEMPLATE that no
passing certificate vouches for; a licence that is not known to allow it; a base whose terms ask for something that is
missing; data that may not be given on. There is no flag that lets any of it pass. This is an engineer's gate, no legal advice.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medllama import progress
from medllama.errors import CheckFailed, InputError
from medllama.files import read_text, sha256_file
from medllama.go_template import go_template_sha256
from publish.certificate import AGAIN, Certificate, CertifiedFile, read_certificate
from publish.licences import Terms, read_terms
from publish.modelfile import Command, modelfile_text, read_modelfile
from publish.package import OWN_FILES, obstacles
from publish.parameters import parse_parameters
from publish.prompt_format import PLAIN_TEMPLATE

SUMS = "SHA256SUMS"
PACKAGE_AGAIN = 'make the package again: "medllama package --help"'
# Licences that let modified weights be given on, by Hugging Face's identifiers; what they ask for is checked below.
REDISTRIBUTABLE = re.compile(r"llama2|llama3(\.\d)?|apache-2\.0|mit|cc-by-4\.0|cc0-1\.0")


@dataclasses.dataclass(frozen=True)
class Package:
    """A package that may be published. `default` is the file that the Modelfile runs; the rest is the Modelfile's."""

    folder: Path
    certificate: Certificate
    files: tuple[CertifiedFile, ...]
    default: CertifiedFile
    terms: Terms
    template: str | None
    system: str
    licences: tuple[str, ...]
    parameters: dict[str, Any]
    requires: str = ""  # the oldest Ollama that may run it, where that matters
    base_in_ollama: str = ""  # of an adapter alone: the name of its base

    @property
    def base_types(self) -> dict[str, str]:
        """The type of each of the base's files that an adapter was proven on, by digest ("sha256:HEX")."""
        return {f"sha256:{file.sha256}": file.type for file in self.certificate.files if file.model == "base"}

    @property
    def name(self) -> str:
        """What the files are called before their type: NAME-TYPE.gguf."""
        return self.default.name.removesuffix(".gguf").removesuffix(f"-{self.default.type}")

    def path(self, file: CertifiedFile) -> Path:
        return self.folder / file.name


def open_package(folder: Path) -> Package:
    """The package in `folder`. Raises InputError or CheckFailed where it may not be published."""
    digests = _check_sums(folder)
    certificate = read_certificate(folder / "certificate.json")
    names = [name for name in digests if name.endswith(".gguf")]
    if not names:
        raise InputError(f"{folder} holds no GGUF", hint=PACKAGE_AGAIN)
    commands = read_modelfile(modelfile_text(folder / "Modelfile"))
    source, adapter = _last(commands, "from") or "", _last(commands, "adapter")
    kind = "merged" if adapter is None else "adapter"
    files = {name: _certified(folder / name, digests[name], certificate, kind) for name in names}
    run = source if adapter is None else adapter
    default = files.get(run.removeprefix("./"))
    if default is None:
        raise CheckFailed(f"{folder / 'Modelfile'} runs {run}, which is not here", hint=PACKAGE_AGAIN)
    licences = tuple(command.value for command in commands if command.name == "license")
    template, system = _last(commands, "template"), _last(commands, "system")
    _check_template(template, certificate, folder)
    terms = _check_licence(folder, certificate, licences)
    _check_data(certificate)
    _check_other_modelfiles(folder, commands, files.values())
    return Package(
        folder, certificate, tuple(files.values()), default, terms, template, system or "", licences,
        parse_parameters(commands), _last(commands, "requires") or "", "" if adapter is None else source,
    )  # fmt: skip


def _check_other_modelfiles(folder: Path, commands: Sequence[Command], files: Iterable[CertifiedFile]) -> None:
    """Each file has a Modelfile of its own, which differs from the one that is published in the file alone."""
    own = "adapter" if any(command.name == "adapter" for command in commands) else "from"
    for file in files:
        path = folder / f"Modelfile.{file.tag}"
        expected = [dataclasses.replace(it, value=f"./{file.name}") if it.name == own else it for it in commands]
        if not path.is_file() or read_modelfile(modelfile_text(path)) != expected:
            raise CheckFailed(f"{path} is not {folder / 'Modelfile'} for {file.name}", hint=PACKAGE_AGAIN)


def _last(commands: Sequence[Command], name: str) -> str | None:
    """The value that counts: of TEMPLATE and SYSTEM the last wins."""
    return next((command.value for command in reversed(commands) if command.name == name), None)


def _check_sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file, as it is and as SHA256SUMS has it. Raises where the two differ anywhere."""
    if not folder.is_dir():
        raise InputError(f"there is no package {folder}", hint='make one: "medllama package --help"')
    if not (folder / SUMS).is_file():
        raise InputError(f"{folder} is no package of medllama: it has no {SUMS}", hint=PACKAGE_AGAIN)
    recorded = {}
    for line in read_text(folder / SUMS).splitlines():
        digest, separator, name = line.partition("  ")
        if not re.fullmatch(r"[0-9a-f]{64}", digest) or not separator or Path(name).name != name:
            raise InputError(f"{folder / SUMS} has a line that is no checksum: {line!r}", hint=PACKAGE_AGAIN)
        recorded[name] = digest
    present = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if missing := sorted((recorded.keys() | OWN_FILES) - present):
        raise CheckFailed(f"{folder} lacks {', '.join(missing)}", hint=PACKAGE_AGAIN)
    if added := sorted(present - recorded.keys() - {SUMS}):
        raise CheckFailed(
            f"{folder} holds what is no part of the package: {', '.join(added)}", hint="move it elsewhere"
        )
    for name, digest in recorded.items():
        progress.update(f"{name}: checking its SHA-256")
        if (found := sha256_file(folder / name)) != digest:
            raise CheckFailed(
                f"{folder / name} was changed after packaging: its SHA-256 is {found}, {SUMS} has {digest}",
                hint=PACKAGE_AGAIN,
            )
    return recorded


def _certified(path: Path, digest: str, certificate: Certificate, kind: str) -> CertifiedFile:
    """The certificate's entry of a file, which is what the Modelfile runs: a whole model, or an adapter on a base."""
    found = certificate.for_digest(digest, path)
    if kind == "merged" and not certificate.is_whole(found):
        raise CheckFailed(f"{path} is the {found.model} alone, not the tuned model", hint=PACKAGE_AGAIN)
    if kind == "adapter" and found.model != "adapter":
        raise CheckFailed(f"{path} is no adapter, and the Modelfile has it as one", hint=PACKAGE_AGAIN)
    return dataclasses.replace(found, name=path.name)


def _check_template(template: str | None, certificate: Certificate, folder: Path) -> None:
    """Where a Go TEMPLATE was certified it is this one; else there is none, or the one that leaves prompts as they are."""
    certified = certificate.text("go_template_sha256")
    found = go_template_sha256(template) if template is not None else None
    is_plain = certificate.text("chat_template_sha256") is None and template == PLAIN_TEMPLATE
    if found != certified and not is_plain:
        raise CheckFailed(
            f"the TEMPLATE in {folder / 'Modelfile'} is not the certified one: its SHA-256 is {found},"
            f" the certificate has {certified}",
            hint=AGAIN + ", then package",
        )


def _check_licence(folder: Path, certificate: Certificate, licences: Sequence[str]) -> Terms:
    """The base's terms, each of which is met by the package. Raises InputError that names the one that is not."""
    terms = read_terms(folder, str(certificate.base.get("name") or ""))
    if not REDISTRIBUTABLE.fullmatch(terms.identifier):
        raise InputError(
            f"{folder / 'LICENSE'} is not known to allow that the model is given on",
            hint="known to allow it are the Llama 2 and 3 Community Licences, Apache 2.0, MIT, CC BY 4.0 and CC0;"
            " put the base's own text into the base's folder and package again",
        )
    if terms.is_llama3 and not terms.identifier.startswith("llama3"):
        raise InputError(
            f"the base is a Llama 3, and {folder / 'LICENSE'} is another licence ({terms.identifier})",
            hint="put Llama 3's own LICENSE.txt into the base's folder and package again",
        )
    if not licences:
        raise InputError(f"{folder / 'Modelfile'} carries no LICENSE", hint=PACKAGE_AGAIN)
    notice, card = (_one_line(read_text(folder / name)) for name in ("NOTICE", "README.md"))
    asked = (("NOTICE", notice, terms.notice_line), ("NOTICE", notice, terms.display_line),
             ("README.md", card, terms.display_line), ("Modelfile", _one_line(" ".join(licences)), terms.notice_line))  # fmt: skip
    for name, text, line in asked:
        if line and _one_line(line) not in text:
            raise InputError(f"{folder / name} does not say {line!r}, as the base's licence asks", hint=PACKAGE_AGAIN)
    return terms


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _check_data(certificate: Certificate) -> None:
    if reasons := obstacles(certificate):
        raise InputError(
            "the package is not for publishing: " + "; ".join(reasons),
            hint="train on data whose licence allows it, or state the licence: --source KIND:PATH?licence=SPDX;"
            " the package may still be used where it was made: ollama create NAME -f Modelfile",
        )
