"""The model card (README.md) and the NOTICE of a package, from what the certificate and the base's licence say.

Both are pure functions of `Facts`. The card's front matter is Hugging Face's model card metadata; a base or data set
stands there only under a name that the hub could resolve, the rest stands in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from medllama.config import looks_like_hub_id
from publish.certificate import CertifiedFile
from publish.evaluation import Evaluation
from publish.licences import Terms

# What a base's values were where they are not those that its files hold.
BASE_VALUES = {
    "dequantized": "The base had been quantized by bitsandbytes; these files are made of its dequantized values.",
    "nf4": "The adapter is merged into the base as QLoRA's training saw it: linear layers rounded to NF4 and back.",
}
TAGS = ["medical", "llama", "gguf", "ollama", "lora"]


@dataclass(frozen=True)
class Facts:
    """What the card and the notice tell. `files` are the packaged ones, `default` the one that the Modelfile runs."""

    name: str
    base_name: str
    terms: Terms
    files: tuple[CertifiedFile, ...]
    default: CertifiedFile
    is_tuned: bool
    data: dict[str, Any] | None
    trained_records: int | None
    evaluation: Evaluation | None
    obstacles: tuple[str, ...]  # why the package is not for publishing; empty where it may be
    template_note: str
    system: str
    temperature: float
    num_ctx: int
    base_in_ollama: str = ""  # of an adapter alone: what its base is called there
    base_values: str = "stored"  # convert's --base-values

    @property
    def title(self) -> str:
        """The name as people write it: Llama 3's licence asks for "Llama", Ollama for lower case."""
        return re.sub(r"^llama", "Llama", self.name) if self.terms.is_llama3 else self.name

    @property
    def sources(self) -> list[dict[str, Any]]:
        return list((self.data or {}).get("sources") or [])


def model_card(facts: Facts) -> str:
    """The text of README.md."""
    parts = [
        _front_matter(facts),
        f"# {facts.title}",
        _introduction(facts),
        _how_to_run(facts),
        _evaluation(facts),
        _certificate(facts),
        _data(facts),
        _licence(facts),
        LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


LIMITS = """\
## Limits

This is a language model, and no medical device. It has not been evaluated for clinical use, it states wrong things with
confidence, it may repeat errors and biases of its base and its data, and it does not know what is newer than they are.
Nothing it says may guide the diagnosis or the care of a person; ask a professional. The certificate proves that
these files compute what the trained model computes, and says nothing about whether that is true."""


def _front_matter(facts: Facts) -> str:
    identifier = facts.terms.identifier
    metadata: dict[str, Any] = {"license": identifier}
    if identifier == "other":
        metadata |= {"license_name": "base-licence", "license_link": "LICENSE"}
    relation = "adapter" if facts.base_in_ollama else "finetune" if facts.is_tuned else "quantized"
    if looks_like_hub_id(facts.base_name):
        metadata |= {
            "base_model": facts.base_name,
            "base_model_relation": relation,
        }
    if datasets := [source["name"] for source in facts.sources if looks_like_hub_id(str(source.get("name", "")))]:
        metadata["datasets"] = datasets
    metadata |= {"language": ["en"], "library_name": "gguf", "pipeline_tag": "text-generation", "tags": TAGS}
    if facts.evaluation is not None:
        metadata["model-index"] = facts.evaluation.model_index(facts.title)
    return "---\n" + yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True) + "---"


def _introduction(facts: Facts) -> str:
    made = "fine-tuned on medical text with LoRA and merged" if facts.is_tuned else "converted, not fine-tuned"
    lines = [f"{facts.base_name}, {made}, as GGUF files for llama.cpp and Ollama. Made and verified by medllama."]
    if facts.base_in_ollama:
        lines = [
            f"A LoRA adapter of {facts.base_name}, trained on medical text, as a GGUF. Made and verified by medllama."
        ]
    if facts.base_values in BASE_VALUES:
        lines.append(BASE_VALUES[facts.base_values])
    if facts.terms.display_line:
        lines.insert(0, f"**{facts.terms.display_line}**")
    if facts.obstacles:
        lines.insert(0, "> **Not for publishing.** " + " ".join(f"{reason}." for reason in facts.obstacles))
    return "\n\n".join(lines)


def _how_to_run(facts: Facts) -> str:
    name = facts.name.lower()
    if facts.base_in_ollama:
        return _how_to_run_adapter(facts, name)
    other = ", ".join(f"Modelfile.{file.tag}" for file in facts.files)
    lines = [
        "## How to run it",
        "In this folder:",
        f"```\nollama create {name} -f Modelfile\nollama run {name}\n```",
        f"The Modelfile runs `{facts.default.name}`; each file has one of its own ({other}). {facts.template_note}"
        f" Temperature is {facts.temperature:g}, the context {facts.num_ctx:,} tokens.",
        f"With llama.cpp, which takes the prompt format from the file: `llama-cli -m {facts.default.name}`.",
    ]
    if facts.system:
        lines.append(f"The system prompt is: {facts.system}")
    return "\n\n".join(lines)


