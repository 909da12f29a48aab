"""Rates that the groups of an optimizer were given and that its schedule replaced by one, or that nobody learns at."""

from __future__ import annotations

from math import isclose

from sightline.guard.evidence.learning import ScheduleSeen

STEPS = 8  # in which all groups had one rate: more than a trial of a schedule
APART = 2.0  # times the smallest of the given rates: closer ones change little
ONE = {"OneCycleLR": "max_lr", "CyclicLR": "base_lr and max_lr"}  # of torch: they ask for rates, and take one for all
ENOUGH = 48  # steps of a run that was to teach something
NEAR = 0.15  # of its first weights: less than nine degrees from where chance had put them
GONE = 0.5  # of a trained language model's weights: fine-tuning moves them by some hundredths
LOW, HIGH = 2e-4, 5e-4  # rates: a fifth and a half of that which new connectors are taught at
CARRIED, OWN = 0.25, 1e-3  # of a trained language model's weights, at a rate that is a new connector's own
FAR = 0.1  # of a trained language model's weights, if at such a rate they go further than the new connector's do
EQUAL = 1e-6  # relative: rounding of a rate that is computed at each step


def levelled(seen: ScheduleSeen) -> tuple[str, str] | None:
    """What replaced the rates that were given, and what to do about it; None where nothing did.

    That it was the schedule, and nobody's wish before, is known where it was told one rate for all, or found several
    and set one. Of rates set by hand, where the highest is one of those that were given, and the run is over.
    """
    given, highest = sorted(set(seen.given)), max(seen.rates, default=0.0)
    known = any(isclose(highest, rate, rel_tol=EQUAL) for rate in given)
    if len(given) < 2 or given[-1] < APART * given[0] or seen.restored or len(seen.rates) < STEPS or highest <= 0:
        return None
    rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(seen.given))
    if seen.scheduler in ONE and len(set(seen.bases)) == 1:
        what = f"{seen.scheduler} was told one {ONE[seen.scheduler]} for all"
        fix = f"{seen.scheduler}: {ONE[seen.scheduler]} as a list, [g['lr'] for g in optimizer.param_groups]"
    elif seen.scheduler is not None and len(set(seen.bases)) > 1:
        what, fix = f"{seen.scheduler} sets one for all", "a schedule that multiplies each group's own rate (base_lrs)"
    elif seen.scheduler is None and seen.ticks and seen.closed and known:
        what, fix = "the loop sets one for all", "multiply each group's own rate, group['initial_lr'], by the factor"
    else:
        return None
    return f"the optimizer's groups were given rates of their own ({rates}), and {what}: up to {highest:g}", fix


def left_behind(seen: ScheduleSeen, rate: float) -> tuple[str, dict[str, object]] | None:
    """What becomes of a new connector and a trained language model at one `rate`; None where nothing is known.

    A higher rate is in the hands of nobody: it went by names that are not those of the parameters. Or the run is over,
    and at a low rate, what chance had drawn is still much as it was; at a high one, little is left of the other. What
    counts there is the highest that a schedule gave.
    """
    if seen.travelled is None:
        return None
    if any(other >= APART * rate for other in seen.empty):
        return f"the group with rate {max(seen.empty):g} is empty", {"rates of empty groups": seen.empty}
    (new, old), steps, rate = seen.travelled, len(seen.rates), max(rate, *seen.rates)
    least = FAR if seen.aligned else max(FAR, new)  # what was aligned has no long way to go
    if rate >= OWN:
        least = min(least, CARRIED)
    if old >= GONE or (rate >= HIGH and steps >= ENOUGH and old >= least):
        what = f"in {steps} steps the trained language tower was moved by {old:.0%} of its weights"
        return what, {"language: its way over its first weights": old}
    if rate > LOW or steps < ENOUGH or new >= NEAR or seen.aligned:
        return None
    what = f"in {steps} steps the new connector got {new:.0%} of its weights from where it was drawn"
    return what, {"connector: its way over its first weights": new}
