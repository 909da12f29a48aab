"""Features that were made beforehand, in place of images: have they anything to do with the texts beside them?

A model that has not learnt to look yet ignores its features as one does that was given those of other pictures. So the
pairs themselves are asked: half of them are fitted by a straight line, from features to words; the others are judged.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from sightline.attach.onlookers.matches import natural
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.prints import row_hashes
from sightline.guard.evidence import FeaturesSeen
from sightline.guard.probes.call import Call, outcome
from sightline.guard.probes.image_pairs import features_of, gain_of

VAIN, LEAST = 4, 8  # first batches without such pairs end it; pairs of a batch
MOST, LONG = 2048, 64  # pairs, and tokens of a text
WIDE, THROWN = 256, 128  # numbers kept of what is the mean over places, and of a random mix of all numbers
RARE, RARELY, COLUMNS = 0.03, 0.01, 64  # of the texts have a word, or have it not; have two; words that make pairs
RIDGE, DEALT = 0.1, 16  # of the pairs fitted; times that texts are dealt anew
EDGE = 3.0  # times the largest variance along a line that independent numbers would show


class Features(Onlooker):
    """Keeps a sample of pairs, and asks at the end."""

    shows: ClassVar = ("FeaturesSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._vain, self._over = 0, False
        self._shape: tuple[int, ...] = ()
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._last: tuple[Call, Tensor] | None = None
        self._mix: Tensor | None = None

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """A training batch."""
        if self._over or not training:
            return
        found = pair_of(call, output)
        if found is None or self._shape not in ((), found[0].shape[1:]):
            self._vain += 1
            self._over = self._vain >= VAIN
            return
        features, ids = found
        self._shape = features.shape[1:]
        if len(features) >= LEAST:
            self._last = call, features
        logits = outcome(output).logits
        if len(self._kept) < MOST and (hashes := row_hashes(Call(call.model, (features, ids)))) is not None:
            box = [self._few(features), ids[:, :LONG].clone(), hashes]
            assert logits is not None
            logits.register_hook(lambda grad: self._pulled(grad, box))

    def _pulled(self, grad: Tensor, box: list[Tensor]) -> None:
        """The words that the loss taught: an answer may be in no input."""
        if box and not self.recorder.muted:
            taught = grad.argmin(dim=-1).masked_fill((grad == 0).all(dim=-1), -1)
            self.recorder.mailbox.post([*box, taught[:, -LONG:]], self._came)
            box.clear()

    def _few(self, features: Tensor) -> Tensor:
        """(B, <= WIDE + THROWN) float32: the mean over places, and a mix of all numbers."""
        flat = features.detach().float().flatten(1)
        mean = features.detach().float().reshape(len(flat), -1, features.shape[-1]).mean(dim=1)[:, :WIDE]
        if features.dim() == 2:
            return mean.clone()
        if self._mix is None:
            draw = torch.Generator().manual_seed(0)
            self._mix = torch.randn(flat.shape[1], THROWN, generator=draw).to(flat.device)
        return torch.cat([mean, flat @ self._mix], dim=1)

    def _came(self, values: list[Tensor]) -> None:
        rows, ids, hashes, taught = values
        for row, words, place in zip(rows, torch.cat([ids, taught.to(ids.dtype)], dim=1), hashes.tolist(), strict=True):
            if len(self._kept) < MOST:
                self._kept.setdefault(place, (row, words))

    def close(self, *, broken: bool) -> None:
        """What the pairs tell, and what the model makes of them."""
        self._over, last, kept, self._last = True, self._last, list(self._kept.values()), None
        self._kept = {}
        if broken or last is None or not kept or self.recorder.last_call is None:
            return
        rows = torch.stack([row for row, _ in kept])
        ids = torch.nn.utils.rnn.pad_sequence([words for _, words in kept], batch_first=True)
        words = _words(ids)
        if words.shape[1] == 0 or not natural(ids) or not _shaped(rows[:, : min(WIDE, self._shape[-1])]):
            return
        call, features = last
        with self.recorder.silence():
            gain = gain_of(call, features, features.roll(1, dims=0))
        if gain is not None:
            told, chance = _told(rows, words)
            seen = FeaturesSeen(self.recorder.step, len(rows), words.shape[1], told, chance, *gain)
            self.recorder.offer(seen)


def pair_of(call: Call, output: Any) -> tuple[Tensor, Tensor] | None:
    """The one tensor of features that a call has beside the ids of its texts; None if gradients go on into it."""
    ids, logits = call.tensor("input_ids"), outcome(output).logits
    if ids is None or logits is None or ids.dim() != 2 or logits.dim() != 3 or len(logits) != len(ids):
        return None
    if not logits.requires_grad:
        return None
    features = features_of(call) if call.repeatable else None
    return None if features is None else (features, ids)


def _words(ids: Tensor) -> Tensor:
    """(N, W) float32: which of the words that are in some texts and not in others are in each, and which two of them.

    What a picture has to do with the answer alone, or with the question alone, may be nothing.
    """
    kinds, place = ids.unique(return_inverse=True)
    there = torch.zeros(len(ids), len(kinds)).scatter_(1, place, 1.0)
    share = there.mean(dim=0)
    there = there[:, (share >= RARE) & (share <= 1 - RARE)]
    most = there[:, there.mean(dim=0).sub(0.5).abs().argsort()[:COLUMNS]]
    one, other = torch.triu_indices(most.shape[1], most.shape[1], offset=1)
    both = most[:, one] * most[:, other]
    return torch.cat([there, both[:, both.mean(dim=0) >= RARELY]], dim=1)


def _shaped(rows: Tensor) -> bool:
    """Whether features hang together, as those that a network made, and are not independent numbers."""
    rows = _scaled(rows)
    if not rows.shape[1] or not bool(rows.isfinite().all()):
        return False  # a mask, say
    edge = (1 + (rows.shape[1] / len(rows)) ** 0.5) ** 2
    return float(torch.linalg.eigvalsh(rows.T @ rows / len(rows))[-1]) > EDGE * edge


def _scaled(rows: Tensor) -> Tensor:
    spread = rows.std(dim=0, correction=0)
    return ((rows - rows.mean(dim=0)) / spread.clamp(min=1e-12))[:, spread > 1e-6 * spread.max()]


def _told(rows: Tensor, words: Tensor) -> tuple[float, float]:
    """The largest correlation of a word with what a fit on the other half of the pairs says; and the same by chance."""
    draw = torch.Generator().manual_seed(0)
    rows = _scaled(rows)[torch.randperm(len(rows), generator=draw)]
    words = words[torch.randperm(len(words), generator=torch.Generator().manual_seed(0))]
    half = len(rows) // 2
    inner = rows[:half].T @ rows[:half] + RIDGE * half * torch.eye(rows.shape[1])

    def fit(texts: Tensor) -> float:
        said = rows[half:] @ torch.linalg.solve(inner, rows[:half].T @ (texts[:half] - texts[:half].mean(dim=0)))
        one, other = said - said.mean(dim=0), texts[half:] - texts[half:].mean(dim=0)
        return float(((one * other).sum(0) / (one.norm(dim=0) * other.norm(dim=0)).clamp(min=1e-12)).max())

    dealt = [fit(words[torch.randperm(len(words), generator=draw)]) for _ in range(DEALT)]
    return fit(words), max(dealt)
