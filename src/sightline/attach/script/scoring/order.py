"""Answers of a loader that draws its rows in a new order, beside labels in the order of the data set.

The answers that a function was given are, row by row, those that the model gave in this evaluation; so their labels are
the ones that came in the same batches. Where the function has the same labels beside them in another order, it is that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from sightline.attach.script.scoring.batches import likely, tensors
from sightline.attach.script.scoring.readings import LABELS, Other, Reading
from sightline.attach.script.scoring.recorded import Recorded

MANY = 1 << 17  # labels that are counted
Tally = dict[int, int]


def tally(value: Any) -> Tally | None:
    """How often each class is among labels; None for anything else, and for what is on a device."""
    if isinstance(value, Tensor):
        flat = value if value.device.type == "cpu" else None
    elif getattr(getattr(value, "dtype", None), "kind", "") in ("i", "u") and value.dtype.name != "uint64":
        flat = torch.as_tensor(value.copy()) if value.size <= MANY else None
    else:
        some = type(value) is list and len(value) <= MANY and all(type(one) is int for one in value)
        flat = torch.tensor(value) if some else None
    if flat is None or flat.dim() != 1 or flat.is_floating_point() or not LABELS <= flat.numel() <= MANY:
        return None
    return dict(zip(*(part.tolist() for part in flat.unique(return_counts=True)), strict=True))


def reordered(pred: Tensor, target: Tensor, wanted: Tally | None, records: Iterable[Recorded]) -> Reading | None:
    """The labels of `pred`, where `target` is the beginning of the same ones in another order. `wanted`: all of these.

    `records`: of loaders that draw their rows anew each time.
    """
    if wanted is None or len(wanted) < 2 or pred.dim() != 1 or pred.is_floating_point():
        return None
    count, found = sum(wanted.values()), None
    for record in records:
        for said, labels in _answers(record) if record.whole and record.paired else ():
            if len(said) != count or not any(torch.equal(one[: len(pred)], pred.long()) for one in _classes(said)):
                continue
            truth = labels[: len(pred)].long().cpu()
            if torch.equal(truth, target.long()):
                return None
            if tally(labels.cpu()) == wanted:
                found = Reading(truth, (Other("labels in another order than the predictions' rows", target, target),))
    return found


def _answers(record: Recorded) -> Iterator[tuple[Tensor, Tensor]]:
    """What the model gave, and what of its batches may be the labels."""
    for one, label in likely(*record.told[0]):
        said = [tensors(output)[one] for _, output in record.told]
        labels = [tensors(batch)[label].reshape(-1) for batch, _ in record.told]
        if [len(part) for part in said] == [len(part) for part in labels]:
            yield torch.cat(said).detach().cpu(), torch.cat(labels)


def _classes(said: Tensor) -> Iterator[Tensor]:
    """The classes that scripts make of an output."""
    if said.dim() > 1 and said.shape[1] > 1:
        yield said.argmax(1).reshape(-1)
    else:
        one = said.reshape(-1)
        yield from ((one > 0).long(), (one > 0.5).long()) if one.is_floating_point() else (one.long(),)
