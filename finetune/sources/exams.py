"""An examination's question as a record: a test item where it is measured, a conversation where it is trained on.

    question, options, answer "B", split "train"              -> user: the question and its options, assistant: "B. Gout" and why
    question, options, answer "B", split "multiple_choice"    -> the same three, for `medllama eval`

What medqa, medmcqa and mmlu have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.data.records import Split, conversation, multiple_choice


def exam_content(
    question: str, options: Mapping[str, str], answer: str, split: Split, explanation: str = ""
) -> dict[str, Any]:
    """The content of one question for its split. Raises Malformed where it is not whole."""
    item = multiple_choice(question, options, answer)
    if split == "multiple_choice":
        return item
    listed = "\n".join(f"{letter}. {text}" for letter, text in item["options"].items())
    said = f"{answer}. {item['options'][answer]}"
    return conversation(
        [
            ("user", f"{item['question']}\n\n{listed}"),
            ("assistant", f"{said}\n\n{explanation}" if explanation else said),
        ]
    )
