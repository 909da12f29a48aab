"""How often the guard looks: what it spends, which steps it sleeps through, and that what it tells stays right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sightline
from sightline.attach.pace import ALWAYS, HEARD, OPENING, Kind, Pace
from sightline.guard.evidence import EvaluationSeen, Evidence, Progress, ScheduleSeen, StepSeen


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def drive(steps: int, own: float, heard: float, measured: float, budget: float = 0.02, also: Any = None) -> Any:
    """Run a pace over steps of `own` seconds: (kinds by step, seconds spent awake after the opening, in it)."""
    clock = Clock()
    pace = Pace(budget, clock)
    if also is not None:
        pace.also.append(also)
    kinds: list[Kind] = []
    late = early = 0.0
    while len(kinds) < steps:
        step = len(kinds)
        kind = pace.kind(step)
        if kind is Kind.ASLEEP:
            slept = pace.sleeps(step)
            clock.now += slept * own
            kinds += [kind] * slept
            pace.settle(len(kinds), kind, steps=slept, forwards=slept)
            continue
        cost = heard if kind is Kind.HEARD else measured
        with pace:
            clock.now += cost
        clock.now += own
        kinds.append(kind)
        pace.settle(len(kinds), kind)
        early, late = early + cost * (step < OPENING), late + cost * (step >= OPENING)
    return kinds, late, early


@pytest.mark.parametrize("own", [0.0005, 0.001, 0.02, 0.5])
def test_the_budget_is_kept_after_the_opening(own: float) -> None:
    steps = 20_000
    kinds, late, early = drive(steps, own, heard=40e-6, measured=3e-3)
    assert late <= 0.0205 * own * (steps - OPENING)
    assert early <= 1.1 + 0.02 * own * OPENING
    assert Kind.MEASURED in kinds[OPENING:] and set(kinds[:ALWAYS]) == {Kind.MEASURED}
    assert Kind.ASLEEP not in kinds[:HEARD]
    assert (Kind.ASLEEP in kinds) == (own < 0.002 or own * 0.02 < 40e-6)


def test_the_median_step_of_the_opening_is_not_measured_and_its_rest_thins_out() -> None:
    kinds, *_ = drive(OPENING, 0.001, heard=40e-6, measured=3e-3)
    assert 16 <= kinds[ALWAYS:66].count(Kind.MEASURED) <= 20
    assert kinds[66:].count(Kind.MEASURED) <= 20


def test_a_step_too_short_to_pay_for_any_hook_is_looked_at_now_and_then() -> None:
    kinds, late, _ = drive(60_000, 50e-6, heard=40e-6, measured=3e-3)
    assert 4 <= kinds[OPENING:].count(Kind.MEASURED) <= 16 and late < 0.02 * 60_000 * 50e-6


def test_measured_steps_come_in_pairs() -> None:
    kinds, *_ = drive(20_000, 0.001, heard=40e-6, measured=3e-3)
    alone = [
        n
        for n in range(ALWAYS, 19_990)
        if kinds[n] is Kind.MEASURED and Kind.MEASURED not in (kinds[n - 1], kinds[n + 1])
    ]
    assert alone == []


@pytest.mark.parametrize("speed", [1.0, 7.0])
def test_ranks_hear_the_same_steps_however_fast_they_are(speed: float) -> None:
    kinds, *_ = drive(5000, 0.0005 * speed, heard=40e-6 * speed, measured=3e-3, also=lambda step: step % 64 == 0)
    assert all(kinds[step] is not Kind.ASLEEP for step in range(0, 5000, 64))


def test_a_probe_that_comes_once_does_not_use_up_the_opening() -> None:
    clock = Clock()
    pace = Pace(0.02, clock)
    with pace:
        clock.now += 4.0
    pace.settle(1, Kind.MEASURED)
    assert pace._opening > 0.8


class Planned(Pace):
    """Kinds by the step's number: awake at the steps of `awake`, measured where `measured` says so."""

    def __init__(self, awake: set[int], measured: set[int]) -> None:
        super().__init__(0.02)
        self._awake, self._measured_steps = awake | measured, measured

    def kind(self, step: int) -> Kind:
        if step in self._measured_steps:
            return Kind.MEASURED
        return Kind.HEARD if step in self._awake else Kind.ASLEEP

    def sleeps(self, step: int) -> int:
        return next((n for n in range(1, 10_000) if step + n in self._awake), 10_000)


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 16), nn.Dropout(0.1), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, x: Any, y: Any = None) -> Any:
        out = super().forward(x)
        return {"logits": out} if y is None else {"loss": cross_entropy(out, y), "logits": out}


def watched(model: nn.Module, optimizer: Any, *, awake: set[int], measured: set[int]) -> tuple[Any, list[Evidence]]:
    guard = sightline.attach(model, optimizer, on_finding=None)
    guard._recorder.pace = Planned(awake, measured)
    seen: list[Evidence] = []
    offer = guard.watch.offer
    guard.watch.offer = lambda evidence: (seen.append(evidence), offer(evidence))[1]
    return guard, seen


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(8, 6)
    return x, x[:, :4].argmax(1)


def of(kind: type, seen: list[Evidence]) -> list[Any]:
    return [one for one in seen if type(one) is kind]


