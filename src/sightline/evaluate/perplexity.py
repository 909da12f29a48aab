"""Perplexity: how surprised a model is by each token of what was really said, over all tokens of all texts.

Token-weighted: exp of the summed negative log-likelihood over the number of scored tokens, never a mean of batches' or
texts' means. Scored are the supervised tokens of a row's answers (its end included), or all of a document.

Shapes: S scored tokens of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from sightline.data.batch import IGNORE, Batch, Example
from sightline.data.row import Where
from sightline.errors import UserError
from sightline.evaluate.bootstrap import of_sums
from sightline.evaluate.windows import windows

LOGITS = 1 << 28  # logits of a batch at most, or of one window: 1 GiB in fp32


class Scored(Protocol):
    """A model's forward pass: a batch to logits at its supervised tokens, and those tokens."""

    def __call__(self, batch: Batch, /) -> tuple[Float[Tensor, "S V"], Int[Tensor, " S"]]: ...


@dataclass(frozen=True, slots=True)
class Text:
    """A row or a document: its tokens in one piece, or in several windows."""

    where: Where
    pieces: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Surprise:
    """What the tokens of each text cost, summed, in nats, and how many they are."""

    nats: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Nats a token."""
        return math.fsum(self.nats) / sum(self.tokens)

    def facts(self) -> dict[str, Any]:
        """Perplexity with its bootstrap interval over texts (none for a single one), and what it is made of."""
        interval = None
        if len(self.nats) > 1:
            columns = np.column_stack([self.nats, self.tokens])
            interval = [_exp(nats) for nats in of_sums(columns, lambda sums: sums[:, 0] / sums[:, 1])]
        return {"perplexity": _exp(self.mean), "interval": interval, "nats": self.mean, "tokens": sum(self.tokens)}


def document(where: Where, ids: Sequence[int], window: int, stride: int) -> Text:
    """The tokens `ids` of a document (its start token included, where it has one) in strided windows.

    Raises:
        UserError: fewer than two tokens, or as `windows`.
    """
    if len(ids) < 2:
        raise UserError(f"a text of {len(ids)} tokens has none to be predicted from those before", where=str(where))
    pieces = []
    for each in windows(len(ids), window, stride):
        own = tuple(ids[each.start : each.end])
        seen = each.first - each.start
        pieces.append(Example(where, own, (IGNORE,) * seen + own[seen:]))
    return Text(where, tuple(pieces))


def surprise(
    score: Scored,
    texts: Sequence[Text],
    collate: Callable[[list[Example]], Batch],
    *,
    batch: int,
    vocabulary: int,
    order: Callable[[list[Example]], Iterable[list[int]]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Surprise:
    """What each of `texts` costs. Equal for every `batch`, but for the rounding of the model's own sums.

    Args:
        collate: pieces, one a line, as a batch on the model's device, padded on the right.
        batch: pieces in a forward pass at most; fewer where their logits would be more than LOGITS.
        vocabulary: size of the logits.
        order: windows of places among the pieces that are run one after another (see `ImageFeatures.windows`).
        progress: told how many more texts are done.
    """
    owners = [number for number, text in enumerate(texts) for _ in text.pieces]
    pieces = [piece for text in texts for piece in text.pieces]
    sums = torch.zeros(len(texts), dtype=torch.float64)
    counts = torch.zeros(len(texts), dtype=torch.int64)
    left = [len(text.pieces) for text in texts]
    for group in order(pieces) if order else [list(range(len(pieces)))]:
        for places in _batches(pieces, group, batch, vocabulary):
            made = collate([pieces[place] for place in places])
            logits, targets = score(made)
            each = cross_entropy(logits.float(), targets, reduction="none").double().cpu()
            lines = made.supervised()[0].cpu() // made.input_ids.shape[1]
            of = torch.tensor([owners[place] for place in places])[lines]
            sums.index_add_(0, of, each)
            counts.index_add_(0, of, torch.ones_like(of))
            done = 0
            for place in places:
                left[owners[place]] -= 1
                done += left[owners[place]] == 0
            if progress:
                progress(done)
    return Surprise(tuple(sums.tolist()), tuple(counts.tolist()))


def _batches(pieces: Sequence[Example], group: list[int], batch: int, vocabulary: int) -> Iterator[list[int]]:
    """Places of `group` by length, longest first, so that what does not fit in memory fails at once."""
    places: list[int] = []
    logits = 0
    for place in sorted(group, key=lambda place: -len(pieces[place])):
        own = vocabulary * sum(label != IGNORE for label in pieces[place].labels[1:])
        if places and (len(places) == batch or logits + own > LOGITS):
            yield places
            places, logits = [], 0
        places.append(place)
        logits += own
    if places:
        yield places


def _exp(nats: float) -> float:
    """e to the `nats`; infinite where that is more than a float holds."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
