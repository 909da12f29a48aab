"""I5 for images whose masks or boxes are augmented with random numbers of their own, or with those of the image."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, Dataset

import sightline
from sightline.guard.probes.paired import paired

SIDE = 24


class Scenes(Dataset[Any]):
    """Noisy pictures of one rectangle. `way`: what happens to the mask, or to the box, when a picture is augmented."""

    def __init__(self, way: str, *, boxes: bool = False, holes: bool = False, count: int = 24) -> None:
        self.way, self.boxes, self.holes = way, boxes, holes
        draw = np.random.default_rng(0)
        self.rows = []
        for _ in range(count):
            x, y, w, h = draw.integers(0, 9), draw.integers(0, 9), draw.integers(5, 12), draw.integers(5, 12)
            mask = np.zeros((SIDE, SIDE), np.float32)
            mask[y : y + h, x : x + w] = 1
            image = (draw.normal(0.3, 0.1, (3, SIDE, SIDE)) + 0.3 * mask).astype(np.float32)
            self.rows.append((image, mask, np.array([[x, y, x + w, y + h]], np.float32)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Any:
        image, mask, box = self.rows[i]
        flip, other = random.random() < 0.5, random.random() < 0.5
        theirs = {"joint": flip, "apart": other, "image alone": False}[self.way]
        image = image[:, :, ::-1] if flip else image
        if self.holes:
            at, mask = random.randrange(SIDE - 7), np.zeros_like(mask)
            mask[at : at + 6, random.randrange(SIDE - 7) :][:, :6] = 1
        if self.boxes:
            x0, y0, x1, y1 = box[0]
            box = np.array([[SIDE - x1, y0, SIDE - x0, y1]], np.float32) if theirs else box
            return {"image": torch.from_numpy(image.copy()), "target": {"boxes": box, "labels": np.ones(1)}}
        return torch.from_numpy(image.copy()), torch.from_numpy((mask[:, ::-1] if theirs else mask).copy())


@pytest.mark.parametrize("boxes", [False, True], ids=["masks", "boxes"])
@pytest.mark.parametrize(("way", "apart"), [("joint", False), ("apart", True), ("image alone", True)])
def test_what_two_readings_tell(way: str, apart: bool, boxes: bool) -> None:
    before = random.getstate()
    seen = paired(DataLoader(Scenes(way, boxes=boxes), batch_size=4), 0)
    assert seen is not None and seen.moved >= 8 and (seen.apart >= seen.moved / 3 if apart else not seen.apart)
    assert random.getstate() == before


def test_holes_that_are_drawn_anew() -> None:
    """Of a picture that is to be filled: they belong to no place of it."""
    seen = paired(DataLoader(Scenes("image alone", holes=True), batch_size=4), 0)
    assert seen is None or seen.apart < 4


@pytest.mark.parametrize("way", ["joint", "apart"])
def test_a_loop(way: str, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    loader = DataLoader(Scenes(way), batch_size=8, shuffle=True)
    with sightline.attach(net, opt, loader, on_finding=None) as guard:
        for x, y in (batch for _ in range(3) for batch in loader):
            opt.zero_grad()
            binary_cross_entropy_with_logits(net(x)[:, 0], y).backward()
            opt.step()
    assert [finding.code for finding in guard.findings] == (["I5"] if way == "apart" else [])
    assert capfd.readouterr() == ("", "")
