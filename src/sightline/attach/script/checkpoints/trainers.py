"""Whether a Trainer of Lightning goes on where another one ended, with the weights of its file and nothing else.

Its checkpoints hold everything whatever they are for, and many load the weights alone on purpose: to tune them, to
thaw more of them, to begin a cycle anew, to teach them new rows. So it is taken to go on only where nothing but the
length is new: the same model made with the same settings, on as many batches, with an optimizer of the same make over
the same weights, as many of which get gradients; from the very end of a fit that had come to its planned end, to a
later end of the same kind, or from where a fit was stopped, to the end that it had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from torch import nn
from torch.optim import Optimizer

from sightline.attach.script.checkpoints.contents import mappings
from sightline.attach.script.checkpoints.makes import is_plain, optimizer_in, same_make
from sightline.guard.evidence import ResumeSeen

PACKAGES = ("lightning.", "pytorch_lightning.")
DEEP = 2  # {"optimizer_states": [{"state": {...}}]}


@dataclass(frozen=True, slots=True)
class Fit:
    """How far a Trainer has come and is to go. `batches`: of an epoch; `file`: what its fit itself goes on from."""

    epochs: float
    steps: float
    epoch: int
    step: int
    batches: float
    file: str

    @property
    def ends(self) -> bool:
        """Whether it has come as far as it was to go. An epoch counts when it is over, which is told later."""
        return self.epoch + 1 >= self.epochs or self.step >= self.steps

    def continues(self, other: Fit) -> bool:
        """Whether it is to go farther than another that has ended, and no less far in any other way; or as far as one
        that was stopped."""
        same = (self.epochs, self.steps) == (other.epochs, other.steps)
        farther = self.epochs >= other.epochs and self.steps >= other.steps and not same
        return farther if other.ends else same


def fit_of(model: nn.Module) -> Fit | None:
    """Of the Trainer that has the model; None of a model that has none."""
    trainer = vars(model).get("_trainer")
    try:
        if trainer is None or not any(kind.__module__.startswith(PACKAGES) for kind in trainer.__class__.__mro__):
            return None
        return Fit(
            _limit(trainer.max_epochs),
            _limit(trainer.max_steps),
            trainer.current_epoch,
            trainer.global_step,
            trainer.num_training_batches,
            str(trainer.ckpt_path or ""),
        )
    except ReferenceError:  # the model does not keep its Trainer alive
        return None


def settings_of(model: nn.Module) -> dict[str, Any]:
    """The plain values that a model of Lightning keeps, and the hyperparameters that it was made with."""
    own = {name: value for name, value in vars(model).items() if not name.startswith("_") and name != "training"}
    given = dict(getattr(model, "hparams", {}))
    return {name: value for name, value in [*own.items(), *given.items()] if is_plain(value)}


def of_a_trainer(
    seen: ResumeSeen, before: Fit | None, now: Fit | None, content: Mapping[str, Any], optimizer: Optimizer
) -> ResumeSeen | None:
    """What is to be shown of a model that another Trainer goes on with; None where it may be meant to begin anew."""
    if before is None or now is None or now.file or now.batches != before.batches:
        return None
    if not now.continues(before) or not _same_weights(content, optimizer):
        return None
    if not seen.differ or seen.differ[0][0] != "optimizer":
        return None if seen.differ else seen
    (part, what), *others = seen.differ
    what = f"{what} at step {before.step}, and the Trainer counts from {now.step} again, without ckpt_path"
    return replace(seen, differ=((part, what), *others))


def _same_weights(content: Mapping[str, Any], optimizer: Optimizer) -> bool:
    """Whether the file has an optimizer of the same make that moved some or all of what this one may move."""
    learn = sum(p.requires_grad for group in optimizer.param_groups for p in group["params"])
    kept = filter(None, map(optimizer_in, mappings(content, DEEP)))
    return any(0 < one["moments"] <= learn and same_make(one, optimizer) for one in kept)


def _limit(most: int | None) -> float:
    return inf if most is None or most < 0 else most
