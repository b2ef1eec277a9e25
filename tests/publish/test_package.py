"""A package holds certified bytes, the prompt format that was trained, and every text that licences ask for; or there is none."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from medllama.chat import load_chat
from medllama.config import build
from medllama.errors import CheckFailed, InputError, MedllamaError, RecipeError, UnsupportedError
from medllama.files import sha256_file
from medllama.gguf_metadata import read_gguf_metadata
from medllama.go_template import derive_go_template
from medllama.template_guard import GUARD
from publish.card import BASE_VALUES
from publish.config import PackageConfig
from publish.modelfile import read_modelfile
from publish.package import package
from tests.publish.packages import Made, repackage
from tests.publish.test_licences import LLAMA2


def values(output_dir: Path, name: str, key: str = "") -> list[str]:
    commands = read_modelfile((output_dir / "Modelfile").read_text(encoding="utf-8"))
    return [command.value for command in commands if command.name == name and command.key == key]


def test_a_package_holds_certified_bytes_and_every_text(made: Callable[..., Made]) -> None:
    given = made()
    out = given.package(system="Answer in one sentence.")
    assert sorted(path.name for path in out.iterdir()) == [
        "LICENSE", "Modelfile", "Modelfile.f16", "Modelfile.q4_K_M", "NOTICE", "README.md", "SHA256SUMS", "certificate.json",
        "medllama-F16.gguf", "medllama-Q4_K_M.gguf",
    ]  # fmt: skip
    for file in given.files:
        assert (out / file.name).read_bytes() == file.read_bytes()
        assert (out / file.name).samefile(file)
    for line in (out / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    assert len((out / "SHA256SUMS").read_text().splitlines()) == 9
    published, written = (json.loads(path.read_text()) for path in (out / "certificate.json", given.certificate))
    assert "path" in written["base"], "what is left out must be there before"
    for part in ("base", "adapter"):
        written[part].pop("path", None)
    assert published == written
    assert str(given.base) not in (out / "certificate.json").read_text(), "a path of this machine"


def test_the_modelfile_is_the_trained_prompt(made: Callable[..., Made]) -> None:
    given = made()
    out = given.package(system="Answer in one sentence.")
    chat = load_chat(given.base)
    assert chat is not None
    assert values(out, "from") == ["./medllama-Q4_K_M.gguf"]
    assert values(out, "template") == [derive_go_template(chat)]
    assert values(out, "system") == ["Answer in one sentence."]
    assert values(out, "parameter", "stop") == ["</s>"]
    assert values(out, "parameter", "temperature") == ["0.2"]
    assert values(out, "parameter", "num_ctx") == ["128"]
    licence, policy, notice = values(out, "license")
    assert (licence, policy) == (LLAMA2, "no harm\n")
    assert notice == (out / "NOTICE").read_text(encoding="utf-8")
    assert "no\u00a0harm" in (out / "LICENSE").read_text(encoding="utf-8")


def test_every_tag_has_a_modelfile_that_differs_in_its_file_alone(made: Callable[..., Made]) -> None:
    out = made().package(system="Answer in one sentence.")
    latest = read_modelfile((out / "Modelfile").read_text(encoding="utf-8"))
    for tag, file in (("f16", "medllama-F16.gguf"), ("q4_K_M", "medllama-Q4_K_M.gguf")):
        text = (out / f"Modelfile.{tag}").read_text(encoding="utf-8")
        assert f"ollama create medllama:{tag} -f Modelfile.{tag}" in text
        first, *rest = read_modelfile(text)
        assert (first.name, first.value) == ("from", f"./{file}")
        assert rest == latest[1:]


def test_two_files_of_one_type_are_refused_since_a_type_is_a_tag(made: Callable[..., Made]) -> None:
    given = made()
    other = shutil.copyfile(given.files[0], given.files[0].with_name("other-F16.gguf"))
    with pytest.raises(InputError, match=r"medllama-F16\.gguf and other-F16\.gguf are both F16"):
        given.package(gguf=tuple(map(str, [*given.files, other])))


def test_packaging_again_leaves_no_modelfile_of_a_file_that_is_gone(made: Callable[..., Made]) -> None:
    given = made()
    given.package()
    out = given.package(gguf=(str(given.files[0]),))
    assert sorted(path.name for path in out.glob("Modelfile*")) == ["Modelfile", "Modelfile.f16"]


def test_notice_says_what_the_licences_want_said(made: Callable[..., Made]) -> None:
    notice = (made().package() / "NOTICE").read_text(encoding="utf-8")
    assert notice.startswith(
        "Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc."
    )
    assert "medllama is llama2, fine-tuned with LoRA, merged and converted to GGUF" in notice
    assert "MedQuAD\n  Licence: CC-BY-4.0" in notice
    assert "Not for publishing" not in notice


def test_the_card_is_hugging_face_metadata_and_a_page_for_people(made: Callable[..., Made]) -> None:
    given = made()
    given.edit(base={"name": "meta-llama/Llama-2-7b-hf"})
    card = (given.package() / "README.md").read_text(encoding="utf-8")
    _, front, text = card.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["license"] == "llama2"
    assert metadata["base_model"] == "meta-llama/Llama-2-7b-hf"
    assert metadata["base_model_relation"] == "finetune"
    assert "medical" in metadata["tags"]
    assert "no medical device" in text
    assert "ollama create medllama -f Modelfile" in text
    assert "| MedQuAD | CC-BY-4.0 | 16,420 | Ben Abacha \\| NLM |" in text
    assert "| medllama-Q4_K_M.gguf | Q4_K_M |" in text
    assert "| tensors |" in text
    assert "Not for publishing" not in text


def test_llama3_is_packaged_under_its_name_with_its_line(made: Callable[..., Made]) -> None:
    given = made("llama3")
    with pytest.raises(InputError, match="does not begin with Llama"):
        given.package()
    assert not given.output_dir.exists()
    out = given.package(name="llama-med")
    assert values(out, "parameter", "stop") == ["<|eot_id|>", "<|end_of_text|>"]
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "# Llama-med\n\n**Built with Llama**" in card
    assert "Built with Llama" in (out / "NOTICE").read_text(encoding="utf-8")


def test_packaging_again_gives_the_same_bytes(made: Callable[..., Made]) -> None:
    given = made()
    first = {path.name: path.read_bytes() for path in given.package().iterdir()}
    assert {path.name: path.read_bytes() for path in given.package().iterdir()} == first


def test_where_links_are_impossible_the_files_are_copied(
    made: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError(errno.EXDEV, "cross-device link")

    given = made()
    monkeypatch.setattr(os, "link", refuse)
    out = given.package()
    assert (out / "medllama-F16.gguf").read_bytes() == given.files[0].read_bytes()
    assert not (out / "medllama-F16.gguf").samefile(given.files[0])


# What is spoiled, and what is said of it.
def _flip_a_bit(given: Made) -> None:
    data = bytearray(given.files[1].read_bytes())
    data[-1] ^= 1
    given.files[1].write_bytes(data)


def _cut_short(given: Made) -> None:
    given.files[1].write_bytes(given.files[1].read_bytes()[:-1])


def _fail_a_check(given: Made) -> None:
    content = json.loads(given.certificate.read_text())
    content["files"][0]["checks"][0]["verdict"] = "fail"
    given.certificate.write_text(json.dumps(content))


def _fail_a_file(given: Made) -> None:
    content = json.loads(given.certificate.read_text())
    content["files"][0]["verdict"] = "fail"
    given.certificate.write_text(json.dumps(content))


def _remove_go_template(given: Made) -> None:
    content = json.loads(given.certificate.read_text())
    del content["go_template_sha256"]
    given.certificate.write_text(json.dumps(content))


SPOILED: dict[str, tuple[Callable[[Made], object], type[MedllamaError], str]] = {
    "no certificate": (lambda given: given.certificate.unlink(), InputError, "there is no certificate"),
    "not JSON": (lambda given: given.certificate.write_text("{"), InputError, "is not JSON"),
    "another format": (lambda given: given.edit(format=99), InputError, "is no certificate of a format known here"),
    "verdict fail": (lambda given: given.edit(verdict="fail"), CheckFailed, "the verdict of"),
    "a file failed": (_fail_a_file, CheckFailed, "medllama-F16.gguf did not pass"),
    "a check failed": (_fail_a_check, CheckFailed, "medllama-F16.gguf did not pass: tensors failed"),
    "no files": (lambda given: given.edit(files=[]), InputError, "names no files"),
    "other bytes": (_flip_a_bit, CheckFailed, "is not a file that"),
    "cut short": (_cut_short, CheckFailed, "is not a file that"),
    "another TEMPLATE": (lambda given: given.edit(go_template_sha256="0" * 64), CheckFailed, "the go template is not"),
    "no TEMPLATE certified": (lambda given: given.edit(go_template_sha256=None), CheckFailed, "the go template is not"),
    "silent about the TEMPLATE": (_remove_go_template, InputError, "does not say 'go_template_sha256'"),
    "another Jinja": (lambda given: given.edit(chat_template_sha256="0" * 64), CheckFailed, "the chat template is not"),
    "no licence": (lambda given: (given.base / "LICENSE.txt").unlink(), InputError, "has no licence text"),
    "another base": (lambda given: (given.base / "config.json").write_text("{}"), CheckFailed, "is not the base that"),
    "a base without config.json": (lambda given: (given.base / "config.json").unlink(), CheckFailed, "is not the base that"),
    "no GGUF": (lambda given: given.files[0].unlink(), InputError, "there is no GGUF"),
}  # fmt: skip


@pytest.mark.parametrize("fault", SPOILED)
def test_a_fault_is_refused_and_leaves_no_package(fault: str, made: Callable[..., Made]) -> None:
    given = made()
    spoil, error, problem = SPOILED[fault]
    spoil(given)
    with pytest.raises(error, match=problem) as refused:
        given.package()
    assert refused.value.hint
    assert not given.output_dir.exists()
    assert not list(given.output_dir.parent.glob("*.partial"))


def test_a_failed_package_leaves_the_earlier_one(made: Callable[..., Made]) -> None:
    given = made()
    before = sha256_file(given.package() / "Modelfile")
    given.edit(go_template_sha256="0" * 64)
    with pytest.raises(CheckFailed):
        given.package()
    assert sha256_file(given.output_dir / "Modelfile") == before


def test_a_folder_that_holds_something_else_is_not_replaced(made: Callable[..., Made]) -> None:
    given = made()
    given.output_dir.mkdir()
    (given.output_dir / "thesis.docx").write_text("years of work")
    with pytest.raises(InputError, match=r"holds thesis\.docx, which is no part of a package"):
        given.package()
    with pytest.raises(InputError, match="holds the files to package"):
        given.package(output_dir=given.files[0].parent)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "What the model was trained on, and under which licence, is not recorded"),
        (
            {"publishable": False, "sources": [{"name": "notes", "licence": None, "publishable": False}]},
            "The licence of the training data notes (none stated) does not clearly allow it",
        ),
    ],
)
def test_data_that_may_not_be_given_on_marks_the_package(data: object, reason: str, made: Callable[..., Made]) -> None:
    given = made()
    given.edit(data=data)
    result = package(PackageConfig(gguf=tuple(map(str, given.files)), certificate=given.certificate,
                                   output_dir=given.output_dir, base_model=str(given.base)))  # fmt: skip
    assert result.summary["publishable"] is False
    assert result.summary["obstacles"] == [reason]
    assert "not for publishing" in result.summary["line"]
    assert f"> **Not for publishing.** {reason}." in (result.path / "README.md").read_text(encoding="utf-8")
    assert f"Not for publishing:\n- {reason}" in (result.path / "NOTICE").read_text(encoding="utf-8")


@pytest.mark.parametrize("model", ["adapter", "base"])
def test_a_part_of_the_model_is_not_packaged_as_the_whole(model: str, made: Callable[..., Made]) -> None:
    given = made()
    content = json.loads(given.certificate.read_text())
    given.edit(files=[entry | {"model": model} for entry in content["files"]])
    with pytest.raises(UnsupportedError, match=f"is the {model} alone, and a package takes the merged model"):
        given.package()


def test_a_base_without_an_adapter_needs_no_data(made: Callable[..., Made]) -> None:
    given = made()
    given.edit(adapter=None, data=None)
    out = given.package()
    assert "Not for publishing" not in (out / "README.md").read_text(encoding="utf-8")
    assert "llama2, converted to GGUF by medllama" in (out / "NOTICE").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("base_values", "said"),
    [("stored", None), ("dequantized", "had been quantized by bitsandbytes"), ("nf4", "rounded to NF4 and back")],
)
def test_the_card_says_where_the_bases_values_are_not_its_own(
    base_values: str, said: str | None, made: Callable[..., Made]
) -> None:
    given = made()
    given.edit(base={"name": "llama2", "values": base_values})
    card = (given.package() / "README.md").read_text(encoding="utf-8")
    assert [text in card for text in BASE_VALUES.values()] == [base_values == name for name in BASE_VALUES]
    assert said is None or said in card


def test_num_ctx_is_what_was_trained_and_never_more_than_the_model_has(made: Callable[..., Made]) -> None:
    given = made()
    assert values(given.package(num_ctx=256), "parameter", "num_ctx") == ["256"]
    given.edit(max_length=None)
    assert values(given.package(), "parameter", "num_ctx") == ["512"]
    with pytest.raises(InputError, match="num_ctx 1024 is not within the model's context of 512 tokens"):
        given.package(num_ctx=1024)


def test_a_jinja_without_a_go_counterpart_is_shipped_without_a_template_and_says_so(
    made: Callable[..., Made], tmp_path: Path
) -> None:
    template = tmp_path / "trims.jinja"
    template.write_text("{%- for m in messages -%}{{- bos_token + m['content'] | trim + eos_token -}}{%- endfor -%}")
    out = repackage(made(), str(template)).package()
    assert values(out, "template") == []
    assert values(out, "from") == ["./medllama-F16.gguf"]
    assert values(out, "requires") == ["0.30.0"], "an older Ollama does not render Jinja"
    chat = read_gguf_metadata(out / "medllama-F16.gguf").chat
    assert chat is not None
    assert chat.template == GUARD + template.read_text(), "or Ollama could take it for one of its own"
    assert "It has no TEMPLATE (the chat template has no Go counterpart" in (out / "README.md").read_text(
        encoding="utf-8"
    )


def test_a_model_without_a_chat_format_gets_prompts_as_they_are(made: Callable[..., Made]) -> None:
    given = repackage(made(), "none")
    out = given.package()
    assert values(out, "template") == ["{{ .Prompt }}"]
    assert values(out, "parameter", "stop") == []
    with pytest.raises(InputError, match="no place for a system prompt"):
        given.package(system="Be brief.")


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_the_sums_are_in_the_format_of_sha256sum(made: Callable[..., Made]) -> None:
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=made().package(), check=True)


def test_a_configuration_that_makes_no_package_is_refused_at_once() -> None:
    values = {"certificate": "certificate.json", "output_dir": "package", "temperature": "-1"}
    with pytest.raises(RecipeError) as refused:
        build(PackageConfig, values, origin="medllama package")
    assert refused.value.problems == [
        "gguf: name the files to package, or a Modelfile to make it from",
        "temperature: -1.0 is below 0",
    ]
