"""The first loss over scores of all pairs of a batch, as of images and their texts: by the graph, whoever made them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sightline.attach.graph import is_log_softmax, nodes, signed
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence import PairLossSeen

MOST = 64  # nodes behind the loss
STEPS = 8  # nodes between the softmax and the product
LEAST = 8  # pairs
TARGETS, PRODUCT = "NllLossBackward0", "MmBackward0"
SAME = ("TBackward0", "PermuteBackward0", "TransposeBackward0", "ViewBackward0", "ToCopyBackward0")  # change no value
SCALED = {"MulBackward0": 1, "DivBackward0": -1}  # and the power of the number beside


@dataclass(frozen=True, slots=True)
class Scores:
    """The vectors of both sides, (B, d) each, and the numbers that their products are multiplied with or divided by."""

    left: Tensor
    right: Tensor
    factors: list[tuple[Tensor, int]]


class PairScores(Onlooker):
    """Looks at the graph of the first loss."""

    shows: ClassVar = ("PairLossSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._done = False

    def backward(self, root: Tensor) -> None:
        """A backward pass is about to begin from a number."""
        if self._done or self.recorder.muted or self.recorder.open_step is None:
            return
        self._done = True
        if self.recorder.step:
            return
        shown = [
            (node._saved_self.detach(), node._saved_target, scores)
            for node in nodes([root.grad_fn], most=MOST, stop=is_log_softmax)
            if type(node).__name__ == TARGETS and (scores := _behind(node.next_functions[0][0])) is not None
        ]
        if shown:
            self._tell(shown)

    @torch.no_grad()
    def _tell(self, shown: list[tuple[Tensor, Tensor, Scores]]) -> None:
        pairs, scores = len(shown[0][0]), shown[0][2]
        own = torch.arange(pairs, device=shown[0][1].device)
        if any(said.shape != (pairs, pairs) or target.shape != own.shape for said, target, _ in shown):
            return
        taught = torch.stack([(target == own).all() for _, target, _ in shown]).all()
        losses = torch.stack([-said.diagonal().float().mean() for said, _, _ in shown])
        factor = torch.ones(())
        for number, power in scores.factors:
            factor = factor * number.detach().float().cpu().reshape(()) ** power
        facts = [taught.float(), losses.max(), _uneven(scores.left), _uneven(scores.right)]

        def arrived(values: list[Tensor]) -> None:
            own, loss, left, right = values[0].tolist()
            if own:
                self.recorder.offer(PairLossSeen(0, pairs, loss, (left, right), float(values[1])))

        self.recorder.mailbox.post([torch.stack(facts), factor], arrived)


def _behind(softmax: Any) -> Scores | None:
    """What a softmax over all of a row's pairs was given; None for anything but scaled products of two vectors."""
    if not is_log_softmax(softmax) or signed(softmax._saved_dim) not in (1, -1) or len(softmax._saved_result) < LEAST:
        return None
    node, factors = softmax.next_functions[0][0], list[tuple[Tensor, int]]()
    for _ in range(STEPS):
        name = type(node).__name__
        if name == PRODUCT:
            left, right = node._saved_self, node._saved_mat2
            if left is None or right is None:
                return None
            inner = _scale(node.next_functions[0][0])
            learnt = inner is not None and inner[0][0].requires_grad  # a constant may be a part of how vectors are made
            return Scores(left.detach(), right.detach().T, [*factors, inner[0]] if learnt and inner else factors)
        if name in SAME:
            node = node.next_functions[0][0]
        elif (found := _scale(node)) is not None:
            factors.append(found[0])
            node = found[1]
        else:
            return None
    return None


def _scale(node: Any) -> tuple[tuple[Tensor, int], Any] | None:
    """The one number that a node multiplies with or divides by, its power, and what is behind the other side."""
    power = SCALED.get(type(node).__name__)
    if power is None:
        return None
    sides = [getattr(node, name, None) for name in ("_saved_other", "_saved_self")]
    for side, behind in zip(sides, node.next_functions, strict=False):
        if isinstance(side, Tensor) and side.numel() == 1:
            return (side, power), behind[0]
        if power < 0:
            return None  # something over the vectors
    return None


def _uneven(vectors: Tensor) -> Tensor:
    lengths = vectors.float().norm(dim=1)
    return lengths.std() / lengths.mean().clamp(min=1e-30)
