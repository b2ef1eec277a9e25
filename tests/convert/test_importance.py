"""An importance matrix sums what Transformers' matrices are multiplied with, and quantizes as llama.cpp does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convert import convert as convert_module
from convert.config import FILE_TYPES, ConvertConfig, VerifyConfig
from convert.convert import convert
from convert.importance import read_importance, training_prompts
from convert.source import read_source
from convert.verify import verify
from medllama.config import input_paths
from medllama.errors import CheckFailed, InputError, ResourceError, UnsupportedError
from medllama.llamacpp import Model
from medllama.llamacpp.importance import _Collector, collect_activations
from medllama.llamacpp.quantizer import quantize
from medllama.tokenizer import Tokenizer
from tests.adapters import load_base
from tests.checkpoints import make_llama2_checkpoint

LOW_AND_HIGH = ("Q2_K", "Q2_K_S", "Q3_K_M", "Q4_K_M", "Q4_0", "Q5_K_S", "IQ2_XS", "IQ4_XS", "TQ1_0", "Q1_0", "Q8_0")
TEXTS = ["Gout is a disease of the joints.", "Asthma narrows the airways of the lungs.", "What helps against fever?"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama2_checkpoint(
        tmp_path_factory.mktemp("importance") / "base", hidden_size=256, intermediate_size=512
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    asked = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Rest."}]} for text in TEXTS
    ]
    records: list[dict[str, Any]] = [*asked, *({"text": text} for text in TEXTS)]
    (folder / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def run(base: Path, out: Path, types: tuple[str, ...], **settings: Any) -> Path:
    convert(ConvertConfig(str(base), out, types=types, name="m", **settings))
    return out


def make_matrix(base: Path, path: Path, seed: int = 0, spread: float = 3.0, head_columns: int = 0) -> Path:
    """A matrix with a random weight for each column, as another tool would have written it; of the head, where asked for."""
    rng = numpy.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "other")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["theirs.txt"])
    writer.add_uint32("imatrix.chunk_count", 7)
    writer.add_uint32("imatrix.chunk_size", 512)
    for tensor in gguf.GGUFReader(run(base, path.parent / "any", ("F16",)) / "m-F16.gguf").tensors:
        columns = head_columns if tensor.name == "output.weight" else int(tensor.shape[0])
        if (tensor.name.startswith("blk.") and len(tensor.shape) == 2) or (tensor.name == "output.weight" and columns):
            weights = numpy.exp(spread * rng.standard_normal(columns)).astype(numpy.float32)
            writer.add_tensor(f"{tensor.name}.in_sum2", 11 * weights[None])
            writer.add_tensor(f"{tensor.name}.counts", numpy.array([[11]], dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_sums_are_those_of_transformers_inputs(base: Path, tmp_path: Path) -> None:
    prompts = [[1, *range(10, 10 + length)] for length in (3, 40, 7, 200)]
    with Model(run(base, tmp_path, ("F32",)) / "m-F32.gguf") as model:
        found = collect_activations(model, prompts)
    sums: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            sums[name] = sums.get(name, torch.zeros(inputs[0].shape[-1])) + inputs[0][0].double().pow(2).sum(0)

        return hook

    reference = load_base(base)
    names = {"q_proj": "attn_q", "o_proj": "attn_output", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    for module_name, module in reference.named_modules():
        if (last := module_name.rpartition(".")[2]) in names:
            module.register_forward_hook(keep(f"blk.{module_name.split('.')[2]}.{names[last]}.weight"))
    with torch.no_grad():
        for prompt in prompts:
            reference(torch.tensor([prompt]))
    assert len(sums) == 4 * reference.config.num_hidden_layers
    for name, expected in sums.items():
        assert found[name].count == sum(map(len, prompts))
        assert numpy.allclose(found[name].sums, expected.numpy(), rtol=1e-4), name


def test_a_matrix_is_made_of_the_training_text_and_is_the_same_again(base: Path, data: Path, tmp_path: Path) -> None:
    ours = {"importance": "auto", "importance_data": data, "importance_tokens": 4096}
    once, again = (run(base, tmp_path / name, ("IQ2_XS", "Q3_K_M"), **ours) for name in ("once", "again"))
    names = sorted(path.name for path in once.iterdir())
    assert names == ["m-IQ2_XS.gguf", "m-Q3_K_M.gguf", "m.imatrix.gguf"], "and nothing else is left"
    for name in names:
        assert (once / name).read_bytes() == (again / name).read_bytes()
    found = read_importance(once / "m.imatrix.gguf")
    assert len(found.weights) == 7 * 2
    reader = gguf.GGUFReader(once / "m-Q3_K_M.gguf")
    assert reader.fields["quantize.imatrix.file"].contents() == "m.imatrix.gguf"
    assert reader.fields["quantize.imatrix.entries_count"].contents() == len(found.weights)


@pytest.mark.parametrize("file_type", LOW_AND_HIGH)
def test_the_blocks_are_those_of_llama_cpps_quantizer(file_type: str, tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    matrix = make_matrix(base, tmp_path / "theirs.gguf", head_columns=256)
    run(base, tmp_path, ("F16", file_type), importance=str(matrix))
    weights = read_importance(matrix).weights
    quantize(tmp_path / "m-F16.gguf", tmp_path / "reference.gguf", FILE_TYPES[file_type], importance=weights)
    ours, theirs = (gguf.GGUFReader(tmp_path / name).tensors for name in (f"m-{file_type}.gguf", "reference.gguf"))
    for one, other in zip(ours, theirs, strict=True):
        assert (one.name, one.tensor_type) == (other.name, other.tensor_type)
        assert one.data.tobytes() == other.data.tobytes(), one.name


def test_types_that_have_no_use_for_it_are_as_without(base: Path, tmp_path: Path) -> None:
    matrix = make_matrix(base, tmp_path / "theirs.gguf")
    plain = run(base, tmp_path / "plain", ("F16", "Q8_0", "Q4_K_M"))
    weighted = run(base, tmp_path / "weighted", ("F16", "Q8_0", "Q4_K_M"), importance=str(matrix))
    same = {
        name: (plain / name).read_bytes() == (weighted / name).read_bytes() for name in ("m-F16.gguf", "m-Q8_0.gguf")
    }
    assert same == {"m-F16.gguf": True, "m-Q8_0.gguf": True}
    assert (plain / "m-Q4_K_M.gguf").read_bytes() != (weighted / "m-Q4_K_M.gguf").read_bytes()


@pytest.mark.parametrize("importance", ["auto", "nowhere.gguf"])
def test_a_matrix_that_no_type_uses_is_told(
    importance: str, base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ConvertConfig(
        str(base), tmp_path / "out", types=("F16", "Q8_0", "safetensors"), importance=importance, importance_data=data
    )
    notes = convert(config).summary["notes"]
    assert notes == [f"--importance {importance} is not read: it changes nothing in F16, Q8_0, safetensors"]
    assert f"note: {notes[0]}" in capsys.readouterr().err


def test_the_certificate_knows_the_matrix_beside_the_file(base: Path, tmp_path: Path) -> None:
    """Errors that were moved to columns without weight are no fault, and look like one to who does not know the weights."""
    matrix = make_matrix(base, tmp_path / "theirs.gguf", spread=4.0)
    run(base, tmp_path, ("IQ2_XS",), importance=str(matrix))
    config = VerifyConfig(str(base), (str(tmp_path / "m-IQ2_XS.gguf"),), tmp_path / "certificate.json", sample=True)
    verify(config)
    certificate = json.loads(config.output.read_text())
    (tensors,) = [check for check in certificate["files"][0]["checks"] if check["name"] == "tensors"]
    assert tensors["details"]["importance"] == "theirs.gguf"
    matrix.unlink()
    with pytest.raises(CheckFailed, match="tensors"):
        verify(config)


def test_a_matrix_that_other_files_were_made_with_is_not_replaced(base: Path, data: Path, tmp_path: Path) -> None:
    """Else the certificate would look at them with the weights of another one."""
    ours = {"importance": "auto", "importance_data": data}
    out = run(base, tmp_path, ("Q3_K_M",), importance_tokens=4096, **ours)
    matrix = (out / "m.imatrix.gguf").read_bytes()
    run(base, out, ("IQ2_XS",), importance_tokens=4096, **ours)
    with pytest.raises(InputError, match=r"m-Q3_K_M\.gguf was made with .*m\.imatrix\.gguf, which would be another"):
        run(base, out, ("IQ2_XS",), importance_tokens=64, **ours)
    assert (out / "m.imatrix.gguf").read_bytes() == matrix
    run(base, out, ("IQ2_XS", "Q3_K_M"), importance_tokens=64, **ours)
    assert (out / "m.imatrix.gguf").read_bytes() != matrix


def test_what_is_no_model_beside_a_matrix_is_passed_over(base: Path, data: Path, tmp_path: Path) -> None:
    """A folder, a link to nothing, an empty file and half a model, which the folder of the files may hold, ended in a traceback."""
    ours = {"importance": "auto", "importance_data": data}
    out = run(base, tmp_path, ("Q3_K_M",), importance_tokens=4096, **ours)
    (out / "folder.gguf").mkdir()
    (out / "nowhere.gguf").symlink_to(out / "gone")
    (out / "empty.gguf").touch()
    (out / "half.gguf").write_bytes((out / "m-Q3_K_M.gguf").read_bytes()[:3000])
    matrix = (out / "m.imatrix.gguf").read_bytes()
    run(base, out, ("Q3_K_M",), importance_tokens=64, **ours)
    assert (out / "m.imatrix.gguf").read_bytes() != matrix


def test_a_matrix_from_elsewhere_comes_to_stand_beside_its_files(base: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    matrix = make_matrix(base, tmp_path / "elsewhere" / "theirs.gguf")
    for _ in range(2):
        run(base, tmp_path / "out", ("Q3_K_M",), importance=str(matrix))
        assert (tmp_path / "out" / "theirs.gguf").read_bytes() == matrix.read_bytes()
    make_matrix(base, matrix, seed=1)
    with pytest.raises(InputError, match=r"out/theirs\.gguf is another matrix than .*elsewhere/theirs\.gguf"):
        run(base, tmp_path / "out", ("Q3_K_M",), importance=str(matrix))


def test_a_full_disk_is_found_before_a_matrix_is_made(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**7, 10**7, 3 * 10**6))  # type: ignore[attr-defined]
    monkeypatch.setattr(convert_module, "write_tensors", None)
    with pytest.raises(ResourceError, match="convert needs"):  # the Q8_0 that reads the text would fit
        run(base, tmp_path / "out", ("F32", "Q2_K"), importance="auto", importance_data=data)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (None, r"train\.jsonl does not exist"),
        ("", r"train\.jsonl holds no text"),
        ('{"text": null}', r"train\.jsonl holds no text"),
        ('{"messages": [{"role": "user"}]}', r"train\.jsonl:1 is no conversation"),
        ('{"messages": "What is gout?"}', r"train\.jsonl:1 is no conversation"),
    ],
)
def test_text_that_is_none_is_found_before_the_work(
    line: str | None, reason: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if line is not None:
        (tmp_path / "train.jsonl").write_text(line + "\n")
    monkeypatch.setattr(convert_module, "write_tensors", None)
    with pytest.raises(InputError, match=reason):
        run(base, tmp_path / "out", ("Q2_K",), importance="auto", importance_data=tmp_path)
    assert not (tmp_path / "out").exists()


def test_without_a_template_what_is_said_is_read(base: Path, data: Path, tmp_path: Path) -> None:
    source = read_source(ConvertConfig(str(base), tmp_path, chat_template="none"))
    said = Tokenizer(source.vocabulary).encode_text(f"{TEXTS[0]}\nRest.")
    assert training_prompts(data, source, 4096)[0] == [source.vocabulary.bos_id, *said]


def test_records_that_say_nothing_are_passed_over(base: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ["", *TEXTS, ""]))
    source = read_source(ConvertConfig(str(base), tmp_path))
    assert [len(training_prompts(tmp_path, source, tokens)) for tokens in (1, 10_000)] == [1, 3]


@pytest.mark.parametrize("words", [(1,), (1, 60), (3, 2, 40, 1, 1, 9, 300)])
@pytest.mark.parametrize("share", [0.9, 0.55, 0.3, 0.02])
def test_the_text_is_spread_over_the_file(share: float, words: tuple[int, ...], base: Path, tmp_path: Path) -> None:
    """Of a file with 1.9 times as many tokens as are asked for, the first half was read."""
    texts = [f"{number} " + "gout " * words[number % len(words)] for number in range(1999)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = read_source(ConvertConfig(str(base), tmp_path))
    tokenizer = Tokenizer(source.vocabulary)
    numbers = {
        tuple([source.vocabulary.bos_id, *tokenizer.encode_text(text)][:512]): at for at, text in enumerate(texts)
    }
    wanted = round(share * sum(map(len, numbers)))
    prompts = training_prompts(tmp_path, source, wanted)
    found = [numbers[tuple(prompt)] for prompt in prompts]
    assert sorted(set(found)) == found
    assert sum(map(len, prompts)) == pytest.approx(wanted, rel=0.3)
    quarters = [sum(at // 500 == quarter for at in found) for quarter in range(4)]
    assert max(quarters) - min(quarters) <= 2, quarters
    # As many of each length as the file has: a record is drawn wherever it stands in its run.
    kinds = [sum(at % len(words) == kind for at in found) for kind in range(len(words))]
    assert min(kinds) > 0.3 * len(found) / len(words) - 2, kinds


def test_little_of_a_large_file_is_tokenized(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, encoded, encode = [f"Gout, case {number}." for number in range(3000)], [], Tokenizer.encode_text
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = read_source(ConvertConfig(str(base), tmp_path))
    monkeypatch.setattr(Tokenizer, "encode_text", lambda *given: encoded.append(given) or encode(*given))
    assert len(training_prompts(tmp_path, source, 300)) > 5
    assert len(encoded) < 400


def test_what_a_killed_process_left_is_gone_after_the_next(base: Path, data: Path, tmp_path: Path) -> None:
    command = (
        "import os, signal; from convert import convert as module; from convert.config import ConvertConfig; "
        "from pathlib import Path; module.make_importance = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
        f"module.convert(ConvertConfig({str(base)!r}, Path({str(tmp_path)!r}), types=('Q2_K',), importance='auto', "
        f"importance_data=Path({str(data)!r}), name='m'))"
    )
    assert subprocess.run([sys.executable, "-c", command]).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".partial")
    assert [path.name for path in left.iterdir()] == ["m-Q8_0.gguf"]
    run(base, tmp_path, ("Q2_K",), importance="auto", importance_data=data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m-Q2_K.gguf", "m.imatrix.gguf"]


def write_dat(path: Path, weights: dict[str, Any], calls: int, text: str | None) -> Path:
    """What llama-imatrix wrote before it wrote GGUF."""
    content = struct.pack("<i", len(weights))
    for name, values in weights.items():
        content += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, values.size)
        content += (values * numpy.float32(max(1, calls))).astype("<f4").tobytes()
    if text is not None:
        content += struct.pack("<ii", 7, len(text.encode())) + text.encode()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("calls", "text"), [(8, "wiki.txt"), (0, "würfel.txt"), (4, None)])
def test_a_matrix_in_the_older_format_is_as_good(calls: int, text: str | None, base: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    new = make_matrix(base, tmp_path / "old" / "new.gguf")
    weights = read_importance(new).weights
    old = write_dat(tmp_path / "old" / "theirs.imatrix", weights, calls, text)
    for kind, matrix in (("with new", new), ("with old", old)):
        run(base, tmp_path / kind, ("Q3_K_M",), importance=str(matrix))
    one, other = (gguf.GGUFReader(tmp_path / kind / "m-Q3_K_M.gguf") for kind in ("with new", "with old"))
    assert all(a.data.tobytes() == b.data.tobytes() for a, b in zip(one.tensors, other.tensors, strict=True))
    assert other.fields["quantize.imatrix.file"].contents() == "theirs.imatrix.gguf"
    assert other.fields["quantize.imatrix.dataset"].contents() == (text or "theirs.imatrix")
    kept = read_importance(tmp_path / "with old" / "theirs.imatrix.gguf")
    assert kept.weights.keys() == weights.keys()
    assert all(numpy.array_equal(kept.weights[name], weights[name]) for name in weights)
    run(base, tmp_path / "with old", ("Q3_K_M",), importance=str(old))  # it is the same matrix again


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400), byte=st.integers(0, 255), place=st.integers(0, 400))
def test_a_damaged_older_matrix_is_an_error_for_people(cut: int, byte: int, place: int, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("older") / "theirs.dat"
    write_dat(path, {"blk.0.attn_q.weight": numpy.ones(64, dtype=numpy.float32)}, 3, "wiki.txt")
    content = bytearray(path.read_bytes())
    content[place % len(content)] = byte
    path.write_bytes(content[: cut or None])
    with contextlib.suppress(InputError):
        read_importance(path)


def test_what_is_no_matrix_is_told(base: Path, tmp_path: Path) -> None:
    old, model = tmp_path / "old.dat", run(base, tmp_path / "model", ("Q8_0",)) / "m-Q8_0.gguf"
    old.write_bytes(b"\x0e\0\0\0\x13\0\0\0blk.0.attn_q.weight\x01\0\0\0")
    for path, reason in (
        (old, "is not an importance matrix: it is cut short, or in another format"),
        (model, "is not an importance matrix: it has no imatrix.datasets"),
        (tmp_path, "is no file"),
        (tmp_path / "nowhere", "does not exist"),
    ):
        with pytest.raises(InputError, match=reason) as refusal:
            read_importance(path)
        assert "llama-imatrix" in (refusal.value.hint or "")


def test_a_matrix_in_a_file_is_an_input_of_the_stage(tmp_path: Path) -> None:
    (tmp_path / "theirs.gguf").touch()
    config = ConvertConfig("base", tmp_path, importance=str(tmp_path / "theirs.gguf"))
    assert input_paths(config)["importance"] == [tmp_path / "theirs.gguf"]


def test_low_types_ask_for_a_matrix(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="IQ2_XS needs an importance matrix") as refusal:
        run(base, tmp_path / "out", ("IQ2_XS",))
    assert "--importance auto" in (refusal.value.hint or "")


def test_a_matrix_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    other = make_llama2_checkpoint(tmp_path / "other", hidden_size=512, intermediate_size=512)
    matrix = make_matrix(other, tmp_path / "theirs.gguf")
    with pytest.raises(
        InputError, match=r"is not of this model: it has 512 columns for blk\.0\.\w+\.weight, whose columns are 256"
    ):
        run(base, tmp_path / "out", ("Q3_K_M",), importance=str(matrix))


def test_a_matrix_of_another_models_head_is_refused(base: Path, tmp_path: Path) -> None:
    """As llama-imatrix --process-output writes."""
    matrix = make_matrix(base, tmp_path / "theirs.gguf", head_columns=128)
    with pytest.raises(InputError, match=r"it has 128 columns for output\.weight, whose columns are 256"):
        run(base, tmp_path / "out", ("Q3_K_M",), importance=str(matrix))


def test_ctrl_c_while_text_is_read_is_not_lost(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes inside of what llama.cpp calls, which no exception passes: sums would lack what was not seen."""
    see, seen = _Collector._see, []

    def interrupted(collector: _Collector, *given: Any, **settings: Any) -> bool:
        seen.append(given)
        if len(seen) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return see(collector, *given, **settings)

    monkeypatch.setattr(_Collector, "_see", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    try:
        with Model(run(base, tmp_path, ("F32",)) / "m-F32.gguf") as model, pytest.raises(KeyboardInterrupt):
            collect_activations(model, [[1, *range(10, 500)]] * 3)
    finally:
        signal.signal(signal.SIGINT, before)


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 4000), byte=st.integers(0, 255), place=st.integers(0, 4000))
def test_a_damaged_matrix_is_an_error_for_people(cut: int, byte: int, place: int, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    writer = gguf.GGUFWriter(folder / "good.gguf", "other")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["theirs.txt"])
    writer.add_uint32("imatrix.chunk_count", 7)
    writer.add_tensor("blk.0.attn_q.weight.in_sum2", numpy.ones((1, 64), dtype=numpy.float32))
    writer.add_tensor("blk.0.attn_q.weight.counts", numpy.ones((1, 1), dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    content = bytearray((folder / "good.gguf").read_bytes())
    content[place % len(content)] = byte
    (folder / "bad.gguf").write_bytes(content[: cut or None])
    with contextlib.suppress(InputError):
        read_importance(folder / "bad.gguf")


def test_auto_asks_for_its_text() -> None:
    problems = ConvertConfig("base", Path(), importance="auto").problems()
    assert problems == ["importance_data: name the data folder that --importance auto reads"]
