"""In which units a schedule is planned, and in which the loop steps it, where the two are not the same."""

from __future__ import annotations

from itertools import pairwise
from math import isclose

from sightline.guard.evidence.learning import ScheduleSeen
from sightline.guard.evidence.loading import LoaderSeen
from sightline.guard.evidence.plans import ALMOST, EXACT, FAR, HALF, SAME, TRIAL, implied_end, implied_warm_up

STEPS = 8  # a plan of fewer fits many a count by chance
FEWEST = 3  # epochs: of fewer, a plan's number says little
CUTS, GONE, DIGITS = 8, 1e-3, 2  # of one factor with so many decimals, and what is left of the rate after all of them
TEN, LONGEST = 10, 300  # cycles of so many epochs are in use; other numbers that are whole epochs in steps are not
CALLS = 2  # of a schedule: one more may be its end
EARLY, ROUND = 16, 50  # times its length, and a number of epochs, for which a run may be planned that is stopped early


def misfit(s: ScheduleSeen, loader: LoaderSeen | None) -> tuple[str, str] | None:
    """The run is over, and nobody stepped the schedule; or its plan fits another count, or has no room for its warm-up;
    or it is another optimizer's: what, and what to do."""
    first = (never_stepped, in_epochs, only_rises, in_cycles)
    one = next((found for rule in first if (found := rule(s, loader))), None) if loader else None
    one = one or elsewhere(s) or miscounted(s, loader)
    return one or (decays_away(s, loader) if loader else None)


def miscounted(s: ScheduleSeen, loader: LoaderSeen | None) -> tuple[str, str] | None:
    """The run is over, and the plan fits another count than the one it was stepped by: what, and what to do."""
    steps, ticks, plan = len(s.rates), s.ticks, s.horizon or implied_end(s) or s.foreseen
    if not s.closed or ticks is None or not plan or plan < STEPS or s.restored or ticks > plan / 2:
        return None
    samples = _samples(s, loader, plan) if loader else 0
    batches = 0 if s.joined else s.forwards
    for unit, count in {"optimizer steps": steps, "micro-batches": batches, "samples": samples}.items():
        if abs(plan - count) <= SAME * count and count > ticks:
            done = f"it advanced {ticks} times in {steps} optimizer steps"
            fix = f"count as it is stepped: plan {ticks} steps instead of {plan}"
            also = "" if unit == "samples" else f", or step it once in all {unit}"
            return f"the schedule is planned in {unit} ({plan}), but {done}", fix + also
    return None


def in_epochs(s: ScheduleSeen, loader: LoaderSeen) -> tuple[str, str] | None:
    """A schedule that is planned in epochs and stepped with every step is over in the first of them: what, and what to
    do. Its plan is the run's number of epochs; or the last of its stairs is in the second half of that number."""
    steps, ticks, batches, epochs = len(s.rates), s.ticks or 0, loader.batches or 0, _epochs(s, loader)
    if not s.closed or s.restored or s.periodic or epochs < FEWEST or ticks < (1 - SAME) * steps:
        return None
    plan, ends = s.horizon or s.foreseen or 0, _cuts(s)
    fits = abs(plan - epochs) <= 1 and min(s.rates) <= HALF * max(s.rates)
    if plan:
        ends = [plan]
    elif ends and ticks <= (1 + SAME) * steps:
        plan = ends[-1]
        fits = HALF * epochs <= plan <= epochs
    if all(not end % batches for end in ends):  # they are ends of epochs, and so planned in steps
        return None
    if not fits or steps < FAR * plan:
        return None
    what = f"the schedule is planned in epochs ({plan}, of a run of {round(epochs)}), and it advanced {ticks} times"
    return f"{what}: it was over after {plan} of these", f"step it once an epoch, or plan all {ticks} steps"


def decays_away(s: ScheduleSeen, loader: LoaderSeen) -> tuple[str, str] | None:
    """A rate that falls by one round factor, a thousandfold in all, as it does so with every step, or several times an
    epoch: what, and what to do. Who plans in steps takes a factor near 1, or one that was computed."""
    steps, epochs, changes = len(s.rates), _epochs(s, loader), _changes(s)
    if not s.closed or s.restored or s.horizon or s.replaced or epochs < FEWEST or len(changes) < CUTS:
        return None
    if abs((s.ticks or 0) - steps) > SAME * steps or s.rates[-1] > GONE * s.rates[0]:
        return None
    (first, by), each = changes[0], steps / epochs
    apart = changes[1][0] - first
    alike = all(isclose(share, by, rel_tol=EXACT) for _, share in changes) and isclose(by, round(by, DIGITS))
    even = all(b - a == apart for (a, _), (b, _) in pairwise(changes)) and abs(first - apart) <= 1
    if not alike or not even or apart >= epochs or 2 * apart > each or by ** (each / apart) > HALF:
        return None
    often = "with every step" if apart == 1 else f"every {apart} steps, {each / apart:.0f} times an epoch"
    what = f"the rate falls to {by:g} of itself {often}, as if these were epochs: by the end to"
    return f"{what} {s.rates[-1] / s.rates[0]:.1g} of what it was", "step the schedule once an epoch"


