"""An evaluation that falls back into train mode: what is called in its loop (to generate, to sample) calls `train()`.

The same line of the host's code ran the model in eval mode, and later in train mode, without a step between, on inputs
that it had not been given before. Who compares the modes, or draws with dropout on, asks again what was asked before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.attach.phases.draws import inputs_of
from sightline.attach.phases.place import Place, called_from, thrown_away
from sightline.guard.probes.call import Call

NEW = 2  # inputs that one line runs in train mode, none of which it ran in eval mode
MOST = 64  # passes of a line that are kept: beyond them nobody knows what was asked before
FEW = 256  # numbers of an input, by which it is known again


class Relapse:
    """The passes of one evaluation. The device is read only where train mode came back."""

    def __init__(self) -> None:
        self._judged: dict[Place, list[Tensor]] = {}
        self._fell: dict[Place, list[Tensor]] = {}

    def elsewhere(self, call: Call) -> bool:
        """Whether a line that had not run the model does so now, in train mode, on what none in eval mode was given.

        A pass of which nothing is read (statistics that are taken anew) is none.
        """
        if not call.model.training or called_from() in self._judged or thrown_away():
            return False
        few, every = _few(call), [one for given in self._judged.values() for one in given]
        return few is not None and bool(every) and not any(one.shape == few.shape and one.equal(few) for one in every)

    def passed(self, call: Call) -> bool:
        """The model was run; whether this shows that the evaluation fell back."""
        place, few = called_from(), _few(call)
        if few is None:
            return False
        before, fell = self._judged.setdefault(place, []), self._fell.setdefault(place, [])
        if not call.model.training:
            if len(before) < MOST:
                before.append(few)
            return False
        if not 0 < len(before) < MOST or len(fell) >= NEW:
            return False
        if any(one.shape == few.shape and torch.equal(one, few) for one in (*before, *fell)):
            self._fell[place] = [few] * NEW  # asked again: on purpose
            return False
        fell.append(few)
        return len(fell) == NEW


def _few(call: Call) -> Tensor | None:
    """A few numbers of the largest input."""
    flat = max(inputs_of(call).values(), key=Tensor.numel, default=torch.empty(0)).reshape(-1)
    if not len(flat):
        return None
    return flat[:: -(-len(flat) // FEW)].clone()
