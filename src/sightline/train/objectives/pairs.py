"""Losses over image-text pairs: all pairs of a step are compared with each other, however small its micro-batches.

With one micro-batch a rank, there is one forward and one backward pass. With several, gradients are cached (Gao et al.
2021, arXiv 2101.06983): embeddings of all micro-batches are made without a graph, the comparison gives the gradient of
every embedding, and each micro-batch is run again, with its graph and the same random numbers. The temperature takes
part in the comparison alone, once a step, so its gradient is that of one big batch.

Matching, captioning and masked words see one micro-batch at a time: their memory is the text encoder's activations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.losses.alike import alike
from sightline.losses.captioning import captioning
from sightline.losses.contrastive import info_nce
from sightline.losses.matching import NONE, matching, sample_negatives
from sightline.losses.sigmoid import pairwise_sigmoid
from sightline.models.pairs import PairModel, Pairs
from sightline.models.vlm import VLM
from sightline.recipe.schema import Stage
from sightline.train.objectives.objective import Term
from sightline.train.objectives.replay import RandomState
from sightline.train.parallel.gather import gather
from sightline.train.parallel.ranks import Ranks
from sightline.train.parallel.ring import ring
from sightline.train.precision import Precision

COMPARED = ("itc", "sigmoid")
ALONE = Ranks(0, 1, torch.device("cpu"))


@dataclass(frozen=True, slots=True)
class Embedded:
    """Embeddings of one or several micro-batches, the images they are of, and the words they say."""

    image: Tensor
    text: Tensor
    ids: Tensor
    words: Tensor


class PairLosses:
    """See `Objective`. The weights are those of the stage's `objective`."""

    unit = "pairs"
    overlaps = False

    def __init__(self, stage: Stage) -> None:
        assert isinstance(stage.objective, dict)
        order = sorted(stage.objective, key=lambda name: name not in COMPARED)  # what counts pairs comes first
        self.weights: Mapping[Term, float] = {name: stage.objective[name] for name in order}
        self._settings, self._stage = stage.pairs, stage.name
        self._compared = next((name for name in order if name in COMPARED), None)

    def check(self, model: VLM) -> None:
        """Raises UserError where `model` lacks what a loss needs."""
        where = f"stages.{self._stage}.pairs"
        if self._settings.distil:
            raise UserError("no momentum towers distil yet", where=f"{where}.distil", fix="leave it out")
        if self._settings.weighting != "fixed":
            fix = "set it to fixed, and the weights in the stage's objective"
            raise UserError("the losses' weights cannot be learned yet", where=f"{where}.weighting", fix=fix)
        heads = getattr(model, "heads", frozenset()) | set(COMPARED)
        if lacking := [name for name in self.weights if name not in heads]:
            raise UserError(
                f"this model has no head for {', '.join(lacking)}",
                where=f"stages.{self._stage}.objective",
                fix="leave it out, or give the model a fusion (model.pair.fusion) or a Q-Former",
            )
        if self._compared == "sigmoid" and cast(PairModel, model).scale_and_bias()[1] is None:
            fix = "set it, e.g. to -10 for batches of thousands and -2.7 for hundreds"
            raise UserError("the sigmoid loss needs a bias", where="model.pair.bias", fix=fix)

    def forward(self, module: nn.Module, batch: Batch) -> object:
        return module(batch, "pairs")

    def counts(self, batches: Sequence[Batch]) -> dict[Term, float]:
        counts = dict.fromkeys(self.weights, 0.0)
        for batch in batches:
            pairs, several = len(batch.input_ids), "itm" in counts and bool(_alike(batch).any())
            if "itm" in counts:  # where all pairs are alike, there is no wrong one to be told from the right ones
                counts["itm"] += 3 * pairs if several else 0
            if "itg" in counts:
                counts["itg"] += batch.tokens
            if self._compared:
                counts[self._compared] += pairs
        return counts

    def backward(
        self,
        module: nn.Module,
        batches: Sequence[Batch],
        factors: Mapping[Term, float],
        precision: Precision,
        ranks: Ranks,
    ) -> dict[Term, Tensor]:
        if len(batches) == 1 or not self._compared:
            return self._at_once(module, batches, factors, precision, ranks)
        model = cast(PairModel, module)
        states, embedded = [], []
        for batch in batches:
            states.append(RandomState.now(ranks.device))
            with torch.no_grad(), precision.autocast():
                embedded.append(_embedded(model.represent(batch.to(ranks.device)), batch))
        whole = _joined(embedded)
        compared = self._compare(model, whole, ranks)
        precision.scaler.scale(compared * factors[self._compared]).backward()
        sums: dict[Term, Tensor] = {self._compared: compared.detach()}
        start = 0
        for batch, state in zip(batches, states, strict=True):
            state.restore()
            part = slice(start, start := start + len(batch.input_ids))
            moved = batch.to(ranks.device)
            with precision.autocast():
                pairs: Pairs = module(moved, "pairs")
                rest = self._rest(model, pairs, moved)
            surrogate = _dot(pairs.image, whole.image.grad, part) + _dot(pairs.text, whole.text.grad, part)
            total = sum((loss * factors[name] for name, loss in rest.items()), torch.zeros((), device=ranks.device))
            (surrogate + precision.scaler.scale(total)).backward()
            for name, loss in rest.items():
                sums[name] = sums.get(name, torch.zeros_like(loss)) + loss.detach()
        return {name: sums[name] for name in self.weights}

    def value(self, model: VLM, batch: Batch) -> dict[Term, tuple[Tensor, float]]:
        pairs = model(batch, "pairs")
        counts = self.counts([batch])
        sums = self._rest(cast(PairModel, model), pairs, batch)
        if self._compared:
            sums[self._compared] = self._compare(cast(PairModel, model), _embedded(pairs, batch), ALONE)
        return {name: (sums[name], counts[name]) for name in self.weights}

    def _at_once(
        self,
        module: nn.Module,
        batches: Sequence[Batch],
        factors: Mapping[Term, float],
        precision: Precision,
        ranks: Ranks,
    ) -> dict[Term, Tensor]:
        """One forward and one backward pass for each micro-batch."""
        sums: dict[Term, Tensor] = {}
        model = cast(PairModel, module)
        for batch in batches:
            moved = batch.to(ranks.device)
            with precision.autocast():
                pairs: Pairs = module(moved, "pairs")
                losses = self._rest(model, pairs, moved)
            if self._compared:
                losses[self._compared] = self._compare(model, _embedded(pairs, batch), ranks)
            total = torch.stack([loss * factors[name] for name, loss in losses.items()]).sum()
            precision.scaler.scale(total).backward()
            for name, loss in losses.items():
                sums[name] = sums.get(name, torch.zeros_like(loss)) + loss.detach()
        return {name: sums[name] for name in self.weights}

    def _compare(self, model: PairModel, own: Embedded, ranks: Ranks) -> Tensor:
        """The summed loss of this rank's pairs among those of all ranks."""
        scale, bias = model.scale_and_bias()
        if self._compared == "sigmoid":
            return _by_sigmoid(own, scale, bias, ranks)
        found = gather(ranks, own.image, own.text, own.ids, own.words)
        image, text, ids, words = found.tensors
        smoothing = self._settings.smoothing
        return info_nce(
            own.image, own.text, image, text, scale, own=found.start, image_ids=alike(ids, words), smoothing=smoothing
        )[0]

    def _rest(self, model: PairModel, pairs: Pairs, batch: Batch) -> dict[Term, Tensor]:
        """The losses that see one micro-batch at a time."""
        losses: dict[Term, Tensor] = {}
        if "itm" in self.weights:
            losses["itm"] = _matching(model, pairs, batch)
        if "itg" in self.weights:
            assert pairs.seen is not None
            logits, targets = model.caption(pairs.seen, batch)
            losses["itg"] = captioning(logits, targets, self._settings.caption_smoothing)[0]
        return losses


