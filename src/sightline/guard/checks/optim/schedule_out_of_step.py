"""T6 · The learning-rate schedule does not keep step with the run.

Symptom: the last part of a run changes nothing, for the rate is 0 or below; or it is missing; or the rate never comes
down; or it saws up and down, and the loss with it, every epoch; or all groups learn at one, and were given their own.
Root cause: the schedule counts in other units than the loop: planned in optimizer steps and stepped once an epoch or a
micro-batch, or the reverse; an epoch's steps are rounded down for the plan and up by the loop, or the reverse; its
warm-up is longer than the run, or begins again every epoch; it is stepped before the optimizer; it waits for less of a
number that should rise; it has one rate for groups that have several; it is of an optimizer that was made anew since;
or nobody steps it.
Fix: give the schedule the number of optimizer steps, epochs x ceil(batches / accumulation); make it once, before the
first epoch; call `scheduler.step()` once after each `optimizer.step()`; give it a rate for each group.
Stays silent when: a schedule counts in epochs or micro-batches throughout; the rate ends above 0 and stays there, and
its plan is no number of epochs; it goes up and down by design (cycles, warm restarts); the run was stopped early; the
rate is 0 only in the last steps or in a warm-up; a scaler skipped the first steps; the optimizer was restored; a run
ends in mid-epoch at a round number, or within the first epoch, at the end of which its schedule would be stepped.
Sources:
- https://github.com/huggingface/diffusers/issues/4387 (2023-07-31): planned in micro-batches, the rate never reaches 0
- https://github.com/huggingface/transformers/issues/36297 (2025-02-20): an epoch's steps rounded down and then up end
  a run of 10 epochs after 6.8 (as does Transformers-33455 of the TrainCheck paper)
- https://docs.pytorch.org/docs/stable/optim.html (2026-11-01): the schedule steps after the optimizer
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Severity, Verdict
from sightline.guard.evidence import LoaderSeen, PlateauSeen, ScheduleSeen, Setup
from sightline.guard.evidence.epochs import misrounded
from sightline.guard.evidence.levelled import levelled
from sightline.guard.evidence.plans import early, past, restarts, too_often, unfinished, wrong_way
from sightline.guard.evidence.units import misfit
from sightline.guard.specimen import Run

DOMAINS = ("any",)
STEPS, GONE = 8, 1e-6  # fewer steps show no shape; no decay in use goes as far below the largest rate
TAIL, LOST, LEAST = 0.05, 0.25, 4  # steps at rate 0, or as good as 0, and their number: rounding leaves one or two
OFTEN = 2  # a schedule that begins anew once may be a second stage of the run; twice at equal distance is a loop


def find(
    schedule: ScheduleSeen,
    loader: LoaderSeen | None = None,
    plateau: PlateauSeen | None = None,
    setup: Setup | None = None,
) -> Verdict:
    """Judge the rates that were used, and the schedule's plan where it explains them."""
    if len(schedule.rates) < STEPS:
        return CannotTell(f"{STEPS} optimizer steps")
    if plateau is not None and (message := wrong_way(plateau)):
        fix = "give it mode='max', as for every number of which more is better"
        return _finding(schedule, f"the schedule is turned round: {message}", fix)
    if not (setup and setup.joint) and (level := levelled(schedule)):  # X3 tells of joint towers
        return _finding(schedule, *level)
    if (one := _restarts(schedule) or _over(schedule) or _past(schedule)) is not None:
        return one
    other = misfit(schedule, loader)
    return _finding(schedule, *other) if other else _left(schedule, loader)


def _finding(s: ScheduleSeen, message: str, fix: str, severity: Severity = "warning") -> Finding:
    said = {"schedule": s.scheduler, "planned": s.horizon, "advanced": s.ticks} if s.scheduler else {}
    return Finding(severity, message, fix, {"rates": s.rates[-3:], "optimizer steps": len(s.rates), **said})


def _over(s: ScheduleSeen) -> Finding | None:
    """The rate has been 0 or less for a while, and was above 0 before."""
    if s.rates[-1] < 0:
        fix = "plan the schedule for all optimizer steps, and let its factor go no lower than 0: max(0.0, ...)"
        return _finding(s, "the learning rate is below 0, so that steps go uphill: the schedule was over before", fix)
    zeros = next((n for n, rate in enumerate(reversed(s.rates)) if rate > GONE * max(s.rates)), len(s.rates))
    if zeros == len(s.rates) or zeros < max(LEAST, (LOST if s.rates[-1] else TAIL) * len(s.rates)):
        return None
    also = ", or step it once per epoch, if its plan counts epochs" if (s.ticks or 0) >= len(s.rates) - 1 else ""
    also = " (it advances with every micro-batch)" if s.inside > s.heard // 2 else also
    fix = f"plan the schedule for all optimizer steps: it is over after {len(s.rates) - zeros} of them{also}"
    what = "below a millionth of its largest" if s.rates[-1] else "0"
    return _finding(s, f"the learning rate is {what} in the last {zeros} steps: the schedule was over too soon", fix)


def _past(s: ScheduleSeen) -> Finding | None:
    """A cosine was stepped past its end."""
    if not past(s):
        return None
    fix = f"set T_max to the number of times it is stepped in all (it is {s.horizon}), or step it once an epoch"
    return _finding(s, f"the schedule ended after {s.horizon} steps of its own, and the rate rises again", fix)


def _restarts(s: ScheduleSeen) -> Finding | None:
    """The schedule is made anew again and again, or the rate falls back to its start and warms up again."""
    places, fix = restarts(s), "make the schedule once, before the first epoch, and count its steps over all epochs"
    what = "the optimizer and its schedule are made anew, far from over," if s.anew else "the schedule begins anew"
    return _finding(s, f"{what} every {places[0]} steps", fix) if len(places) >= OFTEN else None


def _left(s: ScheduleSeen, loader: LoaderSeen | None) -> Finding | None:
    """It comes before the optimizer; or the run is over in the middle of an epoch or of it, or long after."""
    if early(s):
        first = "the schedule advances before the optimizer steps: its first rate is never used"
        return _finding(s, first, "call scheduler.step() after optimizer.step()")
    if message := too_often(s):
        return _finding(s, message, "step it once after each optimizer.step() (accelerate: give it to prepare(), too)")
    if loader and (message := misrounded(s, loader)):
        fix = "plan epochs x ceil(batches / accumulation) where a smaller group at the end makes a step, else floor"
        return _finding(s, message, fix)
    if (left := unfinished(s)) is None:
        return None
    seldom = "step it with every optimizer step (Lightning: interval='step'), or plan it in epochs"
    fix = seldom if 2 * (s.ticks or 0) < len(s.rates) else "plan it for the run's optimizer steps"
    return _finding(s, f"the run is over and the schedule is not: {left[0]}", fix, "warning" if left[1] else "note")


def specimen(run: Run, *, faulty: bool) -> None:
    """Three epochs, and a linear decay."""
    import torch

    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: max(0.0, 1 - n / (8 if faulty else 24)))
    run.attach(model, optimizer)
    for _ in range(24):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        decay.step()