def _how_to_run_adapter(facts: Facts, name: str) -> str:
    lines = [
        "## How to run it",
        f"It needs its base, which Ollama knows here as `{facts.base_in_ollama}`: one of the files that certificate.json calls"
        " base, to the byte. Ollama makes no models of adapters since 0.34.1, and runs those that are there. So both go straight"
        " into its store:",
        f"```\nmedllama publish --package BASE_PACKAGE --to store:~/.ollama/models --name {facts.base_in_ollama}\n"
        f"medllama publish --package . --to store:~/.ollama/models --name {name}\nollama run {name}\n```",
        f"{facts.template_note} Temperature is {facts.temperature:g}, the context {facts.num_ctx:,} tokens.",
        f"With llama.cpp: `llama-cli -m BASE.gguf --lora {facts.default.name}`.",
    ]
    return "\n\n".join(lines + ([f"The system prompt is: {facts.system}"] if facts.system else []))


def _evaluation(facts: Facts) -> str:
    if facts.evaluation is None:
        return "## Evaluation\n\nIt was not evaluated when this package was made."
    beside = ", beside its base on the same items" if facts.evaluation.has_base else "; its base was not measured"
    return f"## Evaluation\n\nMeasured on `{facts.evaluation.file.name}` in llama.cpp{beside}.\n\n{facts.evaluation.table()}"


def _certificate(facts: Facts) -> str:
    lines = [
        "## Certificate",
        "Each file was held against the Hugging Face model that it was made from; certificate.json has every figure with"
        " its bound.",
        "| file | type | size | SHA-256 | checks passed |\n|---|---|---|---|---|\n"
        + "\n".join(
            f"| {file.name} | {file.type} | {file.bytes / 1e6:,.1f} MB | `{file.sha256[:16]}...` | {', '.join(file.passed)} |"
            for file in facts.files
        ),
    ]
    return "\n\n".join(lines)


def _data(facts: Facts) -> str:
    if not facts.sources:
        text = (
            "What it was trained on is not recorded."
            if facts.is_tuned
            else "It was trained on nothing beyond its base."
        )
        return f"## Data\n\n{text}"
    rows = [
        _row(source["name"], source.get("licence") or "none stated", _records(source), source.get("attribution") or "")
        for source in facts.sources
    ]
    trained = "" if facts.trained_records is None else f"{facts.trained_records:,} of these records were trained on. "
    return (
        "## Data\n\n| source | licence | records | attribution |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\n{trained}Each source keeps its own licence; NOTICE has them in full."
    )


def _row(*cells: str) -> str:
    """A row of a Markdown table; a bar or a line break inside a cell would end it."""
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def _records(source: dict[str, Any]) -> str:
    kept = (source.get("counts") or {}).get("kept")
    return f"{kept:,}" if isinstance(kept, int) else "not recorded"


def _licence(facts: Facts) -> str:
    files = ", ".join(facts.terms.texts)
    return (
        f"## Licence\n\nThe weights stand under the licence of their base ({facts.terms.identifier}); the base's own texts"
        f" ({files}) are in LICENSE and NOTICE."
    )


def licence_file(terms: Terms) -> str:
    """The text of LICENSE: the base's licence texts and use policy as they are."""
    return "\n\n".join(text.strip("\n") + "\n" for text in terms.licence_and_policy.values())


def notice_file(facts: Facts) -> str:
    """The text of NOTICE: what licences want said, what was changed, and where the data came from."""
    parts = [text.strip("\n") for text in facts.terms.notice.values()]
    notices = " ".join(" ".join(parts).split())
    parts += [line for line in (facts.terms.notice_line, facts.terms.display_line) if line and line not in notices]
    made = "fine-tuned with LoRA, merged and " if facts.is_tuned else ""
    if facts.base_in_ollama:
        made = "of which this is a LoRA adapter, "
    parts.append(f"{facts.title} is {facts.base_name}, {made}converted to GGUF by medllama. These are modified files.")
    if facts.obstacles:
        parts.append("Not for publishing:\n" + "\n".join(f"- {reason}" for reason in facts.obstacles))
    if notice := str((facts.data or {}).get("notice") or "").strip("\n"):
        parts.append(notice)
    elif facts.sources:
        parts.append(
            "\n".join(f"{source['name']}: {source.get('licence') or 'no licence stated'}" for source in facts.sources)
        )
    return "\n\n".join(parts) + "\n"
