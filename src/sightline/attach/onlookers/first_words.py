"""From which token on is each training row taught, where its prompt is masked?"""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import torch
from torch import Tensor

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.templates import TEMPLATES
from sightline.attach.tokenized import TOKENIZED
from sightline.guard.evidence import IGNORE, PromptMasksSeen, TaughtFromSeen
from sightline.guard.evidence.beginnings import ROWS
from sightline.guard.evidence.prompt_masks import MaskedRow, MeasuredRow, prompt_end
from sightline.guard.probes.call import Call, outcome
from sightline.guard.probes.padded import real_tokens

LOOKS = 24  # measured batches that are looked at
OFTEN = 8  # of them, until the rows so far are shown
TOKENS = 100_000  # of rows that are kept
EACH = 4  # rows of a batch whose prompts are looked for: all are measured in one way


class FirstWords(Onlooker):
    """By the labels where the host gives them to its model, else by what has a gradient."""

    shows: ClassVar = ("TaughtFromSeen", "PromptMasksSeen")
    measured_only: ClassVar = True

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._looks = LOOKS
        self._before: Counter[int] = Counter()
        self._earlier: Counter[int] = Counter()
        self._rows: list[MaskedRow] = []
        self._measured: list[MeasuredRow] = []
        self._came_in = 0

    def again(self) -> None:
        """Another stage may have other texts, or begin to mask them."""
        self._looks, self._before, self._earlier, self._rows = LOOKS, Counter(), Counter(), []
        self._measured = []

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """A training batch of token ids."""
        ids = call.tensor("input_ids")
        if not training or self._looks <= 0 or ids is None or ids.dim() != 2 or ids.shape[1] < 3:
            return
        self._looks -= 1
        labels, real = call.tensor("labels"), real_tokens(call)
        real = torch.ones_like(ids, dtype=torch.bool) if real is None else real
        if labels is not None:
            if labels.shape == ids.shape:
                self.recorder.mailbox.post([ids, real, labels], lambda v: self._told(*v))
            return
        logits = outcome(output).logits
        if logits is None or logits.dim() != 3 or logits.shape[:2] != ids.shape or not logits.requires_grad:
            return

        def came(grad: Tensor) -> None:
            self.recorder.mailbox.post([ids, real, grad.detach().abs().amax(dim=-1) > 0], lambda v: self._came(*v))

        self.heed(logits, came)

    def _told(self, ids: Tensor, real: Tensor, labels: Tensor) -> None:
        taught = labels != IGNORE
        if bool((labels == ids)[taught].all()):  # else they are shifted, or of another kind
            self._came(ids, real, torch.nn.functional.pad(taught[:, 1:], (0, 1)))

    def _came(self, ids: Tensor, real: Tensor, taught: Tensor) -> None:
        """`taught` (B, T): whether something is taught after each token."""
        rows = taught.any(dim=1)
        first = taught.int().argmax(dim=1)[rows]
        if bool((first < 1).any()):
            self._looks, self._rows, self._measured = 0, [], []  # prompts are not masked here
            return
        ids, real, taught = ids[rows], real[rows], taught[rows]
        self._masked(ids, real, taught, first + 1)
        self._before.update(ids.gather(1, first[:, None]).flatten().tolist())
        self._earlier.update(ids.gather(1, first[:, None] - 1).flatten().tolist())
        if (count := self._before.total()) >= ROWS:
            before, earlier = tuple(self._before.most_common()), tuple(self._earlier.most_common())
            self.recorder.offer(TaughtFromSeen(self.recorder.step, count, before, earlier))

    def _masked(self, ids: Tensor, real: Tensor, taught: Tensor, begin: Tensor) -> None:
        """Rows that are taught from `begin` (B,) on."""
        self._came_in += 1
        if sum(len(row.text) for row in self._rows) + int(real.sum()) <= TOKENS:
            for place, start in enumerate(begin.tolist()):
                if (row := masked_row(ids[place], real[place], start)) is None:
                    continue
                self._rows.append(row)
                if place < EACH:
                    self._measure(row.text, taught[place].roll(1)[real[place]])
        if self._came_in % OFTEN == 0:
            self._show()

    def _measure(self, text: tuple[int, ...], taught: Tensor) -> None:
        """Was its prompt tokenized alone, and otherwise? The longest text that it begins with is the prompt."""
        near = sorted(TOKENIZED.beside(text), key=len, reverse=True)
        prompt = next((one for one in near if prompt_end(text, one) is not None), None)
        if prompt is not None:
            self._measured.append(MeasuredRow(text, tuple(taught.tolist()), prompt))

    def close(self, *, broken: bool) -> None:
        """What came since."""
        self._show()

    def _show(self) -> None:
        if self._rows:
            roles = TEMPLATES.of(getattr(getattr(self.recorder, "facts", None), "tokenizer", None))
            self.recorder.offer(PromptMasksSeen(self.recorder.step, tuple(self._rows), tuple(self._measured), roles))


def masked_row(ids: Tensor, real: Tensor, begin: int) -> MaskedRow | None:
    """A row (T,) that is padded at one end, or not at all; None where it has no text, or holes."""
    places = real.nonzero().flatten()
    if not len(places) or int(places[-1] - places[0]) + 1 != len(places):
        return None
    ahead, behind = int(places[0]), len(ids) - 1 - int(places[-1])
    if ahead and behind:
        return None
    return MaskedRow(tuple(ids[real].tolist()), max(0, begin - ahead), ahead or -behind)
