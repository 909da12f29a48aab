"""Runs the step of a Lightning module once more, on several batches as one, with other answers and other labels.

Its loop is the library's, and what it finds is what it logs: so the module has a stand-in that holds its numbers, its
metrics (of torchmetrics, as they are before anything was counted) and its own methods, and notes what is logged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.script.scoring.batches import copied, tensors
from sightline.attach.script.scoring.recorded import Recorded
from sightline.attach.script.scoring.stage import Piece, Stage

BATCHES = 16  # that are joined
PLAIN = (bool, int, float, str)  # options of a module that a step may read


def stepped(record: Recorded, piece: Piece, own: Callable[[str], bool], until: float) -> tuple[Recorded, Stage] | None:
    """The batches of `record` as one, and `piece` set up for it, if it is a step. Raises Unsafe."""
    owner = next((v for v in piece.values.values() if isinstance(v, nn.Module) and hasattr(v, "log_dict")), None)
    place = next((name for name, v in piece.values.items() if _alike(v, record.told[0][0])), None)
    if owner is None or place is None:
        return None
    told = [pair for pair in record.told[:BATCHES] if _shapes(pair) == _shapes(record.told[0])]
    batch, output = (_joined(list(parts)) for parts in zip(*told, strict=True))
    one = replace(record, told=[(batch, output)], asked=[], whole=True)
    return one, _Step(one, replace(piece, values={**piece.values, place: batch}), own, until, owner)


def _alike(value: Any, batch: Any) -> bool:
    mine, theirs = tensors(value), tensors(batch)
    return 0 < len(mine) == len(theirs) and all(map(torch.equal, mine, theirs))


def _shapes(pair: tuple[Any, Any]) -> list[torch.Size]:
    return [one.shape[1:] for part in pair for one in tensors(part)]


def _joined(parts: list[Any]) -> Any:
    """Batches or outputs as one."""
    whole = parts[0]
    for place, several in enumerate(zip(*map(tensors, parts), strict=True)):
        whole = copied(whole, place, torch.cat(several)) if several[0].dim() else whole
    return whole


class _Step(Stage):
    """With a stand-in for the module whose step it is, `owner`. The numbers are those that are logged or counted."""

    def __init__(self, record: Recorded, piece: Piece, own: Callable[[str], bool], until: float, owner: Any) -> None:
        self._owner, self._logged = owner, dict[str, float]()
        super().__init__(record, piece, own, until, paired=False, states={id(owner): _Held(self, owner)})

    def _instead(self, value: Any) -> Any:
        if value is self._owner:
            return None
        if isinstance(value, _Log) or value is self._model:
            return value
        return super()._instead(value)

    def score(self, *args: Any, **given: Any) -> dict[str, float]:
        """The numbers that a run logs."""
        self._logged.clear()
        super().score(*args, **given)
        for name, value in self._built.state(self._owner).items():
            if isinstance(value, nn.Module) and any(getattr(one, "update_called", False) for one in value.modules()):
                metric: Any = value
                told = metric.compute()
                self.log_dict(told if isinstance(told, Mapping) else {name: told})
        return dict(self._logged)

    def log_dict(self, values: Mapping[str, Any]) -> None:
        """What is logged is noted where it is one number."""
        for name, value in values.items():
            if isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1):
                self._logged[name] = float(value)


class _Log:
    """`log` and `log_dict` of a module."""

    def __init__(self, stage: _Step) -> None:
        self._stage = stage

    def __call__(self, name: Any, value: Any = None, *args: Any, **given: Any) -> None:
        self._stage.log_dict(name if isinstance(name, Mapping) else {name: value})


class _Held(dict[str, Any]):
    """What a module holds: its fields, buffers and parts, and its answers in the place of calls."""

    def __init__(self, stage: _Step, owner: Any) -> None:
        options = {name: v for name, v in dict(vars(owner).get("_hparams", {})).items() if isinstance(v, PLAIN)}
        log = _Log(stage)
        super().__init__(
            {**vars(owner), **owner._buffers, **owner._modules, "hparams": SimpleNamespace(**options)},
            log=log,
            log_dict=log,
        )
        self._stage = stage

    def get(self, name: str, default: Any = None) -> Any:
        """The stand-in of the model is another for each run that is set up."""
        return self._stage._model if name in ("__call__", "forward") else super().get(name, default)
