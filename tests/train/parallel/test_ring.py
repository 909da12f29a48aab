"""Three real processes over gloo: SigLIP around the ring has the value and the gradients of one big batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sightline.losses.sigmoid import pairwise_sigmoid
from sightline.train.parallel.gather import gather
from sightline.train.parallel.ranks import Ranks
from sightline.train.parallel.ring import ring
from tests.losses import brute
from tests.losses.test_contrastive import assert_near
from tests.train.parallel.processes import Job, Towers, on_ranks, own_part

IDS = torch.tensor([3, 1, 3, 4, 5, 1, 7, 8])
CASES = {  # rows of each rank, whether images are told apart by id, type, tolerance
    "two ranks": ((4, 4), False, torch.float64, 1e-8),
    "two unequal ranks, fp32": ((5, 2), True, torch.float32, 1e-6),
    "three ranks": ((3, 1, 4), True, torch.float64, 1e-8),
    "three ranks, one without rows": ((3, 0, 2), False, torch.float64, 1e-8),
}


def ring_step(ranks: Ranks, sizes: tuple[int, ...], shared: bool, dtype: torch.dtype) -> dict[str, Any]:
    image, text = (x.to(dtype) for x in brute.embeddings(sum(sizes)))
    mine = own_part(ranks, sizes)
    model = Towers().to(dtype)
    wrapped = ranks.wrap(model)  # named, so that it lives until the backward pass
    own_image, own_text, scale, bias = wrapped(image[mine], text[mine])
    total = torch.zeros((), dtype=dtype)
    for source, visiting in ring(own_text, ranks, sizes if shared else None):
        first = sum(sizes[:source])
        of = {"image_ids": IDS[mine], "text_ids": IDS[first : first + len(visiting)]} if shared else {}
        own = 0 if source == ranks.rank else None
        total = total + pairwise_sigmoid(own_image, visiting, scale, bias, own=own, **of)[0]
    (total * ranks.world / sum(sizes)).backward()
    loss = ranks.sum([total.item()])[0] / sum(sizes)
    return {"loss": loss, "grads": {n: p.grad for n, p in model.named_parameters()}}


def visits(ranks: Ranks) -> list[Any]:
    """Which ranks' rows come by, in order; and the same by gathering."""
    mine = torch.full((ranks.rank + 1, 2), float(ranks.rank))
    by_ring = [(source, rows.clone()) for source, rows in ring(mine, ranks)]
    (whole,) = gather(ranks, mine).tensors
    return [by_ring, whole]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    answers: dict[str, list[Any]] = {}
    for world in (2, 3):
        jobs: dict[str, Job] = {name: (ring_step, case[:3]) for name, case in CASES.items() if len(case[0]) == world}
        jobs[f"visits of {world}"] = (visits, ())
        answers |= zip(jobs, on_ranks(world, list(jobs.values()), tmp_path_factory.mktemp("ring")), strict=True)
    return answers


def expected(sizes: tuple[int, ...], shared: bool) -> tuple[torch.Tensor, Towers]:
    count = sum(sizes)
    positive = IDS[:count, None] == IDS[:count] if shared else torch.eye(count) == 1
    model = Towers().double()
    loss = brute.sigmoid(*model(*brute.embeddings(count)), positive) / count
    loss.backward()
    return loss, model


@pytest.mark.ddp
@pytest.mark.parametrize("case", CASES)
def test_ring_gives_the_gradients_of_one_batch(case: str, found: dict[str, list[Any]]) -> None:
    sizes, shared, _, tolerance = CASES[case]
    loss, model = expected(sizes, shared)
    for answer in found[case]:
        assert answer["loss"] == pytest.approx(loss.item(), rel=tolerance)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            assert_near([answer["grads"][name]], [parameter.grad], tolerance)


@pytest.mark.ddp
@pytest.mark.parametrize("world", [2, 3])
def test_every_rank_is_visited_once(world: int, found: dict[str, list[Any]]) -> None:
    for rank, (by_ring, whole) in enumerate(found[f"visits of {world}"]):
        assert [source for source, _ in by_ring] == [(rank - hop) % world for hop in range(world)]
        together = torch.cat([rows for _, rows in sorted(by_ring, key=lambda pair: pair[0])])
        assert torch.equal(together, whole) and len(whole) == world * (world + 1) / 2


def test_one_rank_is_one_block() -> None:
    rows, alone = torch.ones(2, 3), Ranks(0, 1, torch.device("cpu"))
    assert [(source, seen is rows) for source, seen in ring(rows, alone)] == [(0, True)]
    answer = ring_step(alone, (7,), True, torch.float32)
    loss, model = expected((7,), True)
    assert answer["loss"] == pytest.approx(loss.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert_near([answer["grads"][name]], [parameter.grad])
