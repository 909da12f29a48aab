"""Weights of a checkpoint that were left out of the state which a module was given, or that it got from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.script.again import Print, print_of
from sightline.guard.evidence import ResumeSeen


def not_given(content: Mapping[Any, Any], missing: Sequence[str]) -> dict[str, Tensor]:
    """What a checkpoint holds under the names that a module was not given."""
    parts = [content, *(part for part in content.values() if isinstance(part, Mapping))]
    return {n: part[n] for n in missing for part in parts if isinstance(part.get(n), Tensor)}


def is_tuning(optimizer: Optimizer, known: frozenset[Print]) -> bool:
    """Whether it begins without a state, and with weights of which some are not the checkpoint's: a new head."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if any(optimizer.state.get(p) for p in held):
        return False
    return any((print_ := print_of(p)) is not None and print_ not in known for p in held)


def with_lost(seen: ResumeSeen, model: nn.Module, lost: Mapping[str, Tensor]) -> ResumeSeen:
    """Weights that were saved and not loaded, by a run that goes on with its optimizer's state: no part is new to it.

    A head that is left out to be trained anew has no moments of its own that would fit.
    """
    if "optimizer" not in seen.compared or any(part == "optimizer" for part, _ in seen.differ):
        return seen
    live = model.state_dict()
    away = [n for n, value in lost.items() if n in live and live[n].shape == value.shape and _differs(live[n], value)]
    if not away:
        return seen
    what = f"{len(away)} tensors of the checkpoint were left out of the state that was loaded, e.g. {away[0]}"
    return replace(seen, differ=(("weights", what), *seen.differ))


def _differs(live: Tensor, saved: Tensor) -> bool:
    return not torch.equal(live.detach().to(saved.device, saved.dtype), saved)
