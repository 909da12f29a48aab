"""Captioning with label smoothing against the formula and torchmultimodal's; without it, next-token prediction."""

from __future__ import annotations

import pytest
import torch

from sightline.errors import UserError
from sightline.losses.captioning import IGNORE, captioning
from sightline.losses.next_token import next_token
from tests.losses.references import torchmultimodal


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_equals_the_formula(smoothing: float) -> None:
    logits = torch.randn(7, 11, requires_grad=True)
    targets = torch.tensor([3, IGNORE, 0, 10, IGNORE, 5, 5])
    exact = logits.double().log_softmax(1)
    expected = sum(
        -(1 - smoothing) * exact[i, t] - smoothing * exact[i].mean() for i, t in enumerate(targets) if t != IGNORE
    )
    total, count = captioning(logits, targets, smoothing)
    assert count == 5
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=1e-6)
    ours, theirs = torch.autograd.grad(total, logits), torch.autograd.grad(expected, logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_is_next_token_without_smoothing() -> None:
    logits, targets = torch.randn(5, 9), torch.randint(9, (5,))
    assert captioning(logits, targets, 0.0) == next_token(logits, targets)


def test_equals_torchmultimodal_blip2(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = torchmultimodal("modules.losses.blip2_losses", monkeypatch, Blip2Output="models.blip2.blip2")
    ids = torch.tensor([[9, 4, 5, 1], [9, 6, 1, 0]])  # CLS, words, end, pad 0
    logits = torch.randn(2, 4, 12)
    theirs = reference.itg_loss(ids, logits, decoder_bos_token_id=10, pad_token_id=0, vocab_size=12)
    following = ids[:, 1:].masked_fill(ids[:, 1:] == 0, IGNORE).flatten()
    total, count = captioning(logits[:, :-1].flatten(0, 1), following)
    torch.testing.assert_close(total / count, theirs, rtol=1e-6, atol=1e-6)


def test_nothing_supervised_costs_nothing() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    total, count = captioning(logits, torch.full((3,), IGNORE))
    total.backward()
    assert (total.item(), count) == (0, 0)
    assert logits.grad is not None and float(logits.grad.abs().max()) == 0


def test_smoothing_is_a_share() -> None:
    with pytest.raises(UserError, match="smoothing is -1"):
        captioning(torch.ones(1, 2), torch.zeros(1, dtype=torch.long), -1)
