"""I5 for pairs of images and captions that a contrastive loss teaches to find each other, and which were parted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.guard.check import Finding
from sightline.guard.checks.data.inputs_and_labels_misaligned import find
from sightline.guard.evidence import MatchesSeen


class Clip(nn.Module):
    """Gives all scores, or the vectors of both sides."""

    def __init__(self, scores: bool) -> None:
        super().__init__()
        self.scores, self.see = scores, nn.Sequential(nn.Flatten(), nn.Linear(192, 32))
        self.words = nn.EmbeddingBag(12, 32, mode="sum")

    def forward(self, images: Tensor, ids: Tensor) -> Any:
        a, b = F.normalize(self.see(images), dim=1), F.normalize(self.words(ids), dim=1)
        return 10 * a @ b.T if self.scores else (a, b)


def told(way: str, scores: bool, epochs: int = 8) -> list[str]:
    """Stripes in three places, and a caption that names them. `way`: how captions come to images."""
    draw = torch.Generator().manual_seed(0)
    bright = torch.randint(0, 4, (128, 3), generator=draw)
    captions = torch.cat([bright + torch.tensor([0, 4, 8]), torch.full((128, 3), 3)], dim=1)
    low = bright[:, :, None, None].float().expand(-1, 3, 8, 8)
    images = low + 0.1 * torch.randn(128, 3, 8, 8, generator=draw)
    torch.manual_seed(0)
    model = Clip(scores)
    opt = torch.optim.Adam(model.parameters(), lr=3e-3 if way != "dealt anew" else 1e-4)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(epochs):
            other = torch.randperm(128) if way == "dealt anew" else torch.arange(128)
            for rows in torch.randperm(128).split(16):
                x = images[rows] + (0.05 * torch.randn(1) if way == "augmented" else 0)
                given = model(x, captions[other[rows]])
                logits = given if scores else 10 * given[0] @ given[1].T
                wanted = torch.arange(len(rows))
                opt.zero_grad()
                (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)).backward()
                opt.step()
    return [finding.code for finding in guard.findings if finding.severity != "note"]


@pytest.mark.parametrize("scores", [True, False], ids=["scores", "vectors"])
@pytest.mark.parametrize("way", ["as they belong", "augmented", "dealt anew"])
def test_captions(way: str, scores: bool) -> None:
    assert told(way, scores) == (["I5"] if way == "dealt anew" else [])


STEPS = tuple(range(0, 200, 5))
LOST = MatchesSeen(200, 16, STEPS, (0.5,) * 40, again=400, kept=400, expected=3.0, natural=True)


@pytest.mark.parametrize(
    ("seen", "severity"),
    [
        (LOST, "warning"),
        (replace(LOST, kept=5), "error"),
        (replace(LOST, kept=5, natural=False), "error"),
        (replace(LOST, natural=False), None),
        (replace(LOST, step=149), None),
        (replace(LOST, again=127), None),
        (replace(LOST, again=60, kept=0), None),
        (replace(LOST, kept=10, natural=False), None),
        (replace(LOST, won=(0.5,) * 20 + (0.58,) * 20), None),
        (replace(LOST, steps=STEPS[:20], won=(0.5,) * 20), None),
    ],
    ids=["fixed", "dealt", "numbers", "random", "short", "once", "few", "partly", "learns", "unseen"],
)
def test_what_scores_prove(seen: MatchesSeen, severity: str | None) -> None:
    found = find(matches=seen)
    assert (found.severity if isinstance(found, Finding) else None) == severity
