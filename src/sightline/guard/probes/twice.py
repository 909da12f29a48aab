"""Is evaluation deterministic? The same batch, seen twice in the mode that the host evaluates in."""

from __future__ import annotations

import torch

from sightline.guard.probes.call import Call
from sightline.guard.probes.restore import untouched


def difference(call: Call) -> float | None:
    """Largest absolute difference between two forward passes of `call` in the model's present mode.

    None when the model gives neither logits nor a loss.
    """
    with untouched(call.model), torch.no_grad():
        once, again = call.run(), call.run()
    pairs = [(once.logits, again.logits), (once.loss, again.loss)]
    for one, other in pairs:
        if one is not None and other is not None:
            return float((one.float() - other.float()).abs().max())
    return None
