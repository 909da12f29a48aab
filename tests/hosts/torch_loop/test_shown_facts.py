"""L8 and L10 through the door: a loop that shows its data set, and what it needs of a hub, in a line each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import sightline
from sightline.attach.access import access_seen
from sightline.attach.data_set import data_seen

CARDS = [
    {"prompt": "Name a bird.", "chosen": "A heron.", "rejected": "A trout."},
    {"prompt": "Name a fish.", "chosen": "A trout.", "rejected": "A heron."},
    {"prompt": "Name a tree.", "chosen": "An alder.", "rejected": "A heron."},
]


def loop(seen: object) -> list[str]:
    net = torch.nn.Linear(4, 1)
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    with sightline.attach(net, sgd, on_finding=None) as guard:
        guard.show(seen)
        for _ in range(2):
            sgd.zero_grad()
            net(torch.randn(8, 4)).pow(2).mean().backward()
            sgd.step()
    return [finding.code for finding in guard.findings]


@pytest.mark.parametrize("column", ["rejected", "chosen"])
def test_pairs_that_were_filled_from_one_column(column: str) -> None:
    rows = [{"prompt": c["prompt"], "chosen": c["chosen"], "rejected": c[column]} for c in CARDS]
    assert loop(data_seen(rows, objective="preference")) == ([] if column == "rejected" else ["L8"])


@pytest.mark.parametrize("logged_in", [True, False])
def test_a_push_at_the_end(logged_in: bool, tmp_path: Path) -> None:
    environment = {"HF_HOME": str(tmp_path), **({"HF_TOKEN": "hf_x"} if logged_in else {})}
    assert loop(access_seen(push="me/birds", environment=environment)) == ([] if logged_in else ["L10"])
