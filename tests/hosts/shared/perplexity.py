"""A perplexity that a script reports: over all tokens, or as a mean of its batches' perplexities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class Perplexity:
    """Called with each batch, as `compute_metrics` of the Trainer with ``batch_eval_metrics=True``."""

    def __init__(self, *, averaged: bool) -> None:
        self._averaged = averaged
        self._seen: list[tuple[Tensor, int]] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """(B, T, V) logits of a batch and its (B, T) labels."""
        targets = labels[:, 1:].flatten()
        nll = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets, reduction="sum")
        self._seen.append((nll, int((targets != -100).sum())))

    def value(self) -> Tensor:
        """Of the batches since the last call."""
        nlls, counts = (torch.tensor(column) for column in zip(*self._seen, strict=True))
        self._seen.clear()
        return (nlls / counts).exp().mean() if self._averaged else (nlls.sum() / counts.sum()).exp()

    def __call__(self, given: Any, compute_result: bool) -> dict[str, float]:
        self.add(given.predictions, given.label_ids)
        return {"perplexity": float(self.value())} if compute_result else {}