def train(guarded: bool, steps: int = 60) -> dict[str, Any]:
    """Accumulation over two batches, a schedule, and an evaluation every ten steps; asleep for most of the time."""
    torch.manual_seed(1)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
    awake, measured = {5, 6, 17, 30}, {0, 1, 2, 20, 21, 40, 41, 58, 59}
    guard, seen = watched(model, optimizer, awake=awake, measured=measured) if guarded else (None, [])
    losses = []
    for number in range(steps):
        for _ in range(2):
            loss = model(*batch())["loss"] / 2
            loss.backward()
            losses.append(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if number % 10 == 9:
            model.eval()
            with torch.no_grad():
                losses.append(model(*batch())["loss"])
            model.train()
    if guard:
        guard.close()
    return {"losses": torch.stack(losses), "state": model.state_dict(), "guard": guard, "seen": seen}


def test_asleep_or_awake_not_a_bit_of_the_run_changes() -> None:
    bare, slept = train(False), train(True)
    assert torch.equal(bare["losses"], slept["losses"])
    assert all(torch.equal(value, slept["state"][name]) for name, value in bare["state"].items())
    assert slept["guard"].findings == ()


def test_what_is_told_of_whole_steps_between_sleeps() -> None:
    seen = train(True)["seen"]
    steps = of(StepSeen, seen)
    assert [s.step for s in steps if s.parameters] == [1, 2, 3, 21, 22, 41, 42, 59, 60]
    assert [s.step for s in steps if not s.parameters] == [6, 7, 18, 31]
    assert all(len(s.micro) == 2 and s.carried == 0.0 for s in steps if s.parameters)
    assert all(s.loss is not None for s in steps)
    known = [s.step for s in steps if s.previous_grad_norm is not None]
    assert known == [2, 3, 22, 42, 60]  # of the step right before, or unknown
    progress = of(Progress, seen)[-1]
    assert (progress.forwards, progress.steps) == (120, 60)


def test_rates_and_evaluations_are_seen_asleep_too() -> None:
    seen = train(True)["seen"]
    schedule = of(ScheduleSeen, seen)[-1]
    assert len(schedule.rates) == 60 and schedule.forwards == 120 and schedule.watched == 13
    assert len(set(schedule.rates)) == 60 and schedule.early == 0
    assert [e.step for e in of(EvaluationSeen, seen)] == [10, 20, 30, 40, 50, 60]


def test_gradients_left_in_a_later_part_of_the_run_are_found_between_two_measured_steps() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    guard, _ = watched(model, optimizer, awake=set(), measured={0, 1, 2, 40, 41})
    for number in range(50):
        model(*batch())["loss"].backward()
        optimizer.step()
        if number < 30:
            optimizer.zero_grad()
    guard.close()
    assert [(f.code, f.step) for f in guard.findings] == [("T2", 42)]


def test_two_optimizers_are_one_step_asleep_too() -> None:
    model = Net()
    both = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[0], model[3])]
    guard, seen = watched(model, None, awake=set(), measured={0, 1, 10, 11})
    for _ in range(14):
        model(*batch())["loss"].backward()
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad()
    guard.close()
    assert guard._recorder.step == 14
    steps = of(StepSeen, seen)
    assert [s.step for s in steps] == [1, 1, 2, 2, 11, 11, 12, 12]
    assert all({p.name for s in steps if s.step == n for p in s.parameters if p.moved} for n in (1, 2, 11, 12))
    assert guard.findings == ()


def test_a_loop_that_stops_stepping_wakes_the_guard() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard, _ = watched(model, optimizer, awake=set(), measured={0, 1, 2})
    for number in range(200):
        model(*batch())["loss"].backward()
        if number < 20:
            optimizer.step()
            optimizer.zero_grad()
    recorder = guard._recorder
    assert not recorder.asleep and recorder.step == 20 and recorder.forwards == 200
    assert recorder.open_step is not None and not recorder.open_step.measured  # gradients of slept passes are in it
    guard.close()


def test_asleep_next_to_nothing_is_left_on_the_model() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard, _ = watched(model, optimizer, awake={30}, measured={0, 1, 2})
    for _ in range(20):
        model(*batch())["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert guard._recorder.asleep and not model._forward_pre_hooks and len(model._forward_hooks) == 1
    guard.close()
    assert not model._forward_hooks


@pytest.mark.parametrize("fault", [True, False])
def test_a_forgotten_eval_between_sleeps(fault: bool) -> None:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard, _ = watched(model, optimizer, awake=set(), measured={0, 1, 2, 3})
    for number in range(60):
        model(*batch())["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        if number in (30, 50):
            model.train(fault)
            with torch.no_grad():
                model(batch()[0])
            model.train()
    guard.close()
    assert [f.code for f in guard.findings] == (["T3"] if fault else [])


def test_rollouts_at_every_step_are_a_habit_and_no_evaluation() -> None:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard, seen = watched(model, optimizer, awake=set(range(0, 60, 7)), measured={0, 1, 2, 3})
    for _ in range(60):
        with torch.no_grad():
            model(batch()[0])  # in train mode, as policies act
        model(*batch())["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    guard.close()
    assert len(of(EvaluationSeen, seen)) <= 9 and guard.findings == ()


@pytest.mark.parametrize("steady", [True, False])
def test_the_rates_of_steps_slept_through(steady: bool) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = None if steady else torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    guard, seen = watched(model, optimizer, awake={12, 13}, measured={0, 1, 2})
    for _ in range(30):
        model(*batch())["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        if schedule:
            schedule.step()
    guard.close()
    expected = [0.5 if steady else 0.5 * 0.9**n for n in range(30)]
    assert of(ScheduleSeen, seen)[-1].rates == pytest.approx(expected)


def test_waiting_for_the_processor_does_not_use_up_the_opening() -> None:
    clock, work = Clock(), Clock()
    pace = Pace(0.02, clock)
    pace._work = work
    for step in range(100):
        with pace:
            clock.now += 0.05
            work.now += 0.005
        pace.settle(step + 1, Kind.MEASURED)
    assert 0.4 < pace._opening < 0.6
