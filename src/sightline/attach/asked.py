"""What a host may ask of its attachment in a line of its own, beside what hooks see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.onlookers.schedule import schedules_of
from sightline.attach.recorder import Recorder
from sightline.errors import UserError
from sightline.guard.evidence import Evidence
from sightline.guard.probes.call import Call
from sightline.guard.probes.oracle import oracle
from sightline.guard.probes.overfit import overfit
from sightline.guard.probes.resume import resume

FILES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")  # of a checkpoint that is a folder


class Asked:
    """The doors of `Attachment` whose answer is a probe's."""

    model: nn.Module
    _recorder: Recorder

    def _offer(self, seen: Evidence) -> None:
        raise NotImplementedError

    def _call(self, batch: Any) -> Call:
        raise NotImplementedError

    def planned(self, steps: int) -> None:
        """Say how many optimizer steps the run will take, so that its schedule can be compared with that."""
        self._recorder.onlookers.planned(steps)

    def autocast(self, device: str, dtype: str) -> None:
        """Say that the host runs the model under autocast, where hooks of the model are called outside of it."""
        self._recorder.onlookers.autocast(device, dtype)

    def overfit(self, batch: Any, loss_of: Callable[[nn.Module, Any], Tensor] | None = None) -> None:
        """Train a copy of the model on one batch alone: at most 5 seconds; the model itself stays as it is.

        `loss_of` gives ``loss_of(model, batch)``, where the model does not return its loss.
        """
        given = None if loss_of is None else lambda model: loss_of(model, batch)
        with self._recorder.silence():
            seen = overfit(self._call(batch), self._recorder.step, given)
        if seen is not None:
            self._offer(seen)

    def metric(
        self,
        metric: Callable[..., Any],
        targets: Any,
        predictions: Any = None,
        *,
        perfect: float | None = None,
        name: str | None = None,
    ) -> None:
        """Give a metric the ground truth as predictions: ``metric(predictions, targets)`` must then be at its best.

        Args:
            metric: a function that gives a number, or an object with ``update``, ``compute`` and ``reset``.
            targets: the ground truth of a few rows.
            predictions: the same in the form of predictions, where that is another (logits, boxes in another format).
            perfect: the best score, where it is known: 1.0 for an accuracy, 0.0 for an error.
            name: what to call it in a finding.
        """
        said = name or str(getattr(metric, "__name__", type(metric).__name__))
        given = targets if predictions is None else predictions
        seen = oracle(metric, targets, given, said, self._recorder.step, perfect)
        if seen is not None:
            self._offer(seen)

    def resumed(self, path: str | Path, load: Callable[[Path], Mapping[str, Any]] | None = None) -> None:
        """The run has just gone on from the checkpoint at `path`: is everything as it was saved?

        `load` gives the checkpoint's content; None reads a ``torch.save`` file, a ``.safetensors`` file, or a folder of
        such. Call it after weights, optimizer, schedule and random state were restored, before the next step.
        """
        place = Path(path)
        saved = load(place) if load is not None else _content(place)
        optimizers = self._recorder.optimizers
        schedules = [schedule for optimizer in optimizers for schedule in schedules_of(optimizer)]
        self._offer(resume(saved, self.model, optimizers, schedules, place, self._recorder.step))


def _content(path: Path) -> Mapping[str, Any]:
    if path.is_dir():
        return {f.name: _content(f) for f in sorted(path.iterdir()) if f.suffix in FILES}
    if not path.exists():
        raise UserError(
            f"there is no checkpoint at {path}", where="guard.resumed", fix="give the path it was read from"
        )
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    return content if isinstance(content, Mapping) else {"content": content}
