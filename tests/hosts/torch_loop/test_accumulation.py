"""T5 and T2 through the door: a character model with rows of unequal lengths, accumulated in several ways."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sightline

VERSES = ["ab", "abcabcabcabc", "cab", "bcabcabc"]


class Poet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(5, 12)
        self.memory = nn.GRU(12, 12, batch_first=True)
        self.speak = nn.Linear(12, 5)

    def forward(self, so_far: torch.Tensor) -> torch.Tensor:
        return self.speak(self.memory(self.letters(so_far))[0])


def tensors(verses: list[str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rows = [torch.tensor([[4, *("abc".index(c) + 1 for c in verse), 4]]) for verse in verses]
    return [(row[:, :-1], row[:, 1:]) for row in rows]


def compose(verses: list[str], way: str, steps: int = 6) -> tuple[str, ...]:
    torch.manual_seed(0)
    poet, pieces = Poet(), tensors(verses)
    rms = torch.optim.RMSprop(poet.parameters(), lr=1e-3)
    total = sum(target.numel() for _, target in pieces)
    with sightline.attach(poet, rms, on_finding=None) as guard:
        for _ in range(steps):
            rms.zero_grad()
            for heard, target in pieces:
                nll = nn.functional.cross_entropy(poet(heard).transpose(1, 2), target, reduction="none")
                wrong = {"mean": nll.mean() / len(pieces), "added": nll.mean(), "global": nll.sum() / total}[way]
                wrong.backward()
            rms.step()
    assert guard.records()
    return tuple(finding.code for finding in guard.findings)


@pytest.mark.parametrize("way", ["mean", "added"])
def test_means_of_unequal_rows(way: str) -> None:
    assert compose(VERSES, way) == ("T5",)


def test_one_mean_over_all_of_a_step() -> None:
    assert compose(VERSES, "global") == ()


def test_means_of_equal_rows() -> None:
    assert compose(["abca", "bcab", "cabc"], "mean") == ()


@pytest.mark.parametrize("way", ["mean", "global"])
def test_classes_with_weights_of_their_own(way: str) -> None:
    torch.manual_seed(0)
    poet, pieces, weights = Poet(), tensors(VERSES), torch.tensor([1.0, 0.4, 2.0, 1.0, 0.7])
    adam, total = torch.optim.Adam(poet.parameters(), lr=1e-3), sum(target.numel() for _, target in tensors(VERSES))
    with sightline.attach(poet, adam, on_finding=None) as guard:
        for _ in range(6):
            adam.zero_grad()
            for heard, target in pieces:
                kind = "mean" if way == "mean" else "sum"
                nll = nn.functional.cross_entropy(poet(heard).transpose(1, 2), target, weights, reduction=kind)
                (nll / (len(pieces) if way == "mean" else total)).backward()
            adam.step()
    assert [finding.code for finding in guard.findings] == (["T5"] if way == "mean" else [])


def cleared(where: str, share: str, steps: int = 4) -> tuple[str, ...]:
    """`where`: once a step, or for each of its micro-batches. `share`: losses are parts of a mean, or whole ones."""
    torch.manual_seed(0)
    poet, pieces = Poet(), tensors(["abca", "bcab", "cabc"] if share != "tokens" else VERSES)
    opt = torch.optim.Adam(poet.parameters(), lr=1e-3)
    total = sum(target.numel() for _, target in pieces)
    with sightline.attach(poet, opt, on_finding=None) as guard:
        for _ in range(steps):
            opt.zero_grad()
            for heard, target in pieces:
                if where == "micro-batch":
                    opt.zero_grad()
                nll = nn.functional.cross_entropy(poet(heard).transpose(1, 2), target, reduction="sum")
                (
                    nll / {"rows": target.numel() * len(pieces), "tokens": total, "whole": target.numel()}[share]
                ).backward()
            opt.step()
    return tuple(finding.code for finding in guard.findings)


@pytest.mark.parametrize("share", ["rows", "tokens"])
def test_gradients_that_are_cleared_for_each_micro_batch(share: str) -> None:
    assert cleared("micro-batch", share) == ("T2",)
    assert cleared("step", share) == ()


def test_two_looks_at_one_batch_before_a_step() -> None:
    """Sharpness-aware steps clear the gradients of the first look, of which each has a whole loss."""
    assert cleared("micro-batch", "whole") == ()


def taking_turns(way: str, steps: int = 6) -> tuple[str, ...]:
    """Halves of one module, an optimizer each. What the other's backward pass leaves is cleared before one's own."""
    torch.manual_seed(0)
    halves = nn.ModuleDict({"maker": nn.Linear(3, 2), "judge": nn.Linear(2, 1)})
    maker, judge = (torch.optim.RMSprop(half.parameters(), lr=1e-3) for half in halves.values())

    class Game(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.halves = halves

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return halves["judge"](halves["maker"](x) if x.shape[1] == 3 else x)

    game = Game()
    with sightline.attach(game, maker, on_finding=None) as guard:
        for step in range(steps):
            maker.zero_grad()
            nn.functional.softplus(-game(torch.randn(8, 3))).mean().backward()
            maker.step()
            if way == "own" or (way == "now and then" and step % 3 == 0):
                judge.zero_grad()
            nn.functional.softplus(-game(torch.randn(8, 2) + 2)).mean().backward()
            if way != "now and then" or step % 3 == 2:
                judge.step()
    return tuple(finding.code for finding in guard.findings)


def test_the_other_half_is_never_cleared() -> None:
    assert taking_turns("never") == ("T2",)


@pytest.mark.parametrize("way", ["own", "now and then"])
def test_a_half_is_cleared_before_its_own_turn(way: str) -> None:
    """`now and then`: it gathers the gradients of three rounds, and of the other's passes between."""
    assert taking_turns(way) == ()


