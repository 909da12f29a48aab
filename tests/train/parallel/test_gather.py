"""Two real processes over gloo: gathered losses have the values and gradients of one big batch, also when unequal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sightline.errors import UserError
from sightline.losses.contrastive import info_nce
from sightline.train.parallel.gather import gather
from sightline.train.parallel.ranks import Ranks
from tests.losses import brute
from tests.losses.test_contrastive import assert_near
from tests.train.parallel.processes import Job, Towers, on_ranks, own_part

ALONE = Ranks(0, 1, torch.device("cpu"))
IDS = torch.tensor([3, 1, 3, 4, 5, 1, 7, 8])
CASES = {  # rows of each rank, type, tolerance
    "equal": ((4, 4), torch.float64, 1e-12),
    "unequal": ((5, 2), torch.float64, 1e-12),
    "unequal fp32": ((5, 2), torch.float32, 1e-6),
    "a rank without rows": ((0, 3), torch.float64, 1e-12),
}


def gathered_step(ranks: Ranks, sizes: tuple[int, ...], dtype: torch.dtype) -> dict[str, Any]:
    """One step as the trainer takes it: this rank's sum times world over the count, averaged by DDP."""
    image, text = (x.to(dtype) for x in brute.embeddings(sum(sizes)))
    ids, mine = IDS[: sum(sizes)], own_part(ranks, sizes)
    model = Towers().to(dtype)
    wrapped = ranks.wrap(model)  # named, so that it lives until the backward pass
    own_image, own_text, scale, bias = wrapped(image[mine], text[mine])
    found = gather(ranks, own_image, own_text, ids[mine])
    all_image, all_text, all_ids = found.tensors
    assert found.start == mine.start and found.sizes == sizes and torch.equal(all_ids, ids)
    total, count = info_nce(
        own_image, own_text, all_image, all_text, scale, own=found.start, image_ids=all_ids, smoothing=0.1
    )
    ((total + bias * 0) * ranks.world / ranks.sum([count])[0]).backward()
    loss = ranks.sum([total.item()])[0] / sum(sizes)
    return {"loss": loss, "grads": {n: p.grad for n, p in model.named_parameters()}}


def scaled(ranks: Ranks, sizes: tuple[int, ...]) -> Tensor:
    """Every rank's loss is (rank + 1) times half the sum of squares of all rows; the gradient of the own rows."""
    rows = torch.full((sizes[ranks.rank], 2, 3), float(ranks.rank + 1), requires_grad=True)
    (whole,) = gather(ranks, rows).tensors
    ((ranks.rank + 1) * whole.square().sum() / 2).backward()
    assert rows.grad is not None
    return rows.grad


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    jobs: dict[str, Job] = {name: (gathered_step, (sizes, dtype)) for name, (sizes, dtype, _) in CASES.items()}
    jobs["scaled"] = (scaled, ((3, 1),))
    answers = on_ranks(2, list(jobs.values()), tmp_path_factory.mktemp("gather"))
    return dict(zip(jobs, answers, strict=True))


@pytest.mark.ddp
@pytest.mark.parametrize("case", CASES)
def test_ranks_give_the_gradients_of_one_batch(case: str, found: dict[str, list[Any]]) -> None:
    sizes, _, tolerance = CASES[case]
    model = Towers().double()
    image, text, scale, _ = model(*brute.embeddings(sum(sizes)))
    loss = brute.info_nce(image, text, image, text, scale, 0, IDS[: sum(sizes)], 0.1) / sum(sizes)
    loss.backward()
    for answer in found[case]:
        assert answer["loss"] == pytest.approx(loss.item(), rel=tolerance)
        for name, parameter in model.named_parameters():
            if name != "bias":
                assert parameter.grad is not None
                assert_near([answer["grads"][name]], [parameter.grad], tolerance)


@pytest.mark.ddp
def test_gradients_are_summed_over_ranks(found: dict[str, list[Any]]) -> None:
    for rank, grad in enumerate(found["scaled"]):
        assert grad.shape == ((3, 1)[rank], 2, 3)
        assert torch.equal(grad, torch.full_like(grad, (1 + 2) * (rank + 1.0)))


def test_one_rank_has_the_gradients_of_one_batch() -> None:
    answer = gathered_step(ALONE, (7,), torch.float32)
    model = Towers().double()
    image, text, scale, _ = model(*brute.embeddings(7))
    (brute.info_nce(image, text, image, text, scale, 0, IDS[:7], 0.1) / 7).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert_near([answer["grads"][name]], [parameter.grad])


def test_one_rank_gets_its_own_objects_back() -> None:
    one, two = torch.ones(3, 2, requires_grad=True), torch.arange(3)
    answer = gather(ALONE, one, two)
    assert answer.tensors[0] is one and answer.tensors[1] is two
    assert (answer.start, answer.sizes) == (0, (3,))


def test_tensors_of_unlike_length() -> None:
    with pytest.raises(UserError, match=r"\[2, 3\] rows"):
        gather(ALONE, torch.ones(3, 2), torch.ones(2))
