"""`medllama publish`: a package to a place from which people run it.

    medllama publish --package DIR --to store:~/.ollama/models
    medllama publish tiny --to registry:localhost:5000/ada/tiny --dry-run

The order is always the same: names are checked, then the package (`publish.gate`), then the target does its work. With
`--dry-run` it ends before the target: every layer with its size and name is listed, and nothing is touched or asked.
"""

from __future__ import annotations

from collections.abc import Callable

from medllama.errors import InputError
from medllama.stages import StageResult
from publish.config import TARGETS, PublishConfig
from publish.gate import open_package
from publish.layers import make_models
from publish.reference import check_case, check_tag, parse_name
from publish.targets import Target
from publish.targets.hugging_face import HuggingFace
from publish.targets.ollama import Ollama
from publish.targets.ollama_hub import OllamaHub
from publish.targets.registry import Registry
from publish.targets.store import Store

KINDS: dict[str, Callable[[str], Target]] = {
    "store": Store.parse,
    "registry": Registry.parse,
    "ollama": Ollama.parse,
    "ollama-hub": OllamaHub.parse,
    "hf": HuggingFace.parse,
}


def publish(config: PublishConfig) -> StageResult:
    """Publish a package, or refuse it, or with `dry_run` list it."""
    target = parse_target(config.to)
    named = target.name or (parse_name(config.name) if config.name else None)
    if config.tag and not target.has_tags:
        raise InputError(f"{config.to} has no tags, it holds every file", hint="leave --tag out")
    for tag in config.tag:
        check_tag(tag)
    package = open_package(config.package)
    name = named or parse_name(package.name.lower())
    given = f"--to {config.to}" if target.name else f"--name {config.name or ''}"
    before, slash, _ = given.rpartition("/")
    package.terms.check_name(name.model, before + slash or "--name ", name.tag and f":{name.tag}")
    base = parse_name(package.base_in_ollama) if package.base_in_ollama else None
    if base and (base.host, base.repository) == (name.host, name.repository):
        raise InputError(
            f"{name} is what the adapter's base is called, which would be replaced", hint="choose another --name"
        )
    tags = dict.fromkeys([*([name.tag] if name.tag else []), *config.tag])
    for tag in tags:
        check_case(name.with_tag(tag), tags, "the command")
    models = make_models(package, tuple(tags), target.base(package) if base else None)
    facts = {
        "to": config.to,
        "name": str(name),
        "files": {file.name: file.sha256 for file in package.files},
        "tags": {model.tag: model.file.name for model in models if target.has_tags},
    }
    if config.dry_run:
        table = ["", *target.plan(package, name, models)]
        return StageResult(None, {"line": "nothing was touched", "dry_run": True, "table": table, **facts})
    done = target.publish(package, name, models)
    table = ["", "Next:", *(f"  {command}" for command in done.next)] if done.next else []
    return StageResult(done.path, {"line": done.line, "table": table, **facts, **done.facts})


def parse_target(text: str) -> Target:
    """The target that `--to` names. Raises InputError where there is no such kind or its place is malformed."""
    kind, _, place = text.partition(":")
    if kind not in KINDS:
        raise InputError(f"{text!r} is no target: unknown kind {kind!r}", hint="known are " + "; ".join(TARGETS))
    return KINDS[kind](place)
