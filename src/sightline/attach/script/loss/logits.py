"""A cross-entropy in the graph under a loss: its gradient, where no model of the script gives the logits.

Parts that are called one by one, a head inside the loss, features that a function makes logits of: there the logits
leave no module. The graph knows them all the same, and what is read off it are gradients; of a sigmoid's loss also
what that was given.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sightline.attach.gradient import class_dim, loss_seen
from sightline.attach.graph import is_log_softmax, nodes
from sightline.attach.onlookers.binary import read_binary
from sightline.attach.open_step import OpenStep
from sightline.attach.recorder import Recorder
from sightline.attach.script.loss.texts import behind
from sightline.guard.evidence import BinaryLossSeen

MOST = 64  # nodes looked at between the loss and its softmax: means, masks, weights and sums of a few losses
MOVED = """View UnsafeView ReshapeAlias Alias Transpose Permute Slice Split Unbind Clone ToCopy Index Select Squeeze
Unsqueeze"""
SAME = tuple(f"{name}Backward" for name in MOVED.split())  # nodes that change no value
TARGETS = ("NllLossBackward0", "NllLoss2DBackward0")  # nodes that pick the targets, but for one that is ignored
BINARY = "BinaryCrossEntropyWithLogitsBackward0"
NEGATIVE = 1 << 31  # what torch tells of -100 is that, or 2^64 - 100
EVEN = 0.05  # relative: softmax gradients sum to 0 within the rounding of bfloat16


class SoftmaxLoss:
    """The one `log_softmax` under a loss. Its gradient is caught when the backward pass goes through it.

    `beside`: of a sum of several, it is one that was given a softmax's output. `doubled`: it was given one.
    """

    def __init__(self, node: Any, *, beside: bool = False) -> None:
        self.beside = beside
        self._classes, self._dtype = 0, ""
        self._statistics: Tensor | None = None
        self._targets: Tensor | None = None
        self._dim = node._saved_dim
        self.doubled = _comes_from(node, "Softmax")
        node.register_hook(self._came)

    @classmethod
    def under(cls, root: Tensor) -> SoftmaxLoss | None:
        """That under `root`; None where there is none, or more than one of which none takes probabilities.

        The nearest nodes come first: another term of the loss may go deep.
        """
        found = [node for node in nodes([root.grad_fn], most=MOST, stop=is_log_softmax) if is_log_softmax(node)]
        if len(found) == 1:
            return cls(found[0])
        return next((cls(node, beside=True) for node in found if _comes_from(node, "Softmax")), None)

    @torch.no_grad()
    def _came(self, inputs: Any, outputs: Any) -> None:
        """Hook of the node: the gradient with respect to the logits, and that with respect to their log-softmax.

        The latter is -w at the target of cross-entropy, the former w * (p - 1) there: both together tell p.
        """
        grad, after = inputs[0], outputs[0]
        if grad is None or after is None or grad.dim() < 2 or self._statistics is not None:
            return
        dim = self._dim if -grad.dim() <= self._dim < grad.dim() else -1
        grad, after = (part.detach().movedim(dim, -1).flatten(0, -2) for part in (grad, after))
        self._classes, self._dtype = grad.shape[-1], str(grad.dtype).removeprefix("torch.")
        least, at = after.min(dim=-1)
        seen = least < 0
        pull = grad.gather(-1, at[:, None]).squeeze(-1).float()
        weight = -least.float()
        total = seen.sum().clamp(min=1)
        balanced = ((grad.float().sum(dim=-1).abs() <= EVEN * pull.abs()) & seen & (pull < 0)).sum() / total
        lone = (after != 0).sum(dim=-1) <= 1  # one target a position, as without label smoothing
        chosen = (1 + pull / weight).clamp(min=1e-30).log()
        loss = (-chosen.masked_fill(~seen, 0.0).sum() / total).masked_fill(~(lone | ~seen).all(), float("nan"))
        median = weight.masked_fill(~seen, float("nan")).nanmedian()
        unknown = torch.full_like(median, float("nan"))
        doubled = torch.full_like(median, float(self.doubled))
        known = [seen.sum().float(), median, balanced, doubled, doubled]
        statistics = [*known, unknown, unknown, loss, unknown]
        self._statistics = torch.stack([value.float() for value in statistics])
        self._targets = at.masked_fill(~seen, -100)

    def tell(self, recorder: Recorder, step: OpenStep, *, shown: bool = False) -> None:
        """The backward pass is over: this is what the loss supervised. `shown`: a model has shown its logits as well,
        and whether these are probabilities; whatever weighs the loss, what the graph tells is certain.
        """
        if self._statistics is None or self._targets is None:
            return
        number, classes, dtype = recorder.step, self._classes, self._dtype
        beside = self.beside or shown
        ids = recorder.last_call.tensor("input_ids") if recorder.last_call is not None and not beside else None
        text = [] if ids is None or ids.dim() != 2 or not len(ids) else [ids]

        def arrived(values: list[Tensor]) -> None:
            seen = loss_seen(number, len(step.micro), values[:2], classes, dtype)
            seen = replace(seen, log_z=None, largest_logit=None)  # of logits, which are not known
            if text and (placed := behind(values[2], values[1])) is not None:
                seen = replace(seen, input_ids=placed[0], targets=placed[1])
                recorder.onlookers.taught(values[2], seen)
            if shown and not self.beside:
                seen = replace(seen, probability_rows=0.0)
            if not beside:
                step.micro.append(seen)
            recorder.offer(seen)

        recorder.mailbox.post([self._statistics, self._targets, *text], arrived)


class SigmoidLoss:
    """A binary cross-entropy that takes the sigmoid itself. `doubled`: it was given what a sigmoid gave."""

    def __init__(self, node: Any, *, doubled: bool) -> None:
        self._doubled = doubled
        self._given: Tensor = node._saved_self.detach()
        self._statistics: Tensor | None = None
        node.register_hook(self._came)

    @classmethod
    def under(cls, root: Tensor, *, first: bool) -> SigmoidLoss | None:
        """The nearest under `root` that was given a sigmoid's output; of the run's first loss, else the only one."""
        found = [node for node in nodes([root.grad_fn], most=MOST) if type(node).__name__ == BINARY]
        wrong = next((node for node in found if _comes_from(node, "Sigmoid")), None)
        if wrong is not None:
            return cls(wrong, doubled=True)
        return cls(found[0], doubled=False) if first and len(found) == 1 else None

    def _came(self, inputs: Any, outputs: Any) -> None:
        """Hook of the node: the gradient with respect to what it was given."""
        if inputs[0] is not None:
            self._statistics = read_binary(self._given, inputs[0])

    def tell(self, recorder: Recorder) -> None:
        """The backward pass is over. By the graph all outputs passed one sigmoid, or two, whatever weighs them."""
        if self._statistics is None:
            return
        number, given, doubled = recorder.step, self._given, float(self._doubled)
        classes = given.shape[class_dim(given)] if given.dim() > 1 else 1

        def arrived(values: list[Tensor]) -> None:
            count, graded, _, loss, ones, probable = values[0].tolist()[:6]
            told = (graded, 1.0 - doubled, loss, ones, probable, doubled)
            recorder.offer(BinaryLossSeen(number, classes, int(count), *told))

        recorder.mailbox.post([self._statistics], arrived)


def left_out(root: Tensor) -> int | None:
    """The class that the cross-entropies under a loss ignore, where it is one of the vocabulary's."""
    found = [node for node in nodes([root.grad_fn], most=MOST, stop=is_log_softmax) if type(node).__name__ in TARGETS]
    ignored = {node._saved_ignore_index for node in found}
    return min(ignored) if len(ignored) == 1 and 0 <= min(ignored) < NEGATIVE else None


def _comes_from(node: Any, function: str) -> bool:
    """Whether what it takes for logits is that function's output, moved about at most."""
    for _ in range(8):
        node = node.next_functions[0][0] if node.next_functions else None
        name = type(node).__name__
        if name.startswith(f"{function}Backward"):
            return True
        if not name.startswith(SAME):
            return False
    return False
