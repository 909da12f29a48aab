"""What feeds a model: the loader of the last batch, told by `attach/script/loaders.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch.utils.data import DataLoader


@dataclass(frozen=True, slots=True)
class Feed:
    """The loader of the last batch, its epoch, and the seconds that the process waited for loaders so far.

    `place`: of the batch in its epoch; `lengths`: of the loader's epochs that it gave to the end -> their batches.
    """

    loader: DataLoader[Any]
    epoch: int
    waited: float
    place: int = 0
    lengths: Mapping[int, int] = field(default_factory=dict)

    source: ClassVar[Callable[[], Feed | None] | None] = None

    @classmethod
    def last(cls) -> Feed | None:
        """That of now; None before the first batch, and where nobody notices loaders."""
        return cls.source() if cls.source is not None else None
