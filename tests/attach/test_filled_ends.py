"""A decoder of the script's own, whose padding nobody names: batches of prompts that it goes on from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sightline.attach.language import Language
from sightline.attach.mailbox import Mailbox
from sightline.guard.check import Finding
from sightline.guard.checks.evaluation.wrong_padding_side import find
from sightline.guard.evidence import PaddingSeen
from sightline.guard.probes.call import Call, outcome

ENDS = [3, 5, 6, 8, 4, 7, 8, 5, 6, 3]


def prompts(*, middle: bool = False, ends: list[int] = ENDS) -> Tensor:
    ids = torch.randint(1, 20, (len(ends), 8), generator=torch.Generator().manual_seed(0))
    for row, end in enumerate(ends):
        ids[row, end:] = 0
    return torch.cat([ids, torch.full((len(ids), 1), 5), torch.zeros(len(ids), 1).long()], 1) if middle else ids


def seen(taught: Tensor, ids: Tensor, *, at_last: bool = True) -> list[Any]:
    torch.manual_seed(0)
    model, found = nn.Sequential(nn.Embedding(20, 32), nn.Linear(32, 20)), list[Any]()
    language, mailbox = Language(lambda kind: kind == "PaddingSeen"), Mailbox()
    language.trained(Call(model, (taught,), {}), 0, found.append)
    with torch.no_grad():
        for _ in range(3):
            out = model(ids)
            language.judged(Call(model, (ids,), {}), outcome(out), 1, mailbox, found.append)
            read = torch.full((len(ids),), -1) if at_last else (ids != 0).sum(1) - 1
            ids = torch.cat([ids, out[torch.arange(len(ids)), read].argmax(-1)[:, None]], 1)
    return [one for one in found if isinstance(one, PaddingSeen) and isinstance(find(one), Finding)]


def test_generation_from_padding_that_nobody_names() -> None:
    assert seen(prompts(), prompts())


@pytest.mark.parametrize(
    ("taught", "ids", "at_last"),
    [
        (prompts(), prompts(), False),  # what a row's last token says
        (prompts(middle=True), prompts(), True),  # trained to go on from padding
        (prompts(ends=[8] * 10), prompts(), True),  # trained on no padding: it may be a word
        (prompts(), prompts(ends=[7] * 5 + [8] * 5), True),  # a mark at the end of some
    ],
)
def test_silent(taught: Tensor, ids: Tensor, at_last: bool) -> None:
    assert not seen(taught, ids, at_last=at_last)
