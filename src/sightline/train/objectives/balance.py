"""What the losses of a stage weigh in one step, and how that moves: a schedule, uncertainty, GradNorm.

Learned weights belong to no tower. They have an optimizer of their own, take no part in clipping, and are saved with
every checkpoint. They learn from each loss's mean over all micro-batches and ranks, so they are equal on all ranks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from sightline.errors import UserError
from sightline.losses.weighting import GradNorm, Uncertainty, between
from sightline.models.vlm import VLM
from sightline.recipe.schema import Stage, Tower
from sightline.train.parallel.ranks import Ranks
from sightline.train.precision import Precision

LAST_FIRST: tuple[Tower, ...] = ("connector", "language", "vision")  # towers by how near they are to the losses
RATES = {"uncertainty": 0.01, "gradnorm": 0.025}


class Balance:
    """The weights of a stage's losses.

    Args:
        stage: its `objective` says where weights start, its `weighting` how they move.
    """

    def __init__(self, stage: Stage) -> None:
        assert isinstance(stage.objective, dict)
        self._given: dict[str, float] = {str(name): weight for name, weight in stage.objective.items()}
        self._spec, self._stage = stage.weighting, stage.name
        self._part = 0.0  # of the stage that is done
        self._shared: list[Tensor] = []
        self._pulls: dict[str, list[Tensor]] = {}  # each loss's own gradient of the shared weights, so far
        self.module: Uncertainty | GradNorm | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        rate = self._spec.lr or RATES.get(self._spec.kind, 0.0)
        if self._spec.kind == "uncertainty":
            self.module = Uncertainty(list(self._given), start=self._given)
            self._optimizer = torch.optim.Adam(self.module.parameters(), lr=rate)
        elif self._spec.kind == "gradnorm":
            self.module = GradNorm(list(self._given), self._spec.alpha, rate, start=self._given)

    @property
    def moves(self) -> bool:
        """Whether the weights are anything but those that the recipe gives."""
        return self._spec.kind != "fixed"

    def check(self, model: VLM) -> None:
        """Find the weights whose gradients are compared. Raises UserError where the losses have none in common."""
        if isinstance(self.module, GradNorm):
            self._shared = shared_weights(model, list(self._given), self._spec.shared, self._stage)

    def weights(self) -> dict[str, float]:
        """What the losses weigh in this step."""
        if self.module is not None:
            return self.module.weights(0)
        lines: Mapping[str, list[tuple[float, float]]] = {str(name): line for name, line in self._spec.points.items()}
        return {
            name: between(lines[name], self._part) if name in lines else weight for name, weight in self._given.items()
        }

    def before_step(self, step: int, total: int) -> None:
        """Told which 0-based step of how many comes next."""
        self._part = step / max(1, total - 1)
        self._pulls = {}

    def see(self, pulls: Mapping[str, Tensor]) -> None:
        """Keep what each of `pulls` (0-dim, their graphs are kept) is to the shared weights. Only GradNorm asks.

        Micro-batches add up. Every rank must see the same terms in the same order.
        """
        if not isinstance(self.module, GradNorm):
            return
        for name, pull in pulls.items():
            found = torch.autograd.grad(pull, self._shared, retain_graph=True, allow_unused=True)
            held = self._pulls.setdefault(name, [torch.zeros_like(weight) for weight in self._shared])
            for total, gradient in zip(held, found, strict=True):
                if gradient is not None:
                    total += gradient

    def learn(
        self, sums: Mapping[str, Tensor], factors: Mapping[str, float], ranks: Ranks, precision: Precision
    ) -> None:
        """Move the learned weights after a step.

        Args:
            sums: this rank's sums of each loss.
            factors: what each was multiplied with: weight x ranks / count.
        """
        if self.module is None:
            return
        weights = self.weights()
        counted = [name for name in weights if factors[name]]  # in a step without wrong pairs, matching counts nothing
        per_unit = {name: factors[name] / weights[name] / ranks.world for name in weights}
        means = dict(zip(weights, ranks.sum([float(sums[name]) * per_unit[name] for name in weights]), strict=True))
        if isinstance(self.module, Uncertainty):
            self._by_uncertainty(self.module, means, counted)
        elif len(counted) == len(weights):
            scale = float(precision.scaler.get_scale()) if precision.scaler.is_enabled() else 1.0
            norms = {name: norm / scale / weights[name] for name, norm in self._norms(ranks).items()}
            overflow = precision.scaler.is_enabled() and not all(map(math.isfinite, norms.values()))
            if not overflow:  # as the model's own step, which fp16 skips then
                self.module.update(means, norms)

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs."""
        if self.module is None:
            return {}
        kept = {f"weights.{name}": value for name, value in self.module.state_dict().items()}
        if self._optimizer is not None:
            for of in self._optimizer.state_dict()["state"].values():
                kept |= {f"optimizer.{kind}": value for kind, value in of.items()}
        return kept

    def load(self, kept: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        assert self.module is not None
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "optimizer": {}}
        for key, value in kept.items():
            part, name = key.split(".", 1)
            parts[part][name] = value
        self.module.load_state_dict(parts["weights"])
        if self._optimizer is not None:
            groups = self._optimizer.state_dict()["param_groups"]
            state = {0: parts["optimizer"]} if parts["optimizer"] else {}
            self._optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _by_uncertainty(self, module: Uncertainty, means: Mapping[str, float], counted: Sequence[str]) -> None:
        assert self._optimizer is not None
        self._optimizer.zero_grad()
        like = module.log_variance
        module({name: like.new_tensor(mean) for name, mean in means.items()}, 0).backward()
        assert like.grad is not None
        like.grad *= like.new_tensor([float(name in counted) for name in module.names])
        self._optimizer.step()

    def _norms(self, ranks: Ranks) -> dict[str, float]:
        """Norms of the losses' gradients over all ranks, times weight and loss scale."""
        kept: list[Tensor] = [gradient for name in self._given for gradient in self._pulls[name]]
        with torch.no_grad():
            ranks.average(kept)
            sizes = {name: torch.stack([g.double().square().sum() for g in self._pulls[name]]) for name in self._given}
        return {name: math.sqrt(float(size.sum())) for name, size in sizes.items()}


