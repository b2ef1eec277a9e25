"""The configurations of `medllama package`, `publish` and `pull`: every field is a flag and a recipe key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medllama.config import option

TEMPERATURE = 0.2
# The kinds of `--to`, as the help shows them; publish.publish.KINDS has the code of each.
TARGETS = (
    "ollama[:URL] (a running server)",
    "ollama-hub:USER/NAME[:TAG] (ollama.com)",
    "hf:USER/REPO (Hugging Face)",
    "store:DIR (an Ollama store on disk)",
    "registry:HOST:PORT/NS/NAME[:TAG] (an OCI registry)",
)


@dataclass(frozen=True)
class PackageConfig:
    """Certified GGUF files in, a folder with Modelfile, model card, LICENSE and NOTICE out."""

    certificate: Path = option(help="the certificate of exactly these files", kind="path", metavar="FILE")
    output_dir: Path = option(help="folder for the package", kind="output")
    gguf: tuple[str, ...] = option(
        (),
        help="the GGUF files to package; the Modelfile runs Q4_K_M, else the one named last. For an adapter alone: its GGUF"
        " and the base's that it was proven on, which stays outside",
        kind="path",
        metavar="FILE",
    )
    from_modelfile: Path | None = option(
        None,
        help="a Modelfile to make the package from: its traps are told, its GGUF, SYSTEM and PARAMETERs taken over where no flag"
        " says otherwise",
        kind="path",
        metavar="FILE",
    )
    base_in_ollama: str | None = option(
        None, help="for an adapter alone: the name of its base in Ollama, [NAMESPACE/]NAME[:TAG]", metavar="NAME"
    )
    base_model: str | None = option(
        None,
        help="folder of the base, for its licence; default: the folder the certificate names",
        kind="model",
        metavar="DIR",
    )
    evaluation: Path | None = option(
        None, help="results of medllama eval on one of these files, for the card", kind="path", metavar="FILE"
    )
    name: str = option("medllama", help="the model's name in Ollama and on the card")
    system: str | None = option(None, help="system prompt of the Modelfile; empty: none")
    temperature: float | None = option(
        None, help=f"sampling temperature in the Modelfile; default: {TEMPERATURE}, since answers should repeat"
    )
    num_ctx: int | None = option(
        None, help="context length in the Modelfile, in tokens; default: the length trained with"
    )

    @property
    def sampling_temperature(self) -> float:
        return TEMPERATURE if self.temperature is None else self.temperature

    def problems(self) -> list[str]:
        found = []
        if not self.gguf and not self.from_modelfile:
            found.append("gguf: name the files to package, or a Modelfile to make it from")
        if self.sampling_temperature < 0:
            found.append(f"temperature: {self.temperature} is below 0")
        return found


@dataclass(frozen=True)
class PublishConfig:
    """A package in, a model that others can run out: in a store, a registry, on a server or a hub."""

    package: Path = option(help="the folder that medllama package made", kind="path", metavar="DIR")
    to: str = option(help="where to: " + "; ".join(TARGETS), metavar="TARGET")
    tag: tuple[str, ...] = option(
        (),
        help="the tags to publish: a type such as q8_0 is that file, any other the one that the Modelfile runs;"
        " default: the one in TARGET, else latest and one per file",
    )
    name: str | None = option(
        None, help="[NAMESPACE/]NAME of the model where TARGET has none; default: what its files are called"
    )
    dry_run: bool = option(False, help="check everything here and list what would be sent; touch nothing")


@dataclass(frozen=True)
class PullConfig:
    """A model in an OCI registry in, the same model in an Ollama store out."""

    source: str = option(
        help="registry:HOST:PORT/NS/NAME[:TAG]; the tag is latest where there is none", metavar="SOURCE"
    )
    to: str = option(help="store:DIR, Ollama's own being store:~/.ollama/models", metavar="store:DIR")
    name: str | None = option(
        None, help="[NAMESPACE/]NAME[:TAG] in the store; default: HOST:PORT/NS/NAME:TAG, as ollama run takes it too"
    )
