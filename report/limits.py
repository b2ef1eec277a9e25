"""What a reader must know before relying on a run, derived from its figures wherever they can say it.

A limit is one or two sentences with the files that show it. Those marked `first` stand beside the headline.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from report.records import Records

Limit = dict[str, Any]


def limits(figures: dict[str, Any]) -> list[Limit]:
    """The limits of a run, the gravest first."""
    return [
        *_broken_links(figures["links"]),
        *_failed_checks(figures["certificate"]),
        _limit(
            "This is no medical device. It has not been evaluated for clinical use, and nothing that it says may guide the care "
            "of a person.",
            first=True,
        ),
        *_of_evaluation(figures["evaluation"]),
        *_of_answers(figures["generation"], figures["samples"], figures["evaluation"]),
        *_of_certificate(figures["certificate"]),
        *_of_training(figures["training"]),
        *_of_data(figures["data"]),
        _limit(
            f"Not measured: {'' if figures['panel'] else 'answers rated by people, '}harm, bias, whether the model knows when it "
            "does not know, and other models than its base."
        ),
    ]


def _limit(text: str, *source: str, first: bool = False) -> Limit:
    return {"text": text, "source": list(source), "first": first}


def _broken_links(links: list[dict[str, Any]]) -> Iterator[Limit]:
    for link in links:
        if not link["holds"]:
            yield _limit(
                f"The parts of this run do not belong together. It does not hold that {link['claim']}. Run it again.",
                *link["source"],
                first=True,
            )


def _failed_checks(certificate: dict[str, Any] | None) -> Iterator[Limit]:
    for file in (certificate or {"files": []})["files"]:
        for check in file["checks"]:
            if check["verdict"] == "fail":
                why = check["likely_cause"] or check["reason"]
                yield _limit(f"{file['name']} failed the check {check['name']}: {why}.", "certificate.json", first=True)


def _of_evaluation(evaluation: dict[str, Any] | None) -> Iterator[Limit]:
    if evaluation is None or not evaluation["tasks"]:
        yield _limit("The model was not measured.", *(evaluation or {}).get("source", []), first=True)
        return
    if evaluation["baseline"] is None:
        yield _limit(
            "The base was not measured beside the model: what training changed is not known.", "eval/results.json"
        )
    for task in evaluation["tasks"]:
        is_alone = sum(other["kind"] == task["kind"] for other in evaluation["tasks"]) == 1
        title = f"the {task['kind'].replace('_', '-')} test" + ("" if is_alone else f" {task['task']}")
        yield from _of_task(task, title)
    kinds = {task["kind"] for task in evaluation["tasks"]}
    if "multiple_choice" not in kinds:
        yield _limit(
            "There is no multiple-choice test: no share of right answers is known.", "eval/results.json", first=True
        )


def _of_task(task: dict[str, Any], title: str) -> Iterator[Limit]:
    source, seen, title_first = task["source"], task["overlap"], title.replace("the", "The", 1)
    if task["kind"] == "multiple_choice" and task["model"]["right"] == task["measured"]:
        yield _limit(
            f"{title_first} is at its ceiling: all {task['measured']:,} items were answered right, so it cannot tell this model "
            "from a better one.",
            *source,
            first=True,
        )
    if seen is None:
        yield _limit(f"Whether training had seen what {title} asks about is not known.", *source)
    elif not seen["in_training"]:
        yield _limit(
            f"None of the {seen['documents']:,} documents behind {title} is in the training data.", *seen["source"]
        )
    elif seen["in_training"] < seen["documents"]:
        yield _limit(
            f"{seen['in_training']:,} of the {seen['documents']:,} documents behind {title} are in the training data too: of these "
            "it asks in new words about what the model has read.",
            *seen["source"],
        )
    else:
        yield _limit(
            f"All {seen['documents']:,} documents behind {title} are in the training data too. It asks in new words about what the "
            "model has read, and says nothing about facts that it has never read.",
            *seen["source"],
            first=task["kind"] == "multiple_choice",
        )
    if skipped := task["left_out"].get("not_sampled"):
        yield _limit(
            f"{title_first} is a sample: {task['measured']:,} of {task['records']:,} records were measured, {skipped:,} were not "
            "drawn.",
            *source,
        )
    for warning in task["warnings"]:
        yield _limit(f"{title_first}: {warning}.", *source, first=True)


def _of_answers(
    generation: dict[str, Any] | None, samples: dict[str, Any] | None, evaluation: dict[str, Any] | None
) -> Iterator[Limit]:
    if evaluation is None:
        return
    if samples is None:
        yield _limit("No answers were kept to read.", *evaluation["source"])
    if generation is None:
        return
    right, asked = generation["exactly_right"]["model"]["right"], generation["measured"]
    if right < asked and any(task["kind"] == "multiple_choice" for task in evaluation["tasks"]):
        yield _limit(
            f"To choose among options is easier than to answer: asked freely, the tuned model gave the expected words and no more "
            f"to {right:,} of {asked:,} held-out questions.",
            *generation["source"],
            first=True,
        )
    for warning in generation["warnings"]:
        yield _limit(f"Free answers: {warning}.", *generation["source"])


def _of_certificate(certificate: dict[str, Any] | None) -> Iterator[Limit]:
    source = "certificate.json"
    if certificate is None:
        yield _limit("There is no certificate: that the files are the trained model is not proven.", first=True)
        return
    for file in certificate["files"]:
        for check in file["checks"]:
            if check["verdict"] == "skipped":
                yield _limit(f"The check {check['name']} of {file['name']} was not made: {check['reason']}.", source)
        yield from _rounding(file)
    if certificate["sampled"]:
        looked = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in certificate["sampled"].items())
        yield _limit(f"The certificate looked at a sample: {looked}.", source)
    yield _limit(
        "The certificate proves that the files compute what the trained model computes. It says nothing about whether that is "
        "true.",
        source,
    )


def _rounding(file: dict[str, Any]) -> Iterator[Limit]:
    """What quantization changes, which is no fault and still a change."""
    for check in file["checks"]:
        agreement, tokens = check["details"].get("top1_agreement"), check["details"].get("tokens")
        if isinstance(agreement, float) and isinstance(tokens, int) and agreement < 0.99:
            yield _limit(
                f"Rounding to {file['type']} changes the model: {file['name']} finds another next token likeliest than the "
                f"unrounded model at {1 - agreement:.1%} of {tokens:,} places.",
                "certificate.json",
            )


def _of_training(training: dict[str, Any] | None) -> Iterator[Limit]:
    for split, records in (training or {"records": {}})["records"].items():
        for key, what in (("truncated", "cut to the longest length"), ("dropped", "left out")):
            if count := records[key]:
                yield _limit(
                    f"{count:,} of {records['records'] + records['dropped']:,} {split} records were {what} in training.",
                    "adapter/training.json",
                )


def _of_data(data: dict[str, Any] | None) -> Iterator[Limit]:
    if data is not None and not data["publishable"]:
        yield _limit(
            "The licences of the data do not clearly allow the model to be given on.", "data/data_card.json", first=True
        )


def notes(records: Records) -> list[Limit]:
    """What the stages noted on the way, in their own words."""
    found: list[Limit] = []
    for source in (records.values.get("data/data_card.json") or {"sources": []})["sources"]:
        dropped = source["counts"]["dropped"]
        if dropped:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
            found.append(_limit(f"Left out of {source['name']}: {reasons}.", "data/data_card.json"))
        found += [_limit(f"In {source['name']}: {problem}", "data/data_card.json") for problem in source["problems"]]
    for stage, key in (("convert", "notes"), ("package", "obstacles")):
        said = records.manifests.get(stage, {}).get("summary", {}).get(key) or []
        found += [_limit(text, f"manifests/{stage}.json") for text in said]
    return found
