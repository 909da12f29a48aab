"""Next-token loss against torch's own mean, and the law that sums add up over any split."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from sightline.losses.next_token import next_token


def test_sum_over_count_is_the_mean() -> None:
    logits, targets = torch.randn(7, 11), torch.randint(11, (7,))
    total, count = next_token(logits, targets)
    torch.testing.assert_close(total / count, F.cross_entropy(logits, targets))


def test_sums_add_up_over_any_split() -> None:
    logits, targets = torch.randn(9, 5, dtype=torch.float64), torch.randint(5, (9,))
    whole, _ = next_token(logits, targets)
    parts = [next_token(logits[a:b], targets[a:b])[0] for a, b in ((0, 2), (2, 3), (3, 9))]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-6, atol=1e-6)


def test_uniform_logits_cost_ln_v() -> None:
    total, count = next_token(torch.zeros(4, 50), torch.arange(4))
    assert math.isclose(float(total) / count, math.log(50), rel_tol=1e-6)


def test_bf16_logits_are_summed_in_fp32() -> None:
    logits = torch.randn(6, 8).bfloat16()
    total, _ = next_token(logits, torch.arange(6))
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, F.cross_entropy(logits.float(), torch.arange(6), reduction="sum"))
