"""Prompts from which a model writes on: the last token of each, where two passes show that it did, or a new cache."""

from __future__ import annotations

from collections import Counter

from torch import Tensor

from sightline.guard.evidence import PromptsSeen
from sightline.guard.probes.call import Call

BATCHES = 8  # of prompts that are read


class Prompts:
    """Told of each pass without gradients, and of those that go on from the one before."""

    def __init__(self, wanted: bool) -> None:
        self._left = BATCHES if wanted else 0
        self._last: Tensor | None = None  # the ids of the pass before, unless it went on from another
        self._ends: Counter[int] = Counter()

    @property
    def wanted(self) -> bool:
        """Whether more are to be read."""
        return self._left > 0

    def passed(self, call: Call, ids: Tensor, *, went_on: bool, step: int) -> PromptsSeen | None:
        """A pass over (B, T) ids, which may go on from the pass before."""
        ends = None if went_on or ids.shape[1] < 2 or _ends_in_padding(call) else ids[:, -1]
        begun = ends is not None and _fills_a_cache(call, ids)  # it may write its end at once, and no other pass comes
        last, self._last = (ends, None) if begun else (self._last, ends)
        if not (went_on or begun) or last is None:
            return None
        self._left -= 1
        self._ends.update(last.tolist())
        return PromptsSeen(step, tuple(self._ends.most_common()))


def _fills_a_cache(call: Call, ids: Tensor) -> bool:
    """Whether it was handed a cache that now holds this pass, and no other: `generate` begins so."""
    length = getattr(call.kwargs.get("past_key_values"), "get_seq_length", None)
    return callable(length) and bool(length() == ids.shape[1])


def _ends_in_padding(call: Call) -> bool:
    """Whether rows end in padding: then their last place is not where they end."""
    mask = call.tensor("attention_mask")
    return mask is not None and mask.dim() == 2 and not bool(mask[:, -1].all())
