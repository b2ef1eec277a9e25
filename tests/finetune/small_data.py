"""A few questions, answers and texts in the shape that prepare writes, for trainings of seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONDITIONS = {"gout": "the joints", "asthma": "the lungs", "eczema": "the skin", "anemia": "the blood"}
WORDINGS = {
    "train": ("What does {} affect?", "Where does {} show itself in the body?", "Say what {} affects."),
    "validation": ("Which part does {} affect?",),
    "test": ("What part of the body does {} affect?",),
}


def question(wording: str, name: str) -> dict[str, Any]:
    answer = f"It affects {CONDITIONS[name]}."
    messages = [{"role": "user", "content": wording.format(name)}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "source": "ours", "document_id": name, "licence": "MIT", "sha256": ""}


def text(content: str) -> dict[str, Any]:
    return {"text": content, "source": "ours", "document_id": content, "licence": "MIT", "sha256": ""}


def write_data(folder: Path, *, texts_held_out: bool = True) -> Path:
    """train, validation and test; each holds questions, and texts unless only train does."""
    folder.mkdir(parents=True)
    for split, wordings in WORDINGS.items():
        found = [question(wording, name) for wording in wordings for name in CONDITIONS]
        if split == "train" or texts_held_out:
            found += [
                text(f"{name.capitalize()} affects {organ}, as the {split} text says.")
                for name, organ in CONDITIONS.items()
            ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in found))
    return folder