def _by_sigmoid(own: Embedded, scale: Tensor, bias: Tensor | None, ranks: Ranks) -> Tensor:
    """Own images against every rank's texts, one rank's at a time."""
    assert bias is not None, "see `check`"
    if own.image.ndim == 3:
        raise UserError("the sigmoid loss compares one embedding an image", where="stages.objective", fix="use itc")
    blocks = zip(ring(own.text, ranks), ring(own.ids, ranks), strict=True)
    losses = [
        pairwise_sigmoid(own.image, text, scale, bias, own=None, image_ids=own.ids, text_ids=ids)[0]
        for (_, text), (_, ids) in blocks
    ]
    return torch.stack(losses).sum()


def image_ids(batch: Batch) -> Tensor:
    """(B,) int64: equal where pairs show the same image, on all ranks and in every process."""
    ids = torch.tensor([_digest(key) for key in batch.image_keys], dtype=torch.int64)
    return ids[batch.image_index.cpu()]


def text_ids(batch: Batch) -> Tensor:
    """(B,) int64: equal where pairs say the same, on all ranks and in every process."""
    rows = zip(batch.input_ids.tolist(), batch.attention_mask.tolist(), strict=True)
    said = [" ".join(str(token) for token, real in zip(*row, strict=True) if real) for row in rows]
    return torch.tensor([_digest(text) for text in said], dtype=torch.int64)


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _alike(batch: Batch) -> Tensor:
    """(B,): equal for this batch's pairs that are no negatives of each other; all 0 where there are no negatives."""
    return alike(image_ids(batch), text_ids(batch))


def _embedded(pairs: Pairs, batch: Batch) -> Embedded:
    device = pairs.text.device
    return Embedded(pairs.image, pairs.text, image_ids(batch).to(device), text_ids(batch).to(device))


def _joined(parts: list[Embedded]) -> Embedded:
    """Micro-batches as one, its embeddings leaves that collect their gradients."""
    names = Embedded.__slots__
    image, text, ids, words = (torch.cat([getattr(part, name) for part in parts]) for name in names)
    return Embedded(image.requires_grad_(), text.requires_grad_(), ids, words)


def _dot(embeddings: Tensor, gradient: Tensor | None, part: slice) -> Tensor:
    """Its gradient with respect to `embeddings` is `gradient`."""
    assert gradient is not None
    return (embeddings * gradient[part]).sum()


def _matching(model: PairModel, pairs: Pairs, batch: Batch) -> Tensor:
    """Each pair, its text with a hard negative image, and its image with a hard negative text."""
    assert pairs.seen is not None
    with torch.no_grad():
        scale, _ = model.scale_and_bias()
        similarity = pairs.image.float() @ pairs.text.float().T  # (B, B), or (B, Q, B)
        similarity = scale.float() * (similarity.amax(1) if similarity.ndim == 3 else similarity)
        ids = _alike(batch).to(similarity.device)
        text_for_image, image_for_text = sample_negatives(similarity, ids), sample_negatives(similarity.T, ids)
    if bool((text_for_image == NONE).any()):  # one image alone: the count of this term is 0, too
        return pairs.text.float().sum() * 0.0
    rows = torch.arange(len(similarity), device=similarity.device)
    images, texts = torch.cat([rows, image_for_text, rows]), torch.cat([rows, rows, text_for_image])
    logits = model.match(pairs.seen[images], batch.input_ids[texts], batch.attention_mask[texts])
    matches = torch.zeros(len(images), dtype=torch.int64, device=logits.device)
    matches[: len(rows)] = 1
    return matching(logits, matches)[0]
