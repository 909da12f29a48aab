"""Training on attacked pictures: the attack is made anew in each step, against the model as it is then.

`pgd` (Madry et al. 2018, arXiv 1706.06083, equation 2.1): the loss of attacked pictures in place of clean ones.
`trades` (Zhang et al. 2019, arXiv 1901.08573, equation 5): the loss of clean pictures, and beta times the divergence of
the answers' distribution given attacked pictures from that given clean ones; the attack raises that divergence.

An attack runs in evaluation mode, so it draws no dropout and moves no batch statistics, and its gradient goes to pixels
alone: a frozen vision tower has a graph while its picture is attacked, and none in the step itself. Each sequence has
its own copy of a picture, and random numbers follow the seed, the step and the picture: neither ranks nor micro-batches
nor a resume change them.

Shapes: N pictures of a batch, a copy for each placeholder; S supervised positions or examples, V their classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sightline.data.batch import Batch
from sightline.data.scale import Scale
from sightline.errors import UserError
from sightline.evaluate.robust.attacks.pgd import pgd
from sightline.evaluate.robust.attacks.target import Loss, Target, generator
from sightline.losses.answers import choice
from sightline.losses.next_token import next_token
from sightline.models.composed import ComposedVLM
from sightline.models.vlm import VLM
from sightline.recipe.schema import Adversarial
from sightline.train.objectives.objective import Term
from sightline.train.objectives.one_loss import OneLoss
from sightline.train.parallel.ranks import Ranks
from sightline.train.precision import Precision

DIVERGENCE = "divergence"  # the second term of trades
NEARBY = 1e-3  # trades: standard deviation of where its attack begins, as in the paper's released code


class Attacked(OneLoss):
    """`inner`, an objective of one loss, on attacked pictures.

    Args:
        scale: between pixels from 0 to 1 and what the encoder gives to the vision tower.
        seed: of the stage.
    """

    def __init__(self, inner: OneLoss, settings: Adversarial, scale: Scale, seed: int) -> None:
        self.inner, self.settings, self.scale, self.seed = inner, settings, scale, seed
        self.name, self.unit, self.step = inner.name, inner.unit, 0
        super().__init__()
        if settings.kind == "trades":
            self.weights = {self.name: 1.0, DIVERGENCE: settings.beta}
            self.overlaps = False  # two forward passes, and one backward pass through both

    def check(self, model: VLM) -> None:
        self.inner.check(model)

    def before_step(self, step: int, total: int) -> None:
        self.step = step
        self.inner.before_step(step, total)

    def forward(self, module: nn.Module, batch: Batch) -> object:
        return self.inner.forward(module, batch)

    def count(self, batch: Batch) -> int:
        return self.inner.count(batch)

    def counts(self, batches: Sequence[Batch]) -> dict[Term, float]:
        counts = super().counts(batches)
        return counts if len(self.weights) == 1 else counts | {DIVERGENCE: counts[self.name]}

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, int]:
        """Of attacked pictures."""
        own = one_picture_a_place(batch)
        return self.inner.loss(module, self._with(own, self._pixels(module, own)))

    def value(self, model: VLM, batch: Batch) -> dict[Term, tuple[Tensor, float]]:
        """Of clean pictures: a validation loss tells what it does without `adversarial`."""
        return self.inner.value(model, batch)

    def backward(
        self,
        module: nn.Module,
        batches: Sequence[Batch],
        factors: Mapping[Term, float],
        precision: Precision,
        ranks: Ranks,
    ) -> dict[Term, Tensor]:
        """See `Objective`."""
        if self.settings.kind == "pgd":
            return super().backward(module, batches, factors, precision, ranks)
        sums = {name: torch.zeros((), device=ranks.device) for name in self.weights}
        for batch in batches:
            own = one_picture_a_place(batch.to(ranks.device))
            with precision.autocast():
                clean = self.inner.forward(module, own)
                found = {self.name: loss_of(clean, own)}
                pixels = self._pixels(module, own, _logits(clean).detach())
                if pixels is not None or _model(module).goes_along is not None:
                    moved = _logits(self.inner.forward(module, self._with(own, pixels)))
                    found[DIVERGENCE] = divergence(_logits(clean), moved, own) * (pixels is not None)
            total = torch.stack([loss * factors[name] for name, loss in found.items()]).sum()
            precision.backward(total)
            for name, loss in found.items():
                sums[name] += loss.detach()
        return sums

    # --- the attack ----------------------------------------------------------------------------------------------

    def _with(self, batch: Batch, pixels: Tensor | None) -> Batch:
        return batch if pixels is None else replace(batch, pixel_values=self.scale.values(pixels))

    def _pixels(self, module: nn.Module, batch: Batch, clean_logits: Tensor | None = None) -> Tensor | None:
        """(N, 3, H, W) attacked pixels, clean ones where the share leaves them out; None: nothing to attack.

        Where weights lie on all ranks, each goes through every attack: what it has not to attack, for nothing.
        """
        model, nothing = _model(module), batch.pixel_values is None
        if nothing and model.goes_along is not None:
            side = cast(ComposedVLM, model).vision.image_size
            picture = self.scale.values(torch.zeros(1, 3, side, side, device=batch.input_ids.device))
            batch = _with_unshown(batch, picture)
        if batch.pixel_values is None:
            return None
        settings, clean = self.settings, self.scale.pixels(batch.pixel_values)
        seeds = self._seeds(clean)
        chosen = self._chosen(seeds)
        nothing = nothing or not bool(chosen.any())
        if nothing and model.goes_along is None:
            return None
        with model.evaluating(), torch.enable_grad():
            loss = self._target_loss(model, batch, clean_logits)
            owner = torch.zeros(len(clean), dtype=torch.int64, device=clean.device)
            target = Target(clean, owner, loss, seeds)
            begin = None
            if clean_logits is not None:
                near = target.drawn(lambda numbers: torch.randn(clean.shape[1:], generator=numbers) * NEARBY, "nearby")
                begin = (clean + near).clamp(0, 1)
            bound = settings.epsilon, settings.norm
            found = pgd(target, *bound, steps=settings.steps, step_size=settings.step_size, begin=begin)
        return None if nothing else torch.where(chosen.to(clean.device)[:, None, None, None], found, clean)

    def _target_loss(self, model: VLM, batch: Batch, clean_logits: Tensor | None) -> Loss:
        quiet = cast(nn.Module, model.unseen)  # the attack's passes are no step's

        def loss(pixels: Tensor) -> Tensor:
            seen = self._with(batch, pixels)
            if clean_logits is None:
                return self.inner.loss(quiet, seen)[0].view(1)
            return divergence(clean_logits, _logits(self.inner.forward(quiet, seen)), seen).view(1)

        return loss

    def _seeds(self, clean: Tensor) -> list[int]:
        """A seed for each picture, of what it shows: neither its file's name nor its place in the batch counts."""
        levels = clean.mul(255).round().to(torch.uint8).cpu().numpy()
        told = f"{self.seed} {self.step} ".encode()
        digests = [hashlib.blake2b(told + one.tobytes(), digest_size=7).digest() for one in levels]
        return [int.from_bytes(digest, "little") for digest in digests]

    def _chosen(self, seeds: Sequence[int]) -> Tensor:
        """(N,) bool: the pictures that are attacked in this step."""
        drawn = [float(torch.rand((), generator=generator(seed, "share"))) for seed in seeds]
        return torch.tensor([one < self.settings.share or self.settings.share == 1 for one in drawn], dtype=torch.bool)


