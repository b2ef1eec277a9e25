"""The benchmarks' rows from the Hugging Face hub, where lm-evaluation-harness takes them from; only this needs the network."""

from __future__ import annotations

from typing import Any

from medllama.benchmarks import ON_HUB
from medllama.errors import InputError

Rows = dict[str, list[tuple[str, dict[str, Any]]]]


def rows_of_hub(name: str, *, with_examples: bool) -> tuple[Rows, Rows, str]:
    """The test's rows and those of the examples' split, by subject, and the revision that they are of."""
    source = ON_HUB.get(name)
    if source is None:
        raise InputError(f"{name} is not on the hub in its official form", hint=f"name its file: --task {name}:FILE")
    import datasets
    import huggingface_hub

    try:
        revision = str(huggingface_hub.HfApi().dataset_info(source.repository).sha)

        def rows(split: str) -> Rows:
            found: Rows = {}
            for configuration, subject in source.configurations.items():
                loaded = datasets.load_dataset(source.repository, configuration, split=split, revision=revision)
                place = f"{source.repository} {configuration or ''} {split}"
                found[subject] = [(f"{place} row {number}", dict(row)) for number, row in enumerate(loaded)]
            return found

        return rows(source.test), rows(source.examples) if with_examples else {}, revision
    except Exception as error:  # the library raises anything from a network error to a KeyError
        raise InputError(
            f"{source.repository} cannot be had from the hub: {error}",
            hint=f"name the official file: --task {name}:FILE",
        ) from None
