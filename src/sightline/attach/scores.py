"""Recomputes what an evaluation's text scores, from the logits the host computed anyway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sightline.attach.mailbox import Mailbox
from sightline.guard.evidence import IGNORE, BatchScore, Evidence, ScoreSeen
from sightline.guard.probes.call import Call, Outcome

ROUNDS = 4  # evaluations that are recomputed: a wrong count is wrong every time
CHUNK = 1024  # positions whose log-softmax is held at once
OVERLAP = 4  # tokens by which a window must begin with the end of the one before to be told from chance


@dataclass(slots=True)
class Round:
    """An evaluation in the making. `tail`: the ids (T,) of the last window, where windows come one at a time."""

    batches: list[BatchScore] = field(default_factory=list)
    labelled: bool = False
    tail: Tensor | None = None


class Scores:
    """Collects batches until the evaluation is over."""

    def __init__(self, wanted: bool) -> None:
        self._left = ROUNDS if wanted else 0
        self._round = Round()
        self._posted = False

    def collect(self, call: Call, result: Outcome, mailbox: Mailbox) -> None:
        """One evaluation batch: (B, T, V) logits and the (B, T) ids, and labels where the model was given some."""
        ids, logits = call.tensor("input_ids"), result.logits
        if not self._left or ids is None or logits is None or logits.shape[:-1] != ids.shape or ids.dim() != 2:
            return
        if ids.shape[1] < 2 or call.value("past_key_values") is not None:
            return
        labels, mask, here = call.tensor("labels"), call.tensor("attention_mask"), self._round
        told = labels if labels is not None and labels.shape == ids.shape else None
        shown = mask if mask is not None and mask.shape == ids.shape else torch.ones_like(ids)
        self._posted = True

        def arrived(values: list[Tensor]) -> None:
            here.labelled = here.labelled or told is not None
            here.batches.append(_score(here, *values))

        nll = _nll(logits, ids, told)
        mailbox.post([nll, ids, shown, *([] if told is None else [told])], arrived)

    def told(self, step: int, mailbox: Mailbox, offer: Callable[[Evidence], Any]) -> None:
        """The evaluation is over: offer what it gave."""
        if not self._posted:
            return
        self._left, self._posted, done = self._left - 1, False, self._round
        self._round = Round()
        mailbox.post([], lambda _: offer(ScoreSeen(step, tuple(done.batches), done.labelled)))


def _nll(logits: Tensor, ids: Tensor, labels: Tensor | None) -> Tensor:
    """(B, T - 1) float32: of the label at t + 1, or of the token there, where there is no label."""
    targets = ids[:, 1:] if labels is None else ids[:, 1:].where(labels[:, 1:] == IGNORE, labels[:, 1:])
    targets = targets.masked_fill((targets < 0) | (targets >= logits.shape[-1]), IGNORE)
    with torch.no_grad():
        flat, wanted = logits.detach()[:, :-1].flatten(0, 1), targets.flatten()
        parts = [
            cross_entropy(flat[at : at + CHUNK].float(), wanted[at : at + CHUNK], reduction="none", ignore_index=IGNORE)
            for at in range(0, len(flat), CHUNK)
        ]
    return torch.cat(parts).view(targets.shape)


def _score(here: Round, nll: Tensor, ids: Tensor, mask: Tensor, labels: Tensor | None = None) -> BatchScore:
    told = torch.ones_like(nll, dtype=torch.bool) if labels is None else labels[:, 1:] != IGNORE
    real, again = mask[:, 1:].bool(), torch.zeros_like(told)
    if len(ids) == 1:
        again[0, : max(0, _overlap(here.tail, ids[0]) - 1)] = True
        here.tail = ids[0]
    every = torch.ones_like(told)
    return BatchScore(
        rows=len(ids),
        told=_sum(nll, told),
        fair=_sum(nll, told & real & ~again),
        every=_sum(nll, every),
        repeated=int((told & again).sum()),
        padding=int((told & ~real).sum()),
        real=int(real.sum()),
    )


def _sum(nll: Tensor, where: Tensor) -> tuple[float, int]:
    return float(nll[where].double().sum()), int(where.sum())


def _overlap(old: Tensor | None, new: Tensor) -> int:
    """The longest end of the window before (never all of it) that this one begins with."""
    if old is None:
        return 0
    starts = (old[1:] == new[0]).nonzero().flatten() + 1
    for start in starts.tolist():  # the earliest start is the longest end
        length = len(old) - start
        if OVERLAP <= length <= len(new) and torch.equal(old[start:], new[:length]):
            return length
    return 0
