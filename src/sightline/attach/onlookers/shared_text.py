"""Batches in which all samples share one row of token ids, and the class that each of them was taught."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sightline.attach.classes import MOST, Taught
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.prints import TARGETS, row_hashes
from sightline.guard.evidence import SharedTextSeen
from sightline.guard.probes.call import Call, outcome

LEAST = 8  # samples: fewer do not show how the others scatter
BATCHES = 128  # looked at: a text that tells one sample's class has shown it by then
ASIDE = (*TARGETS, "attention_mask", "position_ids", "token_type_ids")  # whole numbers that are no text


class SharedText(Onlooker):
    """Reads ids on their way in and classes off the loss's gradient."""

    shows: ClassVar = ("SharedTextSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._batches: list[tuple[int, tuple[int, ...]]] = []
        self._looked = self._seen = 0
        self._nothing, self._taught = nn.Identity(), Taught()

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """A batch with one text for all: remember the text and, when they are known, the classes."""
        if not training or self._looked >= BATCHES or (self._seen >= BATCHES and not self._looked):
            return
        self._seen += 1
        logits = outcome(output).logits if not isinstance(output, Tensor) else output
        ids, rows = _text(call), _samples(call)
        if ids is None or rows < LEAST or len(ids) not in (1, rows) or logits is None:
            return
        if logits.dim() != 2 or len(logits) != rows or not logits.requires_grad or logits.numel() > MOST:
            return
        self._looked += 1
        hashes = row_hashes(Call(self._nothing, (ids,)))
        box = [logits.detach()]
        logits.register_hook(lambda grad: self._came(box, grad, hashes))

    def _came(self, box: list[Tensor], grad: Tensor, hashes: Tensor | None) -> None:
        if box and hashes is not None and not self.recorder.muted:
            self.recorder.mailbox.post([hashes, box.pop(), grad], self._arrived)

    def _arrived(self, came: list[Tensor]) -> None:
        texts, classes = set(came[0].tolist()), self._taught.classes(*came[1:])
        if len(texts) > 1 or classes is None:
            self._looked = BATCHES if len(texts) > 1 else self._looked  # each sample has a text of its own
            return
        if self._batches and len(classes) != len(self._batches[0][1]):
            return  # a short batch at the end of an epoch
        self._batches.append((texts.pop(), classes))
        count = len(self._batches)
        if count >= 16 and count & (count - 1) == 0:
            self._show()

    def close(self, *, broken: bool) -> None:
        """What came since."""
        if self._batches:
            self._show()

    def _show(self) -> None:
        self.recorder.offer(SharedTextSeen(self.recorder.step, tuple(self._batches)))


def _text(call: Call) -> Tensor | None:
    """The one tensor of token ids, (1, T) or (B, T)."""
    named = [(str(place), value) for place, value in enumerate(call.args)] + list(call.kwargs.items())
    found = [v for name, v in _tensors(named) if not v.is_floating_point() and v.dim() == 2 and name not in ASIDE]
    found = [value for value in found if value.dtype in (torch.int64, torch.int32)]
    return found[0] if len(found) == 1 else None


def _samples(call: Call) -> int:
    """How many samples the other inputs have."""
    named = [(str(place), value) for place, value in enumerate(call.args)] + list(call.kwargs.items())
    sizes = {len(value) for _, value in _tensors(named) if value.is_floating_point() and value.dim() > 1}
    return sizes.pop() if len(sizes) == 1 else 0


def _tensors(named: list[tuple[str, Any]]) -> list[tuple[str, Tensor]]:
    found = []
    for name, value in named:
        if isinstance(value, Tensor):
            found.append((name, value))
        elif isinstance(value, dict):
            found += _tensors([(str(key), part) for key, part in value.items()])
    return found
