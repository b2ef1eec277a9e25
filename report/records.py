"""The records of a run, read for the report: each file against its shape, and what is missing told apart from what is damaged.

A shape says what the report uses of a file. `conform` checks a value against it and returns just that, so that a damaged file
is an error with a name, and what the report says can be followed to its fields:

    {"steps": int, "loss?": NUMBER}    a table with these keys; `?` may be absent or null
    {"*": int}                         a table with any keys
    [str], [NUMBER, NUMBER]            a list, a list of two
    ANY                                whatever JSON holds
    a function                         the shape that it returns for the value
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medllama.errors import InputError
from medllama.files import read_json, read_jsonl, read_text
from medllama.stages import STAGES

ANY = object
NUMBER = (int, float)
NOTHING = ()  # no value has no type
INTERVAL = [NUMBER, NUMBER]
GGUF = {"file": str, "bytes": int, "sha256": str}
LIKELIHOOD = {
    "nats_per_token": NUMBER, "standard_error?": NUMBER, "interval_95?": INTERVAL, "perplexity?": NUMBER,
    "perplexity_interval_95?": INTERVAL, "nats_per_byte?": NUMBER,
}  # fmt: skip
PART = {
    "tokens": int, "documents": int, "model": LIKELIHOOD, "baseline?": LIKELIHOOD,
    "difference?": {"nats_per_token": NUMBER, "standard_error?": NUMBER, "interval_95?": INTERVAL},
}  # fmt: skip
ACCURACY = {"right": int, "accuracy": NUMBER, "interval_95": INTERVAL}
ACCURACIES = {
    "model": ACCURACY, "baseline?": ACCURACY,
    "difference?": {
        "accuracy": NUMBER, "interval_95": INTERVAL, "mcnemar_exact_p": NUMBER, "only_model_right": int,
        "only_baseline_right": int, "bootstrap_95?": INTERVAL,
    },
}  # fmt: skip
TASK = {
    "task": str, "kind": str, "sha256": str, "records": int, "measured": int, "documents": int, "left_out": {"*": int},
    "protocol": str, "prompt?": str, "warnings": [str], "items_file": str,
}  # fmt: skip
OF_KIND: dict[str, dict[str, Any]] = {
    "multiple_choice": {
        **ACCURACIES,
        "by_subject": [{"subject": str, "items": int, "model": NUMBER, "baseline?": NUMBER}],
    },
    "perplexity": {"answer_text": PART, "with_ending": PART},
}  # fmt: skip


def task_shape(value: Any) -> dict[str, Any]:
    """The shape of a task, which depends on its kind. A kind that this report does not know is damage."""
    kind = value.get("kind") if isinstance(value, dict) else None
    return {**TASK, **OF_KIND.get(str(kind), {"kind": NOTHING})}


MEAN = {"mean": NUMBER, "standard_error?": NUMBER}
GENERATED = {
    "bleu": {"score": NUMBER, "signature": str}, "chrf": {"score": NUMBER, "signature": str}, "rouge1": MEAN,
    "rouge2": MEAN, "rougeL": MEAN, "tokens": MEAN, "words": MEAN, "expected_words": MEAN, "ended": MEAN,
}  # fmt: skip
CARD = {
    "protocol": str, "reference": str,
    "files": [{
        "file": str, "type": str, "bytes": int, "sha256": str,
        "against_reference?": {
            "tokens": int, "documents": int, "kld": {"mean": NUMBER, "standard_error?": NUMBER, "largest": NUMBER},
            "same_top": {"share": NUMBER, "standard_error?": NUMBER},
            "perplexity_ratio": {"ratio": NUMBER, "interval_95?": INTERVAL},
        },
        "cost": {
            "load_seconds": NUMBER, "prompt_tokens_per_second": NUMBER, "generated_tokens_per_second": NUMBER,
            "peak_memory_bytes": NUMBER, "threads": int,
        },
    }],
    "accuracy?": {"*": NUMBER}, "accuracy_task?": str, "within?": {"expression": str, "file?": str, "all": [str]},
}  # fmt: skip


def aspect_shape(value: Any) -> dict[str, Any]:
    """The shape of what raters said of one aspect: of each model their mean, and how far they agree."""
    models = [name for name in value if name != "agreement"] if isinstance(value, dict) else []
    return {"agreement?": NUMBER, **{model: {"ratings": int, "mean?": NUMBER} for model in models}}


SHARE = {"count": int, "share": NUMBER, "interval_95": INTERVAL}
PANEL = {
    "file": str, "sha256": str, "protocol": str, "ratings": int, "items": int, "raters": int,
    "pairs": [{
        "models": [str], "ratings": int, "wins": {"*": SHARE}, "ties": SHARE, "both_bad": SHARE, "agreement_of_choices?": NUMBER,
        "preference": {"of": str, "over": str, "difference": NUMBER, "interval_95": INTERVAL}, "aspects": {"*": aspect_shape},
    }],
}  # fmt: skip
ANSWER = {"text": str, "tokens": int, "ended": bool, "is_expected?": bool}
RESULTS = {
    "baseline?": GGUF, "seed": int, "tasks": [task_shape], "quant_card?": CARD, "panel?": PANEL,
    "generation?": {
        "protocol": str, "measured": int, "documents": int, "exactly_right": ACCURACIES, "warnings": [str], "model": GENERATED,
        "baseline?": GENERATED,
    },
    "samples?": {
        "protocol": str, "max_tokens": int, "too_long": int,
        "items": [{
            "origin": str, "kind?": str, "messages": [{"role": str, "content": str}], "expected?": str, "model": ANSWER,
            "baseline?": ANSWER,
        }],
    },
}  # fmt: skip


def results_shape(value: Any) -> dict[str, Any]:
    """The shape of the results of eval: those of a panel alone are of no file."""
    is_of_file = not isinstance(value, dict) or value.get("tasks") != []
    return {"model" if is_of_file else "model?": GGUF, **RESULTS}


SHAPES: dict[str, Any] = {
    "data/data_card.json": {
        "publishable": bool, "records": {"*": int},
        "sources": [{
            "name": str, "licence?": str, "attribution?": str, "url?": str, "sha256": str, "problems": [str],
            "counts": {"read": int, "kept": int, "dropped": {"*": int}},
        }],
    },
    "adapter/training.json": {
        "base": {"name": str, "files": {"*": str}}, "hyperparameters": {"*": ANY}, "chat_template_sha256?": str,
        "records": {"*": {"records": int, "tokens": int, "learned_tokens": int, "truncated": int, "dropped": int}},
        "loss": {"*": {"base": LIKELIHOOD, "tuned": LIKELIHOOD}},
        "steps": int, "best_step": int, "trained_tokens": int, "trainable_parameters": int, "device": str, "dtype": str,
        "versions": {"*": str},
    },
    "certificate.json": {
        "verdict": str, "base": {"name": str, "config_sha256": str}, "adapter?": {"sha256?": str}, "sampled?": {"*": ANY},
        "files": [{
            "name": str, "sha256": str, "bytes": int, "type?": str, "model": str, "verdict": str,
            "checks": [{
                "name": str, "verdict": str, "figure?": ANY, "bound?": ANY, "reason": str, "likely_cause": str, "where": str,
                "details": {"*": ANY},
            }],
        }],
    },
    "eval/results.json": results_shape,
}  # fmt: skip
MANIFEST = {
    "seconds": NUMBER, "peak_memory_bytes": NUMBER, "inputs": {"*": {"sha256": str}},
    "outputs": {"*": {"bytes": int, "sha256": str}},
    "summary": {"notes?": [str], "obstacles?": [str], "licence?": str, "files?": ANY},
}  # fmt: skip
METRIC = {"step": int, "loss?": NUMBER, "validation_loss?": NUMBER}

NOTICE, METRICS = "data/NOTICE", "adapter/metrics.jsonl"
PURPOSE = {
    "data/data_card.json": ("the sources, their licences and counts", "prepare"),
    NOTICE: ("the sources' notices", "prepare"),
    "adapter/training.json": ("the base, the method and its settings", "train"),
    METRICS: ("the loss curve", "train"),
    "certificate.json": ("the proof that the files are the trained model", "verify"),
    "eval/results.json": ("the tuned model against its base", "eval"),
}
STAGE_NAMES = tuple(stage.name for stage in STAGES if stage.name != "report")


@dataclass(frozen=True)
class Records:
    """What a run's folder says. `values` and `manifests` lack what the run has not made."""

    run: Path
    values: dict[str, Any]
    manifests: dict[str, Any]

    def missing(self) -> list[dict[str, str]]:
        """Every record that is not there: the file, what it would say, and the verb that makes it."""
        return [
            {"file": name, "what": what, "made_by": f"medllama {verb}"}
            for name, (what, verb) in PURPOSE.items()
            if name not in self.values
        ]


