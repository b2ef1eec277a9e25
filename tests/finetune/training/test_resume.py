"""A training that was killed goes on from its last checkpoint and ends with the bytes of one that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune.train import train
from finetune.train_config import TrainConfig
from finetune.training.checkpoints import Checkpoints
from medllama.errors import InputError
from tests.conftest import REPOSITORY

# Dropout, so that the random states count; phases, so that a finished one is not trained again.
PHASES: dict[str, Any] = {
    "reading": {"learn": "text", "max_steps": 6},
    "answering": {"learn": "messages", "epochs": 6.0, "patience": 100},
}
SETTINGS = {"rank": 4, "alpha": 8.0, "learning_rate": 5e-3, "batch_size": 4, "dropout": 0.1, "evaluations": 5}
KILLED = """
import os, signal, sys
from pathlib import Path
from finetune.training import trainer
from finetune.train import train
from finetune.train_config import TrainConfig
plain = trainer.AdapterTrainer.training_step
def step(self, *given, **named):
    if Path(self.args.output_dir).name == sys.argv[1] and self.state.global_step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, *given, **named)
trainer.AdapterTrainer.training_step = step
train(TrainConfig(**eval(sys.argv[3])))
"""


def fields(folder: Path, output: str, **changes: Any) -> dict[str, Any]:
    paths = {"base_model": str(folder / "base"), "data": folder / "data", "output_dir": folder / output}
    return {**paths, **SETTINGS, "phases": PHASES, **changes}


def kill_at(given: dict[str, Any], phase: str, step: int) -> None:
    """Run the training in a process of its own that is killed before this step of this phase."""
    written = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    text = repr(written).replace(f"'data': {written['data']!r}", f"'data': Path({written['data']!r})")
    text = text.replace(f"'output_dir': {written['output_dir']!r}", f"'output_dir': Path({written['output_dir']!r})")
    program = [sys.executable, "-c", KILLED, phase, str(step), text]
    done = subprocess.run(program, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    train(TrainConfig(**fields(folder, "undisturbed")))
    return folder / "undisturbed"


def same(made: Path, expected: Path) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json", "metrics.jsonl"):
        assert (made / name).read_bytes() == (expected / name).read_bytes(), name
    made_of, expected_of = (json.loads((path / "training.json").read_text()) for path in (made, expected))
    for key in ("loss", "steps", "best_step", "trained_tokens"):
        assert made_of[key] == expected_of[key], key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "step"),
    [("answering", 15), ("reading", 3)],
    ids=["in the second phase, past an epoch", "in the first phase"],
)
def test_killed_and_started_again_it_ends_with_the_same_bytes(
    folder: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str], phase: str, step: int
) -> None:
    given = fields(folder, f"killed-{phase}")
    checkpoints = Checkpoints(given["output_dir"])
    kill_at(given, phase, step)
    assert not given["output_dir"].exists()
    last = checkpoints.last(phase, remove=False)
    assert last is not None
    assert 0 < last[1] < step, "a checkpoint before the kill, and steps after it that are lost"
    train(TrainConfig(**given))
    assert f"{phase} goes on from its checkpoint of step {last[1]}" in capsys.readouterr().err
    same(given["output_dir"], undisturbed)
    assert not checkpoints.folder.exists()


def interrupted(folder: Path, output: str, **changes: Any) -> dict[str, Any]:
    """A training that stopped, as by Ctrl-C, after its first checkpoint."""
    given = fields(folder, output, phases={}, max_steps=6, evaluations=3, **changes)
    from finetune.training.trainer import AdapterTrainer

    plain = AdapterTrainer.training_step

    def step(self: Any, *its: Any, **named: Any) -> Any:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return plain(self, *its, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AdapterTrainer, "training_step", step)
        with pytest.raises(KeyboardInterrupt):
            train(TrainConfig(**given))
    return given


def test_a_checkpoint_that_was_cut_short_is_left_out(folder: Path) -> None:
    given = interrupted(folder, "cut-short")
    checkpoints = Checkpoints(given["output_dir"])
    last = checkpoints.last("train", remove=False)
    assert last is not None
    torn = last[0].with_name("checkpoint-5")
    shutil.copytree(last[0], torn)
    state = torn / "trainer_state.json"
    state.write_text(state.read_text()[:100])
    assert checkpoints.last("train", remove=True) == last
    assert not torn.exists()
    shutil.rmtree(checkpoints.folder)


def test_checkpoints_of_other_settings_are_not_gone_on_from(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = interrupted(folder, "changed")
    changed = TrainConfig(**{**given, "learning_rate": 1e-3})
    train(changed)
    said = capsys.readouterr().err
    assert "is of a training with other settings or data, and is replaced" in said
    assert "goes on" not in said


def test_old_checkpoints_are_rotated(folder: Path) -> None:
    given = interrupted(folder, "rotated")
    kept = sorted((Checkpoints(given["output_dir"]).folder / "train").glob("checkpoint-*"))
    assert 1 <= len(kept) <= 2, "the last one and the best one"
    train(TrainConfig(**given))


def test_a_divergence_leaves_nothing_to_go_on_from(folder: Path) -> None:
    given = fields(folder, "diverged", phases={}, max_steps=8, learning_rate=1e30)
    with pytest.raises(InputError, match="the loss became nan"):
        train(TrainConfig(**given))
    assert not Checkpoints(given["output_dir"]).folder.exists()
    assert not os.path.lexists(given["output_dir"])
