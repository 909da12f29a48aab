"""Whether the curves can be believed: the checks of `success`, with the extra attacks that they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sightline.data.row import Row
from sightline.evaluate.robust import success
from sightline.evaluate.robust.attacked import attacked
from sightline.evaluate.robust.curves import Curve, Trial
from sightline.evaluate.robust.success import Check
from sightline.evaluate.robust.tally import Tally
from sightline.evaluate.robust.view import View
from sightline.recipe.robust import Attack

ASKED = 64  # rows of the extra attacks: enough to tell a hidden gradient, which hides from nearly every row
TIMES = 4  # as many steps, to see whether there were enough
# From the picture itself: a random point without a bound is another picture, and no answer about it proves anything.
UNBOUNDED = Attack(kind="pgd", epsilon=(1.0,), steps=50, step_size=0.05, random_start=False)


@dataclass(frozen=True, slots=True)
class Foreign:
    """Another model, to attack pictures with: its view, and what it is called."""

    view: View
    name: str


def checks(trial: Trial, rows: Sequence[Row], curves: Sequence[Curve], foreign: Foreign | str) -> list[Check]:
    """Every check of every curve. `foreign`: another model, or why there is none."""
    made: list[Check] = []
    by_name = {curve.attack.name: curve.tallies for curve in curves}
    for name, tallies in by_name.items():
        made += [success.loss_rises(tallies), success.bound_holds(tallies), success.beats_noise(tallies)]
        if (wider := success.wider_is_worse(tallies)) is not None:
            made.append(wider)
        single = by_name.get(name.replace("pgd", "fgsm")) if name.startswith("pgd") else None
        if single and (beat := success.many_beat_one(single, tallies)) is not None:
            made.append(beat)
    pgds = [curve for curve in curves if curve.attack.kind == "pgd"]
    if curves:
        made += _probed(trial, rows[:ASKED], pgds, foreign)
    return made


def cost(curves: Sequence[Attack], rows: int) -> int:
    """Rows that the extra attacks will tell of."""
    pgds = sum(attack.kind == "pgd" for attack in curves)
    return min(rows, ASKED) * (2 * pgds + (3 if curves else 0)) if curves else 0


def _probed(trial: Trial, rows: Sequence[Row], pgds: Sequence[Curve], foreign: Foreign | str) -> list[Check]:
    made = [_gradients(trial, rows)]
    for curve in pgds:
        few = trial.tallied(rows, curve.attack, max(curve.attack.epsilon))
        longer = curve.attack.model_copy(update={"steps": curve.attack.steps * TIMES})
        many = trial.tallied(rows, longer, few.epsilon)
        made.append(success.more_steps(curve.attack.name, few, many))
        if curve.attack.norm != "linf":
            continue
        if isinstance(foreign, str):
            made.append(success.not_made(curve.attack.name, "stronger-than-transfer", foreign))
        else:
            moved = transferred(trial, rows, curve.attack, few.epsilon, foreign.view)
            made.append(success.beats_transfer(curve.attack.name, few, moved, foreign.name))
    made.append(success.unbounded("pgd-linf", trial.tallied(rows, UNBOUNDED, UNBOUNDED.epsilon[0])))
    return made


def _gradients(trial: Trial, rows: Sequence[Row]) -> Check:
    """How much of the gradient at clean pictures is exactly zero."""
    no_row, no_pixel, pixels = 0, 0, 0
    for some in trial.batches(rows):
        shown = trial.view.show(some)
        _, gradient = trial.view.target(shown, trial.seed).raised(shown.pixels)
        zero = gradient == 0
        still = torch.ones(len(some), dtype=torch.bool, device=zero.device)
        still[shown.owner[~zero.flatten(1).all(1)]] = False
        no_row, no_pixel, pixels = no_row + int(still.sum()), no_pixel + int(zero.sum()), pixels + zero.numel()
        trial.tell(len(some))
    return success.gradients_there("gradient", no_row / len(rows), no_pixel / pixels)


def transferred(trial: Trial, rows: Sequence[Row], attack: Attack, epsilon: float, other: View) -> Tally:
    """Pictures attacked for another model, handed to this one as files, through its own preprocessing."""
    tally, view = Tally(attack, epsilon), trial.view
    for some in trial.batches(rows):
        theirs = other.show(some)
        made = attacked(other.target(theirs, trial.seed), attack, epsilon)
        files = view.in_files(some, theirs.owner, made.levels)
        tally.in_files += trial.mark(some, view.answer(files))
        seen = view.show(files)
        tally.losses += view.target(seen, trial.seed).losses(seen.pixels).tolist()
        trial.tell(len(some))
    return tally