def record_paths(run: Path) -> list[Path]:
    """The records that are there."""
    manifests = [f"manifests/{name}.json" for name in STAGE_NAMES]
    return [path for name in (*PURPOSE, *manifests) if (path := run / name).is_file()]


def read_records(run: Path) -> Records:
    """Read a run. Raises InputError where the folder holds no run, or a record is damaged."""
    if not run.is_dir():
        raise InputError(f"{run} is no folder", hint="name the folder of a run, for example runs/tiny")
    paths = record_paths(run)
    if not paths:
        raise InputError(f"{run} is no run: it has none of {', '.join(PURPOSE)}", hint="medllama run RECIPE makes one")
    values: dict[str, Any] = {}
    manifests: dict[str, Any] = {}
    for path in paths:
        name = path.relative_to(run).as_posix()
        if name.startswith("manifests/"):
            manifests[path.stem] = conform(read_json(path), MANIFEST, path)
        elif name == NOTICE:
            values[name] = read_text(path)
        elif name == METRICS:
            values[name] = [conform(value, METRIC, place) for place, value in read_jsonl(path)]
        else:
            values[name] = conform(read_json(path), SHAPES[name], path)
    return Records(run, values, manifests)


def conform(value: Any, shape: Any, path: Path | str, place: str = "") -> Any:
    """What `shape` names of `value`. Raises InputError with file and place where it is not so."""
    if callable(shape) and not isinstance(shape, type):
        shape = shape(value)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise _damaged(path, place, "is no table")
        if "*" in shape:
            return {str(key): conform(part, shape["*"], path, f"{place}.{key}") for key, part in value.items()}
        return {key.removesuffix("?"): _field(value, key, shape[key], path, place) for key in shape}
    if isinstance(shape, list):
        if not isinstance(value, list):
            raise _damaged(path, place, "is no list")
        if len(shape) > 1 and len(value) != len(shape):
            raise _damaged(path, place, f"is no list of {len(shape)}")
        return [conform(part, shape[0], path, f"{place}.{number}") for number, part in enumerate(value)]
    is_unlike = shape is not ANY and (not isinstance(value, shape) or (isinstance(value, bool) and shape is not bool))
    if is_unlike or not _is_json(value):
        raise _damaged(path, place, f"is {value!r}")
    return value


def _field(table: dict[str, Any], key: str, shape: Any, path: Path | str, place: str) -> Any:
    name = key.removesuffix("?")
    if name != key and table.get(name) is None:
        return None
    if name not in table:
        raise _damaged(path, f"{place}.{name}", "is missing")
    return conform(table[name], shape, path, f"{place}.{name}")


def _is_json(value: Any) -> bool:
    """Whether the value can be written again: NaN, infinity and half a surrogate pair, which Python reads, can not."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        return False
    return True


def _damaged(path: Path | str, place: str, what: str) -> InputError:
    return InputError(
        f"{path}: {place.lstrip('.') or 'the whole'} {what}",
        hint="it was damaged, or another version wrote it; run its stage again",
    )
