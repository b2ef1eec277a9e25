"""One pass: the bytes do not depend on slabs or cores, nothing is written but the files, and a killed one leaves nothing wrong."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch

from convert import checkpoint, source, stream
from convert import convert as convert_module
from convert.config import ConvertConfig
from convert.convert import convert
from convert.slab import Slab
from convert.weights import StoredTensor, read_tensors
from medllama.checkpoint import base_digests, base_states
from medllama.errors import InputError, ResourceError
from medllama.files import sha256_file
from tests.adapters import LINEAR, load_base, make_adapter
from tests.checkpoints import make_llama2_checkpoint

TYPES = ("F32", "F16", "BF16", "Q4_K_M", "Q8_0")
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "DoRA": {"use_dora": True},
    "trained tokens": {"trainable_token_indices": [5, 17, 300]},
    "saved head": {"modules_to_save": ["lm_head"]},
    "embedding": {"target_modules": [*LINEAR, "embed_tokens"]},
}


def files(base: Path, out: Path, adapter: Path | None = None, types: tuple[str, ...] = TYPES) -> dict[str, bytes]:
    convert(ConvertConfig(str(base), out, adapter=adapter, types=types, name="m"))
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama2_checkpoint(tmp_path_factory.mktemp("stream") / "base", hidden_size=256, num_attention_heads=4)


@pytest.mark.parametrize("rows", [1, 7, 64, 100])
def test_the_bytes_do_not_depend_on_the_slabs(
    rows: int, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = files(base, tmp_path / "whole")
    monkeypatch.setattr(stream, "SLAB_VALUES", rows * 256)
    assert files(base, tmp_path / "slabs") == whole


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no advice")
def test_the_disk_is_asked_for_what_will_be_read(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each slab, but for those that are read at once."""
    asked, read = [], []
    values = StoredTensor._values

    def reading(tensor: StoredTensor, first: int, count: int) -> Any:
        found = values(tensor, first, count)
        read.append((tensor.offset + first * found.itemsize, found.nbytes))
        return found

    monkeypatch.setattr(StoredTensor, "_values", reading)
    monkeypatch.setattr(os, "posix_fadvise", lambda file, begin, size, advice: asked.append((begin, size)))
    monkeypatch.setattr(stream, "SLAB_VALUES", 64 * 256)
    files(base, tmp_path, types=("F16",))
    assert len(set(asked)) == len(asked) == len(read) - stream.SLABS_AHEAD
    assert set(asked) < set(read)


