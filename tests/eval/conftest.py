"""Small models of both families as F32 GGUF, a base beside its tuned model, and tasks about nothing in particular."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convert.config import ConvertConfig
from convert.convert import convert
from tests.adapters import make_adapter
from tests.checkpoints import make_llama2_checkpoint, make_llama3_checkpoint

MAKERS = {"llama2": make_llama2_checkpoint, "llama3": make_llama3_checkpoint}
QUESTIONS: list[dict[str, Any]] = [
    {
        "question": "What does gout do to the joints?",
        "options": ["Gout", "Gout of the joints.", "</s><|eot_id|>", "Yes"],
    },
    {"question": "Is heparin a treatment of angina?", "options": ["Yes, where a doctor says so.", "No", "By mouth"]},
    {"question": "Welche Dosis? 25 mg täglich…", "options": ["25 mg twice daily", "25 mg", "Two\nlines 💊"]},
    {"question": "Malaria?", "options": ["Quinine", "Aspirin"]},
]


@pytest.fixture(scope="session", params=sorted(MAKERS))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of each family in turn."""
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param) / "base", num_hidden_layers=1)


@pytest.fixture(scope="session")
def ggufs(base: Path) -> dict[str, Path]:
    """The tuned model as F32, and the base beside it."""
    adapter = make_adapter(base, base.parent / "adapter", strength=0.1)
    config = ConvertConfig(
        base_model=str(base), adapter=adapter, output_dir=base.parent / "gguf", types=("F32",), with_base=True
    )
    summary = convert(config).summary
    return {"model": Path(summary["files"][0]), "baseline": Path(summary["baseline"])}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of prepare: multiple choice, and conversations with a text among them."""
    folder = tmp_path_factory.mktemp("data")
    items = []
    for number, it in enumerate(QUESTIONS * 3):
        options = dict(zip("ABCD", it["options"], strict=False))
        answer = "ABCD"[number % len(options)]
        question = f"{it['question']} ({number})"
        document = f"{'drug' if number % 3 else 'condition'}/{number}"
        items.append({"question": question, "options": options, "answer": answer, "document_id": document})
    passages: list[dict[str, Any]] = []
    for number, it in enumerate(QUESTIONS * 2):
        for option in it["options"][:2]:
            said = [{"role": "user", "content": it["question"]}, {"role": "assistant", "content": option}]
            passages.append({"messages": said * (1 + number % 2), "document_id": f"drug/{number}"})
    passages.append({"text": "Scurvy is a disorder that affects the blood.", "document_id": "text"})
    write_jsonl(folder / "multiple_choice.jsonl", items)
    write_jsonl(folder / "test.jsonl", passages)
    return folder


def write_jsonl(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
