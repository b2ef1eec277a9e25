"""Whether the parts of a run belong together: digests that one record names must be those that another one made.

A run whose stages ran at different times, or into which somebody copied a file, can hold figures of another model. Digests are
compared as the records have them; `sha256sum -c SHA256SUMS` in the package's folder checks the files themselves.
"""

from __future__ import annotations

from typing import Any

from report.records import Records


def links(records: Records) -> list[dict[str, Any]]:
    """Each claim with whether it holds and the records that say so; a claim that needs a missing record is left out."""
    found = (
        _training_read_this_data(records),
        _certificate_is_of_this_adapter(records),
        _certificate_is_of_this_base(records),
        _measured_file_is_certified(records),
        _tests_are_of_this_data(records),
        _package_is_certified(records),
    )
    return [link for link in found if link is not None]


def _link(claim: str, holds: bool, *source: str) -> dict[str, Any]:
    return {"claim": claim, "holds": holds, "source": list(source)}


def _training_read_this_data(records: Records) -> dict[str, Any] | None:
    prepared, trained = records.manifests.get("prepare"), records.manifests.get("train")
    name = "{run}/data/train.jsonl"
    if prepared is None or trained is None or name not in prepared["outputs"]:
        return None
    holds = trained["inputs"].get(name, {}).get("sha256") == prepared["outputs"][name]["sha256"]
    return _link("the training data is what prepare wrote", holds, "manifests/train.json", "manifests/prepare.json")


def _certificate_is_of_this_adapter(records: Records) -> dict[str, Any] | None:
    certificate, trained = records.values.get("certificate.json"), records.manifests.get("train")
    name = "{run}/adapter/adapter_model.safetensors"
    if certificate is None or trained is None or name not in trained["outputs"]:
        return None
    holds = (certificate["adapter"] or {}).get("sha256") == trained["outputs"][name]["sha256"]
    return _link("the certified adapter is the one that was trained", holds, "certificate.json", "manifests/train.json")


def _certificate_is_of_this_base(records: Records) -> dict[str, Any] | None:
    certificate, training = records.values.get("certificate.json"), records.values.get("adapter/training.json")
    if certificate is None or training is None or "config.json" not in training["base"]["files"]:
        return None
    holds = certificate["base"]["config_sha256"] == training["base"]["files"]["config.json"]
    return _link(
        "the certified base has the shape of the one trained on", holds, "certificate.json", "adapter/training.json"
    )


def _measured_file_is_certified(records: Records) -> dict[str, Any] | None:
    results, certificate = records.values.get("eval/results.json"), records.values.get("certificate.json")
    if results is None or results["model"] is None or certificate is None:
        return None
    holds = results["model"]["sha256"] in _certified(records)
    return _link("the measured file passed the certificate", holds, "eval/results.json", "certificate.json")


def _tests_are_of_this_data(records: Records) -> dict[str, Any] | None:
    results, prepared = records.values.get("eval/results.json"), records.manifests.get("prepare")
    if results is None or prepared is None or not results["tasks"]:
        return None
    written = {output["sha256"] for output in prepared["outputs"].values()}
    own = [
        task for task in results["tasks"] if task["task"] in ("multiple_choice", "test")
    ]  # others are named by a person
    holds = all(task["sha256"] in written for task in own)
    return _link(
        "every test of the run's own data is a file that prepare wrote",
        holds,
        "eval/results.json",
        "manifests/prepare.json",
    )


def _package_is_certified(records: Records) -> dict[str, Any] | None:
    package = records.manifests.get("package")
    files = package["summary"]["files"] if package else None
    if not isinstance(files, dict) or "certificate.json" not in records.values:
        return None
    holds = set(files.values()) <= _certified(records)
    return _link("every packaged file passed the certificate", holds, "manifests/package.json", "certificate.json")


def _certified(records: Records) -> set[str]:
    return {file["sha256"] for file in records.values["certificate.json"]["files"] if file["verdict"] == "pass"}
