"""What is kept of an evaluation while it runs: which code of the script's asked the model, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.script.scoring.meters import Meter, kept
from sightline.attach.script.scoring.pairs import MOST, leaves

DEPTH = 4  # functions of the script inside each other
SPOTS = 6  # from which models are called in one evaluation
BATCHES = 256  # that are kept
ARGUMENTS = 0x2AC  # of a code's flags: *args, **kwargs, a generator, a coroutine


@dataclass(frozen=True)
class Place:
    """Code at work. `values`: what the function was called with; None where it cannot be called so.

    `names`: all that it could name when the model was called.
    """

    code: CodeType
    namespace: Mapping[str, Any]
    free: Mapping[str, Any]
    values: Mapping[str, Any] | None
    names: Mapping[str, Any]
    line: int


@dataclass
class Recorded:
    """The calls of a model from one spot. `dataset`: of its loader. `told`: (batch, output); None: from no loader.

    `whole`: all calls are there. `paired`: each was of a batch of its own. `method`: that was asked; "": the model.
    `meters`: objects that the code counts with, as they were at the first call. `asked`: whole numbers each was given.
    """

    model: nn.Module
    dataset: Any
    places: list[Place]
    method: str = ""
    meters: list[Meter] = field(default_factory=list)
    told: list[tuple[Any, Any]] = field(default_factory=list)
    asked: list[list[Tensor]] = field(default_factory=list)
    size: int = 0
    whole: bool = True
    paired: bool = True

    def add(self, batch: Any, dataset: Any, output: Any, room: int, given: Any = ()) -> None:
        """The model gave `output` for `batch`. `room`: elements that may be kept."""
        size = sum(leaf.numel() for leaf in (*leaves(batch), *leaves(output)) if isinstance(leaf, Tensor))
        if not self.whole or len(self.told) >= BATCHES or size > room:
            self.whole = False
            return
        if batch is None or dataset is not self.dataset or (self.told and self.told[-1][0] is batch):
            self.paired = False
        self.size += size
        self.told.append((batch, output))
        self.asked.append([t for t in leaves(given) if isinstance(t, Tensor) and t.dtype in (torch.int32, torch.int64)])

    def asked_of(self, target: Tensor) -> bool:
        """Whether the model was given these very numbers."""
        every = [parts for parts in zip(*self.asked, strict=False) if sum(map(len, parts)) == len(target)]
        return any(all(map(torch.equal, parts, target.to(parts[0]).split([*map(len, parts)]))) for parts in every)


class Spots:
    """All that was recorded in one evaluation. `own`: whether a file is the script's."""

    def __init__(self, own: Callable[[str], bool]) -> None:
        self._own = own
        self._known: dict[tuple[object, ...], Recorded] = {}

    def add(
        self,
        model: nn.Module,
        frame: FrameType | None,
        batch: Any,
        dataset: Any,
        output: Any,
        method: str = "",
        given: Any = (),
    ) -> None:
        """`model` was called from `frame`, or a `method` of it, and was `given` this."""
        frames = self._frames(frame)
        key = (id(model), id(dataset), method, *((id(one.f_code), one.f_lineno) for one in frames))
        if key not in self._known:
            if len(self._known) >= SPOTS:
                return
            places = [_place(one) for one in frames]
            meters = kept(((one.code, one.names) for one in places), self._own)
            self._known[key] = Recorded(model, dataset, places, method, meters)
        room = MOST - sum(one.size for one in self._known.values())
        self._known[key].add(batch, dataset, output, room, given)

    def records(self) -> list[Recorded]:
        """Those with something in them, in their order."""
        return [one for one in self._known.values() if one.told]

    def _frames(self, frame: FrameType | None) -> list[FrameType]:
        """Of the script that called `frame`, the innermost first."""
        found: list[FrameType] = []
        while frame is not None and len(found) < DEPTH:
            code = frame.f_code
            if (code.co_name == "<module>" or not code.co_name.startswith("<")) and self._own(code.co_filename):
                found.append(frame)
            frame = frame.f_back
        return found


def _place(frame: FrameType) -> Place:
    code, seen = frame.f_code, frame.f_locals
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    plain = code.co_name != "<module>" and not code.co_flags & ARGUMENTS and all(name in seen for name in names)
    return Place(
        code,
        frame.f_globals,
        {name: seen[name] for name in code.co_freevars if name in seen},
        {name: seen[name] for name in names} if plain else None,
        {**frame.f_globals, **seen},
        frame.f_lineno,
    )
