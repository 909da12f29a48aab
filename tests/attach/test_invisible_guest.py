"""Law: with the guard on, losses, weights, gradients and random numbers are the same to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sightline


class TinyVLM(nn.Module):
    """Vision, connector and language with dropout and batch norm, so that any random draw or mode switch shows."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8))
        self.connector = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Dropout(0.2))
        self.embed = nn.Embedding(16, 8)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True) for _ in range(2))
        self.head = nn.Linear(8, 16)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor, pixel_values: torch.Tensor) -> dict[str, Any]:
        seen = self.connector(self.vision(pixel_values).flatten(2).transpose(1, 2)).flatten(0, 1)
        text = self.embed(input_ids).masked_scatter((input_ids == 9).unsqueeze(-1), seen)
        causal = nn.Transformer.generate_square_subsequent_mask(input_ids.shape[1])
        for block in self.blocks:
            text = block(text, src_mask=causal, is_causal=True)
        logits = self.head(text)
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"loss": loss, "logits": logits}


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 9, (4, 10))
    ids[:, 1:5] = 9
    labels = ids.clone()
    labels[:, :6] = -100
    return {"input_ids": ids, "labels": labels, "pixel_values": torch.randn(4, 3, 8, 8)}


def train(*, guarded: bool, budget: float, steps: int = 24) -> dict[str, Any]:
    torch.manual_seed(3)
    model = TinyVLM()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    guard = None
    if guarded:
        guard = sightline.attach(model, optimizer, image_token_id=9, budget=budget, on_finding=None)
        state = torch.get_rng_state()
        guard.preflight([{name: tensor.clone() for name, tensor in fixed.items()} for fixed in [FIXED]])
        assert torch.equal(state, torch.get_rng_state())
    losses = []
    for number in range(steps):
        for _ in range(2):
            loss = model(**batch())["loss"] / 2
            loss.backward()
            losses.append(loss.detach())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if number % 8 == 7:
            model.eval()
            with torch.no_grad():
                losses.append(model(**batch())["loss"])
            model.train()
    if guard:
        guard.close()
    return {
        "losses": torch.stack(losses),
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "random": torch.get_rng_state(),
        "guard": guard,
    }


torch.manual_seed(0)
FIXED = batch()


@pytest.mark.parametrize("budget", [1.0, 0.02])
def test_bit_identical_with_and_without(budget: float) -> None:
    plain, guarded = train(guarded=False, budget=budget), train(guarded=True, budget=budget)
    assert torch.equal(plain["losses"], guarded["losses"])
    assert torch.equal(plain["random"], guarded["random"])
    for name, value in plain["state"].items():
        assert torch.equal(value, guarded["state"][name]), name
    assert guarded["guard"].findings == ()
    kinds = {str(r["check"]): r["kind"] for r in guarded["guard"].records()}
    names = ("truncated-image-tokens", "unmasked-labels", "parameters-unmoved", "gradients-not-zeroed", "non-finite")
    assert [kinds[name] for name in names] == ["passed"] * len(names), kinds


def test_hooks_are_gone_after_close() -> None:
    model = TinyVLM()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sightline.attach(model, optimizer, image_token_id=9, on_finding=None) as guard:
        model(**FIXED)["loss"].backward()
    seen = guard._recorder.forwards
    model(**FIXED)["loss"].backward()
    optimizer.step()
    assert guard._recorder.forwards == seen == 1
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
