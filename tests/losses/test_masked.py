"""Masked words with a teacher against the formula and torchmultimodal's ALBEF."""

from __future__ import annotations

import pytest
import torch

from sightline.errors import UserError
from sightline.losses.masked import IGNORE, masked_words
from tests.losses.references import torchmultimodal

TARGETS = torch.tensor([3, IGNORE, 0, 10, IGNORE, 5])


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_equals_the_formula(alpha: float) -> None:
    logits, teacher = torch.randn(6, 11, requires_grad=True), torch.randn(6, 11, requires_grad=True)
    exact, soft = logits.double().log_softmax(1), teacher.detach().double().softmax(1)
    expected = torch.zeros((), dtype=torch.float64)
    for i, target in enumerate(TARGETS.tolist()):
        if target != IGNORE:
            expected = expected - (1 - alpha) * exact[i, target] - alpha * (soft[i] * exact[i]).sum()
    total, count = masked_words(logits, TARGETS, teacher, alpha)
    assert count == 4
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=1e-6)
    ours, theirs = torch.autograd.grad(total, logits, retain_graph=True), torch.autograd.grad(expected, logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert torch.autograd.grad(total, teacher, allow_unused=True) == (None,)


def test_equals_torchmultimodal_albef(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = torchmultimodal("modules.losses.albef", monkeypatch).CausalLanguageModelingLoss()
    logits, teacher = torch.randn(1, 7, 11), torch.randn(1, 7, 11)
    labels = torch.cat([torch.tensor([IGNORE]), TARGETS])[None]  # the reference shifts by one
    theirs = reference(labels, logits, teacher, 0.4).sum()
    total, _ = masked_words(logits[0, :-1], TARGETS, teacher[0, :-1], 0.4)
    torch.testing.assert_close(total, theirs, rtol=1e-6, atol=1e-6)


def test_nothing_masked_costs_nothing() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    total, count = masked_words(logits, torch.full((3,), IGNORE), torch.randn(3, 4), 0.4)
    total.backward()
    assert (total.item(), count) == (0, 0)
    assert logits.grad is not None and float(logits.grad.abs().max()) == 0


@pytest.mark.parametrize(("alpha", "teacher"), [(0.4, None), (1.4, torch.ones(1, 2))])
def test_alpha_needs_a_teacher_and_is_a_share(alpha: float, teacher: torch.Tensor | None) -> None:
    with pytest.raises(UserError, match=f"alpha is {alpha}"):
        masked_words(torch.ones(1, 2), torch.zeros(1, dtype=torch.long), teacher, alpha)
