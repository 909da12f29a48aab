"""Does a model of somebody's own give all that stands behind the end of its table of positions the table's last row?"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sightline.guard.evidence import ContextSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.refused import refusable
from sightline.guard.probes.restore import untouched
from sightline.guard.probes.rows import attributes

LEAST, PART = 16, 8  # positions of a table; of these, one in so many more are asked for: a few may be marks at an end
TAKES: dict[Callable[..., Any], tuple[int, int]] = {  # function -> place of the table, and of the positions
    Tensor.__getitem__: (0, 1),
    nn.functional.embedding: (1, 0),
    torch.embedding: (0, 1),
}


@refusable
def clamped(call: Call, step: int) -> ContextSeen | None:
    """How far its positions reach, of a model that asks for 0, 1, 2, ... up to the last row of a table, and for that
    row again and again.

    The call is repeated once. None where nothing is asked for so, and of a model whose config says how far it reaches.
    """
    ids = call.tensor("input_ids")
    told = (getattr(getattr(m, "config", None), "max_position_embeddings", None) for m in call.model.modules())
    if ids is None or ids.shape[-1] <= LEAST or not call.repeatable or any(isinstance(one, int) for one in told):
        return None
    if not _short_tables(call.model, ids.shape[-1]):
        return None
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    with untouched(call.model), attributes(call.model), eager, torch.no_grad(), _Reading() as reading:
        call.model.eval()
        call.run()
    return ContextSeen(step, reading.reach, longest=reading.longest) if reading.reach else None


def _short_tables(model: nn.Module, length: int) -> bool:
    """Whether the model has a table that rows of this length may go beyond: learnt, kept, or a weight of its own."""
    for module in model.modules():
        torchs = type(module).__module__.startswith("torch.") and not isinstance(module, nn.Embedding)
        own = (*(() if torchs else module.parameters(recurse=False)), *module.buffers(recurse=False))
        if any(table.dim() > 1 and LEAST <= len(table) < length for table in own):
            return True
    return False


class _Reading(TorchFunctionMode):
    """Looks at what is read from tables. `reach`: rows of the one that was too short; 0 where none was."""

    def __init__(self) -> None:
        super().__init__()
        self.reach = self.longest = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (places := TAKES.get(func)) is not None and len(args) > 1 and not self.reach:
            self._take(*(args[place] for place in places))
        return func(*args, **kwargs)

    def _take(self, table: Any, given: Any) -> None:
        if not isinstance(table, Tensor) or not isinstance(given, Tensor) or given.dtype != torch.long:
            return
        rows, length = len(table) if table.dim() > 1 else 0, given.shape[-1] if given.dim() else 0
        if rows < LEAST or length <= rows + rows // PART or given.dim() > 2:
            return
        line = torch.arange(length, device=given.device).clamp(max=rows - 1)
        if bool((given == line).all()):
            self.reach, self.longest = rows, length
