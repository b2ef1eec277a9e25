"""What tests of packaging and publishing share: small bases with their GGUF files, certificates for them, and packages."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from convert.certificate import Certificate, Check, FileReport
from convert.config import ConvertConfig
from convert.convert import convert
from medllama.chat import load_chat
from medllama.errors import UnsupportedError
from medllama.files import sha256_file
from medllama.go_template import derive_go_template, go_template_sha256
from medllama.template_guard import guarded
from publish.config import PackageConfig
from publish.package import package

DATA = {
    "publishable": True,
    "sources": [
        {
            "name": "MedQuAD",
            "licence": "CC-BY-4.0",
            "publishable": True,
            "attribution": "Ben Abacha | NLM",
            "counts": {"kept": 16420},
        }
    ],
    "notice": "MedQuAD\n  Licence: CC-BY-4.0\n",
}


@dataclasses.dataclass
class Made:
    """A base with its GGUF files and the certificate that vouches for them, all free to be spoiled."""

    base: Path
    files: list[Path]
    certificate: Path
    output_dir: Path

    def package(self, **changes: Any) -> Path:
        given: dict[str, Any] = {
            "gguf": tuple(str(file) for file in self.files),
            "certificate": self.certificate,
            "output_dir": self.output_dir,
            "base_model": str(self.base),
        }
        return package(PackageConfig(**given | changes)).path

    def edit(self, **changes: Any) -> None:
        """Change top-level entries of the certificate."""
        self.certificate.write_text(json.dumps(json.loads(self.certificate.read_text()) | changes))


def certificate(base: Path, files: list[Path], chat_template: str = "auto", **changes: Any) -> dict[str, Any]:
    """A certificate as verify writes it, for files that nobody doubts here."""
    chat = load_chat(base, None, chat_template)
    chat = guarded(chat) if chat else None
    try:
        go_template = go_template_sha256(derive_go_template(chat)) if chat else None
    except UnsupportedError:
        go_template = None
    facts: dict[str, Any] = {
        "base": {"name": base.name, "path": str(base), "config_sha256": sha256_file(base / "config.json")},
        "adapter": {"name": "adapter", "path": str(base / "adapter")},
        "data": DATA,
        "chat_template_sha256": chat.sha256 if chat else None,
        "go_template_sha256": go_template,
        "max_length": 128,
    }
    checks = (Check("tensors", "pass", 0.0, 0.0), Check("adapter_gguf", "skipped", reason="no adapter"))
    reports = [
        FileReport(file.name, sha256_file(file), file.stat().st_size, file.stem.split("-")[-1], "merged", checks)
        for file in files
    ]
    return Certificate(facts | changes, tuple(reports)).as_json()


def repackage(given: Made, chat_template: str) -> Made:
    """The same base with another chat template inside its GGUF."""
    gguf = given.base.parent / "other"
    convert(ConvertConfig(base_model=str(given.base), output_dir=gguf, types=("F16",), chat_template=chat_template))
    given.files = [gguf / "medllama-F16.gguf"]
    given.certificate.write_text(json.dumps(certificate(given.base, given.files, chat_template)))
    return given
