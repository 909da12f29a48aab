"""Small results on their way from a device to the CPU, without making the host wait for the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Letter:
    """Tensors under way, and what to do with them on arrival."""

    tensors: list[Tensor]
    arrived: Callable[[list[Tensor]], None]
    event: torch.cuda.Event | None


class Mailbox:
    """Letters are opened in the order in which they were posted, once their device is done with them."""

    def __init__(self) -> None:
        self._letters: deque[Letter] = deque()

    def post(self, tensors: Sequence[Tensor], arrived: Callable[[list[Tensor]], None]) -> None:
        """Copy `tensors` to the CPU as they are now, and call `arrived` with them later (on the CPU: by `open`).

        From CUDA the copy goes to pinned memory and an event tells when it is done. Other devices copy at once.
        """
        copies, event = [], None
        with torch.no_grad():
            for tensor in tensors:
                source = tensor.detach()
                if source.is_cuda:
                    target = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
                    copies.append(target.copy_(source, non_blocking=True))
                    event = event or torch.cuda.Event()
                else:
                    copies.append(source.to("cpu", copy=True))
            if event is not None:
                event.record()
        self._letters.append(Letter(copies, arrived, event))

    def open(self, *, wait: bool = False) -> None:
        """Deliver what has arrived. `wait`: deliver everything, waiting for the device."""
        while self._letters:
            letter = self._letters[0]
            if letter.event is not None:
                if wait:
                    letter.event.synchronize()
                elif not letter.event.query():
                    return
            self._letters.popleft()
            letter.arrived(letter.tensors)
