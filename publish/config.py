"""The configuration of `medllama package`: every field is a flag and a recipe key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medllama.config import option


@dataclass(frozen=True)
class PackageConfig:
    """Certified GGUF files in, a folder with Modelfile, model card, LICENSE and NOTICE out."""

    gguf: tuple[str, ...] = option(
        help="the GGUF files to package; the Modelfile runs Q4_K_M, else the one named last",
        kind="path",
        metavar="FILE",
    )
    certificate: Path = option(help="the certificate of exactly these files", kind="path", metavar="FILE")
    output_dir: Path = option(help="folder for the package", kind="output")
    base_model: str | None = option(
        None,
        help="folder of the base, for its licence; default: the folder the certificate names",
        kind="model",
        metavar="DIR",
    )
    name: str = option("medllama", help="the model's name in Ollama and on the card")
    system: str = option("", help="system prompt of the Modelfile; empty: none")
    temperature: float = option(0.2, help="sampling temperature in the Modelfile; low, since answers should repeat")
    num_ctx: int | None = option(
        None, help="context length in the Modelfile, in tokens; default: the length trained with"
    )
