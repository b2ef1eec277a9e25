"""The truth that verify computes is PEFT's and Transformers', for every kind of adapter; nothing of the converter is used.

The comparison is made where it counts: PEFT's own unmerged forward pass in float64, and the same model carrying verify's weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from convert.checks.reference import Reference, checkpoint_rows, read_reference
from convert.checks.tensors import round_to
from medllama.errors import InputError, UnsupportedError
from tests.adapters import LINEAR, load_unmerged, make_adapter
from tests.checkpoints import make_llama2_checkpoint

IDS = [1, 5, 17, 300, 7, 42, 480]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "attention only": {"target_modules": ["q_proj", "v_proj"]},
    "one layer": {"layers_to_transform": [1]},
    "patterns": {
        "rank_pattern": {"q_proj": 8, "layers.1.mlp.up_proj": 2},
        "alpha_pattern": {"down_proj": 3, ".*k_proj": 5},
    },
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "saved embedding and head": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "saved head": {"modules_to_save": ["lm_head"]},
    "saved embedding": {"modules_to_save": ["embed_tokens"]},
    "saved norm": {"modules_to_save": ["norm"]},
    "trained tokens": {"trainable_token_indices": [5, 17, 300]},
    "trained tokens of the head": {"trainable_token_indices": {"embed_tokens": [7], "lm_head": [42]}},
    "head": {"target_modules": [*LINEAR, "lm_head"]},
    "embedding": {"target_modules": [*LINEAR, "embed_tokens"]},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # the models are so small that threads only wait for each other


@pytest.fixture(scope="module", params=["untied", "tied"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "base"
    return make_llama2_checkpoint(folder, tie_word_embeddings=request.param == "tied", attention_bias=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_the_weights_are_what_peft_computes(kind: str, base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", **KINDS[kind])
    reference = read_reference(base, adapter)
    unmerged, plain = load_unmerged(base, adapter).double(), load_unmerged(base, None).double()
    with torch.inference_mode():
        before = plain(torch.tensor([IDS])).logits
        carry(reference, plain)
        ours, theirs = plain(torch.tensor([IDS])).logits, unmerged(torch.tensor([IDS])).logits
    # float64 sums in another order, which norms round to float32; the adapter itself moves the logits by 1e-3 and more.
    assert float((ours - theirs).abs().max()) < 1e-7
    assert float((before - theirs).abs().max()) > 1e-3


def carry(reference: Reference, model: LlamaForCausalLM) -> None:
    """Put verify's weights, from the GGUF's names and row order, into a Transformers model."""
    weights = reference.weights("merged")
    modules = dict(model.named_modules())
    for name, expected in weights.expected.items():
        rows = weights.rows(name, 0, expected.shape[0])
        values = np.empty_like(rows)
        if len(expected.shape) == 1:
            values[0, checkpoint_rows(np.arange(expected.shape[0]), expected.head_dim)] = rows[0]
        else:
            values[checkpoint_rows(np.arange(expected.shape[0]), expected.head_dim)] = rows
        module, _, attribute = expected.parameter.rpartition(".")
        setattr(modules[module], attribute, torch.nn.Parameter(torch.from_numpy(values.reshape(expected.shape))))


def test_query_rows_are_found_by_the_definition_of_the_two_layouts() -> None:
    """llama.cpp turns rows 2j and 2j + 1 of a head together, Transformers j and j + d/2."""
    rows = checkpoint_rows(np.arange(12), head_dim=6)
    assert rows.tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


@pytest.mark.parametrize(("name", "dtype"), [("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_rounding_is_torchs_and_happens_once(name: str, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.standard_normal(50_000), rng.standard_normal(5_000) * 1e-6, [0.0, -0.0, 65504.0]])
    ours = round_to(values[None].astype(np.float32).astype(np.float64), name)[0]
    theirs = torch.from_numpy(values.astype(np.float32)).to(dtype).view(torch.uint16).numpy()
    assert (ours == theirs).all()


def test_a_value_just_over_a_tie_of_bfloat16_is_not_rounded_twice() -> None:
    over = 1.0 + 2.0**-8 + 2.0**-40  # float32 cannot tell it from the tie, which would go to even, down
    assert round_to(np.array([[over]]), "BF16")[0, 0] == 0x3F81
    assert round_to(np.array([[1.0 + 2.0**-8]]), "BF16")[0, 0] == 0x3F80


def test_an_adapter_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    other = make_llama2_checkpoint(tmp_path / "other", hidden_size=128, num_attention_heads=2)
    adapter = make_adapter(other, tmp_path / "adapter")
    with pytest.raises(InputError, match="does not belong to"):
        read_reference(base, adapter)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
    ],
)
def test_what_verify_cannot_compute_is_refused_by_name(
    change: dict[str, Any], named: str, base: Path, tmp_path: Path
) -> None:
    import json

    adapter = make_adapter(base, tmp_path / "adapter")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UnsupportedError, match=named):
        read_reference(base, adapter)


def test_a_cut_or_pickled_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="is not safetensors"):
        read_reference(base, adapter)
    path.rename(adapter / "adapter_model.bin")
    with pytest.raises(InputError, match="only a pickle"):
        read_reference(base, adapter)


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": "big"}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": "x"}},
        {"head_dim": 0},
    ],
)
def test_a_wrong_value_in_config_json_is_named(change: dict[str, Any], tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=r"config\.json"):
        read_reference(base, None)
