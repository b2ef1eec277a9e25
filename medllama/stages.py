"""The stages in the order of the pipeline: which verb runs which function with which configuration.

The names are strings, resolved when a verb is used, so that `medllama --help` imports no stage and no heavy library,
and so that the core depends on no stage.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StageResult:
    """What a stage made: the path that is printed (none where it makes no file), and figures for the manifest and `--json`.

    `summary["line"]` is the one line that people see; `summary["table"]`, where there is one, lists lines that are
    shown when the stage runs by itself.
    """

    path: Path | None
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A verb of the pipeline. `wiring` gives fields their value from the run directory when a recipe is used:
    `{run}` is the run's folder, `{name}` the run's name, `{gguf}` the files that convert makes, `{measured}` the one of
    them that eval measures, `{baseline}` the base's beside it, `{compared}` the base's and the measured one, `{examples}` the
    recipe's, `{yes}` true, `STAGE.FIELD` another stage's value."""

    name: str
    summary: str
    config_path: str
    function_path: str
    wiring: dict[str, str]
    owns_stdout: bool = False  # what it prints is for the reader of stdout: a conversation
    positional: str = ""  # the field that stands without a flag, in the place of the recipe

    def config_class(self) -> type:
        return _load(self.config_path)

    def function(self) -> Callable[[Any], StageResult]:
        return _load(self.function_path)


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


STAGES = (
    Stage(
        "prepare",
        "medical sources -> train, validation and test JSONL, with licences",
        "finetune.prepare_config:PrepareConfig",
        "finetune.prepare:prepare",
        {
            "output_dir": "{run}/data",
            "decontaminate": "eval.task",
            "tokenizer": "train.base_model",
            "chunk_tokens": "train.max_length",
        },
    ),
    Stage(
        "train",
        "base + data -> LoRA adapter, in plain Transformers, PEFT and TRL",
        "finetune.train_config:TrainConfig",
        "finetune.train:train",
        {"data": "{run}/data", "output_dir": "{run}/adapter"},
    ),
    Stage(
        "convert",
        "base + adapter -> GGUF, merged in float32 and quantized by llama.cpp",
        "convert.config:ConvertConfig",
        "convert.convert:convert",
        {
            "base_model": "train.base_model",
            "adapter": "{run}/adapter",
            "chat_template": "train.chat_template",
            "importance_data": "{run}/data",
            "output_dir": "{run}/gguf",
            "name": "{name}",
            "with_base": "{yes}",
        },
    ),
    Stage(
        "verify",
        "Hugging Face model against GGUF -> certificate.json",
        "convert.config:VerifyConfig",
        "convert.verify:verify",
        {
            "base_model": "train.base_model",
            "adapter": "{run}/adapter",
            "chat_template": "train.chat_template",
            "base_values": "convert.base_values",
            "gguf": "{gguf}",
            "output": "{run}/certificate.json",
        },
    ),
    Stage(
        "eval",
        "base against tuned GGUF -> multiple choice and perplexity, with error bars",
        "eval.config:EvalConfig",
        "eval.evaluate:evaluate",
        {
            "gguf": "{measured}",
            "baseline": "{baseline}",
            "data": "{run}/data",
            "examples": "{examples}",
            "card": "{gguf}",
            "output": "{run}/eval/results.json",
        },
    ),
    Stage(
        "package",
        "certified GGUF -> Modelfile, model card, LICENSE and NOTICE",
        "publish.config:PackageConfig",
        "publish.package:package",
        {
            "gguf": "{gguf}",
            "certificate": "{run}/certificate.json",
            "evaluation": "{run}/eval/results.json",
            "base_model": "train.base_model",
            "name": "{name}",
            "output_dir": "{run}/package",
        },
    ),
    Stage(
        "report",
        "all of the above -> one page for people, and its numbers as JSON",
        "report.config:ReportConfig",
        "report.report:report",
        {"run": "{run}", "output": "{run}/report.html"},
    ),
)

# What `medllama run` leaves alone and a person asks for by name. It runs each time: nothing of it is recorded in the run.
ASKED_FOR: tuple[Stage, ...] = (
    Stage(
        "publish",
        "package -> Ollama server, its hub, its store on disk, Hugging Face or an OCI registry",
        "publish.config:PublishConfig",
        "publish.publish:publish",
        {"package": "{run}/package", "name": "{name}"},
    ),
    Stage(
        "pull",
        "a published model from an OCI registry -> Ollama store, verified",
        "publish.config:PullConfig",
        "publish.pull:pull",
        {},
        positional="source",
    ),
    Stage(
        "app",
        "base and tuned side by side on a page of this machine, offline",
        "app.config:AppConfig",
        "app.serve:serve",
        {
            "model": "{compared}",
            "examples": "{examples}",
            "ratings": "{run}/ratings.sqlite",
            "evaluation": "{run}/eval/results.json",
            "certificate": "{run}/certificate.json",
        },
    ),
    Stage(
        "chat",
        "a conversation with one model in the terminal",
        "app.config:ChatConfig",
        "app.terminal:chat",
        {"gguf": "{measured}"},
        owns_stdout=True,
    ),
)

BY_NAME = {stage.name: stage for stage in (*STAGES, *ASKED_FOR)}
