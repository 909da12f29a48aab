"""Targets read off the graph of a loss, put beside the text that they are of; and what is no such text."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.attach.script.loss.logits import SoftmaxLoss
from sightline.attach.script.loss.texts import behind
from sightline.guard.catalogue import load, page
from sightline.guard.evidence import IGNORE, LossSeen

IDS = torch.arange(1, 13).view(2, 6)


def next_tokens(prefix: int, *, last: bool = True) -> Tensor:
    """(2, prefix + 6 or one less) what each place of a prefix and the text teaches: the token behind it."""
    after = torch.cat([IDS[:, 1:], IDS.new_full((2, 1), IGNORE)], 1)[:, : 6 if last else 5]
    before = torch.full((2, prefix), IGNORE)
    if prefix:
        before[:, -1] = IDS[:, 0]
    return torch.cat([before, after], 1)


@pytest.mark.parametrize("prefix", [0, 3])
@pytest.mark.parametrize("last", [True, False])
def test_the_text_that_targets_are_of(prefix: int, last: bool) -> None:
    grid = next_tokens(prefix, last=last)
    found = behind(IDS, grid.flatten())
    assert found is not None and torch.equal(found[1], grid)
    width = grid.shape[1]
    assert torch.equal(found[0], torch.cat([torch.full((2, prefix), -1), IDS], 1)[:, :width])
    labels = LossSeen(0, 0, 8, 1.0, 1.0, 0.0, found[0], found[1]).labels_of(IDS)
    assert labels is not None and torch.equal(labels[:, 1:], IDS[:, 1:])
    assert labels[:, 0].tolist() == (IDS[:, 0].tolist() if prefix else [IGNORE, IGNORE])


@pytest.mark.parametrize(
    "targets",
    [
        IDS.roll(2, 1).flatten(),  # of other places
        next_tokens(0).roll(1, 0).flatten(),  # of the other row
        next_tokens(0).T.flatten(),  # time first
        next_tokens(0)[:, :4].flatten(),  # too short
        torch.full((12,), IGNORE),
        torch.arange(13),
    ],
)
def test_what_is_no_next_token(targets: Tensor) -> None:
    assert behind(IDS, targets) is None


class Captioner(nn.Module):
    """A prefix of one picture, a text, and a loss alone."""

    def __init__(self, pad: int) -> None:
        super().__init__()
        self.see, self.words = nn.Linear(6, 16), nn.Embedding(9, 16)
        self.body, self.head, self.pad = nn.GRU(16, 16, batch_first=True), nn.Linear(16, 9), pad

    def forward(self, pictures: Tensor, ids: Tensor) -> Tensor:
        logits = self.head(self.body(torch.cat([self.see(pictures)[:, None], self.words(ids[:, :-1])], 1))[0])
        return F.cross_entropy(logits.transpose(1, 2), ids, ignore_index=self.pad)


def codes(*, ends: int, pad: int) -> set[str]:
    """Of L3. `SoftmaxLoss` is asked as under `sightline run`."""
    torch.manual_seed(0)
    model = Captioner(pad)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with sightline.attach(model, optimizer, on_finding=None, checks=load((page("L3"),)), budget=1.0) as guard:
        for step in range(8):
            width = 7 if step % 2 else 9
            rows = [[*torch.randint(3, 9, (width - 1 - n % 4,)).tolist(), ends] for n in range(6)]
            ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
            value = model(torch.randn(6, 6), ids)
            found, open_step = SoftmaxLoss.under(value), guard._recorder.open_step
            optimizer.zero_grad()
            value.backward()
            assert found is not None and open_step is not None
            found.tell(guard._recorder, open_step)
            optimizer.step()
    return {finding.code for finding in guard.findings}


def test_an_end_that_is_ignored_as_padding_behind_a_picture() -> None:
    assert codes(ends=1, pad=1) == {"L3"}
    assert codes(ends=2, pad=1) == set()
