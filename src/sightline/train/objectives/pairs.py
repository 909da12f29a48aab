"""Losses over image-text pairs: all pairs of a step are compared with each other, however small its micro-batches.

With one micro-batch a rank, there is one forward and one backward pass. With several, gradients are cached (Gao et al.
2021, arXiv 2101.06983): embeddings of all micro-batches are made without a graph, the comparison gives the gradient of
every embedding, and each micro-batch is run again, with its graph and the same random numbers. The temperature takes
part in the comparison alone, once a step, so its gradient is that of one big batch.

Matching, captioning and masked words see one micro-batch at a time: their memory is the text encoder's activations.
A model that carries a slow copy of itself is compared with that copy's embeddings (`slow.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.losses.alike import alike
from sightline.losses.captioning import captioning
from sightline.losses.contrastive import info_nce, info_nce_apart
from sightline.losses.distil import ramp
from sightline.losses.masked import masked_words
from sightline.losses.matching import NONE, matching, sample_negatives
from sightline.losses.sigmoid import pairwise_sigmoid
from sightline.models.fused import FusedPairVLM
from sightline.models.pairs import PairModel, Pairs
from sightline.models.vlm import VLM
from sightline.recipe.schema import Stage
from sightline.train.objectives.balance import Balance
from sightline.train.objectives.embedded import Embedded, alike_in, embedded, joined
from sightline.train.objectives.masking import Masked, Masking
from sightline.train.objectives.objective import Term
from sightline.train.objectives.replay import RandomState
from sightline.train.objectives.slow import among_past, slow_copy_of, slow_pairs
from sightline.train.parallel.gather import gather, log_sum_exp
from sightline.train.parallel.ranks import Ranks
from sightline.train.parallel.ring import ring
from sightline.train.precision import Precision

COMPARED = ("itc", "sigmoid")
ALONE = Ranks(0, 1, torch.device("cpu"))
HELD_OUT = -1  # the step by which held-out texts are masked: always the same words


class PairLosses:
    """See `Objective`. The weights are those of the stage's `objective`."""

    unit = "pairs"
    overlaps = False

    def __init__(self, stage: Stage, seed: int = 0) -> None:
        assert isinstance(stage.objective, dict)
        order = sorted(stage.objective, key=lambda name: name not in COMPARED)  # what counts pairs comes first
        self.weights: Mapping[Term, float] = {name: stage.objective[name] for name in order}
        moving = Balance(stage)
        self.balance: Balance | None = moving if moving.moves else None
        self._settings, self._stage = stage.pairs, stage.name
        self._compared = next((name for name in order if name in COMPARED), None)
        self._asked = frozenset(self.weights) - set(COMPARED)  # heads
        self._seed, self._step, self._alpha = seed, 0, stage.pairs.distil
        self._masking: Masking | None = None
        self._fresh: tuple[Tensor, ...] | None = None  # what the queue is to hold after this step

    def check(self, model: VLM) -> None:
        """Raises UserError where `model` lacks what a loss needs."""
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
        if self.balance is not None:
            self.balance.check(model)
        if "mlm" in self.weights:
            self._masking = Masking(cast(FusedPairVLM, model).encoder.tokenizer, self._settings.mask, self._stage)

    def before_step(self, step: int, total: int) -> None:
        """See `Objective`. The slow copy's share of the targets rises over the first steps."""
        self._step = step
        self._alpha = ramp(step, round(self._settings.distil_ramp * total), self._settings.distil)
        if self.balance is not None:
            self.balance.before_step(step, total)

    def after_step(self, module: nn.Module) -> None:
        """See `Objective`. The slow copy follows, and what it embedded in this step joins the queue."""
        if not isinstance(module, FusedPairVLM):
            return
        module.follow()
        if module.queue is not None and self._fresh is not None:
            module.queue.push(*self._fresh)
        self._fresh = None

    def forward(self, module: nn.Module, batch: Batch) -> object:
        return module(batch, "pairs")

    def counts(self, batches: Sequence[Batch]) -> dict[Term, float]:
        counts = dict.fromkeys(self.weights, 0.0)
        for batch in batches:
            pairs, several = len(batch.input_ids), "itm" in counts and bool(alike_in(batch).any())
            if "itm" in counts:  # where all pairs are alike, there is no wrong one to be told from the right ones
                counts["itm"] += 3 * pairs if several else 0
            if "itg" in counts:
                counts["itg"] += batch.tokens
            if "mlm" in counts:
                counts["mlm"] += len(self._masked(batch, self._step).targets)
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
        states, parts = [], []
        for batch in batches:
            states.append(RandomState.now(ranks.device))
            moved = batch.to(ranks.device)
            with torch.no_grad(), precision.autocast():
                parts.append(embedded(model.represent(moved, self._asked), batch, slow_pairs(model, moved)))
        whole = joined(parts)
        compared = self._compare(model, whole, ranks)
        precision.backward(compared * factors[self._compared])
        sums: dict[Term, Tensor] = {self._compared: compared.detach()}
        start = 0
        for batch, state in zip(batches, states, strict=True):
            state.restore()
            part = slice(start, start := start + len(batch.input_ids))
            moved = batch.to(ranks.device)
            with precision.autocast():
                pairs: Pairs = module(moved, "pairs", self._asked)
                rest = self._rest(model, pairs, moved, self._opinion(model, moved))
            surrogate = _dot(pairs.image, whole.image.grad, part) + _dot(pairs.text, whole.text.grad, part)
            self._pull({self._compared: surrogate} | _scaled(rest, factors, precision))
            for name, loss in rest.items():
                sums[name] = sums.get(name, torch.zeros_like(loss)) + loss.detach()
        return {name: sums[name] for name in self.weights}

    def value(self, model: VLM, batch: Batch) -> dict[Term, tuple[Tensor, float]]:
        pairs, kept = model(batch, "pairs", self._asked), (self._step, self._alpha)
        self._step, self._alpha = HELD_OUT, 0.0  # the slow copy has no say: it is no measure of the model
        counts = self.counts([batch])
        sums = self._rest(cast(PairModel, model), pairs, batch, None)
        if self._compared:
            sums[self._compared] = self._compare(cast(PairModel, model), embedded(pairs, batch), ALONE)
        self._step, self._alpha = kept
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
                pairs: Pairs = module(moved, "pairs", self._asked)
                slow = slow_pairs(model, moved)
                losses = self._rest(model, pairs, moved, slow)
            if self._compared:
                losses[self._compared] = self._compare(model, embedded(pairs, batch, slow), ranks)
            self._pull(_scaled(losses, factors, precision))
            for name, loss in losses.items():
                sums[name] = sums.get(name, torch.zeros_like(loss)) + loss.detach()
        return {name: sums[name] for name in self.weights}

    def _pull(self, pulls: Mapping[Term, Tensor]) -> None:
        """Run backward, after the weights' balance has seen what each loss does by itself."""
        if self.balance is not None:
            self.balance.see(pulls)
        torch.stack(list(pulls.values())).sum().backward()

    def _compare(self, model: PairModel, own: Embedded, ranks: Ranks) -> Tensor:
        """The summed loss of this rank's pairs among those of all ranks."""
        smoothing = self._settings.smoothing
        if own.slow_image is not None:
            past = among_past(own, cast(FusedPairVLM, model), ranks, smoothing=smoothing, alpha=self._alpha)
            loss, self._fresh = past
            return loss
        scale, bias = model.scale_and_bias()
        if self._compared == "sigmoid":
            return _by_sigmoid(own, scale, bias, ranks)
        if ranks.world == 1:
            ids = alike(own.ids, own.words)
            return info_nce(own.image, own.text, own.image, own.text, scale, image_ids=ids, smoothing=smoothing)[0]
        found = gather(ranks, own.text, own.ids, own.words)
        text, ids, words = found.tensors
        return info_nce_apart(
            own.image,
            text,
            scale,
            partial(log_sum_exp, ranks),
            own=found.start,
            image_ids=alike(ids, words),
            smoothing=smoothing,
        )[0]

    def _rest(self, model: PairModel, pairs: Pairs, batch: Batch, slow: Pairs | None) -> dict[Term, Tensor]:
        """The losses that see one micro-batch at a time."""
        losses: dict[Term, Tensor] = {}
        if "itm" in self.weights:
            losses["itm"] = _matching(model, pairs, batch)
        if "itg" in self.weights:
            assert pairs.seen is not None
            logits, targets = model.caption(pairs.seen, batch, pairs.kept)
            losses["itg"] = captioning(logits, targets, self._settings.caption_smoothing)[0]
        if "mlm" in self.weights:
            losses["mlm"] = self._words(model, pairs, batch, slow)
        return losses

    def _opinion(self, model: PairModel, batch: Batch) -> Pairs | None:
        """What the slow copy sees, where it has a say in masked words."""
        return slow_pairs(model, batch) if "mlm" in self.weights and self._alpha else None

    def _masked(self, batch: Batch, step: int) -> Masked:
        assert self._masking is not None, "`check` comes first"
        return self._masking(batch, self._seed, step)

    def _words(self, model: PairModel, pairs: Pairs, batch: Batch, slow: Pairs | None) -> Tensor:
        """The summed loss of the masked words."""
        assert pairs.seen is not None
        masked, alpha = self._masked(batch, self._step), self._alpha if slow else 0.0
        logits, opinion = model.unmask(pairs.seen, masked.input_ids, batch, masked.where), None
        if slow is not None and alpha:
            teacher = slow_copy_of(model)
            assert teacher is not None and slow.seen is not None
            with torch.no_grad():
                opinion = teacher.unmask(slow.seen, masked.input_ids, batch, masked.where)
        return masked_words(logits, masked.targets, opinion, alpha)[0]


