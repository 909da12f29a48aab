"""Clipping against its definitions in fp64: all together, tower by tower, unit by unit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sightline.recipe.schema import AdaptiveClip, Clip
from sightline.train.clip import clip_gradients
from tests.train.tiny import stage

TOWERS = ("vision", "connector", "language")
CLOSE: dict[str, Any] = {"rtol": 1e-6, "atol": 0}


def optimizer_of(scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[torch.optim.Optimizer, nn.Module]:
    """Three towers with gradients of very different size; one filter's weights are 0, one parameter has no gradient."""
    torch.manual_seed(0)
    towers = nn.ModuleDict(
        {"vision": nn.Conv2d(3, 4, 2), "connector": nn.Linear(5, 6), "language": nn.Embedding(7, 3)}
    ).to(dtype)
    conv = towers["vision"]
    assert isinstance(conv, nn.Conv2d)
    nn.init.zeros_(conv.weight[0])
    for size, tower in zip((100.0, 1.0, 1e-3), towers.values(), strict=True):
        for parameter in tower.parameters():
            parameter.grad = size * scale * torch.randn_like(parameter)
    conv.bias.grad = None  # type: ignore[union-attr]
    groups = [{"params": list(towers[tower].parameters()), "tower": tower} for tower in TOWERS]
    return torch.optim.SGD(groups, lr=1.0), towers


def gradients(towers: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in towers.named_parameters() if p.grad is not None}


def norm(parts: list[Tensor]) -> float:
    return float(torch.cat([part.flatten() for part in parts]).norm())


def test_of_all_together() -> None:
    optimizer, towers = optimizer_of()
    before = gradients(towers)
    total = clip_gradients(optimizer, 2.0).total
    assert float(total) == pytest.approx(norm(list(before.values())))
    for name, after in gradients(towers).items():
        torch.testing.assert_close(after, before[name] * 2.0 / total, rtol=1e-6, atol=0)
    assert not clip_gradients(optimizer, None).towers


def test_each_tower_by_itself() -> None:
    """One tower's spike shrinks its own step alone."""
    optimizer, towers = optimizer_of()
    before = gradients(towers)
    norms = clip_gradients(optimizer, {"vision": 2.0, "connector": None, "language": 1e3})
    after = gradients(towers)
    for tower in TOWERS:
        own = [grad for name, grad in before.items() if name.startswith(tower)]
        assert float(norms.towers[tower]) == pytest.approx(norm(own))
    assert float(norms.total) == pytest.approx(norm(list(before.values())))
    torch.testing.assert_close(after["vision.weight"], before["vision.weight"] * 2 / norms.towers["vision"], **CLOSE)
    for name in ("connector.weight", "connector.bias", "language.weight"):
        assert torch.equal(after[name], before[name]), name
    optimizer, towers = optimizer_of()
    clip_gradients(optimizer, 2.0)  # the twin: all share the bound, and the quiet towers pay for the loud one
    assert float(gradients(towers)["connector.weight"].norm()) < 0.05 * float(before["connector.weight"].norm())


def by_hand(weight: Tensor, grad: Tensor, most: float, floor: float) -> Tensor:
    """Brock et al. 2021, equation 3, one unit at a time."""
    if weight.ndim < 2:
        return grad * min(1.0, most * max(float(weight.norm()), floor) / float(grad.norm()))
    rows = []
    for w, g in zip(weight, grad, strict=True):
        bound = most * max(float(w.square().sum() ** 0.5), floor)
        size = float(g.square().sum() ** 0.5)
        rows.append(g * (bound / size) if size > bound else g)
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("most", [0.01, 0.5])
def test_each_unit_against_its_weights(most: float, dtype: torch.dtype) -> None:
    optimizer, towers = optimizer_of(dtype=dtype)
    before = {name: grad.double() for name, grad in gradients(towers).items()}
    weights = {name: p.detach().double() for name, p in towers.named_parameters()}
    norms = clip_gradients(optimizer, AdaptiveClip(adaptive=most, floor=1e-3))
    assert float(norms.total) == pytest.approx(norm(list(before.values())), rel=1e-6)
    for name, after in gradients(towers).items():
        expected = by_hand(weights[name], before[name], most, 1e-3)
        torch.testing.assert_close(after.double(), expected, rtol=1e-5, atol=1e-12, msg=name)
    unit = float(gradients(towers)["vision.weight"][0].norm())
    assert unit == pytest.approx(most * 1e-3, rel=1e-5), "weights of 0 count as the floor"


def test_units_within_their_bounds_are_left_to_the_last_bit() -> None:
    optimizer, towers = optimizer_of(scale=1e-6, dtype=torch.float32)
    before = gradients(towers)
    clip_gradients(optimizer, AdaptiveClip(adaptive=0.5, floor=1.0))
    for name, after in gradients(towers).items():
        assert torch.equal(after, before[name]), name


@pytest.mark.parametrize("clip", [{"vision": 1.0, "connector": 1.0, "language": None}, AdaptiveClip(adaptive=0.01)])
def test_nothing_waits_for_the_device(clip: Clip) -> None:
    """On the meta device a value cannot be read: whatever would wait for one fails."""
    groups = []
    for tower in TOWERS:
        parameter = nn.Parameter(torch.empty(3, 4, device="meta"))
        parameter.grad = torch.empty_like(parameter)
        groups.append({"params": [parameter], "tower": tower})
    optimizer = torch.optim.SGD(groups, lr=1.0)
    assert clip_gradients(optimizer, clip).total.device.type == "meta"
    with pytest.raises(RuntimeError, match="meta"):
        float(clip_gradients(optimizer, clip).total)  # the twin: this one does read it


@pytest.mark.parametrize("clip", [2, 0.5, None, {"adaptive": 0.01}, {"vision": 1, "connector": 2, "language": None}])
def test_what_a_recipe_may_say(clip: Any) -> None:
    found = stage(optimizer={"clip": clip}).stages[0].optimizer.clip
    assert found == (AdaptiveClip(**clip) if isinstance(clip, dict) and "adaptive" in clip else clip)
