"""Adversarial training: the gradient is that of attacked pictures, and nothing but the pictures decides the attack."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sightline.data.pack import pack
from sightline.data.scale import scale_of
from sightline.errors import UserError
from sightline.evaluate.robust.attacks.norms import size, tolerance
from sightline.losses.next_token import next_token
from sightline.recipe.schema import Adversarial
from sightline.train.freeze import freeze
from sightline.train.objectives import Attacked, NextToken, objective_of
from sightline.train.objectives.adversarial import DIVERGENCE, one_picture_a_place
from sightline.train.parallel.ranks import Ranks
from sightline.train.precision import pick_precision
from tests.train import tiny

CPU = torch.device("cpu")
RANKS, FP32 = Ranks(0, 1, CPU), pick_precision("fp32", CPU)
PGD = Adversarial(epsilon=8 / 255, steps=3)


@pytest.fixture
def rows(tmp_path):
    return tiny.drawn(tmp_path)


def batch_of(built, rows):
    examples = [built.encoder.encode(row) for row in rows]
    return built.encoder.collate(pack(examples, "none", 64))


def attacked(built, settings=PGD, step=0, seed=0):
    made = Attacked(NextToken(), settings, scale_of(built.encoder), seed)
    made.before_step(step, 4)
    return made


def pixels_of(built, objective, batch):
    seen = []
    inner = objective.inner

    class Spy(NextToken):
        def loss(self, module, given):
            if isinstance(module, torch.nn.Module):
                seen.append(given.pixel_values)
            return inner.loss(module, given)

    objective.inner = Spy()
    objective.backward(built.model, [batch], {"next-token": 1.0}, FP32, RANKS)
    objective.inner = inner
    built.model.zero_grad()
    return scale_of(built.encoder).pixels(one_picture_a_place(batch).pixel_values), unscaled(built, seen[0])


def unscaled(built, values):
    facts = built.encoder.image_processor
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (facts.mean, facts.std))
    return values * std + mean


def test_the_step_learns_from_attacked_pictures_within_the_bound(rows):
    built = tiny.fresh(rows)
    batch = batch_of(built, rows[:6])
    clean, moved = pixels_of(built, attacked(built), batch)
    assert len(clean) == 6 and len(batch.image_keys) == 3, "each row has its own copy"
    assert (
        float(size(moved - clean, "linf").max()) <= 8 / 255 + 1e-6 and moved.min() >= -1e-6 and moved.max() <= 1 + 1e-6
    )
    loss, clean_loss = (
        next_token(*built.model(replace(one_picture_a_place(batch), pixel_values=scale_of(built.encoder).values(at))))[
            0
        ]
        for at in (moved, clean)
    )
    assert loss > clean_loss
    assert all(parameter.grad is None for parameter in built.model.parameters()), "the attack left none behind"


def test_pictures_step_and_seed_alone_decide_the_attack(rows):
    built = tiny.fresh(rows)
    together = pixels_of(built, attacked(built), batch_of(built, rows[:6]))[1]
    alone = pixels_of(built, attacked(built), batch_of(built, rows[2:3]))[1]
    # Other rows pad the sequence, so the last digits of the gradient differ, and with them a sign near zero.
    assert ((together[2] - alone[0]).abs() > 1e-5).float().mean() < 0.02
    again = pixels_of(built, attacked(built), batch_of(built, rows[:6]))[1]
    assert torch.equal(together, again)
    assert not torch.equal(together, pixels_of(built, attacked(built, step=1), batch_of(built, rows[:6]))[1])
    assert not torch.equal(together, pixels_of(built, attacked(built, seed=1), batch_of(built, rows[:6]))[1])


def test_random_numbers_modes_and_buffers_are_as_they_were(rows):
    built = tiny.fresh(rows)
    built.model.train()
    modes = [module.training for module in built.model.modules()]
    state = torch.get_rng_state()
    attacked(built).backward(built.model, [batch_of(built, rows[:4])], {"next-token": 1.0}, FP32, RANKS)
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [module.training for module in built.model.modules()]


def test_a_frozen_vision_tower_is_attacked_through_and_has_no_graph_in_the_step(rows):
    built = tiny.fresh(rows)
    freeze(built.model, tiny.stage(learn={"vision": "none", "connector": "all", "language": "none"}).stages[0])
    clean, moved = pixels_of(built, attacked(built), batch_of(built, rows[:4]))
    assert float(size(moved - clean, "linf").min()) > 4 / 255
    graphs = []
    handle = built.model.vision.register_forward_hook(lambda m, a, out: graphs.append(out.requires_grad))
    attacked(built).backward(built.model, [batch_of(built, rows[:4])], {"next-token": 1.0}, FP32, RANKS)
    handle.remove()
    assert graphs == [True] * PGD.steps + [False]
    assert all(p.grad is None for p in built.model.vision.parameters())
    assert any(p.grad is not None for p in built.model.connector.parameters())


def test_hooks_on_the_model_hear_the_step_and_not_the_attack(rows):
    built = tiny.fresh(rows)
    heard = []
    built.model.register_forward_hook(lambda *_: heard.append(1))
    attacked(built).backward(built.model, [batch_of(built, rows[:4])], {"next-token": 1.0}, FP32, RANKS)
    assert heard == [1]


def test_a_share_leaves_the_other_pictures_alone(rows):
    built = tiny.fresh(rows)
    some = Adversarial(epsilon=8 / 255, steps=1, share=0.5)
    clean, moved = pixels_of(built, attacked(built, some), batch_of(built, rows))
    far = size(moved - clean, "linf") > 1e-5
    assert 0 < int(far.sum()) < len(far)


def test_l2(rows):
    built = tiny.fresh(rows)
    clean, moved = pixels_of(
        built, attacked(built, Adversarial(norm="l2", epsilon=0.5, steps=3)), batch_of(built, rows)
    )
    assert float(size(moved - clean, "l2").max()) <= 0.5 + 10 * tolerance(clean, "l2")


def test_trades_is_the_clean_loss_and_beta_times_the_divergence(rows):
    built = tiny.fresh(rows)
    batch = batch_of(built, rows[:4])
    settings = Adversarial(kind="trades", epsilon=8 / 255, steps=2, beta=3.0)
    objective = attacked(built, settings)
    assert objective.weights == {"next-token": 1.0, DIVERGENCE: 3.0} and not objective.overlaps
    assert objective.counts([batch]) == {"next-token": batch.tokens, DIVERGENCE: batch.tokens}
    sums = objective.backward(built.model, [batch], {"next-token": 0.1, DIVERGENCE: 0.3}, FP32, RANKS)
    found = [p.grad.clone() for p in built.model.parameters()]
    built.model.zero_grad()
    own = one_picture_a_place(batch)
    logits, targets = built.model(own)
    pixels = objective._pixels(built.model, own, logits.detach())
    moved, _ = built.model(objective._with(own, pixels))
    p = logits.softmax(-1)
    apart = (p * (logits.log_softmax(-1) - moved.log_softmax(-1))).sum()
    loss = F.cross_entropy(logits, targets, reduction="sum")
    (0.1 * loss + 0.3 * apart).backward()
    torch.testing.assert_close(sums[DIVERGENCE], apart.detach())
    torch.testing.assert_close(sums["next-token"], loss.detach())
    for grad, parameter in zip(found, built.model.parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad, atol=1e-6, rtol=1e-4)


def test_validation_is_of_clean_pictures(rows):
    built = tiny.fresh(rows)
    batch = batch_of(built, rows[:4])
    assert (
        attacked(built).value(built.model, batch)["next-token"] == NextToken().value(built.model, batch)["next-token"]
    )


def test_a_text_only_batch_has_nothing_to_attack(rows):
    built = tiny.fresh(rows)
    text = [replace(row, images=(), turns=(replace(row.turns[0], parts=(row.question,)), row.turns[1])) for row in rows]
    batch = batch_of(built, text[:2])
    found = attacked(built).backward(built.model, [batch], {"next-token": 1.0}, FP32, RANKS)
    torch.testing.assert_close(found["next-token"], NextToken().loss(built.model, batch)[0].detach())


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"cache_features": True, "learn": {"connector": "all"}}, "cache_features"),
        ({"objective": {"itc": 1}}, "adversarial"),
    ],
)
def test_refused(changes, word):
    with pytest.raises(UserError, match=word):
        tiny.stage(adversarial={"epsilon": 0.03}, **changes)


def test_bounds_may_be_fractions():
    stage = tiny.stage(adversarial={"epsilon": "8/255", "kind": "trades"}).stages[0]
    assert stage.adversarial is not None and stage.adversarial.epsilon == 8 / 255
    with pytest.raises(UserError, match="beta"):
        tiny.stage(adversarial={"epsilon": 0.03, "beta": 2})


def test_the_stage_makes_its_objective(rows):
    built = tiny.fresh(rows)
    stage = tiny.stage(adversarial={"epsilon": "8/255"}).stages[0]
    made = objective_of(stage, 3, built.encoder)
    assert isinstance(made, Attacked) and made.seed == 3 and made.overlaps