def shared_weights(model: VLM, losses: Sequence[str], pattern: str | None, stage: str) -> list[Tensor]:
    """The weights on which the pulls of `losses` are compared: those that match, else the last layer's that all reach.

    Raises:
        UserError: there are none.
    """
    reached: dict[Tower, dict[str, nn.Parameter]] = {}
    for tower in LAST_FIRST:
        idle = set().union(*(model.idle(tower, {loss: 1.0}) for loss in losses))
        named = model.tower_parameters(tower)
        reached[tower] = {name: p for name, p in named if p.requires_grad and p.ndim > 1 and name not in idle}
    where = f"stages.{stage}.weighting.shared"
    if pattern is not None:
        found = [p for of in reached.values() for name, p in of.items() if _search(pattern, name, where)]
        if not found:
            raise UserError(f"'{pattern}' matches no weights that all of {', '.join(losses)} reach", where=where)
        return list(found)
    for tower, weights in reached.items():
        ids = {id(p) for p in weights.values()}
        for layer in _last_first(model, tower):
            if found := [p for p in layer.parameters() if id(p) in ids]:
                return list(found)
    what = f"there is no layer that learns by all of {', '.join(losses)}, so their pulls cannot be compared"
    raise UserError(what, where=where, fix="name the weights by a regular expression, or set kind to uncertainty")


def _search(pattern: str, name: str, where: str) -> bool:
    try:
        return bool(re.search(pattern, name))
    except re.error as error:
        raise UserError(f"'{pattern}' is not a regular expression: {error}", where=where) from None


def _last_first(model: VLM, tower: Tower) -> Iterator[nn.Module]:
    """The layers of a tower, of its longest stack first, each from its end."""
    stacks = [m for _, part in model.tower_modules(tower) for m in part.modules() if isinstance(m, nn.ModuleList)]
    for stack in sorted(stacks, key=len, reverse=True):
        yield from reversed(list(stack))
