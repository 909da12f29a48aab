"""`sightline run` on resumes with an average of the weights beside them, and on files that came by another way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Codes = Callable[[str], set[tuple[str, str]]]
SCRIPT = """
import io
import os

import torch
from torch import nn


KINDS = {}


def kind(name):
    made = KINDS.setdefault(name, type(name, (nn.Sequential,), {}))
    return made(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))


def through_memory(name, state):
    kept = io.BytesIO()
    torch.save(state, kept)
    with open(name + ".tmp", "wb") as file:
        file.write(kept.getvalue())
    os.replace(name + ".tmp", name + ".pt")
    return torch.load(name + ".pt")


def beside(name, states, rate=1, listed=False, restored=True, kept="average", fresh=True, count=True):
    # rates by hand; what is kept beside the model is a dictionary or a list
    state = None
    for _ in range(2):
        model = kind(name)
        opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
        if state is not None:
            model.load_state_dict(state["model"])
            if "opt" in state:
                opt.load_state_dict(state["opt"])
        shadow = {n: p.detach().clone() for n, p in model.named_parameters()}
        if state is not None and restored:
            shadow = {n: state["mean"][i] for i, n in enumerate(shadow)}
        shadow = list(shadow.values()) if listed else shadow
        for step in range(12):
            x = torch.randn(16, 6) if fresh else DATA[step % 6]
            opt.param_groups[0]["lr"] = 3e-3 * rate ** (step + (12 if state and count else 0))
            opt.zero_grad()
            (model(x) - x[:, :3].prod(1, keepdim=True)).square().mean().backward()
            opt.step()
            for i, (n, p) in enumerate(model.named_parameters()):
                one = shadow[i if listed else n]
                if kept == "average":
                    one.mul_(0.98).add_(p.detach(), alpha=0.02)
                elif kept == "gradient":
                    one.mul_(0.9).add_(p.grad)
                else:
                    one.copy_(p.detach())
        values = shadow if listed else list(shadow.values())
        state = {"model": model.state_dict(), "opt": opt.state_dict(), "step": 12, "mean": values}
        state = through_memory(name, {k: v for k, v in state.items() if k in states})


DATA = torch.randn(96, 6, generator=torch.Generator().manual_seed(1)).split(16)


def twice(name, moments=True, mean=True, moving=True, fresh=False):
    data = torch.randn(96, 6, generator=torch.Generator().manual_seed(1)).split(16)
    state = None
    for _ in range(2):
        model, slow = kind(name), kind(name)
        opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
        slow.load_state_dict(model.state_dict())
        slow.requires_grad_(False)
        if state is not None:
            model.load_state_dict(state["model"])
            if moments:
                opt.load_state_dict(state["opt"])
            if mean:
                slow.load_state_dict(state["mean"])
        for step in range(12):
            x = torch.randn(16, 6) if fresh else data[step % 6]
            opt.param_groups[0]["lr"] = 3e-3 / (1 + step + (12 if state else 0)) if fresh else 3e-3
            opt.zero_grad()
            (model(x) - slow(x) - x[:, :3].prod(1, keepdim=True)).square().mean().backward()
            opt.step()
            for one, other in zip(slow.parameters(), model.parameters()):
                if moving:
                    one.lerp_(other.detach(), 0.05)
        state = {"model": model.state_dict(), "opt": opt.state_dict(), "step": 12, "mean": slow.state_dict()}
        state = through_memory(name, state)


torch.manual_seed(0)
twice("Whole")
twice("Drawn", fresh=True)
twice("NoMoments", moments=False)
twice("NoMean", mean=False)
twice("NoMeanDrawn", mean=False, fresh=True)
twice("Standing", mean=False, moving=False)
ALL = ("model", "opt", "step", "mean")
beside("Named", ALL, rate=0.95)
beside("NoNamed", ALL[:3], rate=0.95, restored=False)
beside("NoListed", ALL[:3], rate=0.95, restored=False, listed=True)
beside("Notes", ALL[:3], restored=False, kept="weights")
beside("Gradients", ALL[:3], restored=False, kept="gradient", listed=True)
beside("ByHand", ALL, rate=0.95, fresh=False)
beside("NoCount", ALL, rate=0.95, count=False, fresh=False)
beside("NextCycle", ALL, rate=0.8, count=False, fresh=False)
beside("OtherRows", ALL, rate=0.95, count=False)
beside("ByHandNoMoments", ("model", "step", "mean"), rate=0.95, fresh=False)
"""


@pytest.mark.slow
def test_averages_go_on_where_they_were(codes: Codes) -> None:
    found = codes(SCRIPT)
    lacks = ["NoMoments", "NoMean", "NoMeanDrawn", "NoNamed", "NoListed", "ByHandNoMoments", "NoCount"]
    assert found == {(name, "K2") for name in lacks}
