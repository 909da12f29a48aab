"""A piece of a script's own code, set up to be run with other answers and other labels than there were."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sightline.attach.script.scoring.batches import copied, rows, tensors
from sightline.attach.script.scoring.recorded import Recorded
from sightline.attach.script.scoring.replica import Replica
from sightline.attach.script.scoring.verdict import numbers

NUMBER, LONGEST = re.compile(r"(?<![\w.])-?\d+\.\d+(?:e[+-]?\d+)?(?![\w.])"), 2000  # of a text that is printed
NUMBERS = ("b", "i", "u", "f")  # kinds of arrays that share their memory with a tensor
PRINTED = "number "  # what is printed has no other name
HELD = 12  # things that labels may be in


class _Model:
    """Gives the answers that it was told to, in their order."""

    training = False

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.device = torch.device("cpu")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.answers.pop(0)

    def eval(self) -> _Model:
        return self

    def train(self, mode: bool = True) -> _Model:
        return self

    def to(self, *args: Any) -> _Model:
        return self

    def parameters(self) -> Iterator[Tensor]:
        yield torch.zeros(1, device=self.device)


class _Rows:
    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


class _Loader:
    """Gives the batches that it was told to."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.dataset, self.batch_size = _Rows(0), 0

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self.batches))

    def __len__(self) -> int:
        return len(self.batches)


class _Aside:
    """Another loader: its sizes alone."""

    def __init__(self, loader: Any) -> None:
        self.dataset, self.batch_size, self._count = _Rows(len(loader.dataset)), loader.batch_size, len(loader)

    def __len__(self) -> int:
        return self._count


class _Alone:
    """The process that accelerate launched, where it is the only one: what it gathers is what it was given."""

    is_main_process, is_local_main_process, num_processes, process_index = True, True, 1, 0
    device = torch.device("cpu")

    def gather(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        return value

    gather_for_metrics = reduce = pad_across_processes = unwrap_model = gather

    def print(self, *args: Any, **kwargs: Any) -> None:
        return None

    wait_for_everyone = print


@dataclass(frozen=True)
class Piece:
    """Code and what it is run with."""

    code: CodeType
    namespace: Mapping[str, Any]
    free: Mapping[str, Any]
    values: Mapping[str, Any]
    line: int

    @property
    def where(self) -> str:
        """File and line of the call of the model."""
        return f"{os.path.basename(self.code.co_filename)}:{self.line}"


class Stage:
    """One piece. Raises Unsafe where it cannot be built. `until`: no run begins after that.

    `paired`: labels come in the batches of a loader; else they are looked for in what the code reads. `states`: see
    Replica.
    """

    def __init__(
        self,
        record: Recorded,
        piece: Piece,
        own: Callable[[str], bool],
        until: float,
        *,
        paired: bool,
        states: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> None:
        self._states = states
        self._record, self._piece, self._own, self._until, self._paired = record, piece, own, until, paired
        self._sizes = [next((len(t) for t in tensors(output) if t.dim()), 0) for _, output in record.told]
        self._build()

    def _build(self) -> None:
        self._model, self._loader = _Model(), _Loader()
        if self._record.method:
            setattr(self._model, self._record.method, self._model)
        self.elsewhere = set[int]()  # rows of other loaders that the code names
        self.held: list[list[Tensor]] = []  # parts that together have a row for each of the model's
        built = self._built = Replica(self._own, self._instead, self._copied, self._states)
        self._function = built.of(self._piece.code, self._piece.namespace, self._piece.free)
        self._values = {name: built.argument(value) for name, value in self._piece.values.items()}
        self._fresh = True

    def state(self, value: Any) -> dict[str, Any]:
        """What the stand-in of an object holds."""
        return self._built.state(value)

    def _instead(self, value: Any) -> Any:
        record = self._record
        if isinstance(value, nn.Module) and any(part is record.model for part in value.modules()):
            return self._model
        if type(value).__name__ == "Accelerator" and type(value).__module__.startswith("accelerate."):
            return _Alone() if value.num_processes == 1 else None
        if not (self._paired and isinstance(value, DataLoader)):
            return None
        if value.dataset is record.dataset:
            return self._loader
        with suppress(TypeError):  # a stream has no length
            aside = _Aside(value)
            self.elsewhere.add(len(aside.dataset))
            return aside
        return None

    def _copied(self, value: Any) -> None:
        """A copy was made that the code reads: may it hold the labels?"""
        if len(self.held) >= HELD or self._paired:
            return
        if not isinstance(value, list | tuple):
            whole = torch.as_tensor(value) if getattr(getattr(value, "dtype", None), "kind", "") in NUMBERS else value
            count = sum(self._sizes)
            if isinstance(whole, Tensor) and whole.dim() and len(whole) >= count:
                self.held += [[whole[:count]], [whole[-count:]]][: 1 + (len(whole) > count)]
            return
        batches = [tensors(one) for one in value[: len(self._sizes)]]
        if len(value) != len(self._sizes) or not batches or len({len(one) for one in batches}) != 1:
            return
        for parts in map(list, zip(*batches, strict=True)):
            if [len(part) if part.dim() else -1 for part in parts] == self._sizes:
                self.held.append(parts)

    def score(
        self, outputs: list[Any], batches: list[Any] | None = None, held: int = -1, truth: Tensor | None = None
    ) -> dict[str, float]:
        """The numbers of a run in which the model says `outputs`: of `batches`, or with `truth` for labels in `held`.

        Raises:
            TimeoutError: it is too late.
        """
        if time.thread_time() > self._until:
            raise TimeoutError
        if not self._fresh and (self._built.changes or self._built.holds):
            self._build()
        self._fresh = False
        self._model.answers = [copied(one) for one in outputs]
        if truth is not None:
            _fill(self.held[held], truth)
        self._loader.batches = [copied(one) for one in batches or ()]
        self._loader.batch_size = rows(batches[0]) if batches else 0
        self._loader.dataset = _Rows(sum(map(rows, batches or ())))
        names = self._piece.code.co_varnames[: self._piece.code.co_argcount]
        rest = {name: value for name, value in self._values.items() if name not in names}
        self._built.said.clear()
        told = numbers(self._function(*(self._values[name] for name in names), **rest), -1)
        return told or _printed(self._built.said)


def _fill(parts: list[Tensor], values: Tensor) -> None:
    for part, value in zip(parts, values.split([len(one) for one in parts]), strict=True):
        part.copy_(value)


def _printed(lines: list[str]) -> dict[str, float]:
    """The numbers with a point in what was printed."""
    found = NUMBER.findall(" ".join(lines)[:LONGEST])
    return {f"{PRINTED}{place}": float(number) for place, number in enumerate(found, 1)}
