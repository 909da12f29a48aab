"""Which token stands for images, read off gradients, and only where spans of it look cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.attach.onlookers.placeholder import cut_placeholder

IMAGE, PAD = 9, 0


class Seeing(nn.Module):
    """Writes 6 features an image over the placeholders of a row, as far as there are any."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = nn.Conv2d(3, 8, 4, stride=4)
        self.connector = nn.Linear(8, 8)
        self.language = nn.ModuleList([nn.Embedding(16, 8), nn.GRU(8, 16, batch_first=True), nn.Linear(16, 16)])

    def forward(self, pixel_values: Tensor, tokens: Tensor) -> Tensor:
        seen = self.connector(self.vision(pixel_values).flatten(2).transpose(1, 2))
        text = self.language[0](tokens)
        text = text.masked_scatter((tokens == IMAGE)[..., None], seen)
        return self.language[2](self.language[1](text)[0])


def row(words: int, limit: int) -> list[int]:
    """A question of so many words, the image's placeholders, cut at `limit`; then the answer."""
    question = [*range(1, words + 1), *([IMAGE] * 6)]
    return [*question[:limit], 10, 11]


def found(limit: int) -> list[str]:
    torch.manual_seed(0)
    model = Seeing()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        for _ in range(5):
            rows = [row(words, limit) for words in (3, 4, 5, 6, 3, 4)]
            ids = torch.tensor([r + [PAD] * (14 - len(r)) for r in rows])
            logits = model(torch.randn(6, 3, 8, 12), ids)
            targets = ids[:, 1:].masked_fill((ids[:, 1:] == PAD) | (ids[:, 1:] == IMAGE), -100)
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten()).backward()
            optimizer.step()
    return [finding.message for finding in guard.findings if finding.code == "X4"]


@pytest.mark.parametrize(("limit", "cut"), [(9, True), (8, True), (12, False)])
def test_placeholders_that_a_limit_cuts(limit: int, cut: bool) -> None:
    said = found(limit)
    assert bool(said) == cut
    assert not said or "for 36 features of 6 images" in said[0]


def test_images_of_many_sizes_and_padding_are_not_cut() -> None:
    live = torch.tensor([[9, 9, 9, 1, 2, 3], [9, 9, 1, 2, 3, 4], [9, 9, 9, 9, 1, 2], [9, 9, 1, 2, 3, 3]])
    assert cut_placeholder(live, live == 9, torch.ones_like(live, dtype=torch.bool)) is None
    padded = torch.tensor([[1, 2, 0, 0], [1, 2, 0, 0], [1, 2, 0, 0], [1, 0, 0, 0], [3, 4, 5, 6]])
    assert cut_placeholder(padded, padded == 0, torch.ones_like(padded, dtype=torch.bool)) is None