def one_picture_a_place(batch: Batch) -> Batch:
    """`batch` with a copy of its picture for each placeholder, so that no two sequences share one.

    Raises:
        UserError: the pictures are not pixels that could be attacked.
    """
    if not len(batch.image_index):
        return batch
    if batch.pixel_values is None or batch.pixel_values.ndim != 4:
        raise UserError(
            "this model cuts its images into tiles or patches by itself, so it has no picture to attack",
            where="stages.adversarial",
            fix="leave 'adversarial' out",
        )
    places = batch.image_index
    keys = tuple(batch.image_keys[place] for place in places.tolist())
    own = torch.arange(len(places), device=places.device)
    return replace(batch, pixel_values=batch.pixel_values[places], image_index=own, image_keys=keys)


def _model(module: nn.Module) -> VLM:
    return cast(VLM, module.module if isinstance(module, DistributedDataParallel) else module)


def _with_unshown(batch: Batch, picture: Tensor) -> Batch:
    """`batch`, of text alone, with a `picture` that no sequence shows."""
    return replace(batch, pixel_values=picture, image_index=batch.image_index.new_empty(0), image_keys=("",))


def loss_of(found: Any, batch: Batch) -> Tensor:
    """The summed loss of what an objective's `forward` gave: of tokens with their targets, or of answers."""
    if isinstance(found, tuple):
        return next_token(*found)[0]
    assert batch.answers is not None
    return choice(found, batch.answers)[0]


def divergence(clean: Tensor, moved: Tensor, batch: Batch) -> Tensor:
    """The summed KL divergence of the answers given attacked pictures from those given clean ones, in nats and fp32.

    Of words: between distributions over the vocabulary. Of a head's answers, which do not compete: between each one's
    yes and no.
    """
    clean, moved = clean.float(), moved.float()
    if batch.answers is None:
        return F.kl_div(F.log_softmax(moved, -1), F.log_softmax(clean, -1), reduction="sum", log_target=True)
    yes, no = F.logsigmoid(clean), F.logsigmoid(-clean)
    return (yes.exp() * (yes - F.logsigmoid(moved)) + no.exp() * (no - F.logsigmoid(-moved))).sum()


def _logits(found: Any) -> Tensor:
    logits: Tensor = found[0] if isinstance(found, tuple) else found
    return logits