def _scaled(losses: Mapping[Term, Tensor], factors: Mapping[Term, float], precision: Precision) -> dict[Term, Tensor]:
    return {name: precision.scaler.scale(loss * factors[name]) for name, loss in losses.items()}


def _by_sigmoid(own: Embedded, scale: Tensor, bias: Tensor | None, ranks: Ranks) -> Tensor:
    """Own images against every rank's texts, one rank's at a time."""
    assert bias is not None, "see `check`"
    if own.image.ndim == 3:
        raise UserError("the sigmoid loss compares one embedding an image", where="stages.objective", fix="use itc")
    found = gather(ranks, own.ids, own.words)
    ids, sizes = alike(*found.tensors), found.sizes
    own_ids, ids_of = ids[found.start :][: len(own.ids)], ids.split(list(sizes))
    losses = [
        pairwise_sigmoid(own.image, text, scale, bias, own=None, image_ids=own_ids, text_ids=ids_of[rank])[0]
        for rank, text in ring(own.text, ranks, sizes)
    ]
    return torch.stack(losses).sum()


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
        ids = alike_in(batch).to(similarity.device)
        text_for_image, image_for_text = sample_negatives(similarity, ids), sample_negatives(similarity.T, ids)
    rows = torch.arange(len(similarity), device=similarity.device)
    alone = bool((text_for_image == NONE).any())
    if alone:  # one image: the count of this term is 0, too. Other ranks may judge pairs by weights that lie on all.
        text_for_image = image_for_text = rows
    images, texts = torch.cat([rows, image_for_text, rows]), torch.cat([rows, rows, text_for_image])
    logits = model.match(pairs.seen[images], batch.input_ids[texts], batch.attention_mask[texts])
    matches = torch.zeros(len(images), dtype=torch.int64, device=logits.device)
    matches[: len(rows)] = 1
    judged = matching(logits, matches)[0]
    return judged * 0.0 if alone else judged
