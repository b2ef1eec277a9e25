"""The configurations of `medllama convert` and `medllama verify`: every field is a flag and a recipe key."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from medllama import base_values
from medllama.base_values import BaseValues
from medllama.config import option

# llama.cpp's spelling of the file types its quantizer makes, and the LLAMA_FTYPE number of each (include/llama.h).
FILE_TYPES = {
    "F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q5_K_S": 16, "Q5_1": 9, "Q5_0": 8, "Q4_K_M": 15,
    "Q4_K_S": 14, "Q4_1": 3, "Q4_0": 2, "Q3_K_L": 13, "Q3_K_M": 12, "Q3_K_S": 11, "Q2_K": 10, "Q2_K_S": 21, "Q2_0": 41,
    "Q1_0": 40, "IQ4_NL": 25, "IQ4_XS": 30, "IQ3_M": 27, "IQ3_S": 26, "IQ3_XS": 22, "IQ3_XXS": 23, "IQ2_M": 29, "IQ2_S": 28,
    "IQ2_XS": 20, "IQ2_XXS": 19, "IQ1_M": 31, "IQ1_S": 24, "TQ1_0": 36, "TQ2_0": 37, "MXFP4_MOE": 38,
}  # fmt: skip
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
UNQUANTIZED = ("F32", "F16", "BF16")
# llama.cpp has no use for the weights of an importance matrix in these. TQ1_0 and the like weigh the head and embedding.
WITHOUT_IMPORTANCE = (*UNQUANTIZED, "Q8_0", "MXFP4_MOE")
CHECKPOINT = "safetensors"  # not a GGUF: the merged model as a Hugging Face checkpoint


@dataclass(frozen=True)
class ConvertConfig:
    """A base and an adapter in, `NAME-TYPE.gguf` out."""

    base_model: str = option(help="folder or hub id of the base model", kind="model", metavar="DIR_OR_HUB_ID")
    output_dir: Path = option(help="folder for the GGUF files", kind="output")
    adapter: Path | None = option(None, help="folder of a PEFT LoRA adapter to merge", kind="path", metavar="DIR")
    types: tuple[str, ...] = option(
        ("F16", "Q4_K_M"), help="what to write in one pass: types in llama.cpp's spelling, safetensors"
    )
    name: str = option("medllama", help="files are called NAME-TYPE.gguf")
    with_base: bool = option(
        False,
        help="also write the base without the adapter, NAME-base-TYPE.gguf in the last quantized type, to compare with",
    )
    chat_template: str = option(
        "auto",
        help="llama2, llama3, a Jinja file, none, or auto: the adapter's, else the base's, else the family's",
        kind="template",
    )
    base_values: BaseValues = option("stored", help=base_values.HELP)
    importance: str = option(
        "none",
        help="importance matrix for the quantized types: none, auto (made of --importance-data), or a file of llama.cpp's, "
        "GGUF or the older .dat",
        kind="template",  # a file, or a name that is none
        metavar="none|auto|FILE",
    )
    importance_data: Path | None = option(
        None, help="data folder whose train.jsonl the model reads for --importance auto", kind="path", metavar="DIR"
    )
    importance_tokens: int = option(32_768, help="about how many tokens of it are read, spread over the whole file")
    adapter_only: bool = option(
        False, help="write the adapter as a GGUF that llama.cpp applies to the base's GGUF; merge nothing"
    )

    def problems(self) -> list[str]:
        found = [
            f"types: {name!r} is not a type of llama.cpp; known are {', '.join([*FILE_TYPES, CHECKPOINT])}"
            for name in self.types
            if spelled(name) is None
        ]
        if not self.types:
            found.append("types: name at least one")
        if not self.name or "/" in self.name or self.name.startswith("."):
            found.append(f"name: {self.name!r} cannot be the beginning of a file name")
        if self.importance == "auto" and self.importance_data is None:
            found.append("importance_data: name the data folder that --importance auto reads")
        if self.importance_tokens < 1:
            found.append("importance_tokens: at least 1")
        if self.adapter_only and self.adapter is None:
            found.append("adapter_only: name the adapter")
        return found + base_values.problems(self.base_values, self.adapter, is_apart=self.adapter_only)

    @property
    def file_types(self) -> list[str]:
        """The types in llama.cpp's spelling, each once, in the order given."""
        return list(dict.fromkeys(name for given in self.types if (name := spelled(given)) is not None))

    @property
    def quantized_types(self) -> list[str]:
        """The types that llama.cpp's quantizer makes, in the order given."""
        return [name for name in self.file_types if name not in (*UNQUANTIZED, CHECKPOINT)]

    @property
    def weighted_types(self) -> list[str]:
        """The types that an importance matrix changes, in the order given."""
        if self.adapter_only:
            return []
        return [name for name in self.quantized_types if name not in WITHOUT_IMPORTANCE]

    def gguf_path(self, file_type: str) -> Path:
        """Where the file of one type goes."""
        return self.output_dir / f"{self.name}{'-lora' if self.adapter_only else ''}-{file_type}.gguf"

    def checkpoint_path(self) -> Path:
        """Where the merged model goes as a Hugging Face checkpoint."""
        return self.output_dir / f"{self.name}-{CHECKPOINT}"

    def importance_path(self) -> Path:
        """Where the importance matrix goes that `--importance auto` makes."""
        return self.output_dir / f"{self.name}.imatrix.gguf"

    def gguf_paths(self) -> list[Path]:
        """The GGUF files of the model that this configuration makes."""
        return [self.gguf_path(file_type) for file_type in self.file_types if file_type != CHECKPOINT]

    def measured_path(self) -> Path | None:
        """The file to measure: that of the last quantized type, else the last GGUF; None where there is no GGUF."""
        file_type = self._measured_type()
        return self.gguf_path(file_type) if file_type else None

    def baseline_path(self) -> Path | None:
        """The base's counterpart of the measured file; None where none is made."""
        baseline = self.baseline()
        return baseline.measured_path() if baseline else None

    def baseline(self) -> ConvertConfig | None:
        """What makes the base's counterpart of the measured file; None where none is asked for."""
        file_type = self._measured_type()
        if not self.with_base or self.adapter is None or self.adapter_only or file_type is None:
            return None
        values: BaseValues = "stored" if self.base_values == "nf4" else self.base_values
        name = f"{self.name}-base"
        return replace(self, adapter=None, base_values=values, types=(file_type,), name=name, with_base=False)

    def _measured_type(self) -> str | None:
        unquantized = [name for name in self.file_types if name in UNQUANTIZED]
        return next(reversed(self.quantized_types or unquantized), None)


