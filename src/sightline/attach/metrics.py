"""Numbers that a host logs of itself become evidence, without waiting for the device that holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from sightline.attach.mailbox import Mailbox
from sightline.guard.evidence import MetricsSeen, Phase


def post_metrics(
    mailbox: Mailbox, values: Mapping[str, Any], step: int, phase: Phase, offer: Callable[[MetricsSeen], Any]
) -> None:
    """Offer the numbers among `values`, in a host's words, once they are on the CPU.

    A tensor counts when it has one element; text, nested tables and flags do not.
    """
    kept = {name: value for name, value in values.items() if _is_number(value)}
    if not kept:
        return
    under_way = {name: value for name, value in kept.items() if isinstance(value, Tensor)}

    def arrived(tensors: list[Tensor]) -> None:
        came = dict(zip(under_way, (float(t) for t in tensors), strict=True))
        offer(MetricsSeen(step, {n: came[n] if n in came else float(v) for n, v in kept.items()}, phase))

    with torch.no_grad():
        mailbox.post([value.detach().reshape(()) for value in under_way.values()], arrived)


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex() and value.dtype != torch.bool
    return isinstance(value, Real) and not isinstance(value, bool)
