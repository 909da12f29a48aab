"""What is alive of a class, of modules above all, wherever a script keeps it, without running any code of theirs.

Objects are looked for among all of Python's: 0.1 s for a million of these, and a script may hold many more. So the
modules of a whole script are noted as they are made or copied, once `note` was called, and only those from before are
looked for.
"""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.jit import ScriptModule

Kind = TypeVar("Kind")


class Noted:
    """Modules by their ids, in the order in which they were made."""

    def __init__(self) -> None:
        self._known = {id(module): weakref.ref(module) for module in living(nn.Module)}

    def add(self, module: nn.Module) -> None:
        """It was made, or what it is was copied to it."""
        self._known.pop(id(module), None)
        self._known[id(module)] = weakref.ref(module)

    def alive(self) -> list[nn.Module]:
        """Those that somebody still holds."""
        found: list[nn.Module] = []
        for place, ref in self._known.copy().items():
            if (module := ref()) is not None:
                found.append(module)
            elif self._known.get(place) is ref:
                del self._known[place]
        return found


_noted: Noted | None = None


def note() -> None:
    """From now on each module is noted when it is made."""
    global _noted
    if _noted is None:
        _noted = Noted()
        for name in ("__init__", "__setstate__"):  # copies and what is unpickled are made without the first
            setattr(nn.Module, name, _noting(getattr(nn.Module, name), _noted))


def _noting(make: Callable[..., None], noted: Noted) -> Callable[..., None]:
    @functools.wraps(make)
    def made(module: nn.Module, *args: Any, **kwargs: Any) -> None:
        make(module, *args, **kwargs)
        if not torch.compiler.is_compiling():  # a module that is made in a compiled function is traced
            noted.add(module)

    return made


def modules_alive() -> list[nn.Module]:
    """Every module of the process that is complete; not those that run as TorchScript."""
    every = living(nn.Module) if _noted is None else _noted.alive()
    return [
        m for m in every if not issubclass(type(m), ScriptModule) and {"_modules", "_parameters"} <= m.__dict__.keys()
    ]


def living(base: type[Kind]) -> list[Kind]:
    """Every object of a class in this process. Tens of milliseconds: for a few moments of a run, not for each step."""
    kinds = {id(kind) for kind in _kinds(base)}  # their numbers: a class of somebody's may have no hash
    return [thing for thing in gc.get_objects() if id(type(thing)) in kinds]


def _kinds(base: type) -> set[type]:
    """A class and all that are made from it."""
    found, open_ = {base}, [base]
    while open_:
        new: set[type] = set(type.__subclasses__(open_.pop())) - found
        found |= new
        open_ += new
    return found
