"""Many draws of one input: whoever leaves dropout on to see how far its answers are apart asks the same again.

Gal & Ghahramani (2016, https://arxiv.org/abs/1506.02142): Monte-Carlo dropout is a mean over passes with dropout on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sightline.attach.towers import changes_with_mode
from sightline.guard.evidence import EvaluationSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.fields import leaves

AT_ONCE = 8  # passes in a row that begin with the same sample: a loss and a score of one batch are two
TIMES = 2  # that a sample comes again, where a model in evaluation mode had nothing but its dropouts woken
MOST = 4096  # passes that are compared


class Draws:
    """An evaluation in which nothing but dropout is on, until it is over and known whether it asked again and again."""

    def __init__(self, seen: EvaluationSeen, call: Call) -> None:
        self.seen = seen
        self._woken = bool(seen.lively) and not call.model.training
        self._name, value = max(inputs_of(call).items(), key=lambda item: item[1][0].numel(), default=("", None))
        self._first = None if value is None else value[0].clone()
        self._passes = 0
        self._times = self._in_row = torch.zeros(())
        if value is not None:
            self._times = _equal(value, value[0]).sum() - 1
            self._in_row = torch.ones((), dtype=torch.bool, device=value.device)

    @staticmethod
    def may_be(seen: EvaluationSeen, model: nn.Module) -> bool:
        """Whether dropouts are all that makes a difference."""
        parts = dict(model.named_modules())
        lively = [parts.get(name) for name in seen.lively]
        only = all(
            isinstance(p, nn.modules.dropout._DropoutNd) or (p is not None and not changes_with_mode(p)) for p in lively
        )
        return bool(seen.lively or seen.dropouts) and only

    def add(self, call: Call) -> None:
        """The model was asked once more."""
        self._passes += 1
        value = inputs_of(call).get(self._name)
        if self._first is None or self._passes > MOST:
            return
        if value is None or value.shape[1:] != self._first.shape or value.device != self._first.device:
            same = torch.zeros_like(self._in_row)
        else:
            equal = _equal(value, self._first)
            self._times, same = self._times + equal.sum(), equal[0]
        if self._passes < AT_ONCE:
            self._in_row = self._in_row & same

    def meant(self) -> bool:
        """Whether the same was asked often enough to be meant. Reads the device."""
        if self._first is None:
            return False
        if self._woken:
            return int(self._times) >= TIMES
        return self._passes + 1 >= AT_ONCE and self._first.is_floating_point() and bool(self._in_row)

    def again(self) -> bool:
        """Whether the same was asked more than once more, in whichever order. Reads the device."""
        return int(self._times) >= TIMES


def inputs_of(call: Call) -> dict[str, Tensor]:
    """The inputs of a pass that have rows, by their paths."""
    return {name: v.detach() for name, v in leaves(call.args, call.kwargs).items() if v.dim() > 1 and len(v)}


def _equal(value: Tensor, row: Tensor) -> Tensor:
    """(n,) whether each sample is `row`."""
    return (value == row).flatten(1).all(dim=1)
