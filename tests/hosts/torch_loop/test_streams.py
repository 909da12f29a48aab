"""M1 through the door: windows drawn anywhere in a text, of which a part is kept to judge by, or is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.guard.check import Finding
from sightline.guard.checks.evaluation.train_test_leakage import find
from sightline.guard.evidence import SharedRowsSeen, SharedSpansSeen

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one

WIDE, ROWS = 32, 16


def drawn(text: Tensor) -> tuple[Tensor, Tensor]:
    starts = torch.randint(len(text) - WIDE, (ROWS,)).tolist()
    windows = torch.stack([text[start : start + WIDE + 1] for start in starts])
    return windows[:, :-1], windows[:, 1:]


def found(taught: Callable[[], tuple[Tensor, Tensor]], judged: Callable[[], Iterable[Tensor]]) -> Sequence[Finding]:
    """What is found in a run on batches of ids and what follows each, judged by others every 16 steps."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 30))
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    with sightline.attach(net, opt, on_finding=None, budget=1.0) as guard:
        for step in range(81):
            if step % 16 == 0:
                with torch.no_grad():
                    for ids in judged():
                        net(ids)
            ids, following = taught()
            opt.zero_grad()
            F.cross_entropy(net(ids).flatten(0, 1), following.flatten()).backward()
            opt.step()
    return guard.findings


def codes(train: Tensor, judged: list[Tensor]) -> list[str]:
    """Train on windows of one text, and draw six batches of each text that it is judged by."""
    seen = found(lambda: drawn(train), lambda: (drawn(text)[0] for text in judged for _ in range(6)))
    return [f.code for f in seen if f.severity != "note"]


def random_text(count: int = 6000) -> Tensor:
    return torch.randint(0, 30, (count,), generator=torch.Generator().manual_seed(1))


def sentences(kinds: int, count: int = 6000) -> Tensor:
    """A text of few different sentences of eight tokens, in random order."""
    draw = torch.Generator().manual_seed(2)
    known = torch.randint(0, 30, (kinds, 8), generator=draw)
    return known[torch.randint(0, kinds, (count // 8,), generator=draw)].flatten()


@pytest.mark.slow
def test_a_part_to_judge_by_that_is_trained_on() -> None:
    text = random_text()
    assert codes(text, [text, text[5400:]]) == ["M1"]
    assert codes(text, [text[5400:]]) == ["M1"]


@pytest.mark.parametrize(
    "text",
    [random_text(), *(pytest.param(sentences(n), marks=pytest.mark.slow) for n in (4, 1))],
    ids=["a text", "four sentences", "one sentence"],
)
def test_a_part_that_is_kept(text: Tensor) -> None:
    assert not codes(text[:5400], [text[:5400], text[5400:]])
    assert not codes(text[:5400], [text[5400:]])


@pytest.mark.slow
def test_estimates_of_the_training_loss() -> None:
    text = random_text()
    assert not codes(text, [text])


def lines(rounds: list[bool]) -> tuple[Tensor, Tensor]:
    """(B, WIDE) tokens of a log, and what follows: four of any kind, then more, or eight steps gone through again."""
    steps = torch.arange(20, 28).repeat(4)[: WIDE - 3]
    ends = [steps if goes_round else torch.randint(0, 20, (WIDE - 3,)) for goes_round in rounds]
    ids = torch.cat([torch.randint(0, 20, (len(rounds), 4)), torch.stack(ends)], dim=1)
    return ids[:, :-1], ids[:, 1:]


@pytest.mark.slow
def test_lines_that_go_round_are_alike_and_may_be_judged_apart() -> None:
    assert not found(
        lambda: lines([place % 3 == 0 for place in range(ROWS)]),
        lambda: (lines([place < 3] * ROWS)[0] for place in range(6)),
    )


ROWS_SEEN = SharedRowsSeen(9, trained=900, evaluated=300, shared=0, mixed=0, complete=True, pairs=9000, twins=0)


@pytest.mark.parametrize(
    ("rates", "distinct", "parted", "alarmed"),
    [
        ((0.9, 1.1, 0.8, 1.0, 0.5), 90, 0.01, True),
        ((0.9, 1.1, 0.8, 1.0, 0.0, 0.1, 0.0), 90, 0.01, False),
        ((0.9, 1.1, 0.8, 1.0, 0.5), 900, 0.01, False),
        ((0.9, 1.1, 0.8, 1.0, 0.5), 90, 0.3, False),
        ((), 0, 0.0, False),
    ],
    ids=["trained on", "and another part that was not", "nearly all of the text", "sentences", "none from a part"],
)
def test_borders(rates: tuple[float, ...], distinct: int, parted: float, alarmed: bool) -> None:
    seen = SharedSpansSeen(9, 24, trained=1000, batches=20, rates=rates, distinct=distinct, parted=parted)
    assert isinstance(find(ROWS_SEEN, seen), Finding) == alarmed
