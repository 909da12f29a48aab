"""Greedy decoding, step by step: the likeliest token with its probability, and steps put together.

Shapes: B sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sightline.models.vlm import Said

Step = tuple[Int[Tensor, " B"], Float[Tensor, " B"]]  # each sequence's next token, and its log probability in nats


def likeliest(logits: Float[Tensor, "B V"]) -> Step:
    """The token with the largest logit."""
    token = logits.argmax(-1)
    at = logits.gather(-1, token[:, None]).squeeze(-1)
    return token, at.float() - logits.float().logsumexp(-1)


def said(steps: Iterable[Step], ends: Collection[int]) -> list[Said]:
    """What each sequence says until its first token of `ends`; what comes behind is the others' waiting."""
    tokens, log_p = (torch.stack(column, 1).tolist() for column in zip(*steps, strict=True))
    found = []
    for row, chances in zip(tokens, log_p, strict=True):
        stop = next((i for i, token in enumerate(row) if token in ends), len(row))
        found.append(Said(row[:stop], min(0.0, sum(chances[: stop + 1]))))  # rounding may leave a probability over 1
    return found
