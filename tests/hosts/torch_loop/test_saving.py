"""K1 through the door: the ways in which people save."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import sightline

State = dict[str, torch.Tensor]


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.squash, self.tag = nn.Embedding(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 12, bias=False)
        self.tag.weight = self.table.weight

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.tag(self.squash(self.table(words).mean(1)))


def trained(then: Callable[[Tagger, Path], None], tmp_path: Path, file: str = "last.pt") -> list[tuple[str, str]]:
    tagger = Tagger()
    opt = torch.optim.Adagrad(tagger.parameters(), lr=0.1)
    with sightline.attach(tagger, opt, on_finding=None) as guard:
        for _ in range(3):
            opt.zero_grad()
            nn.functional.cross_entropy(tagger(torch.randint(0, 12, (6, 5))), torch.randint(0, 12, (6,))).backward()
            opt.step()
        then(tagger, tmp_path / file)
        guard.checkpoint(tmp_path / file)
    return [(finding.code, finding.severity) for finding in guard.findings]


def plain(tagger: Tagger, path: Path) -> None:
    torch.save({"epoch": 3, "model": tagger.state_dict()}, path)


def weights_alone(tagger: Tagger, path: Path) -> None:
    torch.save({name: weight.data for name, weight in tagger.named_parameters()}, path)


def halved(tagger: Tagger, path: Path) -> None:
    torch.save({name: t.half() if t.is_floating_point() else t for name, t in tagger.state_dict().items()}, path)


def wrapped(tagger: Tagger, path: Path) -> None:
    torch.save(nn.DataParallel(tagger).state_dict(), path)


def deduplicated(tagger: Tagger, path: Path) -> None:
    safetensors.torch.save_model(tagger, str(path))


def somewhere_else(tagger: Tagger, path: Path) -> None:
    torch.save({"net": {"weights": tagger.state_dict()}, "when": "today"}, path)


@pytest.mark.parametrize(
    ("way", "file", "found"),
    [
        (plain, "last.pt", []),
        (deduplicated, "last.safetensors", []),
        (somewhere_else, "last.pt", []),
        (weights_alone, "last.pt", [("K1", "error")]),
        (wrapped, "last.pt", [("K1", "error")]),
        (halved, "last.pt", [("K1", "warning")]),
    ],
)
def test_ways_to_save(way: Callable, file: str, found: list[tuple[str, str]], tmp_path: Path) -> None:
    assert trained(way, tmp_path, file) == found