def spelled(name: str) -> str | None:
    """A type in llama.cpp's spelling, whatever case it was given in; None where there is no such type."""
    if name.lower() == CHECKPOINT:
        return CHECKPOINT
    name = ALIASES.get(name.upper(), name.upper())
    return name if name in FILE_TYPES else None


@dataclass(frozen=True)
class VerifyConfig:
    """A Hugging Face model and its GGUF files in, a certificate out."""

    base_model: str = option(help="folder or hub id of the base model", kind="model", metavar="DIR_OR_HUB_ID")
    gguf: tuple[str, ...] = option(help="the GGUF files to prove", kind="path", metavar="FILE")
    output: Path = option(help="the certificate to write, for example certificate.json", kind="output", metavar="FILE")
    adapter: Path | None = option(None, help="folder of the PEFT adapter that was merged", kind="path", metavar="DIR")
    adapter_gguf: Path | None = option(
        None, help="the adapter as a GGUF, to prove on top of a base's GGUF among --gguf", kind="path", metavar="FILE"
    )
    chat_template: str = option(
        "auto",
        help="llama2, llama3, a Jinja file, none, or auto: the adapter's, else the base's, else the family's",
        kind="template",
    )
    base_values: BaseValues = option("stored", help="as convert was told: stored, dequantized or nf4")
    sample: bool = option(
        False, help="a sample of tensors and strings: minutes less at 1B and above; says what it sampled"
    )
    seed: int = option(0, help="seed of the generated strings and prompts")

    def problems(self) -> list[str]:
        return base_values.problems(self.base_values, self.adapter, is_apart=self.adapter_gguf is not None)
