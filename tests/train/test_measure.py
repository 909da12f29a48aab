"""Per-tower numbers against plain arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sightline.data.pack import pack
from sightline.models.build import Built
from sightline.train.measure import Pace, UpdateRatio, gradient_norms
from sightline.train.parallel.ranks import Ranks


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


def test_pace_counts_what_is_not_padding(built: Built, rows: list[Any]) -> None:
    pace = Pace()
    batch = built.encoder.collate(pack([built.encoder.encode(row) for row in rows[:4]], "none", 512))
    pace.count([batch, batch])
    rates = pace.rates(Ranks(0, 1, torch.device("cpu")))
    assert rates["sequences_per_s"] / rates["images_per_s"] == pytest.approx(8 / 4)  # four rows over two images
    assert rates["tokens_per_s"] / rates["sequences_per_s"] == pytest.approx(int(batch.attention_mask.sum()) / 4)
    assert pace.rates(Ranks(0, 1, torch.device("cpu")))["tokens_per_s"] == 0


def test_update_ratio() -> None:
    parts = towers()
    ratio = UpdateRatio(parts)
    with torch.no_grad():
        parts["a"][0] += torch.tensor([0.3, 0.4])
    assert ratio.after_step() == pytest.approx({"a": 0.1, "b": 0.0})
