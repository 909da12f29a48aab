"""Did the attack do its work? A model that merely hides its gradients looks robust until somebody asks.

After Athalye et al. 2018 (arXiv 1802.00420, section 3.1, the signs of obfuscated gradients) and Carlini et al. 2019
(arXiv 1902.06705, section 3 and the checklist of section 5): one step must not beat many, noise and transferred
pictures must be weaker, an attack without a bound must succeed, more steps must not help much, gradients must not be
zero, and the bound must hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from sightline.evaluate.bootstrap import paired
from sightline.evaluate.marks import mean
from sightline.evaluate.robust.tally import Tally

# An attack without a bound turns any answer that the picture decides; a few rows may not depend on their picture.
UNBOUNDED_RIGHT = 0.1
# More steps find a little more, as long as there are more steps; a curve that would move by more is not finished.
UNFINISHED = 0.05
# Rows without any gradient: underflow in a very sure model touches one now and then, a step function all of them.
ZERO_ROWS = 0.02
# Of accuracies that are compared with each other: what a few rows of a hundred may do by chance.
CHANCE = 0.02


@dataclass(frozen=True, slots=True)
class Check:
    """One check of one attack. `passed` is None where it could not be made; `says` tells why, or what was seen."""

    attack: str
    check: str
    passed: bool | None
    says: str
    seen: Mapping[str, float] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """As `robustness.json` holds it."""
        return asdict(self)


def loss_rises(tallies: Sequence[Tally]) -> Check:
    """At the largest bound the mean loss is higher than on clean pictures, beyond chance."""
    last = max(tallies, key=lambda tally: tally.epsilon)
    more = paired(last.losses, last.clean_losses)
    rose = mean([float(a > c) for a, c in zip(last.losses, last.clean_losses, strict=True)])
    says = f"loss {mean(last.clean_losses):.3g} -> {mean(last.losses):.3g} nats; it rose for {rose:.0%} of the rows"
    seen = {"rise": more.mean, "low": more.low, "high": more.high, "rows": rose}
    return Check(last.attack.name, "loss-rises", more.low > 0, says, seen)


def bound_holds(tallies: Sequence[Tally]) -> Check:
    """No picture is further from the clean one than the bound, but for fp32 rounding, and none leaves 0 to 1."""
    worst = max(tallies, key=lambda tally: max(tally.over, tally.over_in_files) - tally.slack)
    low, high = min(tally.low for tally in tallies), max(tally.high for tally in tallies)
    over = max(worst.over, worst.over_in_files)
    held = over <= worst.slack and low >= 0 and high <= 1
    what = "outside of the patch" if worst.attack.kind == "patch" else "past the bound"
    says = f"at most {max(over, 0.0):.1e} {what} (rounding allows {worst.slack:.1e}); pixels {low:.3g} to {high:.3g}"
    return Check(worst.attack.name, "bound-holds", held, says, {"over": over, "slack": worst.slack})


def beats_noise(tallies: Sequence[Tally]) -> Check:
    """At the largest bound random noise of the same size raises the loss less, beyond chance."""
    last = max(tallies, key=lambda tally: tally.epsilon)
    more = paired(last.losses, last.noise_losses)
    right, noisy = mean(last.in_files), mean(last.noise)
    says = f"loss {mean(last.losses):.3g} nats against {mean(last.noise_losses):.3g} with noise; "
    says += f"right {right:.1%} against {noisy:.1%}"
    seen = {"more": more.mean, "low": more.low, "high": more.high, "accuracy": right, "noise": noisy}
    return Check(last.attack.name, "stronger-than-noise", more.low > 0 and right <= noisy + CHANCE, says, seen)


def wider_is_worse(tallies: Sequence[Tally]) -> Check | None:
    """A wider bound leaves no more right answers than a narrower one."""
    ordered = sorted(tallies, key=lambda tally: tally.epsilon)
    if len(ordered) < 2:
        return None
    rights = [mean(tally.in_files) for tally in ordered]
    rise = max(b - a for a, b in pairwise(rights))
    says = "right " + ", ".join(f"{right:.1%}" for right in rights) + " as the bound grows"
    return Check(ordered[0].attack.name, "wider-is-worse", rise <= CHANCE, says, {"largest_rise": rise})


def many_beat_one(one: Sequence[Tally], many: Sequence[Tally]) -> Check | None:
    """At the same bound many steps (pgd) raise the loss at least as far as one (fgsm)."""
    shared = {tally.epsilon: tally for tally in one}
    both = [(shared[tally.epsilon], tally) for tally in many if tally.epsilon in shared]
    if not both:
        return None
    single, several = max(both, key=lambda pair: pair[0].epsilon)
    gain = paired(several.losses, single.losses)
    right, alone = mean(several.in_files), mean(single.in_files)
    says = f"loss {mean(several.losses):.3g} nats against {mean(single.losses):.3g} in one step; "
    says += f"right {right:.1%} against {alone:.1%}"
    passed = gain.high >= 0 and right <= alone + CHANCE
    return Check(several.attack.name, "many-steps-beat-one", passed, says, {"gain": gain.mean, "high": gain.high})


def more_steps(name: str, few: Tally, many: Tally) -> Check:
    """The same attack with more steps leaves about as many right answers, and no lower loss."""
    gain = paired(many.losses, few.losses)
    fewer = mean(few.in_files) - mean(many.in_files)
    says = f"{few.attack.steps} -> {many.attack.steps} steps: loss {mean(few.losses):.3g} -> {mean(many.losses):.3g}, "
    says += f"right {mean(few.in_files):.1%} -> {mean(many.in_files):.1%}"
    if fewer > UNFINISHED:
        says += "; it is not finished: give it more steps"
    seen = {"gain": gain.mean, "fewer_right": fewer}
    return Check(name, "more-steps-change-little", gain.high >= 0 and fewer <= UNFINISHED, says, seen)


def unbounded(name: str, free: Tally) -> Check:
    """Without a bound nearly no answer stays right."""
    right = mean(free.in_files)
    says = f"right {right:.1%} where every pixel may take any value"
    if right > UNBOUNDED_RIGHT:
        says += "; either gradients mislead, or these answers do not depend on the picture"
    return Check(name, "no-bound-no-defence", right <= UNBOUNDED_RIGHT, says, {"accuracy": right})


def gradients_there(name: str, zero_rows: float, zero_pixels: float) -> Check:
    """Rows have gradients to climb."""
    says = f"the gradient is exactly zero in {zero_rows:.1%} of the rows and {zero_pixels:.1%} of the pixels"
    return Check(name, "gradient-not-zero", zero_rows <= ZERO_ROWS, says, {"rows": zero_rows, "pixels": zero_pixels})


def beats_transfer(name: str, own: Tally, foreign: Tally, source: str) -> Check:
    """Pictures attacked for another model do less harm than those attacked for this one."""
    more = paired(own.losses, foreign.losses)
    right, other = mean(own.in_files), mean(foreign.in_files)
    says = f"loss {mean(own.losses):.3g} nats against {mean(foreign.losses):.3g} with pictures attacked for {source}; "
    says += f"right {right:.1%} against {other:.1%}"
    passed = more.high >= 0 and right <= other + CHANCE
    seen = {"more": more.mean, "high": more.high, "accuracy": right, "transferred": other}
    return Check(name, "stronger-than-transfer", passed, says, seen)


def not_made(name: str, check: str, why: str) -> Check:
    """A check for which something is missing."""
    return Check(name, check, None, why)
