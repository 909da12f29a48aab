"""VICReg's terms against their formulas, the split over ranks, and figures that tell collapse from health."""

from __future__ import annotations

import math

import pytest
import torch

from sightline.errors import UserError
from sightline.losses.collapse import spread, terms, vicreg


def test_terms_equal_the_formulas() -> None:
    """Sums over rows and pairs of dimensions, in fp64."""
    image = (torch.randn(6, 4, dtype=torch.float64) * 0.7).requires_grad_()
    text = torch.randn(6, 4, dtype=torch.float64).requires_grad_()
    variance = covariance = torch.zeros(())
    for rows in (image, text):
        centred = [[rows[i, j] - rows[:, j].sum() / 6 for j in range(4)] for i in range(6)]
        for j in range(4):
            spread_j = (sum(centred[i][j] ** 2 for i in range(6)) / 5 + 1e-4) ** 0.5
            variance = variance + max(1 - spread_j, spread_j * 0) / 4
            for k in range(4):
                if k != j:
                    covariance = covariance + (sum(centred[i][j] * centred[i][k] for i in range(6)) / 5) ** 2 / 4
    expected = 25 * (image - text).square().sum() / 24 + 25 * variance + covariance
    found, count = vicreg(image, text)
    torch.testing.assert_close(found / count, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found / count, (image, text)), torch.autograd.grad(expected, (image, text)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    single, _ = vicreg(image.float(), text.float())
    torch.testing.assert_close(single.double() / 6, expected, rtol=1e-6, atol=1e-6)


def test_shares_of_ranks_add_up_to_the_whole() -> None:
    image, text = torch.randn(2, 7, 5, dtype=torch.float64)
    whole, count = vicreg(image, text)
    shares = [vicreg(image, text, own=own) for own in (4, 0, 3)]
    torch.testing.assert_close(sum(total for total, _ in shares), whole)
    assert sum(n for _, n in shares) == count == 7


def test_identical_rows_have_a_finite_gradient_and_the_full_variance_term() -> None:
    rows = torch.ones(4, 3, requires_grad=True)
    found = terms(rows, rows)
    assert found.variance.item() == pytest.approx(2 * (1 - 0.01))
    assert found.covariance.item() == 0
    found.variance.backward()
    assert rows.grad is not None and rows.grad.isfinite().all()


def test_figures_of_health_and_collapse() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(4000, 8, generator=generator), dim=1)
    healthy = spread(rows)
    assert healthy.deviation == pytest.approx(1 / math.sqrt(8), rel=0.02)
    assert healthy.rank == pytest.approx(8, rel=0.02) and healthy.dead == 0
    assert healthy.cosine == pytest.approx(0, abs=0.02)
    point = spread(rows[:1].repeat(50, 1))
    assert (point.deviation, point.dead, point.rank) == pytest.approx((0, 1, 0), abs=1e-7)
    assert point.cosine == pytest.approx(1)
    line = spread(rows[:, :1] * torch.tensor([1.0, 2.0, 0.0]))
    assert line.rank == pytest.approx(1) and line.dead == pytest.approx(1 / 3)
    nothing = spread(torch.zeros(5, 3))
    assert (nothing.deviation, nothing.dead, nothing.rank, nothing.cosine) == (0, 1, 0, 0)


def test_one_pair_has_no_variance() -> None:
    for call in (lambda: vicreg(torch.ones(1, 3), torch.ones(1, 3)), lambda: spread(torch.ones(1, 3))):
        with pytest.raises(UserError, match="a batch of 1"):
            call()
    with pytest.raises(UserError, match="two"):
        terms(torch.ones(3, 2), torch.ones(3, 4))
