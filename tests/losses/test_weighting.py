"""Weightings against their papers' formulas, worked by hand."""

from __future__ import annotations

import io
import math

import pytest
import torch

from sightline.errors import UserError
from sightline.losses.weighting import Fixed, GradNorm, Schedule, Uncertainty, gradient_norms


def values(itc: float, itm: float) -> dict[str, torch.Tensor]:
    return {"itc": torch.tensor(itc, requires_grad=True), "itm": torch.tensor(itm, requires_grad=True)}


def test_fixed() -> None:
    given = values(2.0, 3.0)
    total = Fixed({"itc": 1, "itm": 0.5})(given, 0)
    total.backward()
    assert total.item() == 3.5
    assert given["itm"].grad is not None and given["itm"].grad.item() == 0.5
    assert Fixed({"itc": 1, "itm": 0})(values(1.0, math.inf), 0).item() == 1  # left out, not 0 * inf


def test_schedule_moves_in_lines() -> None:
    schedule = Schedule({"itc": [(0, 1.0)], "itm": [(10, 0.0), (20, 1.0), (40, 0.5)]})
    assert [schedule.weights(step)["itm"] for step in (0, 10, 15, 20, 30, 99)] == [0, 0, 0.5, 1, 0.75, 0.5]
    assert schedule(values(2.0, 4.0), 15).item() == 4
    with pytest.raises(UserError, match="rising"):
        Schedule({"itc": [(5, 1.0), (5, 2.0)]})


def test_uncertainty_is_kendalls() -> None:
    weighting = Uncertainty(["itc", "depth"], regressions=["depth"])
    with torch.no_grad():
        weighting.log_variance.copy_(torch.tensor([0.7, -0.4]))
    total = weighting({"itc": torch.tensor(2.0), "depth": torch.tensor(3.0)}, 0)
    one, two = math.exp(0.35), math.exp(-0.2)  # sigmas
    expected = 2 / one**2 + math.log(one) + 3 / (2 * two**2) + math.log(two)
    assert total.item() == pytest.approx(expected)
    total.backward()
    assert weighting.log_variance.grad is not None
    assert weighting.log_variance.grad.tolist() == pytest.approx([-2 / one**2 + 0.5, -3 / (2 * two**2) + 0.5])


def test_uncertainty_settles_where_the_formula_has_its_minimum() -> None:
    """d/ds (exp(-s) L + s/2) = 0 at exp(s) = 2 L."""
    weighting = Uncertainty(["itc", "itm"])
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        weighting({"itc": torch.tensor(2.0), "itm": torch.tensor(0.25)}, 0).backward()
        optimizer.step()
    assert weighting.weights(0) == pytest.approx({"itc": 0.25, "itm": 2.0}, rel=1e-3)


def test_uncertainty_of_an_objective_that_stays_at_zero_is_finite() -> None:
    weighting = Uncertainty(["itc"])
    with torch.no_grad():
        weighting.log_variance.fill_(-1e6)
    total = weighting({"itc": torch.tensor(0.0)}, 0)
    total.backward()
    assert total.isfinite() and weighting.log_variance.grad is not None and weighting.log_variance.grad.isfinite().all()


def test_gradnorm_takes_the_papers_step() -> None:
    """Against autograd on the paper's own loss of the weights, with the target held constant."""
    names, norms = ["a", "b", "c"], torch.tensor([4.0, 1.0, 0.5])
    first, now = torch.tensor([2.0, 2.0, 2.0]), torch.tensor([1.0, 2.0, 0.5])
    weighting = GradNorm(names, alpha=1.5, lr=0.05)
    with torch.no_grad():
        weighting.first.copy_(first)
    weight = torch.ones(3, requires_grad=True)
    ratio = now / first
    target = ((weight * norms).mean() * (ratio / ratio.mean()) ** 1.5).detach()
    (weight * norms - target).abs().sum().backward()
    assert weight.grad is not None
    expected = (weight - 0.05 * weight.grad).detach()
    weighting.update(dict(zip(names, now.tolist(), strict=True)), dict(zip(names, norms.tolist(), strict=True)))
    torch.testing.assert_close(weighting.weight, expected * 3 / expected.sum())


def test_gradnorm_evens_out_norms_and_resumes_exactly() -> None:
    """At alpha 0 the weights settle where all weighted norms are equal."""
    weighting, file = GradNorm(["a", "b"], alpha=0.0, lr=0.01), io.BytesIO()
    for _ in range(600):
        weighting.update({"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 1.0})
    weights = weighting.weights(0)
    assert weights["a"] * 3 == pytest.approx(weights["b"], rel=0.1)
    assert sum(weights.values()) == pytest.approx(2)
    torch.save(weighting.state_dict(), file)
    file.seek(0)
    other = GradNorm(["a", "b"], alpha=0.0, lr=0.01)
    other.load_state_dict(torch.load(file, weights_only=True))
    for one in (weighting, other):
        one.update({"a": 0.5, "b": 1.0}, {"a": 1.0, "b": 2.0})
    assert torch.equal(weighting.weight, other.weight)


def test_gradnorm_refuses_what_it_cannot_weigh() -> None:
    with pytest.raises(UserError, match="finite norms"):
        GradNorm(["a"]).update({"a": 1.0}, {"a": math.nan})
    with pytest.raises(UserError, match="positive first"):
        GradNorm(["a"]).update({"a": 0.0}, {"a": 1.0})


def test_gradient_norms() -> None:
    shared, other = torch.tensor([3.0, 4.0], requires_grad=True), torch.ones(1, requires_grad=True)
    losses = {"a": shared.square().sum() / 2, "b": other.sum()}
    norms = gradient_norms(losses, [shared])
    assert (norms["a"].item(), norms["b"].item()) == (5, 0)
    losses["a"].backward()  # the graph is still there


def test_names_must_agree() -> None:
    with pytest.raises(UserError, match=r"\['itc', 'itm'\] are weighted as \['itc'\]"):
        Fixed({"itc": 1})(values(1.0, 1.0), 0)
    with pytest.raises(UserError, match="weight of itc is -1"):
        Fixed({"itc": -1})
    with pytest.raises(UserError, match="no objective 'itx'"):
        Uncertainty(["itc"], ["itx"])
