"""Features in place of pictures: of as many pictures as there are texts, or of one and the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sightline


class Describes(nn.Module):
    """Says words beside a picture's features."""

    def __init__(self) -> None:
        super().__init__()
        self.look, self.words = nn.Linear(12, 8), nn.Embedding(20, 8)
        self.mix, self.say = nn.GRU(8, 16, batch_first=True), nn.Linear(16, 20)

    def forward(self, features: Tensor, ids: Tensor) -> Tensor:
        start = self.look(features).mean(dim=1, keepdim=True)
        return self.say(self.mix(torch.cat([start, self.words(ids)], dim=1))[0][:, 1:])


@pytest.mark.parametrize(
    ("features", "texts", "told"),
    [("one", "many", True), ("many", "many", False), ("one", "one", False), ("zeros", "many", False)],
)
def test_one_picture_for_all_texts(features: str, texts: str, told: bool) -> None:
    torch.manual_seed(0)
    model, one = Describes(), torch.randn(6, 12)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with sightline.attach(model, optimizer, on_finding=None, budget=1.0) as guard:
        for _ in range(20):
            seen = {"one": one.expand(16, 6, 12).clone(), "many": torch.randn(16, 6, 12)}.get(features)
            ids = torch.randint(1, 20, (16 if texts == "many" else 1, 9)).expand(16, 9)
            logits = model(torch.zeros(16, 6, 12) if seen is None else seen, ids[:, :-1])
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
            optimizer.step()
    assert any("one and the same" in found.message for found in guard.findings if found.code == "X5") == told
