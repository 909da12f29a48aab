"""Two real processes over gloo give the losses and weights of one, also when one of them has text alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from sightline.data.pack import pack
from sightline.errors import UserError
from sightline.recipe.schema import Parallel
from sightline.train.freeze import freeze
from sightline.train.groups import build_optimizer
from sightline.train.parallel.layout import Layout
from sightline.train.parallel.ranks import Ranks, joined_ranks, pick_device
from sightline.train.precision import pick_precision
from sightline.train.step import train_step
from tests.ports import free_port
from tests.spawned import spawn
from tests.train.tiny import fresh, stage

pytestmark = pytest.mark.ddp
STEPS = 3


def text_only(row: Any) -> Any:
    turns = tuple(
        dataclasses.replace(turn, parts=tuple(p for p in turn.parts if isinstance(p, str))) for turn in row.turns
    )
    return dataclasses.replace(row, turns=turns, images=())


def losses(
    rows: list[Any], ranks: Ranks, micro: int, learn: dict[str, Any]
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of a few steps over the same global batches of 4 rows, and the weights afterwards."""
    built = fresh(rows)
    spec = stage(learn=learn).stages[0]
    freeze(built.model, spec)
    model, optimizer = ranks.wrap(built.model), build_optimizer(built.model, spec)
    seen = []
    for step in range(STEPS):
        mine = []
        for part in range(4 // (micro * ranks.world)):
            start = step * 4 + (part * ranks.world + ranks.rank) * micro
            chosen = [built.encoder.encode(rows[i % len(rows)]) for i in range(start, start + micro)]
            mine.append(built.encoder.collate(pack(chosen, "none", 512)))
        optimizer.zero_grad()
        result = train_step(
            model, mine, optimizer, pick_precision("fp32", ranks.device), Layout(Parallel(), ranks), 1.0
        )
        seen.append(ranks.sum([float(result.loss_sum)])[0] / result.tokens)
    return seen, {name: p.detach().clone() for name, p in built.model.named_parameters()}


def work(rank: int, port: int, rows: list[Any], micro: int, learn: dict[str, Any], out: str) -> None:
    import os

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    with joined_ranks("cpu") as ranks:
        torch.save(losses(rows, ranks, micro, learn), f"{out}/{rank}.pt")


ALL = {"vision": "all", "connector": "all", "language": "all"}


@pytest.mark.parametrize(
    ("mixed", "micro", "learn"),
    [(False, 1, ALL), (True, 2, ALL), (True, 2, {"connector": "all", "language": {"last": 1}})],
    ids=["accumulated", "text-only rank", "frozen vision, text-only rank"],
)
def test_two_ranks_equal_one(rows: list[Any], tmp_path: Path, mixed: bool, micro: int, learn: dict[str, Any]) -> None:
    if mixed:  # rank 1 never sees an image
        rows = [text_only(row) if i % 4 >= 2 else row for i, row in enumerate(rows)]
    expected, weights = losses(rows, Ranks(0, 1, torch.device("cpu")), 4, learn)
    spawn(work, (free_port(), rows, micro, learn, str(tmp_path)), nprocs=2)
    for rank in (0, 1):
        found, after = torch.load(tmp_path / f"{rank}.pt")
        assert found == pytest.approx(expected, rel=1e-5)
        for name, value in weights.items():
            if name.endswith("k_proj.bias"):  # softmax cancels it: its gradient is rounding noise, which Adam enlarges
                continue
            torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_a_device_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(UserError, match="no CUDA device"):
        pick_device("cuda")
    assert pick_device("cpu").type == "cpu"
