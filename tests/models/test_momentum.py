"""The slow copy follows by the formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sightline.errors import UserError
from sightline.models.momentum import follow, slow_copy


def student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


def test_follows_by_the_formula() -> None:
    fast = student()
    slow = slow_copy(fast)
    start = {name: p.clone() for name, p in slow.named_parameters()}
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter += 1
    fast(torch.randn(8, 3))  # moves the running statistics
    follow(slow, fast, 0.9)
    for name, parameter in slow.named_parameters():
        torch.testing.assert_close(parameter, 0.9 * start[name] + 0.1 * dict(fast.named_parameters())[name])
        assert not parameter.requires_grad
    for name, buffer in slow.named_buffers():
        assert torch.equal(buffer, dict(fast.named_buffers())[name])
    assert not slow.training and all(p.requires_grad for p in fast.parameters())


def test_a_copy_of_something_else() -> None:
    with pytest.raises(UserError, match=r"differ in 0\.bias"):
        follow(nn.Sequential(nn.Linear(3, 4, bias=False)), nn.Sequential(nn.Linear(3, 4)))
    with pytest.raises(UserError, match=r"differ in 0\.weight"):
        follow(nn.Sequential(nn.Linear(2, 4)), nn.Sequential(nn.Linear(3, 4)))
    with pytest.raises(UserError, match="momentum is 2"):
        follow(student(), student(), 2)
