"""Padded batches of an evaluation whose rows the script reads at the last place: `logits[:, -1]`, `hidden[:, -1]`.

Which places of an output a script reads shows only when it takes them. So, after the first few padded batches, what is
taken from tensors is listened to until the model is run again. Modes of torch are a stack: ours is put on an empty one
alone, and taken away when it is on top again, so that those of a script come and go as without it.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sightline.attach.hook import Hook
from sightline.attach.phases.state import State
from sightline.attach.script.audience import Beside
from sightline.guard.probes.call import Call
from sightline.guard.probes.padded import real_tokens
from sightline.guard.probes.padding import side_of
from sightline.guard.probes.pooled import pooled, states_of

LOOKS, TOLD = 16, 2  # batches whose masks are read, which waits for the device; and that are compared row by row


class Taking(TorchFunctionMode):
    """Tells of what is taken from tensors, and changes nothing."""

    def __init__(self, took: Callable[[Tensor, Any], None]) -> None:
        super().__init__()
        self._took = took

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Any call of torch's."""
        if func is Tensor.__getitem__:
            self._took(*args)
        return func(*args, **(kwargs or {}))


class LastRead(Beside):
    """All evaluations of the process. `fault`: told of errors of our own."""

    def __init__(self, fault: Callable[[str], None]) -> None:
        super().__init__()
        hook = functools.partial(Hook, fault=lambda error: fault(f"last place: {type(error).__name__}: {error}"))
        self._looks, self._told = LOOKS, TOLD
        self._open: tuple[State, Call, Tensor] | None = None  # the call and its mask
        self._given: Callable[[], Tensor | None] = lambda: None  # what it gave, while the script has it
        self._last = self._other = False  # which places were taken
        self._begin, self._end, self._took = hook(self._begins), hook(self._ends), hook(self._takes)
        self._mode: Taking | None = None

    def close(self) -> None:
        """Nothing is listened to any more."""
        self._rest()
        super().close()

    def enters(self, state: State) -> None:
        """A model is about to be run: nobody reads the output of before any more."""
        self._end()
        super().enters(state)

    def gave(self, state: State, call: Call, output: Any) -> None:
        """Listen to what is taken from an output of padded rows."""
        self._end()
        self._begin(state, call, output)
        super().gave(state, call, output)

    def over(self, state: State) -> None:
        """Training goes on."""
        self._end()
        super().over(state)

    def _begins(self, state: State, call: Call, output: Any) -> None:
        if not self._looks or not self._told or torch.is_grad_enabled() or not state.probing.wants("PaddingSeen"):
            return
        self._looks -= 1
        if (mask := real_tokens(call)) is None or side_of(mask) != "right":
            return
        given = states_of(output, mask.shape)
        if given is None or type(given) is not Tensor or given.dim() != 3 or torch._C._len_torch_function_stack():
            return
        self._open, self._given = (state, call, mask), weakref.ref(given)
        self._last = self._other = False
        self._mode = Taking(self._took)
        self._mode.__enter__()

    def _takes(self, tensor: Tensor, index: Any) -> None:
        given = self._given()
        if self._open is None or self._open[0].muted or given is None or tensor.shape != given.shape:
            return
        if tensor is not given and tensor.data_ptr() != given.data_ptr():
            return
        rows, place, *_ = index if isinstance(index, tuple) and len(index) > 1 else (None, None)
        whole = isinstance(rows, slice) and rows == slice(None)
        last = whole and type(place) is int and place in (-1, given.shape[1] - 1)
        self._last, self._other = self._last or last, self._other or not last

    def _rest(self) -> None:
        """Leave torch alone, as soon as what the script has put above is gone."""
        top = torch._C._len_torch_function_stack() - 1
        if self._mode is not None and top >= 0 and torch._C._get_function_stack_at(top) is self._mode:
            self._mode.__exit__(None, None, None)
            self._mode = None

    def _ends(self) -> None:
        self._rest()
        if self._open is None:
            return
        (state, call, mask), self._open = self._open, None
        if not self._last or self._other or state.last_call is None:
            return
        with state.silence():
            seen = pooled(call, mask, state.step)
        if seen is not None:
            self._told -= 1
            state.offer(seen)
