"""Texts of a tokenizer of the host's own: is the end of a row taught, or hidden with the padding that looks like it?

Or any other word, which has the padding's id.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from sightline.attach.filled import ENDED, OTHERS
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence import IGNORE, Ended, LossSeen
from sightline.guard.evidence.endings import ROUND, ended_untaught, skipped_within
from sightline.guard.probes.call import Call, outcome

LOOKS = 24  # measured batches that are looked at
BATCHES, WIDTHS = 4, 2  # that agree: a longest row is one short of a fixed width by chance, but not of several
CHANCE = 8  # times that an id would have stood twice in a row by chance, if it stood anywhere


class Ends(Onlooker):
    """Reads off the gradient whether a row's last id is ever taught, where even the longest row ends in it."""

    shows: ClassVar = ("Ended",)
    measured_only: ClassVar = True

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._looks = LOOKS
        self._agreed: list[tuple[int, int, int]] | None = []  # id, width and rows of each batch
        self._inside: list[tuple[int, int, int, int]] | None = []  # id, times inside, words and rows of each batch
        self._told = False

    def again(self) -> None:
        """Another stage may have other texts."""
        self._looks, self._agreed, self._inside = -1 if self._told else LOOKS, [], []

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """A training batch of token ids, with logits for each."""
        if not training or self._looks <= 0:
            return
        logits, ids = outcome(output).logits, call.tensor("input_ids")
        if logits is None or ids is None or ids.dim() != 2 or not logits.requires_grad or logits.dim() != 3:
            return
        if logits.shape[:2] != ids.shape:
            return
        self._looks -= 1
        whole = uncut(ids)

        def came(grad: Tensor) -> None:
            least, at = grad.detach().min(dim=-1)
            self.recorder.mailbox.post([whole, at.masked_fill(least >= 0, IGNORE)], lambda v: self._came(*v))

        self.heed(logits, came)

    def taught(self, ids: Tensor, loss: LossSeen) -> None:
        """The same, of a model that returns its loss alone."""
        if self._looks > 0 and (labels := loss.labels_of(ids)) is not None:
            self._looks -= 1
            self._came(ids, labels[:, 1:])

    def _came(self, ids: Tensor, targets: Tensor) -> None:
        self._within(ids, targets)
        if self._agreed is not None:
            self._at_end(ids, targets)
        if self._agreed is None and self._inside is None:
            self._looks = -1

    def _within(self, ids: Tensor, targets: Tensor) -> None:
        if self._inside is None or self._told:
            return
        pad, times, words, refuted = skipped_within(ids, targets)
        if refuted or any(pad != one for one, *_ in self._inside):
            self._inside = None
        elif times:
            self._inside.append((pad, times, words, len(ids)))
            times, words, rows = (sum(column) for column in list(zip(*self._inside, strict=True))[1:])
            if len(self._inside) >= BATCHES and times * times >= CHANCE * (times + words):
                self._tell(Ended(self.recorder.step, pad, len(self._inside), rows, 1, within=times))

    def _tell(self, seen: Ended) -> None:
        self._looks, self._told = -1, True
        self.recorder.offer(seen)

    def _at_end(self, ids: Tensor, targets: Tensor) -> None:
        assert self._agreed is not None
        pad, refuted = ended_untaught(ids, targets)
        if refuted:
            self._agreed = None
        if pad is None or self._agreed is None or self._told:
            return
        self._agreed.append((pad, ids.shape[1], len(ids)))
        widths = {width for _, width, _ in self._agreed}
        exact = any(all(width % size for size in ROUND) for width in widths)
        alike = len({one for one, *_ in self._agreed}) == 1 and len(self._agreed) >= BATCHES
        written = ENDED[pad] >= BATCHES and pad not in OTHERS  # before rows were filled up
        if alike and ((exact and len(widths) >= WIDTHS) or written):
            rows = sum(rows for *_, rows in self._agreed)
            self._tell(Ended(self.recorder.step, pad, len(self._agreed), rows, len(widths)))


def uncut(ids: Tensor) -> Tensor:
    """The ids (B, T + 1) that these are all but the last column of, where the host cut that off; else these."""
    base = ids._base
    if base is None or base.dim() != 2 or base.shape != (len(ids), ids.shape[1] + 1) or base.dtype != ids.dtype:
        return ids
    return base if base.data_ptr() == ids.data_ptr() and base.stride() == ids.stride() else ids
