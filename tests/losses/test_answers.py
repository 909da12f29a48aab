"""The loss of chosen answers against its formula, and against what the released code computes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from sightline.losses.answers import choice


def test_each_answer_is_a_question_of_its_own() -> None:
    logits, targets = torch.tensor([[0.3, -2.0], [1.5, 0.0]]), torch.tensor([[1.0, 0.3], [0.0, 0.0]])
    expected = 0.0
    for line, marks in zip(logits.tolist(), targets.tolist(), strict=True):
        for logit, mark in zip(line, marks, strict=True):
            p = 1 / (1 + math.exp(-logit))
            expected -= mark * math.log(p) + (1 - mark) * math.log(1 - p)
    total, rows = choice(logits, targets)
    assert float(total) == pytest.approx(expected, rel=1e-6)
    assert rows == 2  # the row without an answer counts


def test_over_its_count_it_is_the_released_codes_loss() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 7), torch.rand(5, 7).round(decimals=1)
    total, rows = choice(logits, targets)
    assert float(total / rows) == pytest.approx(float(binary_cross_entropy_with_logits(logits, targets) * 7), rel=1e-6)


def test_half_precision_is_summed_in_full() -> None:
    total, _ = choice(torch.zeros(4096, 16, dtype=torch.bfloat16), torch.zeros(4096, 16))
    assert total.dtype == torch.float32
    assert float(total) == pytest.approx(4096 * 16 * math.log(2), rel=1e-5)
