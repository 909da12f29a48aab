"""Onlookers leave no trace: the same numbers to the last bit under a scaler, in bfloat16, with a schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sightline
from sightline.guard.catalogue import load, page

MINE = ("T6", "T7", "P2", "P3", "P4", "M1", "M2")


def run(kind: str, *, guarded: bool) -> dict[str, Any]:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(12, 32), nn.Dropout(0.1), nn.ReLU(), nn.Linear(32, 4))
    model = model.bfloat16() if kind == "bfloat16" else model
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 30)
    scaler = torch.amp.GradScaler("cpu", enabled=kind == "scaler")
    guard = None
    if guarded:
        guard = sightline.attach(model, opt, on_finding=None, budget=1.0, checks=load(tuple(map(page, MINE))))
    losses = []
    for number in range(30):
        x = torch.randn(8, 12).to(model[0].weight.dtype)
        with torch.autocast("cpu", dtype=torch.float16, enabled=kind == "scaler"):
            loss = F.cross_entropy(model(x).float(), x[:, :4].argmax(1))
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
        plan.step()
        losses.append(loss.detach())
        if number % 10 == 9:
            model.eval()
            with torch.no_grad():
                losses.append(model(torch.randn(8, 12).to(x.dtype)).float().sum())
            model.train()
    if guard:
        guard.close()
    return {"losses": torch.stack(losses), "state": model.state_dict(), "scale": scaler.get_scale(), "guard": guard}


@pytest.mark.parametrize("kind", ["plain", "scaler", "bfloat16"])
def test_bit_identical(kind: str) -> None:
    bare, watched = run(kind, guarded=False), run(kind, guarded=True)
    assert torch.equal(bare["losses"], watched["losses"]) and bare["scale"] == watched["scale"]
    assert all(torch.equal(value, watched["state"][name]) for name, value in bare["state"].items())
    kinds = {r["code"]: r["kind"] for r in watched["guard"].records()}
    seen = {"T6", "T7", "M1", "M2"} | ({"P2", "P3"} if kind == "scaler" else set())
    assert all(kinds[code] == "passed" for code in seen | ({"P4"} if kind == "bfloat16" else set())), kinds


def test_nothing_of_the_host_is_held_after_close() -> None:
    guard = run("scaler", guarded=True)["guard"]
    model = guard.model
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
