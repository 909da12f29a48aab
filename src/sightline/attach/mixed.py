"""Asks a model whether it mixes the samples of a batch, of an output that its loss is made of."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sightline.attach.recorder import Recorder
from sightline.guard.probes.call import Call
from sightline.guard.probes.rows import answer_of, rows_apart

ROUND = 1e-6  # of the number by which a loss is divided


def ask(recorder: Recorder, call: Call, output: Any, *, varied: bool) -> None:
    """Probe a training pass that gave `output`, before its backward pass.

    A number beside the rows is the loss, and the rows are answers; or it is the one answer for all of them (a bag of
    patches, a set of points), and what each row has is told beside it. The gradients tell which.
    """
    with recorder.silence():
        seen = rows_apart(call, recorder.step, varied=varied)
    if seen is None:
        return
    rows, numbers = answer_of(output), _numbers(output)
    if rows is None or not rows.requires_grad or not numbers:
        recorder.offer(seen)
        return
    told = False

    def offer(values: list[Tensor]) -> None:
        nonlocal told
        if not told and all(_of_a_loss(float(value)) for value in values):
            told = True
            recorder.offer(seen)

    rows.register_hook(lambda _: recorder.mailbox.post([], offer))
    for number in numbers:
        number.register_hook(lambda grad: recorder.mailbox.post([grad.detach()], offer))


def _numbers(output: Any) -> list[Tensor]:
    """The single numbers of a tuple, that learn."""
    parts = output if isinstance(output, tuple | list) else ()
    return [one for one in parts if isinstance(one, Tensor) and one.dim() == 0 and one.requires_grad]


def _of_a_loss(gradient: float) -> bool:
    """Whether it is that of the loss itself: 1, times a scale, over the micro-batches of a step."""
    return gradient >= 1 or (gradient > 0 and abs(1 / gradient - round(1 / gradient)) <= ROUND / gradient)
