"""Does a checkpoint say what the model is? Read it back and compare every value and dtype."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sightline.guard.evidence import RoundTripSeen

LEAST, PARTS = 32, 2  # elements of a parameter that a model answers with; and modules that were saved one by one
STATISTICS = ("running_mean", "running_var")  # torch's names of the buffers that training moves


def round_trip(model: nn.Module, saved: Mapping[str, Tensor], path: Path, step: int) -> RoundTripSeen:
    """Compare `model`'s state with `saved`, a checkpoint's state by the same names. Nothing is loaded into the model.

    A name that is missing from `saved` but shares its memory with one that is there (tied weights) counts as saved.
    """
    live = dict(model.state_dict())
    shared = {t.data_ptr() for name, t in live.items() if name in saved and isinstance(t, Tensor)}
    missing = [n for n, t in live.items() if n not in saved and not (isinstance(t, Tensor) and t.data_ptr() in shared)]
    common = [name for name in live if name in saved and isinstance(live[name], Tensor)]
    changed = {name: gap for name in common if (gap := _gap(live[name], saved[name])) > 0}
    dtypes = {
        name: (str(live[name].dtype).removeprefix("torch."), str(saved[name].dtype).removeprefix("torch."))
        for name in common
        if live[name].dtype != saved[name].dtype
    }
    unexpected = tuple(name for name in saved if name not in live)
    return RoundTripSeen(
        step, str(path), len(common), tuple(missing), unexpected, changed, dtypes, _frozen(model, missing)
    )


def _frozen(model: nn.Module, missing: Sequence[str]) -> tuple[str, ...]:
    """Those of `missing` that do not learn: frozen parameters and, beside such, their modules' buffers."""
    still = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    if not still.intersection(missing):
        return ()
    for prefix, module in model.named_modules():
        if not any(p.requires_grad for p in module.parameters(recurse=False)):
            still.update(f"{prefix}.{name}".strip(".") for name, _ in module.named_buffers(recurse=False))
    return tuple(name for name in missing if name in still)


def _gap(live: Tensor, saved: Tensor) -> float:
    """Largest absolute difference (inf for another shape; 0 where both are the same NaN or infinity)."""
    if live.shape != saved.shape:
        return float("inf")
    one, other = live.detach().cpu(), saved.detach().cpu()
    if one.numel() == 0 or (one.dtype == other.dtype and torch.equal(one, other)):
        return 0.0
    gap = (one.double() - other.double()).abs()
    gap[(one.double() == other.double()) | (one.double().isnan() & other.double().isnan())] = 0.0
    return float(gap.nan_to_num(nan=float("inf")).max())


def left_out(model: nn.Module, names: Collection[str], path: str, step: int) -> RoundTripSeen:
    """What a save of `names` left out of modules of which it holds the rest.

    A module that is left out as a whole may be so on purpose (a head, an adapter's base). Of one that is saved in part,
    what learns is missed: its trainable parameters, and the statistics that batch norm would judge by.
    """
    live = {name: t for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    modules = {name.rpartition(".")[0] for name in names}
    shared = {(live[name].data_ptr(), live[name].numel()) for name in names if name in live}
    learns = {name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    learns |= {name for name in live if name.rpartition(".")[2] in STATISTICS}
    missing = tuple(
        name
        for name, t in live.items()
        if name not in names
        and name in learns
        and name.rpartition(".")[0] in modules
        and (t.data_ptr(), t.numel()) not in shared
    )
    return RoundTripSeen(step, path, sum(name in live for name in names), missing)


def forgotten(model: nn.Module, held: Collection[str]) -> tuple[str, ...]:
    """A module's own parameters that a save lacks, though it holds all modules within it that learn: part by part.

    A temperature or a weight of a loss is of no use to who loads it, and small.
    """
    lost: list[str] = []
    for path, module in model.named_modules():
        here = f"{path}." if path else ""
        learn = [here + name for name, p in module.named_parameters() if p.requires_grad]
        own = [here + name for name, p in module.named_parameters(recurse=False) if p.numel() >= LEAST]
        inside = [name for name in learn if "." in name.removeprefix(here)]
        parts = {name.removeprefix(here).partition(".")[0] for name in inside}
        if len(parts) >= PARTS and all(name in held for name in inside):
            lost += [name for name in own if name in learn and name not in held]
    return tuple(lost)
