"""Is a resumed run where it was saved? Its live state is compared with the checkpoint, part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.guard.evidence import ResumeSeen

DEEP = 3  # levels of dictionaries that a checkpoint is searched through
RATE = 1e-6  # relative: a learning rate that was saved as text has at least this many digits


def resume(
    saved: Mapping[str, Any],
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    schedules: Sequence[Any],
    path: Path,
    step: int,
    *,
    rates: bool = True,
) -> ResumeSeen:
    """Compare weights, optimizer, schedule and random state with those in `saved`, a checkpoint's content.

    Parts are known by their form, whatever their names: an optimizer's has ``state`` and ``param_groups``, a schedule's
    ``last_epoch``. Nothing is loaded into anything. `rates`: compare the optimizer's, which a script may set by hand.
    """
    every = list(_mappings(saved, DEEP))
    live_weights = {n: t for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    weights = max(every, key=lambda m: sum(n in live_weights for n in m), default={})
    parts: dict[str, tuple[Any, Any]] = {
        "weights": ({n: t for n, t in weights.items() if n in live_weights}, live_weights),
        "optimizer": (
            [m for m in every if {"state", "param_groups"} <= set(m)],
            [o for o in optimizers if keeps_state(o)],
        ),
        "schedule": ([m for m in every if "last_epoch" in m and "param_groups" not in m], list(schedules)),
        "random state": (_random(saved), torch.get_rng_state()),
    }
    compared = [name for name, (one, other) in parts.items() if len(one) and len(other)]
    tests: dict[str, Callable[[Any, Any], str]] = {
        "weights": _weights,
        "optimizer": lambda kept, live: _optimizers(kept, live, rates=rates),
        "schedule": _schedules,
        "random state": _randoms,
    }
    differ = [(name, what) for name in compared if (what := tests[name](*parts[name]))]
    return ResumeSeen(
        step=step,
        path=str(path),
        saved=tuple(name for name, (one, _) in parts.items() if len(one)),
        live=tuple(name for name, (_, other) in parts.items() if len(other)),
        compared=tuple(compared),
        differ=tuple(differ),
    )


def _mappings(thing: Any, deep: int) -> Iterator[Mapping[str, Any]]:
    """`thing` and the dictionaries in it, outermost first; those of an optimizer or schedule are not entered."""
    if isinstance(thing, Mapping):
        yield thing
        if deep and "param_groups" not in thing and "last_epoch" not in thing:
            for value in thing.values():
                yield from _mappings(value, deep - 1)
    elif isinstance(thing, list | tuple) and deep:
        for value in thing:
            yield from _mappings(value, deep - 1)


def keeps_state(optimizer: Optimizer) -> bool:
    """Whether it has state to lose: Adam's moments, momentum, the squares of Adagrad, RMSprop and Adadelta."""
    names = ("betas", "lr_decay", "alpha", "rho")
    return any(g.get("momentum") or any(g.get(name) is not None for name in names) for g in optimizer.param_groups)


def _weights(saved: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> str:
    changed = [n for n, t in saved.items() if isinstance(t, Tensor) and not _equal(t, live[n])]
    return f"{len(changed)} of {len(saved)} tensors are not as they were saved, e.g. {changed[0]}" if changed else ""


def _optimizers(saved: Sequence[Mapping[str, Any]], live: Sequence[Optimizer], *, rates: bool) -> str:
    for optimizer, kept in zip(live, saved, strict=False):
        now = optimizer.state_dict()
        if kept["state"] and not now["state"]:
            return f"it has no state, where {len(kept['state'])} parameters' moments were saved"
        pairs = [(a.get("lr"), b.get("lr")) for a, b in zip(kept["param_groups"], now["param_groups"], strict=False)]
        wrong = [(a, b) for a, b in pairs if a is not None and abs(float(a) - float(b)) > RATE * abs(float(a))]
        if rates and wrong:
            return f"its learning rate is {float(wrong[0][1]):g}, where {float(wrong[0][0]):g} was saved"
        for place, state in kept["state"].items():
            mine = now["state"].get(place, {})
            for name, value in state.items():
                if isinstance(value, Tensor) and not _equal(value, mine.get(name)):
                    return f"'{name}' of parameter {place} is not as it was saved"
    return ""


def _schedules(saved: Sequence[Mapping[str, Any]], live: Sequence[Any]) -> str:
    for schedule, kept in zip(live, saved, strict=False):
        if schedule.last_epoch != kept["last_epoch"]:
            return f"it stands at {schedule.last_epoch}, where it was saved at {kept['last_epoch']}"
    return ""


def _random(saved: Mapping[str, Any]) -> Any:
    """Torch's random state on the CPU, where the checkpoint holds it."""
    size = torch.get_rng_state().numel()
    for mapping in _mappings(saved, DEEP):
        for value in mapping.values():
            if isinstance(value, Tensor) and value.dtype == torch.uint8 and value.dim() == 1 and value.numel() == size:
                return value
    return ()


def _randoms(saved: Tensor, live: Tensor) -> str:
    return "" if torch.equal(saved, live) else "torch's random numbers go on from another place"


def _equal(one: Tensor, other: Any) -> bool:
    if not isinstance(other, Tensor) or one.shape != other.shape:
        return False
    one, other = one.detach().cpu(), other.detach().cpu()
    return torch.equal(one, other) or bool(((one.double() == other.double()) | one.double().isnan()).all())
