"""Per-tower numbers against plain arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sightline.train.measure import UpdateRatio, gradient_norms


def towers() -> dict[str, list[nn.Parameter]]:
    return {
        "a": [nn.Parameter(torch.tensor([3.0, 4.0]))],
        "b": [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(1))],
    }


def test_gradient_norms_are_those_before_clipping() -> None:
    parts = towers()
    for scale, parameters in zip((3.0, 4.0), parts.values(), strict=True):
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, scale)
    before = gradient_norms(parts, 0.0, None)
    assert before == pytest.approx({"a": 3 * 2**0.5, "b": 4 * 5**0.5})
    total = nn.utils.clip_grad_norm_([p for each in parts.values() for p in each], 0.5)
    assert gradient_norms(parts, float(total), 0.5) == pytest.approx(before, rel=1e-4)


def test_update_ratio() -> None:
    parts = towers()
    ratio = UpdateRatio(parts)
    with torch.no_grad():
        parts["a"][0] += torch.tensor([0.3, 0.4])
    assert ratio.after_step() == pytest.approx({"a": 0.1, "b": 0.0})
