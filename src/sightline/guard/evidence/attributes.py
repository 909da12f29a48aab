"""Modules on which somebody set the attribute `requires_grad`: torch reads it nowhere, and it moves no parameter."""

from __future__ import annotations

from sightline.guard.evidence.setup import Setup
from sightline.guard.evidence.strays import Stray


def by_attribute(setup: Setup) -> Stray | None:
    """What was to be frozen by it and learns, or was to learn and is frozen."""
    if setup.unheeded:
        return _mere(setup.unheeded, False, "freezes no module: all of it learns")
    return _mere(setup.unwoken, True, "wakes no module: all of it is frozen") if setup.unwoken else None


def _mere(modules: tuple[str, ...], flag: bool, so: str) -> Stray:
    what = f"'{modules[0]}' was given `requires_grad = {flag}`, an attribute that {so}"
    remedy = f"{modules[0]}.requires_grad_({flag}), a method" + (", before the optimizer is made" if flag else "")
    return Stray(what, remedy, True, {"modules": modules[:5]})
