"""Views of one picture, told from other pictures: moved, mirrored, noisy, in another contrast."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sightline.attach.likeness import small_images
from sightline.attach.views import thumbnails, views


def pictures(count: int, draw: torch.Generator) -> Tensor:
    """A stroke that all have in common, a stain and a grain that each has of its own."""
    stain = interpolate(torch.randn(count, 1, 6, 6, generator=draw), size=24, mode="bicubic")
    stroke = torch.linspace(-2, 2, 24)[None, None, :, None].sin() * 3
    return stroke + stain + 0.5 * torch.randn(count, 1, 24, 24, generator=draw)


def seen(rows: Tensor) -> tuple[Tensor, int]:
    return views(thumbnails(small_images(rows)))


@pytest.mark.parametrize("change", ["moved", "mirrored", "noisy", "brighter", "of bytes"])
def test_views_of_one_picture(change: str) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = pictures(150, draw)
    changed = {
        "moved": lambda: rows.roll((1, -1), (2, 3)),
        "mirrored": lambda: rows.flip(-1),
        "noisy": lambda: rows + 0.2 * torch.randn(rows.shape, generator=draw),
        "brighter": lambda: 0.7 * rows + 3,
        "of bytes": lambda: (rows * 20 + 100).clamp(0, 255).to(torch.uint8),
    }[change]()
    near, doubtful = seen(torch.cat([rows, changed.float()]))
    place = torch.arange(300) % 150
    same = place[:, None] == place[None]
    assert int((near & ~same).sum()) == 0 and doubtful <= 6
    assert (near & same).sum() >= 0.98 * same.sum()


def test_other_pictures() -> None:
    draw = torch.Generator().manual_seed(1)
    for rows in (pictures(200, draw), torch.randn(50, 3, 16, 16, generator=draw), torch.zeros(4, 1, 8, 8)):
        near, _ = seen(rows)
        assert torch.equal(near, torch.eye(len(rows), dtype=torch.bool))