def test_a_system_that_takes_no_advice_makes_the_same_bytes(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = files(base, tmp_path / "whole", types=("F16",))
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    assert files(base, tmp_path / "without", types=("F16",)) == whole


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_is_merged_by_slabs_as_whole(
    kind: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", **ADAPTERS[kind])
    files(base, tmp_path / "whole", adapter, ("F32",))
    monkeypatch.setattr(stream, "SLAB_VALUES", 7 * 256)
    files(base, tmp_path / "slabs", adapter, ("F32",))
    for one, other in zip(
        *(gguf.GGUFReader(tmp_path / name / "m-F32.gguf").tensors for name in ("whole", "slabs")), strict=True
    ):
        # A product of few rows may be summed in another order than one of many.
        largest = numpy.abs(one.data).max(axis=-1, keepdims=True)
        assert (numpy.abs(one.data - other.data) <= 1e-6 * largest).all(), one.name


def test_the_bytes_do_not_depend_on_the_cores(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    monkeypatch.setattr(stream, "SLAB_VALUES", 32 * 256)
    found = []
    for cores in (1, 2, 8):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        found.append(files(base, tmp_path / str(cores), adapter))
    assert found[0] == found[1] == found[2]


def test_nothing_but_the_files_is_written(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted where the tensors are written; the headers come on top."""
    written, pwrite = [], os.pwrite

    def counted(descriptor: int, data: Any, place: int) -> int:
        written.append(len(data))
        return pwrite(descriptor, data, place)

    monkeypatch.setattr(os, "pwrite", counted)
    found = files(base, tmp_path / "out", types=("Q4_K_M", "Q8_0"))
    assert sum(written) <= sum(map(len, found.values())) < sum(written) + 200_000
    assert sorted(found) == ["m-Q4_K_M.gguf", "m-Q8_0.gguf"]


def test_the_base_is_read_once_for_all_types(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, read, values = make_adapter(base, tmp_path / "adapter"), [], StoredTensor._values

    def counted(tensor: StoredTensor, first: int, count: int) -> Any:
        if tensor.path.parent == base:
            read.append(4 * count)
        return values(tensor, first, count)

    monkeypatch.setattr(StoredTensor, "_values", counted)
    run = ConvertConfig(str(base), tmp_path / "out", adapter=adapter, types=("F16", "Q4_K_M", "Q8_0", "safetensors"))
    convert(run)
    assert sum(read) == sum(tensor.size_bytes for tensor in read_tensors([base / "model.safetensors"]).values())


def test_what_the_adapter_was_trained_on_is_compared_beside_the_other_work(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SHA-256 of a 7B base takes half as long as its conversion to F16."""
    adapter = make_adapter(base, tmp_path / "adapter")
    (adapter / "training.json").write_text(json.dumps({"base": {"files": base_digests(base)}}))
    is_working = threading.Event()

    def working(*given: Any) -> Slab:
        is_working.set()
        return Slab(*given)

    def digest(path: Path) -> str:
        assert is_working.wait(60), "nothing else was begun"
        return sha256_file(path)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(stream, "Slab", working)
    monkeypatch.setattr(source, "sha256_file", digest)
    assert list(files(base, tmp_path / "out", adapter, ("Q8_0",))) == ["m-Q8_0.gguf"]


def test_a_base_as_training_left_it_is_not_read_for_its_digests(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    trained_on = {"files": dict.fromkeys(base_digests(base), "unread"), "states": base_states(base)}
    (adapter / "training.json").write_text(json.dumps({"base": trained_on}))
    assert list(files(base, tmp_path / "out", adapter, ("Q8_0",))) == ["m-Q8_0.gguf"]


def test_a_checkpoint_in_slabs_and_shards_holds_the_tensors_of_the_base(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 1_000_000)
    monkeypatch.setattr(stream, "SLAB_VALUES", 64 * 256)
    convert(ConvertConfig(str(base), tmp_path, types=("safetensors",), name="m"))
    assert len(list((tmp_path / "m-safetensors").glob("model-*.safetensors"))) > 2
    expected, found = load_base(base).state_dict(), load_base(tmp_path / "m-safetensors").state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_a_full_disk_is_found_before_a_tensor_is_read(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    monkeypatch.setattr(stream, "Slab", None)
    with pytest.raises(ResourceError, match=r"no room for .*m-F16\.gguf.* \(\d.* MB\): No space left"):
        files(base, tmp_path / "out", types=("F16", "Q4_K_M", "safetensors"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_is_made_under_a_limit_that_it_keeps_itself(base: Path, tmp_path: Path) -> None:
    """The 16-bit file whose values are quantized is made nowhere, not even as a hole: of 13 GB not every file system has one."""
    whole = files(base, tmp_path / "free", types=("Q2_K",))["m-Q2_K.gguf"]
    command = (
        "import resource; from convert.config import ConvertConfig; from convert.convert import convert; "
        f"from pathlib import Path; resource.setrlimit(resource.RLIMIT_FSIZE, ({len(whole)}, {len(whole)})); "
        f"convert(ConvertConfig({str(base)!r}, Path({str(tmp_path / 'limited')!r}), types=('Q2_K',), name='m'))"
    )
    (tmp_path / "tmp").mkdir()
    subprocess.run([sys.executable, "-c", command], check=True, env={**os.environ, "TMPDIR": str(tmp_path / "tmp")})
    assert (tmp_path / "limited" / "m-Q2_K.gguf").read_bytes() == whole
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_file_system_that_cannot_take_room_is_written_to_all_the_same(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    expected = files(base, tmp_path / "whole")
    monkeypatch.setattr(os, "posix_fallocate", cannot)
    assert files(base, tmp_path / "out") == expected


def test_a_merge_that_diverged_is_refused(base: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    adapter = make_adapter(base, tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    for name in tensors:
        tensors[name] = numpy.full_like(tensors[name], 3e30 if "lora_" in name else 1)
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"_proj\.weight merged with .*adapter holds values that are NaN or infinite"):
        files(base, tmp_path / "out", adapter, ("BF16",))


@pytest.mark.parametrize("change", ["cut", "gone", "written again"])
def test_a_base_that_changes_meanwhile_is_found_out(
    change: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = shutil.copytree(base, tmp_path / "base")
    weights, whole = own / "model.safetensors", convert_module.write_tensors

    def disturbed(*given: Any) -> None:
        if change == "cut":
            os.truncate(weights, weights.stat().st_size - 100)
        if change == "gone":
            weights.unlink()
        whole(*given)
        os.utime(weights, (0, 0))

    monkeypatch.setattr(convert_module, "write_tensors", disturbed)
    with pytest.raises(InputError, match=r"model\.safetensors changed while it was read"):
        files(own, tmp_path / "out", types=("Q8_0", "safetensors"))
    assert list((tmp_path / "out").iterdir()) == []


def test_ctrl_c_does_not_wait_for_slabs_that_nobody_works_on(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while slabs are handed out, of which a large model has thousands."""
    begun, may_end = [], threading.Event()

    class Pool(ThreadPoolExecutor):
        def submit(self, *given: Any) -> Any:
            if self._work_queue.qsize() == 20:
                raise KeyboardInterrupt
            return super().submit(*given)

        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            may_end.set()
            super().shutdown(wait=wait)

    def slow(*given: Any) -> Any:
        begun.append(given)
        may_end.wait()
        return Slab(*given)

    monkeypatch.setattr(stream, "SLAB_VALUES", 16 * 256)
    monkeypatch.setattr(stream, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(stream, "Slab", slow)
    with pytest.raises(KeyboardInterrupt):
        files(base, tmp_path / "out", types=("F16",))
    assert len(begun) <= len(os.sched_getaffinity(0))
    assert list((tmp_path / "out").iterdir()) == []


def test_two_at_once_do_not_write_the_same_file(base: Path, tmp_path: Path) -> None:
    """The first to end gave its name to what the other had written so far, and if that was killed then, half a file stayed."""
    out = tmp_path / "out"
    out.mkdir()
    other = os.open(out, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(ResourceError, match=r"another medllama convert is writing into .*out"):
        files(base, out, types=("Q8_0",))
    assert list(out.iterdir()) == []
    os.close(other)
    assert list(files(base, out, types=("Q8_0",))) == ["m-Q8_0.gguf"]


def test_a_killed_pass_leaves_no_file_and_the_next_one_is_right(base: Path, tmp_path: Path) -> None:
    expected = files(base, tmp_path / "whole")
    out = tmp_path / "out"
    slow = (
        "import sys, time; from convert import slab; from convert.config import ConvertConfig; "
        "from convert.convert import convert; from pathlib import Path; whole = slab.quantize_rows; "
        "slab.quantize_rows = lambda *given: (time.sleep(0.5), whole(*given))[1]; "
        f"convert(ConvertConfig({str(base)!r}, Path({str(out)!r}), types={TYPES!r}, name='m'))"
    )
    process = subprocess.Popen([sys.executable, "-c", slow])
    until = time.monotonic() + 120
    while not (partials := list(out.glob("*.partial"))) and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(partials) > 0
    assert list(out.glob("*.gguf")) == []
    assert files(base, out) == expected
