"""A package is published exactly as it was made and certified, under terms that are met; or it is refused, and nothing leaves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medllama.errors import CheckFailed, InputError, MedllamaError
from medllama.files import sha256_file
from publish.config import PublishConfig
from publish.gate import open_package
from publish.publish import publish
from tests.publish.packages import Made, repackage
from tests.publish.test_licences import LLAMA32


def sign_again(folder: Path) -> None:
    """Write SHA256SUMS anew: what somebody would do who changed a package and wants it to look whole."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS")
    (folder / "SHA256SUMS").write_text("".join(f"{sha256_file(folder / name)}  {name}\n" for name in names))


def edit(folder: Path, name: str, old: str, new: str) -> None:
    """Replace a text in a file of the package, which is no link to anything outside."""
    text = (folder / name).read_text(encoding="utf-8")
    assert old in text
    (folder / name).write_text(text.replace(old, new), encoding="utf-8")
    sign_again(folder)


def edit_certificate(folder: Path, **changes: Any) -> None:
    path = folder / "certificate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    sign_again(folder)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()  # the package's file may be a link to the run's
    path.write_bytes(content)


def flip_and_sign(folder: Path) -> None:
    flip_a_bit(folder / "medllama-Q4_K_M.gguf")
    sign_again(folder)


def without_template(folder: Path) -> None:
    text = (folder / "Modelfile").read_text(encoding="utf-8")
    before, _, rest = text.partition("TEMPLATE ")
    (folder / "Modelfile").write_text(before + rest.partition("\n\n")[2], encoding="utf-8")
    sign_again(folder)


def fail_a_check(folder: Path) -> None:
    content = json.loads((folder / "certificate.json").read_text())
    content["files"][0]["checks"][0]["verdict"] = "fail"
    edit_certificate(folder, files=content["files"])


def test_a_package_as_it_was_made_is_let_through(made: Callable[..., Made]) -> None:
    folder = made().package(system="Be brief.")
    package = open_package(folder)
    assert [file.name for file in package.files] == ["medllama-F16.gguf", "medllama-Q4_K_M.gguf"]
    assert package.default.name == "medllama-Q4_K_M.gguf"
    assert package.name == "medllama"
    assert package.system == "Be brief."
    assert package.parameters == {"stop": ["</s>"], "temperature": 0.2, "num_ctx": 128}
    assert package.template is not None
    assert "[INST]" in package.template
    assert package.terms.identifier == "llama2"
    assert len(package.licences) == 3


# What is done to a package, and what is said of it.
SPOILED: dict[str, tuple[Callable[[Path], object], type[MedllamaError], str]] = {
    "no SHA256SUMS": (lambda it: (it / "SHA256SUMS").unlink(), InputError, "is no package of medllama"),
    "no sums in SHA256SUMS": (lambda it: (it / "SHA256SUMS").write_text("hello\n"), InputError, "is no checksum"),
    "a sum of another folder's file": (
        lambda it: (it / "SHA256SUMS").write_text(f"{hashlib.sha256(b'').hexdigest()}  ../certificate.json\n"),
        InputError, "is no checksum"),
    "a bit flipped": (lambda it: flip_a_bit(it / "medllama-Q4_K_M.gguf"), CheckFailed, "Q4_K_M.gguf was changed after"),
    "the card written over": (lambda it: (it / "README.md").write_text("mine"), CheckFailed, "README.md was changed after"),
    "a file gone": (lambda it: (it / "NOTICE").unlink(), CheckFailed, "lacks NOTICE"),
    "a file gone and signed": (lambda it: ((it / "NOTICE").unlink(), sign_again(it)), CheckFailed, "lacks NOTICE"),
    "a file added": (lambda it: (it / "other.gguf").write_bytes(b"GGUF"), CheckFailed, "no part of the package: other.gguf"),
    "a bit flipped and signed": (flip_and_sign, CheckFailed, "is not a file that .* vouches for"),
    "verdict fail": (lambda it: edit_certificate(it, verdict="fail"), CheckFailed, "the verdict of"),
    "a check failed": (fail_a_check, CheckFailed, "did not pass: tensors failed"),
    "another file certified": (lambda it: edit_certificate(it, files=json.loads(
        (it / "certificate.json").read_text())["files"][:1]), CheckFailed, "is not a file that .* vouches for"),
    "a tag's Modelfile of another prompt": (
        lambda it: edit(it, "Modelfile.f16", "[INST] ", "[INST]"), CheckFailed, "Modelfile.f16 is not .*Modelfile for medllama-F16"),
    "a tag's Modelfile of another file": (
        lambda it: edit(it, "Modelfile.f16", "-F16.gguf", "-Q4_K_M.gguf"), CheckFailed, "Modelfile.f16 is not"),
    "a tag's Modelfile missing": (
        lambda it: ((it / "Modelfile.f16").unlink(), sign_again(it)), CheckFailed, "Modelfile.f16 is not"),
    "another TEMPLATE": (lambda it: edit(it, "Modelfile", "[INST] ", "[INST]"), CheckFailed, "is not the certified one"),
    "no TEMPLATE": (without_template, CheckFailed, "is not the certified one: its SHA-256 is None"),
    "a TEMPLATE that was not certified": (
        lambda it: edit_certificate(it, go_template_sha256=None), CheckFailed, "is not the certified one"),
    "FROM something else": (
        lambda it: edit(it, "Modelfile", "FROM ./medllama-Q4_K_M.gguf", "FROM llama3.2"), CheckFailed, "which is not here"),
    "an unknown licence": (lambda it: ((it / "LICENSE").write_text("All rights reserved."), sign_again(it)),
                           InputError, "is not known to allow"),
    "a licence against commerce": (
        lambda it: ((it / "LICENSE").write_text("Creative Commons Attribution-NonCommercial 4.0"), sign_again(it)),
        InputError, "is not known to allow"),
    "no notice line": (lambda it: edit(it, "NOTICE", "Llama 2 is licensed", "It is licensed"), InputError,
                       "NOTICE does not say 'Llama 2 is licensed under"),
    "data that may not leave": (lambda it: edit_certificate(it, data={"publishable": False, "sources": [
        {"name": "ward notes", "licence": None, "publishable": False}]}), InputError, r"ward notes \(none stated\)"),
    "data not recorded": (lambda it: edit_certificate(it, data=None), InputError, "is not recorded"),
}  # fmt: skip


