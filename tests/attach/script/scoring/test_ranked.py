"""Rankings beside the best one of a row in which everything is right, and such as are measured as they should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attach.script.scoring.test_scores import run

pytestmark = pytest.mark.usefixtures("origins")

HISTORIES = """
import torch
from torch import nn

def rows():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(192, 8, generator=draw)
    wanted = (x @ torch.randn(8, 30, generator=draw)).topk(4, 1).indices
    y = torch.zeros(192, 30).scatter_(1, wanted, 1.0)
    y[::3] *= torch.arange(30) % 2
    y[:, 0] = (y.sum(1) == 0).float() + y[:, 0] * (y.sum(1) > 0)
    return list(zip(x, y))
net = lambda: nn.Linear(8, 30)
def loss(net, batch):
    return nn.functional.binary_cross_entropy_with_logits(net(batch[0]), batch[1])
def gains(k):
    return 1 / torch.log2(torch.arange(2, k + 2).float())
def hits(scores, wanted, k=10):
    return wanted.gather(1, scores.topk(k, 1).indices)
def ndcg(scores, wanted, k=10):
    best = gains(k).cumsum(0)[wanted.sum(1).long().clamp(max=k) - 1]
    return ((hits(scores, wanted) * gains(k)).sum(1) / best).mean().item()
def ndcg_of_k(scores, wanted, k=10):
    return ((hits(scores, wanted) * gains(k)).sum(1) / gains(k).sum()).mean().item()
def dcg(scores, wanted, k=10):
    return (hits(scores, wanted) * gains(k)).sum(1).mean().item()
def precision(scores, wanted):
    return hits(scores, wanted).mean().item()
def recall(scores, wanted):
    return (hits(scores, wanted, 3).sum(1) / wanted.sum(1)).mean().item()
def reciprocal_rank(scores, wanted):
    return (hits(scores, wanted) / torch.arange(1, 11)).amax(1).mean().item()
def ap(scores, wanted, k=10):
    right = hits(scores, wanted)
    precise = right.cumsum(1) / torch.arange(1, k + 1)
    return ((precise * right).sum(1) / DIVISOR).mean().item()
def evaluate(net, loader):
    told = [(net(x).masked_fill(x[:, :1] > 9, -torch.inf), y) for x, y in loader]
    scores, wanted = (torch.cat(part) for part in zip(*told))
    return METRIC(scores, wanted)
"""


@pytest.mark.parametrize(
    ("metric", "divisor", "told"),
    [
        ("ndcg_of_k", "", True),
        ("ap", "k", True),
        ("ndcg", "", False),
        ("ap", "wanted.sum(1).clamp(max=k)", False),
        ("dcg", "", False),
        ("precision", "", False),
        ("recall", "", False),
        ("reciprocal_rank", "", False),
    ],
)
def test_what_a_ranking_is_measured_against(
    metric: str, divisor: str, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = HISTORIES.replace("METRIC", metric).replace("DIVISOR", divisor or "1")
    said = [one.message for one in run(source, tmp_path, monkeypatch)[0]]
    assert len(said) == told and all("rows in which everything is right" in one for one in said)
