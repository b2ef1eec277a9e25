"""The certificate is written whether checks pass or fail, says for each what was found, and decides the exit status."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch

from convert.certificate import Certificate, Check, FileReport, failed, skipped
from convert.config import ConvertConfig
from convert.convert import convert
from medllama.cli import main
from tests.checkpoints import make_llama2_checkpoint
from tests.convert.faults import read, scores_flat, write


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("certificate")
    base = make_llama2_checkpoint(folder / "base")
    convert(ConvertConfig(str(base), folder, types=("F16",), name="right"))
    return folder


def test_a_right_file_ends_with_status_0_and_the_path(right: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, file = right / "certificate.json", right / "right-F16.gguf"
    status = main(
        ["verify", "--base-model", str(right / "base"), "--gguf", str(file), "--output", str(output), "--sample"]
    )
    shown = capsys.readouterr()
    assert status == 0
    assert shown.out.splitlines()[-1] == str(output)
    assert "right-F16.gguf" in shown.err
    found = json.loads(output.read_text())
    assert (found["format"], found["verdict"], found["adapter"], found["data"]) == (1, "pass", None, None)
    assert found["end_of_turn"] == "</s>"
    assert len(found["chat_template_sha256"]) == len(found["go_template_sha256"]) == 64
    assert found["sampled"]["strings"] == 4000
    assert found["transformers_ids_differ"]["spaces"] > 0  # the two truths of Llama 2's tokens, counted
    (entry,) = found["files"]
    assert entry["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (entry["type"], entry["verdict"], entry["bytes"]) == ("F16", "pass", file.stat().st_size)
    assert [check["name"] for check in entry["checks"]] == [
        "file", "metadata", "tensors", "tokenizer", "prompts", "logits", "greedy", "ends",
    ]  # fmt: skip
    assert all(check["reason"] for check in entry["checks"])
    details = next(check["details"] for check in entry["checks"] if check["name"] == "logits")
    assert details["mean_kld"] <= details["bounds"]["mean_kld"]


def test_a_wrong_file_ends_with_status_1_and_a_certificate_that_names_the_fault(
    right: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read(right / "right-F16.gguf")
    scores_flat(content)
    write(content, tmp_path / "wrong.gguf")
    output = tmp_path / "certificate.json"
    status = main(["verify", "--base-model", str(right / "base"), "--gguf", str(tmp_path / "wrong.gguf"),
                   "--output", str(output), "--sample"])  # fmt: skip
    shown = capsys.readouterr()
    assert status == 1
    assert "error: 2 checks failed: tokenizer of wrong.gguf, prompts of wrong.gguf" in shown.err
    checks = {check["name"]: check for check in json.loads(output.read_text())["files"][0]["checks"]}
    assert checks["tokenizer"]["verdict"] == "fail"
    assert "one number for all" in checks["tokenizer"]["likely_cause"]
    assert checks["logits"]["verdict"] == "pass"  # only the tokenizer was touched


def test_figures_and_names_that_json_cannot_hold_are_written_all_the_same() -> None:
    broken = "right-\udcff.gguf"  # how Python shows a file name that is no UTF-8
    checks = (
        Check("logits", "fail", math.nan, 1e-4, details={"max_kld": math.inf, broken: [broken]}, where=broken),
        failed("file", "cut short", where="", figure="broken", bound="whole", reason=""),
        skipped("greedy", "the file is broken"),
    )
    certificate = Certificate({"base": None}, (FileReport("a.gguf", "0" * 64, 1, None, "base", checks),))
    text = json.dumps(certificate.as_json(), allow_nan=False)
    assert '"max_kld": "inf"' in text
    "\n".join([text, *certificate.table()]).encode()
    assert certificate.failures() == ["logits of a.gguf", "file of a.gguf"]
