"""Language models that a script makes from nothing, and goes on with in another model.

What comes first may be taught whole conversations, and the model around it answers alone: a tower that nobody could
download. Only the end of the run tells that from a mask that was forgotten.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from sightline.attach.hook import Hook
from sightline.attach.origins import ORIGINS
from sightline.attach.script.watch import Models, Watched
from sightline.attach.setup import embedding_of
from sightline.guard.evidence import BatchSeen, FromNothingSeen, LossSeen
from sightline.guard.evidence.goes_on import answers_alone


class FromNothing:
    """Tells a model of `models` that it began with nothing; and what a later one, which has its words, is taught."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self._models = models
        self._pairs: list[tuple[Watched, Watched]] = []  # of an earlier model and one that goes on from it

        def failed(error: Exception) -> None:
            fault(f"{type(error).__name__}: {error}")

        models.entering.append(Hook(self._enters, failed))
        models.ending.append(Hook(self._ends, failed))

    def _enters(self, one: Watched) -> None:
        if (table := embedding_of(one.recorder.model)) is None:
            return
        if ORIGINS.fresh(table.weight):
            one.recorder.offer(FromNothingSeen())
        else:
            self._pairs += [(o, one) for o in self._models.live if o is not one and _same_words(o, table)]

    def _ends(self, one: Watched) -> None:
        for earlier, later in [pair for pair in self._pairs if one in pair]:
            if earlier.attachment is None or later.attachment is None:
                continue
            watch = later.attachment.watch
            if answers_alone(watch.latest(BatchSeen), watch.latest(LossSeen)):
                earlier.recorder.offer(FromNothingSeen(answers_later=True))
        self._pairs = [pair for pair in self._pairs if one not in pair]


def _same_words(one: Watched, table: nn.Embedding) -> bool:
    """Whether the word embeddings of `one` are these, or became these and rows for new words."""
    mine = embedding_of(one.recorder.model)
    if mine is None or mine.weight.device != table.weight.device or mine.embedding_dim != table.embedding_dim:
        return False
    rows = min(mine.num_embeddings, table.num_embeddings)
    return torch.equal(mine.weight[:rows], table.weight[:rows].to(mine.weight.dtype))
