"""What the trainings of these tests begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import make_llama2_checkpoint
from tests.finetune.small_data import write_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base/`, a small random one, and `data/`; the trainings of a module write theirs beside."""
    folder = tmp_path_factory.mktemp("training")
    make_llama2_checkpoint(folder / "base", hidden_size=64, intermediate_size=128, num_hidden_layers=2)
    write_data(folder / "data")
    return folder
