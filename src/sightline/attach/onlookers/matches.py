"""Pairs of two inputs (an image and its text) that a loss teaches to find each other in their batch: do they?"""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.onlookers.row_inputs import wide_inputs
from sightline.attach.prints import row_hashes
from sightline.guard.evidence import MatchesSeen
from sightline.guard.probes.call import Call, differentiable

LEAST, MOST = 8, 1024  # pairs of a batch: of fewer chance finds many
VAIN = 4  # first batches without such pairs end it
TAUGHT = 0.8  # of the others pull less than the own partner: all of the scores, fewer of vectors that are alike
KEPT = 20_000  # inputs whose partners are remembered
ALIKE = 0.2  # correlation of neighbouring pixels: photos and drawings have 0.8 and more, noise none
OFTEN, SIGMAS = 2.0, 6.0  # times its even share, and beyond chance: texts have words like "a", random numbers none
GROWTH = 1.06  # from one look to the next, however little time is spared: a dozen for each doubling of the steps
ASIDE = ("mask", "type", "position", "label", "target")


class Matches(Onlooker):
    """Reads the scores of all pairs of a batch, and whether the loss pulls those of one place together."""

    shows: ClassVar = ("MatchesSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._vain, self._over = 0, False
        self._rows = MOST
        self._found: list[tuple[int, float]] = []  # step, share of the others whose score is below the partner's
        self._partners: dict[int, int] = {}
        self._times: Counter[int] = Counter()
        self._again = self._kept = 0
        self._expected = 0.0
        self._natural: bool | None = None
        self._next = 0

    def again(self) -> None:
        """This stage may be one of pairs."""
        if not self._found:
            self._vain, self._over, self._natural = 0, False, None

    def _due(self, step: int) -> bool:
        """Whether this step is to be heard."""
        return not self._over and step >= self._next

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """A training batch of pairs."""
        if self._over or not training:
            return
        sides, given = _sides(call), scored(output)
        if sides is None or given is None or len(given[0]) != len(sides[0]):
            self._vain += 1
            self._over = self._vain >= VAIN and not self._found
            return
        if self._natural is None:
            self._natural = all(natural(side) for side in sides)
        step, (left, right) = self.recorder.step, given
        hashes = [h for side in sides if (h := row_hashes(Call(nn.Identity(), (side,)))) is not None]
        self._next = max(step + 1, int(step * GROWTH))
        scores = _scores(left.detach(), None if right is None else right.detach())

        def came(grad: Tensor) -> None:
            pulls = grad if right is None else grad @ right.detach().to(grad.dtype).T
            taught = won_by_pairs(-pulls)
            if len(hashes) == len(sides):
                self.recorder.mailbox.post(
                    [taught, won_by_pairs(scores), *hashes], lambda values: self._came(step, *values)
                )

        self.heed(left, came)

    def _came(self, step: int, taught: Tensor, won: Tensor, one: Tensor, other: Tensor) -> None:
        if float(taught) < TAUGHT:
            self._vain += 1
            self._over = self._vain >= VAIN and not self._found
            return
        if not self._found:
            self.recorder.pace.also.append(self._due)
        self._found.append((step, float(won)))
        self._rows = min(self._rows, len(one))
        for mine, theirs in zip(one.tolist(), other.tolist(), strict=True):
            if len(self._partners) >= KEPT and mine not in self._partners:
                continue
            before = self._partners.get(mine)
            if before is not None and self._times[theirs]:
                self._again += 1
                self._kept += before == theirs
                self._expected += self._times[before] / self._times.total()
            self._partners[mine] = theirs
            self._times[theirs] += 1

    def close(self, *, broken: bool) -> None:
        """How it went."""
        self._over = True
        if self._found:
            steps, won = zip(*self._found, strict=True)
            natural = bool(self._natural)
            self.recorder.offer(
                MatchesSeen(
                    self.recorder.step, self._rows, steps, won, self._again, self._kept, self._expected, natural
                )
            )


def _sides(call: Call) -> tuple[Tensor, Tensor] | None:
    """The two inputs of which each sample has one, masks and the like aside."""
    found = wide_inputs(call, ASIDE)
    if len(found) != 2 or len(found[0]) != len(found[1]) or not LEAST <= len(found[0]) <= MOST:
        return None
    return found[0], found[1]


def scored(output: Any) -> tuple[Tensor, Tensor | None] | None:
    """(B, B) scores of all with all, or the (B, D) vectors of both sides."""
    given = [tensor for tensor in differentiable(output) if tensor.dim() == 2]
    square = [tensor for tensor in given if tensor.shape[0] == tensor.shape[1]]
    if len(given) == 1 and square:
        return square[0], None
    if len(given) == 2 and given[0].shape == given[1].shape and not square:
        return given[0], given[1]
    return None


def _scores(left: Tensor, right: Tensor | None) -> Tensor:
    if right is None:
        return left.float()
    return nn.functional.normalize(left.float(), dim=1) @ nn.functional.normalize(right.float(), dim=1).T


def won_by_pairs(scores: Tensor) -> Tensor:
    """() share of the other partners whose score is below that of the own, ties a half: 0.5 by chance."""
    return won(scores.diagonal(), scores, ~torch.eye(len(scores), dtype=torch.bool, device=scores.device))


def won(own: Tensor, scores: Tensor, others: Tensor) -> Tensor:
    """() share of the (B, B) scores, where they are those of `others`, that are below the (B,) own one of their row."""
    below = (scores < own[:, None]) + (scores == own[:, None]) / 2
    return (below * others).sum() / others.sum()


def natural(side: Tensor) -> bool:
    """Whether an input looks like an image or a text, and not like random numbers; vectors do not tell."""
    if side.is_floating_point():
        if side.dim() < 3 or side.shape[-1] < 4:
            return False
        one, other = (part.flatten().double() for part in (side[..., 1:], side[..., :-1]))
        apart = (one - one.mean()).norm() * (other - other.mean()).norm()
        return bool(((one - one.mean()) @ (other - other.mean())) > ALIKE * apart)
    counts = side.flatten().bincount() if int(side.min()) >= 0 else side.flatten().unique(return_counts=True)[1]
    even = counts[counts > 0].double().mean()
    return bool(counts.max() > max(OFTEN * even, even + SIGMAS * even.sqrt()))
