"""X5 on features kept beforehand: of other pictures, or of the right ones that a model has not learnt to look at."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.guard.evidence import FeaturesSeen

ROWS, COLOURS = 1200, 6


class Teller(nn.Module):
    """Says each next word from the one before and a mean over features."""

    def __init__(self) -> None:
        super().__init__()
        self.eye, self.words = nn.Linear(16, 24), nn.Embedding(24, 24)
        self.out = nn.Sequential(nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 24))

    def forward(self, features: Tensor, ids: Tensor) -> Tensor:
        seen = self.eye(features).mean(dim=1, keepdim=True).expand(-1, ids.shape[1], -1)
        return self.out(torch.cat([seen, self.words(ids)], dim=2))


def data(kind: str) -> tuple[Tensor, Tensor]:
    """Features of pictures, in four places, and texts. `kind`: what the one has to do with the other."""
    colour, shape = torch.randint(0, COLOURS, (ROWS,)), torch.randint(0, 4, (ROWS,))
    seeds = torch.randn(COLOURS + 4, 16)
    features = (seeds[colour] + seeds[COLOURS + shape])[:, None] + 0.3 * torch.randn(ROWS, 4, 16)
    asked = torch.randint(0, COLOURS, (ROWS,))
    first, filler = torch.ones(ROWS, dtype=torch.int64), torch.randint(20, 22, (ROWS,))
    if kind == "asked":  # neither the question nor the answer alone has to do with the picture
        return features, torch.stack([first, filler, 2 + asked, 18 + (asked == colour).long()], dim=1)
    ids = torch.stack([first, filler, 2 + colour, 10 + shape], dim=1)
    features = torch.randn(ROWS, 4, 16) if kind == "noise" else features
    return (features[torch.randperm(ROWS)] if kind == "of others" else features), ids


def told(kind: str, rate: float) -> tuple[list[str], list[FeaturesSeen]]:
    torch.manual_seed(0)
    (features, ids), model, shown = data(kind), Teller(), []
    opt = torch.optim.Adam(model.parameters(), lr=rate)
    with sightline.attach(model, opt, on_finding=None) as guard:
        offer = guard._recorder.offer
        guard._recorder.offer = lambda seen: (shown.append(seen), offer(seen))
        for _ in range(2):
            for rows in torch.randperm(ROWS).split(32):
                logits = model(features[rows], ids[rows, :-1])
                opt.zero_grad()
                F.cross_entropy(logits.flatten(0, 1), ids[rows, 1:].flatten()).backward()
                opt.step()
    return [f.code for f in guard.findings if f.code == "X5"], [s for s in shown if isinstance(s, FeaturesSeen)]


def test_features_of_other_pictures() -> None:
    codes, (seen,) = told("of others", 3e-3)
    assert codes == ["X5"] and seen.rows == ROWS


@pytest.mark.parametrize("kind", ["own", "asked"])
@pytest.mark.parametrize("rate", [3e-3, pytest.param(1e-7, marks=pytest.mark.slow)], ids=["learns", "has not learnt"])
def test_features_of_the_right_pictures(kind: str, rate: float) -> None:
    codes, seen = told(kind, rate)
    assert not codes and all(one.told > 0.25 for one in seen)
    assert seen or kind == "asked"


def test_random_numbers_are_no_features() -> None:
    assert told("noise", 3e-3) == ([], [])
