"""The training of each recipe that needs gated weights, run with its own settings on a base of the same family and small size."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.train import train
from finetune.train_config import CUDA_ONLY_OPTIMIZERS, TrainConfig
from medllama.cli import parser
from medllama.files import read_json
from medllama.gpus import find_gpu
from medllama.pipeline import configure_all
from medllama.plan import plan
from medllama.recipe import load_recipe
from medllama.stages import BY_NAME
from tests.checkpoints import make_llama2_checkpoint, make_llama3_checkpoint
from tests.finetune.small_data import write_data

GATED = {"llama2-7b": "llama2", "llama2-7b-qlora": "llama2", "llama3.2-1b": "llama3"}
SMALL: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    make_llama2_checkpoint(folder / "llama2", **SMALL)
    make_llama3_checkpoint(folder / "llama3", **SMALL)
    write_data(folder / "data")
    return folder


def settings(name: str, folder: Path) -> TrainConfig:
    configs, problems = configure_all((BY_NAME["train"],), load_recipe(name), folder / name, {})
    assert problems == []
    config = configs["train"]
    assert isinstance(config, TrainConfig)
    return config


@pytest.mark.parametrize("name", list(GATED))
def test_a_gated_recipes_training_runs_at_small_size(name: str, folder: Path) -> None:
    own = settings(name, folder)
    if own.quantization == "nf4":
        pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes: pip install medllama[gpu]")
    small = dataclasses.replace(
        own,
        base_model=str(folder / GATED[name]),
        data=folder / "data",
        output_dir=folder / f"{name}-adapter",
        max_steps=12,
    )
    if small.optimizer in CUDA_ONLY_OPTIMIZERS and not torch.cuda.is_available():
        small = dataclasses.replace(small, optimizer="adamw_torch_fused")
    train(small)
    told = read_json(small.output_dir / "training.json")
    assert told["attention"] == "documents"
    assert told["loss"]["test"]["tuned"]["nats_per_token"] < told["loss"]["test"]["base"]["nats_per_token"]


@pytest.mark.parametrize(
    ("name", "gpu"), [("llama2-7b", "rtx4090-24gb"), ("llama2-7b-qlora", "t4-16gb"), ("llama3.2-1b", "t4-16gb")]
)
def test_a_recipe_fits_the_gpu_that_it_names(name: str, gpu: str, tmp_path: Path) -> None:
    figures = plan(load_recipe(name), tmp_path, gpu)["gpu"]
    assert figures["fits"]
    promised = float(load_recipe(name).description.split(" GB GPU")[0].split()[-1]) * 1e9
    assert figures["needed_bytes"] < promised <= find_gpu(gpu).memory_bytes


@pytest.mark.parametrize("name", list(GATED))
def test_every_key_of_a_recipes_training_says_what_it_costs_or_brings(name: str) -> None:
    """A key may leave its comment to the recipe that explains it first."""
    lines = load_recipe("llama2-7b").path.read_text().splitlines()
    explained = {line.split(":")[0].strip() for line in lines if "#" in line and ":" in line}
    own = load_recipe(name).path.read_text().split("\ntrain:\n")[1].split("\n\n")[0].splitlines()
    bare = [line.split(":")[0].strip() for line in own if "#" not in line]
    assert set(bare) - {"base_model"} <= explained


def test_the_published_settings_are_one_command_away(folder: Path) -> None:
    """The recipe's own are better and say why; the command in its header repeats those of the published tunes."""
    header = load_recipe("llama3.2-1b").path.read_text().split("\nname:")[0]
    command = re.search(r"`medllama run (llama3\.2-1b .*?)`", header.replace("\n# ", " "))
    assert command is not None
    given = vars(parser().parse_args(["train", *shlex.split(command[1])]))
    flags = {
        key: value for key, value in given.items() if key in {field.name for field in dataclasses.fields(TrainConfig)}
    }
    configs, problems = configure_all((BY_NAME["train"],), load_recipe("llama3.2-1b"), folder, flags)
    assert problems == []
    used = configs["train"]
    assert (used.learning_rate, used.batch_size, used.gradient_accumulation, used.packing) == (2e-5, 16, 1, False)
    assert used.optimizer.startswith("adamw")