def only_rises(s: ScheduleSeen, loader: LoaderSeen) -> tuple[str, str] | None:
    """Some whole epochs were all of a schedule's plan, and its warm-up takes longer: what, and what to do."""
    steps, ticks, warm = len(s.rates), s.ticks or 0, implied_warm_up(s) or 0
    known = s.closed and not s.restored and steps >= TRIAL and _epochs(s, loader) >= FEWEST
    if not known or not s.horizon or ticks < ALMOST * s.horizon or warm <= (1 + SAME) * s.horizon:
        return None
    what = f"all of the schedule's plan has {s.horizon} steps, and its warm-up takes {warm}: the rate only rose"
    return what, f"a warm-up of far fewer than {s.horizon} steps"


def never_stepped(s: ScheduleSeen, loader: LoaderSeen) -> tuple[str, str] | None:
    """A schedule that was there at the first step, and that nobody has called since, over the end of an epoch."""
    idle = s.called == s.ticks == s.first_tick == 0 and len(set(s.rates)) == 1
    if not idle or not s.closed or s.restored or s.replaced or not _whole(s, loader):
        return None
    what = f"the run is over, and scheduler.step() was never called: {s.scheduler} stands where it began"
    return what, "call scheduler.step() after each optimizer.step() or epoch, as its plan counts"


def in_cycles(s: ScheduleSeen, loader: LoaderSeen) -> tuple[str, str] | None:
    """Cycles that take some epochs of steps and are stepped once an epoch: what, and what to do. A round number of
    epochs may be meant, and only be tried."""
    ticks, batches, size = s.ticks or 0, loader.batches or STEPS, s.cycle or 0
    if not s.closed or s.restored or ticks < FEWEST or abs(ticks - _epochs(s, loader)) > 1:
        return None
    plain = size % batches == 0 and (size % TEN or size > LONGEST)
    if not plain or not FAR * ticks <= size <= len(s.rates):
        return None
    what = f"the first cycle of the schedule takes {size} steps, and it advanced {ticks} times"
    return what, "step it after each optimizer.step(), or plan its cycles in epochs"


def elsewhere(s: ScheduleSeen) -> tuple[str, str] | None:
    """The schedule that is stepped sets the rate of an optimizer that is not: what, and what to do."""
    if not s.closed or s.elsewhere < CALLS or len(s.rates) < STEPS:
        return None
    what = f"the schedule is stepped ({s.elsewhere} times), but it is of an optimizer that another one replaced"
    return f"{what}: the rate stays at {s.rates[-1]:g}", "make the schedule after the optimizer that steps, and for it"


def _epochs(s: ScheduleSeen, loader: LoaderSeen) -> float:
    """Of the run, from its forwards; 0 where they are not known, or not all of the run's steps are the schedule's."""
    known = loader.batches and len(loader.starts) > 1 and len(s.rates) >= (1 - SAME) * s.step
    return s.forwards / loader.batches if known and loader.batches else 0.0


def _samples(s: ScheduleSeen, loader: LoaderSeen, plan: int) -> int:
    """The plan, if it is the number of samples of all epochs of the run, each to its end; else 0.

    A run that was stopped early may have been planned for so many epochs more as a batch has samples.
    """
    epochs, batches = round(_epochs(s, loader)), loader.batches or 1
    if epochs < 2 or s.forwards != epochs * batches or (loader.size or 0) < 2 or plan != epochs * (loader.length or 0):
        return 0
    stopped = plan % batches == 0 and (plan < EARLY * s.forwards or plan // batches % ROUND == 0)
    return 0 if stopped else plan


def _cuts(s: ScheduleSeen) -> list[int]:
    """Steps at which the rate was cut to a half or less; [] where it was ever changed otherwise."""
    changes = _changes(s)
    return [n for n, _ in changes] if all(0 < share <= HALF for _, share in changes) else []


def _changes(s: ScheduleSeen) -> list[tuple[int, float]]:
    """Steps at which the rate changed, and to what share of it."""
    return [(n, b / a if a > 0 else 1.0) for n, (a, b) in enumerate(pairwise(s.rates), 1) if a != b]


def _whole(s: ScheduleSeen, loader: LoaderSeen) -> bool:
    """Whether the optimizer took all the run's steps, and another epoch began behind one that was whole."""
    alone, batches = len(s.rates) >= (1 - SAME) * s.step, loader.batches or STEPS
    return alone and any((b - a + 1) * max(1, s.first_forwards) >= batches for a, b in pairwise(loader.starts))