def penalised(where: str, steps: int = 6) -> tuple[str, ...]:
    """A judge whose slope at what is real is held small: its gradients are asked for before the backward pass."""
    torch.manual_seed(0)
    judge = nn.Sequential(nn.Linear(3, 8), nn.Softplus(), nn.Linear(8, 1))
    rms = torch.optim.RMSprop(judge.parameters(), lr=1e-3)
    with sightline.attach(judge, rms, on_finding=None) as guard:
        for _ in range(steps):
            real = torch.randn(8, 3).requires_grad_()
            said = judge(real)
            (slope,) = torch.autograd.grad(said.sum(), real, create_graph=True)
            if where != "never":
                rms.zero_grad()
            own = slope.square().sum(1).mean()
            (own if where == "a step of its own" else own + nn.functional.softplus(-said).mean()).backward()
            rms.step()
            if where == "a step of its own":
                rms.zero_grad()
                nn.functional.softplus(-judge(torch.randn(8, 3))).mean().backward()
                rms.step()
    return tuple(finding.code for finding in guard.findings)


def test_a_penalty_before_the_gradients_are_cleared() -> None:
    assert penalised("in one loss") == penalised("a step of its own") == ()
    assert penalised("never") == ("T2",)


def letter_by_letter(*, clears: bool, steps: int = 4) -> tuple[str, ...]:
    """A model that is called once for each letter, and one backward pass through all the calls."""
    torch.manual_seed(0)
    poet, verse = Poet(), torch.tensor([[4, 1, 2, 3], [4, 2, 3, 1]])
    adam = torch.optim.Adam(poet.parameters(), lr=1e-3)
    with sightline.attach(poet, adam, on_finding=None) as guard:
        for _ in range(steps):
            if clears:
                adam.zero_grad()
            spoken = torch.stack([poet(verse[:, place : place + 1])[:, 0] for place in range(3)], 2)
            nn.functional.cross_entropy(spoken, verse[:, 1:]).backward()
            adam.step()
    assert guard.records()
    return tuple(finding.code for finding in guard.findings)


def test_one_backward_pass_through_many_calls() -> None:
    """All calls are one pass, which met no gradients and clears none; and one that met the last step's is seen."""
    assert letter_by_letter(clears=True) == ()
    assert letter_by_letter(clears=False) == ("T2",)
