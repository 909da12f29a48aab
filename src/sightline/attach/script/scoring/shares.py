"""Is a share of hits one of more rows than there are: of as many batches as came, as if each were full, or of others?

The evaluation is run again (see `replay.py`) with the truth for what the model says, and with a few rows of it wrong.
Where the truth has N/D, and each wrong row takes 1/D off, it is hits/D: N rows came, which are all of the data set, and
D are as many as there would be if the last batch were as large as the others, or the rows of another loader's data.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isclose

import torch
from torch import Tensor

from sightline.attach.script.scoring.batches import copied, likely, rows, tensors
from sightline.attach.script.scoring.readings import reading
from sightline.attach.script.scoring.recorded import Recorded
from sightline.attach.script.scoring.stage import PRINTED, Stage
from sightline.attach.script.scoring.verdict import CLOSE, Verdict
from sightline.guard.evidence import IGNORE

WRONG = (0, 1, 2, 4)  # rows
SCALES = (1, 100)
EXACT = 1e-5  # relative


def overcounted(record: Recorded, stage: Stage) -> Verdict | None:
    """The share whose rows are counted as if all batches were full."""
    sizes = [rows(batch) for batch, _ in record.told]
    every, full = sum(sizes), len(sizes) * sizes[0]
    others = {*stage.elsewhere, *([full] if len(set(sizes[:-1])) == 1 else [])}
    others = {count for count in others if every < count * (1 - CLOSE)}
    if not others or len(record.dataset) != every:
        return None
    for one, answers in _answers(record, sizes):
        scores = [answered(record, stage, one, said) for said in answers]
        for name in scores[0] if all(one.keys() == scores[0].keys() for one in scores) else ():
            values = [each[name] for each in scores]
            ways = ((scale, count) for scale in SCALES for count in others)
            scale, count = next((way for way in ways if _is_share(values, way[0] / way[1], every)), (0, 0))
            if scale and not name.startswith(PRINTED):
                says = f"{count} right answers, and there are {every}"
                return Verdict(name, values[0], tuple(values[1:]), scale, says)
    return None


def answered(record: Recorded, stage: Stage, one: int, said: Tensor) -> dict[str, float]:
    """What the evaluation gives for `said`, of all rows, in the place of the outputs' tensor number `one`."""
    parts = said.split([rows(batch) for batch, _ in record.told])
    outputs = [copied(output, one, part) for (_, output), part in zip(record.told, parts, strict=True)]
    return stage.score(outputs, [batch for batch, _ in record.told])


def _is_share(values: list[float], each: float, every: int) -> bool:
    return all(isclose(v, each * (every - wrong), rel_tol=EXACT) for v, wrong in zip(values, WRONG, strict=True))


def _answers(record: Recorded, sizes: list[int]) -> Iterator[tuple[int, list[Tensor]]]:
    """Places of tensors in the output, each with the truth, and with the truth but for some rows."""
    for one, label in likely(*record.told[0]):
        told = [(tensors(output)[one].detach(), tensors(batch)[label]) for batch, output in record.told]
        if [(len(said), wanted.numel()) for said, wanted in told] != [(size, size) for size in sizes]:
            continue  # a row has several labels
        pred = torch.cat([said for said, _ in told])
        target = torch.cat([wanted.reshape(-1) for _, wanted in told]).to(pred.device)
        read = None if target.is_floating_point() or bool((target == IGNORE).any()) else reading(pred, target)
        others = (target != target.roll(1, 0)).nonzero()[:, 0]
        if read is None or len(others) < max(WRONG):
            continue
        wrong = read.truth.roll(1, 0)
        yield one, [read.truth.index_copy(0, others[:many], wrong[others[:many]]).to(pred.dtype) for many in WRONG]