@pytest.mark.parametrize("fault", SPOILED)
def test_a_spoiled_package_is_refused_and_nothing_is_published(
    fault: str, made: Callable[..., Made], tmp_path: Path
) -> None:
    folder = made().package()
    spoil, error, problem = SPOILED[fault]
    spoil(folder)
    store = tmp_path / "store"
    with pytest.raises(error, match=problem) as refused:
        publish(PublishConfig(package=folder, to=f"store:{store}"))
    assert refused.value.hint, "a refusal says what to do"
    assert not store.exists()


@pytest.mark.parametrize(
    ("name", "old", "problem"),
    [
        ("README.md", "Built with Llama", "README.md does not say 'Built with Llama'"),
        ("NOTICE", "Built with Llama", "NOTICE does not say 'Built with Llama'"),
        ("NOTICE", "Llama 3.2 is licensed", "NOTICE does not say 'Llama 3.2 is licensed under"),
        ("Modelfile", "Llama 3.2 is licensed", "Modelfile does not say 'Llama 3.2 is licensed under"),
    ],
)
def test_what_llama3_asks_to_be_shown_must_be_there(
    name: str, old: str, problem: str, made: Callable[..., Made]
) -> None:
    folder = made("llama3").package(name="llama-med")
    assert open_package(folder).terms.is_llama3
    edit(folder, name, old, "")
    with pytest.raises(InputError, match=problem):
        open_package(folder)


def test_a_llama3_under_another_licence_is_refused(made: Callable[..., Made]) -> None:
    given = made("llama3")
    given.edit(base={"name": "meta-llama/Llama-3.2-1B"})
    folder = given.package(name="llama-med")
    edit(folder, "LICENSE", LLAMA32, "MIT License\n")
    with pytest.raises(InputError, match=r"the base is a Llama 3, and .* is another licence"):
        open_package(folder)


def test_llama3_is_published_under_its_name_only(made: Callable[..., Made], tmp_path: Path) -> None:
    folder = made("llama3").package(name="llama-med")
    store = tmp_path / "store"
    with pytest.raises(InputError) as refused:
        publish(PublishConfig(package=folder, to=f"store:{store}"))  # its files are called medllama
    assert "does not begin with Llama" in refused.value.message
    assert refused.value.hint == "rename the model, for example: --name llama-medllama"
    assert not store.exists()
    publish(PublishConfig(package=folder, to=f"store:{store}", name="llama-med"))
    assert (store / "manifests/registry.ollama.ai/library/llama-med/latest").is_file()


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ({"to": "store:x"}, "--name llama-medllama"),
        ({"to": "store:x", "name": "ada/med:v1"}, "--name ada/llama-med:v1"),
        ({"to": "ollama", "name": "med:v1"}, "--name llama-med:v1"),
        ({"to": "ollama-hub:ada/med"}, "--to ollama-hub:ada/llama-med"),
        ({"to": "registry:localhost:5000/ada/med:v1"}, "--to registry:localhost:5000/ada/llama-med:v1"),
        ({"to": "hf:Ada/Med"}, "--to hf:Ada/llama-med"),
    ],
)
def test_the_name_that_would_do_is_told_where_the_target_takes_it(
    asked: dict[str, str], written: str, made: Callable[..., Made]
) -> None:
    with pytest.raises(InputError, match="does not begin with Llama") as refused:
        publish(PublishConfig(package=made("llama3").package(name="llama-med"), **asked))
    assert refused.value.hint == f"rename the model, for example: {written}"


@pytest.mark.parametrize("to", ["store:x", "ollama"])
def test_a_name_in_upper_case_is_told_before_the_package_is_read(to: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'Ada/Med' has upper case") as refused:
        publish(PublishConfig(package=tmp_path / "nothing", to=to, name="Ada/Med"))
    assert refused.value.hint == "write ada/med"


def test_a_model_without_chat_format_passes_with_prompts_as_they_are(made: Callable[..., Made]) -> None:
    folder = repackage(made(), "none").package()
    assert open_package(folder).template == "{{ .Prompt }}"
    edit(folder, "Modelfile", "{{ .Prompt }}", "{{ .Prompt }} ")
    with pytest.raises(CheckFailed, match="is not the certified one"):
        open_package(folder)


def test_no_flag_lets_a_refused_package_pass(made: Callable[..., Made]) -> None:
    from medllama.config import options

    assert {entry.name for entry in options(PublishConfig)} == {"package", "to", "tag", "name", "dry_run"}
