"""Clipping that comes when no step is to use the gradients; and sound ways to clip, or to measure."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad

from sightline.attach.script.clipped import CALLS, CLIPPERS, Clips
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding
from sightline.guard.evidence import ClippedSeen

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    own = {name: getattr(clip_grad, name) for name in CLIPPERS}
    yield
    for name, clip in own.items():
        setattr(clip_grad, name, clip)
        setattr(torch.nn.utils, name, clip)


def train(when: str, *, zeroed: bool = False, value: bool = False, limit: float = 0.1, every: int = 1) -> list[Finding]:
    """`when` gradients are clipped: before the backward pass, after it, or after the step. zeroed: kept as zeros."""
    problems: list[str] = []
    found: list[Finding] = []
    torch.manual_seed(0)
    models, net = Models(1.0, found.append, problems.append), nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    opt = torch.optim.AdamW(net.parameters(), lr=0.01)
    Clips(models, problems.append).install()
    models.attach(net, [opt], blind=False)
    clip = torch.nn.utils.clip_grad_value_ if value else torch.nn.utils.clip_grad_norm_

    def clips(moment: str, step: int) -> None:
        if moment == when and step % every == 0:
            clip(net.parameters(), limit)

    for step in range(CALLS * every):
        clips("first", step)
        opt.zero_grad(set_to_none=not zeroed)
        clips("cleared", step)
        for _ in range(2):
            net(torch.randn(8, 4)).square().mean().backward()
        clips("between", step)
        opt.step()
        clips("last", step)
    models.close_all(whole=True)
    assert not problems
    return [one for one in found if one.code == "P3"]


@pytest.mark.parametrize(
    ("when", "zeroed", "value"),
    [
        ("last", False, False),
        ("last", True, False),
        ("last", False, True),
        ("first", False, False),
        ("cleared", False, False),
    ],
)
def test_clipped_in_vain(when: str, zeroed: bool, value: bool) -> None:
    (found,) = train(when, zeroed=zeroed, value=value)
    assert found.severity == "warning" and f"all of the first {CALLS}" in found.message
    assert ("before the backward" in found.message) is (when == "cleared")


@pytest.mark.parametrize("zeroed", [False, True])
@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("every", [1, 3])
def test_clipped_before_the_step(zeroed: bool, value: bool, every: int) -> None:
    assert train("between", zeroed=zeroed, value=value, every=every) == []


@pytest.mark.parametrize("when", ["first", "last"])
def test_a_norm_that_is_only_asked_for(when: str) -> None:
    assert train(when, limit=float("inf")) == [] == train(when, limit=1e9)


@pytest.mark.parametrize(("limit", "value"), [(0.1, False), (0.1, True), (1e9, False)])
def test_how_far_norms_are_cut(limit: float, value: bool) -> None:
    torch.manual_seed(0)
    problems: list[str] = []
    models, net = Models(1.0, lambda _: None, problems.append), nn.Linear(4, 2)
    opt = torch.optim.SGD(net.parameters(), lr=1e-3)
    Clips(models, problems.append).install()
    watch = models.attach(net, [opt], blind=False).attachment.watch
    norms = []
    for _ in range(CALLS):
        opt.zero_grad()
        net(torch.randn(8, 4)).square().sum().backward()
        norms.append(torch.stack([p.grad.norm() for p in net.parameters()]).norm())
        (torch.nn.utils.clip_grad_value_ if value else torch.nn.utils.clip_grad_norm_)(net.parameters(), limit)
        opt.step()
    models.close_all(whole=True)
    seen = watch.latest(ClippedSeen)
    assert not problems and (seen is None) == (limit == 1e9)
    assert seen is None or seen.cut == pytest.approx(0.0 if value else float(torch.stack(norms).median()) / limit)


def test_gradients_that_two_steps_use() -> None:
    """Of two networks, each clipped before its own step: what one loss gives the other is added, or cleared."""
    problems: list[str] = []
    found: list[Finding] = []
    torch.manual_seed(0)
    maker, judge = nn.Linear(4, 6), nn.Linear(6, 1)
    models = Models(1.0, found.append, problems.append)
    opts = [torch.optim.Adam(net.parameters(), lr=0.01) for net in (maker, judge)]
    Clips(models, problems.append).install()
    for net, opt in zip((maker, judge), opts, strict=True):
        models.attach(net, [opt], blind=False)
    for _ in range(CALLS):
        for opt, sign in zip(opts, (1, -1), strict=True):
            opt.zero_grad()
            (sign * judge(maker(torch.randn(8, 4))).mean()).backward()
            torch.nn.utils.clip_grad_norm_([*maker.parameters(), *judge.parameters()], 1.0)
            opt.step()
    models.close_all(whole=True)
    assert not problems and [one for one in found if one.code == "P3"] == []
