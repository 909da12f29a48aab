"""Models whose Trainer is gone while the script goes on with them: heard until the script lets go of them, too.

``Trainer(model, ...).train()`` keeps no Trainer. Its model is asked afterwards all the same, and its evaluation counts.
When the script drops the model cannot be heard while we hold it: its references are counted, at each collection of
garbage, against those that are ours. At the latest, they are let go when another optimizer is made (see `scout.py`).
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from sightline.attach.hook import unwrapped
from sightline.attach.recorder import Recorder
from sightline.attach.script.watch import Models, Watched
from sightline.attach.torch_loop import Attachment


def settle(recorder: Recorder) -> None:
    """Training is over: judge what it showed, and let its optimizer and its last batch go. Evaluations may follow."""
    recorder.forward.rouse()
    recorder.wake()
    recorder.flush()
    recorder.end_evaluation()
    recorder.evaluated = False
    recorder.mailbox.open(wait=True)
    recorder.onlookers.released()
    recorder.last_call = recorder.lone = None
    recorder.optimizers.clear()


class Orphans:
    """Those of a script's models."""

    def __init__(self, models: Models) -> None:
        self._models = models

    @contextmanager
    def counting(self, model: nn.Module, callback: Any) -> Iterator[None]:
        """Inside, `callback` attaches to `model`: the references that it adds are ours."""
        inner = unwrapped(model)[1]
        before = sys.getrefcount(inner)
        yield
        for one in self._of(callback.guard):
            one.references = sys.getrefcount(inner) - before

    def take(self, attachment: Attachment | None) -> None:
        """The Trainer of what `attachment` watches is gone, and with it the optimizer and the last batch."""
        for one in self._of(attachment):
            one.orphan = True
            settle(one.recorder)
            if self._collected not in gc.callbacks:
                gc.callbacks.append(self._collected)

    def _of(self, attachment: Attachment | None) -> list[Watched]:
        return [one for one in self._models.live if attachment is not None and one.attachment is attachment]

    def _collected(self, phase: str, info: Any) -> None:
        if phase != "stop":
            return
        self._models.let_go()
        if not any(one.orphan for one in self._models.live):
            gc.callbacks.remove(self._collected)
