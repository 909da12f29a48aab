"""From which token on is each training row taught, where its prompt is masked?"""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import torch
from torch import Tensor

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence import IGNORE, TaughtFromSeen
from sightline.guard.evidence.beginnings import ROWS
from sightline.guard.probes.call import Call, outcome

LOOKS = 24  # measured batches that are looked at


class FirstWords(Onlooker):
    """By the labels where the host gives them to its model, else by what has a gradient."""

    shows: ClassVar = ("TaughtFromSeen",)
    measured_only: ClassVar = True

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._looks = LOOKS
        self._before: Counter[int] = Counter()
        self._earlier: Counter[int] = Counter()

    def again(self) -> None:
        """Another stage may have other texts, or begin to mask them."""
        self._looks, self._before, self._earlier = LOOKS, Counter(), Counter()

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """A training batch of token ids."""
        ids = call.tensor("input_ids")
        if not training or self._looks <= 0 or ids is None or ids.dim() != 2 or ids.shape[1] < 3:
            return
        self._looks -= 1
        labels = call.tensor("labels")
        if labels is not None:
            if labels.shape == ids.shape:
                self.recorder.mailbox.post([ids, labels], lambda v: self._told(*v))
            return
        logits, done = outcome(output).logits, [False]
        if logits is None or logits.dim() != 3 or logits.shape[:2] != ids.shape or not logits.requires_grad:
            return

        def came(grad: Tensor) -> None:
            if not done[0] and not self.recorder.muted:
                done[0] = True
                self.recorder.mailbox.post([ids, grad.detach().abs().amax(dim=-1) > 0], lambda v: self._came(*v))

        logits.register_hook(came)

    def _told(self, ids: Tensor, labels: Tensor) -> None:
        taught = labels != IGNORE
        if bool((labels == ids)[taught].all()):  # else they are shifted, or of another kind
            self._came(ids, torch.nn.functional.pad(taught[:, 1:], (0, 1)))

    def _came(self, ids: Tensor, taught: Tensor) -> None:
        """`taught` (B, T): whether something is taught after each token."""
        rows = taught.any(dim=1)
        first = taught.int().argmax(dim=1)[rows]
        if bool((first < 1).any()):
            self._looks = 0  # prompts are not masked here
            return
        ids = ids[rows]
        self._before.update(ids.gather(1, first[:, None]).flatten().tolist())
        self._earlier.update(ids.gather(1, first[:, None] - 1).flatten().tolist())
        if (count := self._before.total()) >= ROWS:
            before, earlier = tuple(self._before.most_common()), tuple(self._earlier.most_common())
            self.recorder.offer(TaughtFromSeen(self.recorder.step, count, before, earlier))
