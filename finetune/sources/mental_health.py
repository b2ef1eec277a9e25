"""`mental-health:FILE`: Amod/mental_health_counseling_conversations, questions to counselors and their answers (RAIL-D).

    medllama prepare --source mental-health:combined_dataset.json --allow-licence LicenseRef-RAIL-D --output-dir OUT

JSONL of `Context` (the question) and `Response`; 3,512 rows. Several counselors answer one question, so the question is the
document, and its answers stay in one split.

Access: free. Its licence restricts what it may be used for and what is made of it, so it is refused unless allowed by
name and not publishable. Counselling text: e-mail addresses and telephone numbers are masked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from finetune.data.records import Dropped, Malformed, Record, conversation
from finetune.sources import Source, SourceRequest, existing_file
from finetune.sources.rows import optional_text, required_text, short_hash
from finetune.sources.tables import rows

LICENCE = "LicenseRef-RAIL-D"


def read(request: SourceRequest) -> Iterator[Record | Dropped]:
    """A Record or a Dropped for each row."""
    for row in rows(request.required_path()):
        yield row if isinstance(row, Dropped) else _outcome(*row, request)


def _outcome(place: str, value: dict[str, Any], request: SourceRequest) -> Record | Dropped:
    try:
        question = required_text(value, "Context")
        if "Response" not in value:
            raise Malformed("no Response", f"keys {', '.join(map(ascii, list(value)[:6]))}")
        if not (response := optional_text(value, "Response")):
            return Dropped("empty answer", place, is_bad=False)  # the set has a handful
        content = conversation([("user", question), ("assistant", response)])
    except Malformed as error:
        return Dropped(error.reason, place, error.detail)
    # Copies of a question differ in their spaces.
    return Record(content, request.kind, f"{request.kind}/{short_hash(' '.join(question.split()).lower())}", LICENCE)


SOURCE = Source(
    example="mental-health:FILE",
    read=read,
    inputs=existing_file,
    licence=LICENCE,
    attribution="Mental Health Counseling Conversations, by Amod; questions and answers from two online counseling platforms",
    url="https://huggingface.co/datasets/Amod/mental_health_counseling_conversations",
    masks_identifiers=True,
)
