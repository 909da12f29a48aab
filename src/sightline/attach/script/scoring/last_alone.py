"""Does a share tell of the last batch alone, because what each batch gives takes the place of what was there before?

The evaluation is run again (see `replay.py`) with the truth for what the model says, with wrong answers in all batches
but the last, and with wrong ones in the last alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sightline.attach.script.scoring.batches import likely, rows, tensors
from sightline.attach.script.scoring.readings import reading
from sightline.attach.script.scoring.recorded import Recorded
from sightline.attach.script.scoring.shares import answered
from sightline.attach.script.scoring.stage import PRINTED, Stage
from sightline.attach.script.scoring.verdict import SHORT, Verdict, whole

BATCHES = 3  # at least


def last_alone(record: Recorded, stage: Stage) -> Verdict | None:
    """The share to which no batch but the last matters, unless there is one beside it to which all do."""
    sizes = [rows(batch) for batch, _ in record.told]
    if len(sizes) < BATCHES or len(record.dataset) != sum(sizes):
        return None
    for one, answers in _answers(record, sizes):
        right, early, late = (answered(record, stage, one, said) for said in answers)
        names = [name for name in right if not name.startswith(PRINTED) and name in early and name in late]
        if any(right[name] != early[name] for name in names):
            continue
        for name in names:
            if whole(right[name], set()) and late[name] < right[name] * (1 - SHORT):
                return Verdict(name, late[name], (early[name],), right[name], "", len(sizes))
    return None


def _answers(record: Recorded, sizes: list[int]) -> Iterator[tuple[int, tuple[Tensor, Tensor, Tensor]]]:
    """Places of tensors in the output, each with the truth, wrong in all batches but the last, and in that alone."""
    for one, label in likely(*record.told[0]):
        said = [tensors(output)[one].detach() for _, output in record.told]
        wanted = [tensors(batch)[label] for batch, _ in record.told]
        fit = [len(part) for part in said] == [len(part) for part in wanted] == sizes
        if not fit or len({part.shape[1:] for part in said}) > 1 or len({part.shape[1:] for part in wanted}) > 1:
            continue
        pred = torch.cat(said)
        read = reading(pred, torch.cat(wanted).to(pred.device))
        if read is None or read.truth.shape != pred.shape:
            continue
        truth, last = read.truth.to(pred.dtype), sizes[-1]
        wrong = truth.roll(1, 0)
        if not torch.equal(wrong[:-last], truth[:-last]):
            yield (
                one,
                (truth, torch.cat([wrong[:-last], truth[-last:]]), torch.cat([truth[:-last], wrong[-last:]])),
            )
