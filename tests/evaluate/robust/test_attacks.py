"""The attacks against classifiers whose best attack is known, and the laws that hold for any."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sightline.evaluate.robust.attacks import norms, patch
from sightline.evaluate.robust.attacks.fgsm import fgsm
from sightline.evaluate.robust.attacks.levels import in_levels
from sightline.evaluate.robust.attacks.norms import size, steepest, tolerance
from sightline.evaluate.robust.attacks.pgd import pgd, step_rule
from sightline.evaluate.robust.attacks.target import Target
from tests.evaluate.robust.plain import linear, target

EPSILON = 8 / 255


def grey(count: int = 4, side: int = 6) -> torch.Tensor:
    """Pictures in levels of 255 and far enough from black and white that nothing is clipped."""
    numbers = torch.Generator().manual_seed(1)
    return torch.randint(60, 190, (count, 3, side, side), generator=numbers).float() / 255


def margin(seed: int = 0) -> tuple[Target, torch.Tensor]:
    """A loss that is linear in the pixels, w x, and w of each picture."""
    pixels = grey()
    weights = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed))
    return Target(pixels, torch.arange(4), lambda at: (at * weights).flatten(1).sum(1), range(4)), weights


@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_of_a_linear_loss_the_best_is_found(attack):
    ours, weights = margin()
    best = ours.pixels + EPSILON * weights.sign()
    torch.testing.assert_close(attack(ours, EPSILON), best, atol=1e-6, rtol=0)
    steepest_ = weights / weights.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    options = {"steps": 60, "step_size": 0.1} if attack is pgd else {}  # along the ball's border it closes in
    torch.testing.assert_close(attack(ours, 0.5, "l2", **options), ours.pixels + 0.5 * steepest_, atol=2e-3, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("epsilon", [0.3 / 255, 3 / 255, 0.5])
def test_bounds_hold_and_pixels_stay_pixels(norm, epsilon):
    pixels = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(2)).mul(255).round() / 255
    ours = target(linear(), pixels, torch.tensor([0, 1, 2, 0, 1]))
    for made in (fgsm(ours, epsilon, norm), pgd(ours, epsilon, norm, restarts=2), norms.noise(ours, epsilon, norm)):
        assert float(size(made - pixels, norm).max()) <= epsilon + tolerance(pixels, norm)
        assert made.min() >= 0 and made.max() <= 1
        filed = in_levels(made, pixels, epsilon, norm)
        assert torch.equal(filed, (filed * 255).round() / 255)
        assert float(size(filed - pixels, norm).max()) <= epsilon + tolerance(pixels, norm)
        if norm == "l2" and epsilon == 0.5:
            assert float(size(filed - pixels, norm).min()) > 0.9 * float(size(made - pixels, norm).min())


def test_rounding_does_not_cost_a_level_that_is_there():
    clean = grey()
    assert torch.equal(in_levels(clean + 8 / 255, clean, 8 / 255), ((clean * 255).round() + 8) / 255)
    assert torch.equal(in_levels(clean + 2.4 / 255, clean, 2.4 / 255), ((clean * 255).round() + 2) / 255)
    assert torch.equal(in_levels(clean + 2.6 / 255, clean, 2.6 / 255), ((clean * 255).round() + 2) / 255)
    assert torch.equal(in_levels(clean + 0.9 / 255, clean, 0.9 / 255), (clean * 255).round() / 255)


def test_a_picture_is_attacked_alike_whatever_stands_beside_it():
    model, pixels, labels = linear(), grey(), torch.tensor([0, 1, 2, 0])
    together = pgd(target(model, pixels, labels), EPSILON, steps=3)
    alone = pgd(target(model, pixels[2:3], labels[2:3], seed=2), EPSILON, steps=3)
    torch.testing.assert_close(together[2:3], alone)
    other = pgd(target(model, pixels[2:3], labels[2:3], seed=9), EPSILON, steps=1, step_size=1e-4)
    assert not torch.allclose(
        pgd(target(model, pixels[2:3], labels[2:3], seed=2), EPSILON, steps=1, step_size=1e-4), other
    )


def test_more_starts_are_never_weaker():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(108, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    ours = target(model, grey(), torch.tensor([0, 1, 2, 0]))
    one, many = (pgd(ours, 0.1, steps=2, restarts=count) for count in (1, 6))
    assert (ours.losses(many) >= ours.losses(one) - 1e-6).all() and (ours.losses(many) > ours.losses(one) + 1e-4).any()


def test_tiny_gradients_of_a_sure_model_still_point():
    ours, weights = margin()
    sure = Target(ours.pixels, ours.owner, lambda at: ours.loss(at) * 1e-30, ours.seeds)
    torch.testing.assert_close(fgsm(sure, 0.5, "l2"), fgsm(ours, 0.5, "l2"), atol=1e-5, rtol=0)
    assert torch.equal(steepest(torch.zeros(2, 3, 2, 2), "l2"), torch.zeros(2, 3, 2, 2))
    assert weights.abs().min() > 0


def test_the_step_rule_reaches_any_border_from_any_start():
    assert step_rule(0.1, 10) * 10 >= 2 * 0.1


def test_a_row_of_two_pictures_keeps_those_of_one_start():
    pixels = grey(4)
    weights = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(3))
    owner = torch.tensor([0, 0, 1, 1])

    def loss(at):
        return torch.zeros(2).index_add(0, owner, (at * weights).flatten(1).sum(1).sin())

    made = pgd(Target(pixels, owner, loss, range(4)), 0.05, steps=2, restarts=4)
    assert made.shape == pixels.shape and float((made - pixels).abs().max()) <= 0.05 + 1e-6


@pytest.mark.parametrize("area", [0.001, 0.1, 1.0])
def test_a_patch_stays_in_its_place_and_is_as_large_as_told(area):
    pixels, labels = grey(side=20), torch.tensor([0, 1, 2, 0])
    ours = target(linear(side=20), pixels, labels)
    made, where = patch.patch(ours, area, steps=5)
    assert torch.equal(made.masked_fill(where, 0), pixels.masked_fill(where, 0))
    assert made.min() >= 0 and made.max() <= 1
    side = max(1, round((area * 400) ** 0.5))
    assert (where.flatten(1).sum(1) == side * side).all()
    assert (ours.losses(made) >= ours.losses(patch.noise(ours, where)) - 1e-6).all()
    if area == 0.1:
        assert len({tuple(one.flatten().tolist()) for one in where}) > 1, "places differ from picture to picture"


def test_a_patch_against_a_linear_classifier_is_the_corner_of_the_cube():
    pixels, labels = grey(side=8), torch.tensor([0, 1, 0, 1])
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    made, where = patch.patch(target(model, pixels, labels), 0.25, steps=20)
    rise = (model[1].weight[1] - model[1].weight[0]).view(1, 3, 8, 8) * torch.where(labels == 0, 1, -1).view(
        -1, 1, 1, 1
    )
    assert torch.equal(made[where.expand_as(made)], (rise > 0).float()[where.expand_as(made)])
    assert F.cross_entropy(model(made), labels) > F.cross_entropy(model(pixels), labels)
