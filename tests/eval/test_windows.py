"""Windows over long texts measure every token once; a file's windows are those of llama.cpp's llama-perplexity."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from eval.config import EvalConfig
from eval.evaluate import evaluate
from eval.windows import slide
from medllama.chat import IGNORED_LABEL, Labelled
from medllama.errors import InputError
from medllama.llamacpp import Context, Model
from tests.eval.conftest import write_jsonl

WORDS = "Gout is a disorder of the joints. Scurvy affects the blood; heparin does not. " * 40


@pytest.mark.parametrize(("length", "window"), [(10, 10), (11, 10), (15, 10), (97, 16), (40, 9)])
@pytest.mark.parametrize("start", [[1], []])
def test_every_label_is_measured_once_and_in_order(length: int, window: int, start: list[int]) -> None:
    ids = [*start, *range(100, 100 + length - len(start))]
    whole = Labelled(ids, [IGNORED_LABEL, *ids[1:]])
    pieces = slide(whole, window, start)
    measured = [label for piece in pieces for label in piece.labels if label != IGNORED_LABEL]
    assert measured == ids[1:]
    assert all(len(piece.input_ids) <= window and piece.input_ids[: len(start)] == start for piece in pieces)
    assert all(piece.labels[0] == IGNORED_LABEL for piece in pieces)
    for piece in pieces[1:]:
        known = next(place for place, label in enumerate(piece.labels) if label != IGNORED_LABEL)
        assert known >= window // 2 - 1, "a token is predicted from at least half a window, but for BOS"


def test_a_files_perplexity_is_llama_perplexitys(ggufs: dict[str, Path], tmp_path: Path) -> None:
    """perplexity.cpp: chunks of n_ctx; BOS in the place of a chunk's first token; the mean over tokens n_ctx/2 + 1 to n_ctx - 1."""
    path, n_ctx = tmp_path / "text.txt", 64
    path.write_text(WORDS)
    output = tmp_path / "results.json"
    evaluate(EvalConfig(gguf=ggufs["model"], output=output, task=(str(path),), window=n_ctx, threads=1))
    (result,) = json.loads(output.read_text())["tasks"]
    with Model(ggufs["model"], threads=1) as model, Context(model, context_tokens=n_ctx, exact=False) as context:
        tokens = model.tokenize(WORDS, add_special=True)
        nll, count = 0.0, 0
        for chunk in range(len(tokens) // n_ctx):
            ids = tokens[chunk * n_ctx : (chunk + 1) * n_ctx]
            if model.add_bos:
                ids[0] = model.bos_id
            rows = torch.log_softmax(torch.from_numpy(context.logits(ids)).double(), dim=-1)
            for place in range(n_ctx // 2, n_ctx - 1):
                nll -= float(rows[place, ids[place + 1]])
                count += 1
    found = result["answer_text"]
    assert found["tokens"] == count
    assert found["model"]["perplexity"] == pytest.approx(math.exp(nll / count), rel=1e-5)
    assert found["documents"] == result["measured"] == len(tokens) // n_ctx
    assert found["model"]["nats_per_byte"] == pytest.approx(nll / found["bytes"], rel=1e-5)
    assert "windows of 64 tokens" in result["protocol"]


def test_a_text_that_is_too_short_is_told(ggufs: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("Gout.")
    with pytest.raises(InputError, match="fewer than two windows of 512"):
        evaluate(EvalConfig(gguf=ggufs["model"], output=tmp_path / "results.json", task=(str(path),)))


def test_a_long_record_is_measured_whole_in_windows(ggufs: dict[str, Path], tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "test.jsonl", [{"text": WORDS}, {"text": "Gout."}])
    tokens = {}
    for window in (None, 32):
        output = tmp_path / f"{window}" / "results.json"
        evaluate(EvalConfig(gguf=ggufs["model"], output=output, task=(str(path),), window=window, threads=1))
        (result,) = json.loads(output.read_text())["tasks"]
        tokens[window] = result["answer_text"]["tokens"]
        assert result["answer_text"]["bytes"] == len(WORDS) + 5
        assert f"than {window or 512} tokens" in result["protocol"]
    with Model(ggufs["model"], vocab_only=True) as model:
        assert tokens[None] == tokens[32]
        assert tokens[32] >= len(model.tokenize(WORDS))
