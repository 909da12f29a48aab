"""Checkpoints: what is read is what was written, and a save that fails leaves the one before it whole."""

from __future__ import annotations

import json
import os
import random
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sightline.errors import UserError
from sightline.train import checkpoint
from sightline.train.checkpoint import Learner, Position
from sightline.train.ema import Ema
from sightline.train.precision import pick_precision
from tests.forked import TRAINER, Forks


def learner(seed: int, steps: int = 3) -> Learner:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    model[2].weight = nn.Parameter(torch.randn(2, 8))
    made = Learner(
        model,
        torch.optim.AdamW(model.parameters(), lr=0.1),
        pick_precision("fp32", torch.device("cpu")),
        Ema(model, 0.9),
    )
    train(made, steps)
    return made


def train(made: Learner, steps: int) -> list[float]:
    losses = []
    for step in range(steps):
        made.optimizer.zero_grad()
        loss = made.model(torch.randn(5, 4)).square().sum() + random.random() + float(np.random.rand())
        loss.backward()
        made.optimizer.step()
        assert made.ema is not None
        made.ema.update(step)
        losses.append(float(loss.detach()))
    return losses


def test_a_restored_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    first = learner(0)
    position = Position(stage=1, step=3, global_step=9, best=0.25, stale=2, window_loss=0.1 + 0.2, window_tokens=7)
    checkpoint.save(tmp_path / "see-3", first, position)
    expected = train(first, 4)

    second = learner(1)
    assert checkpoint.load(tmp_path / "see-3", second) == position
    assert train(second, 4) == expected
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.ema is not None and second.ema is not None
    assert all(torch.equal(first.ema.values[name], second.ema.values[name]) for name in first.ema.values)


def test_tied_weights_survive(tmp_path: Path) -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    made = Learner(model, torch.optim.AdamW(model.parameters()), pick_precision("fp32", torch.device("cpu")), None)
    checkpoint.save(tmp_path / "a-1", made, Position())
    wanted = model["embed"].weight.clone()
    with torch.no_grad():
        model["embed"].weight.zero_()
    checkpoint.load(tmp_path / "a-1", made)
    assert torch.equal(model["embed"].weight, wanted)
    assert model["head"].weight is model["embed"].weight


def test_latest_best_and_pruning(tmp_path: Path) -> None:
    made = learner(0)
    for step in (1, 2, 3, 4):
        checkpoint.save(tmp_path / f"see-{step}", made, Position(step=step, global_step=step))
        if step == 1:
            checkpoint.point("best", tmp_path / "see-1")
        checkpoint.prune(tmp_path, keep=2)
    left = sorted(path.name for path in tmp_path.iterdir() if path.is_dir() and not path.is_symlink())
    assert left == ["see-1", "see-3", "see-4"]
    assert os.readlink(tmp_path / "latest") == "see-4"
    assert checkpoint.latest(tmp_path) == tmp_path / "see-4"


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_write_leaves_the_one_before(tmp_path: Path, forks: Forks) -> None:
    """The process dies by SIGKILL after half of the files; the next run finds the earlier checkpoint."""
    script = textwrap.dedent(
        """
        import os, signal, sys
        sys.path.insert(0, sys.argv[2])
        from pathlib import Path
        from tests.train.test_checkpoint import learner
        from sightline.train import checkpoint
        made, folder = learner(0), Path(sys.argv[1])
        checkpoint.save(folder / "see-1", made, checkpoint.Position(step=1, global_step=1))
        written = []
        real = checkpoint.save_file
        def dying(tensors, path, *args):
            real(tensors, path, *args)
            written.append(path)
            if len(written) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        checkpoint.save_file = dying
        checkpoint.save(folder / "see-2", made, checkpoint.Position(step=2, global_step=2))
        """
    )
    (tmp_path / "script.py").write_text(script)
    command = ("script.py", str(tmp_path), str(Path(__file__).parents[2]))
    ended = forks.run(*command, cwd=tmp_path, knows=TRAINER, check=False)
    assert ended.returncode == -9
    found = checkpoint.latest(tmp_path)
    assert found == tmp_path / "see-1"
    assert checkpoint.load(found, learner(1)).step == 1
    checkpoint.save(tmp_path / "see-2", learner(2), Position(step=2, global_step=2))  # over the debris
    assert checkpoint.latest(tmp_path) == tmp_path / "see-2"
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.slow
def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, forks: Forks) -> None:
    """A real limit on file size makes the write fail the way a full disk does."""
    script = textwrap.dedent(
        """
        import resource, sys
        sys.path.insert(0, sys.argv[2])
        from pathlib import Path
        from tests.train.test_checkpoint import learner
        from sightline.errors import UserError
        from sightline.train import checkpoint
        made, folder = learner(0), Path(sys.argv[1])
        checkpoint.save(folder / "see-1", made, checkpoint.Position(step=1, global_step=1))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (256, limits[1]))
        try:
            checkpoint.save(folder / "see-2", made, checkpoint.Position(step=2, global_step=2))
        except UserError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)  # what is printed goes to a file too
            print(error)
            sys.exit(2)
        """
    )
    (tmp_path / "script.py").write_text(script)
    command = ("script.py", str(tmp_path), str(Path(__file__).parents[2]))
    ended = forks.run(*command, cwd=tmp_path, knows=TRAINER, check=False)
    assert ended.returncode == 2, ended.stderr
    assert "could not be written" in ended.stdout and "see-1" in ended.stdout and "make room" in ended.stdout
    assert checkpoint.load(tmp_path / "see-1", learner(1)).step == 1
    assert not list(tmp_path.glob(".*.tmp"))


def test_latest_without_its_link(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "see-1", learner(0), Position(step=1))
    (tmp_path / "latest").unlink()
    assert checkpoint.latest(tmp_path) == tmp_path / "see-1"
    assert checkpoint.latest(tmp_path / "nothing") is None


def test_state_is_plain_json(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path / "see-1", learner(0), Position(step=1))
    assert json.loads((folder / "state.json").read_text())["position"]["step"] == 1
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}


def test_an_unwritable_place_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        checkpoint.save(tmp_path / "file" / "see-1", learner(0), Position())
