"""How much of a step is looked at: the guard may cost a given share of the time that steps take, and sleeps to keep it.

There are three kinds of steps. A *measured* one is read in full: parameters, batch, gradients. Of a *heard* one the
loss and cheap counts are kept. *Asleep*, hooks return after one test; forwards and steps are counted, nothing else.

- The opening is the run's first 1,024 steps: there a purse of fifty seconds times the budget (a second, at 2 %) pays
  for what short runs and early faults need. The first five steps are measured, then two in a row at steps that thin out
  (every 8th to 64, then twice an octave), and the first 256 are all heard.
- Afterwards the guard spends what it has earned, which is a third of its budget of the host's time, for its clock sees
  no more of what it costs, less the cost of its sleeping hooks. Half of that goes to hearing, half to measuring; what
  hearing does not need goes to measuring. Measured steps come in windows of two, for some faults show between two steps
  in a row. All of the guard's time counts, that of the checks too; what a measured step's evidence costs later is put
  down to measuring.
- Where what can learn changes (parts are woken, another optimizer takes over), what was seen says little of what comes:
  the next steps are measured as the first ones were, on credit, for the first few such changes of a run.
- What compares ranks must happen on all of them at the same steps. Such steps follow from the step's number alone
  (`also`), are heard at least, and nothing else here may be asked for them.

A step is one kind from its first forward to its optimizer's step, whatever it accumulates: kinds change between steps.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from enum import Enum

ALWAYS = 5  # the first steps are all measured: most faults show at once
AGAIN = 8  # such changes that are looked at: stages of a run are fewer, and what changes at every step is no stage
WINDOW = 2  # measured steps in a row
OPENING = 1024  # steps; by their number, so that a run is opened alike whatever the machine does
PURSE = 50.0  # seconds of the budget's rate that the opening may spend
MOST = 2.0  # seconds, however large the budget: the rest of a preflight's five is for attaching and single probes
ONCE = 0.1  # seconds of one step that the opening pays for: above, it was a probe that comes once
HEARD = 256  # steps of the opening that are all heard: trends of losses, rates and waits begin with these
LONGEST = 10_000  # steps asleep in a row: a run of any length is looked at now and then
FORWARD, STEP, INNER = 9e-6, 5e-6, 2e-6  # seconds that sleeping hooks take amid kernels, which leave no cache warm
# Modules with hooks are called in torch's slow way, what comes after a look finds caches cold, and what it allocated is
# collected: by turns within one process, steps took 4.5 % longer where the clock said 2, and 2.5 % where it said 1.
SEEN = 1 / 3  # of what watching costs is in its clock, to be sure
RECENT = 5  # values whose median is the cost to expect: probes that come once do not move it
MEMORY = 0.8  # of the running mean of a step's time: smooth over some five values
OPENS = sorted({*range(ALWAYS), *range(8, 65, 8), *(n << k for k in range(5) for n in (96, 128))})
_FIRSTS = sorted({start + place for start in OPENS if start >= ALWAYS for place in range(WINDOW)} | set(range(ALWAYS)))


class Kind(Enum):
    """What is done in a step."""

    MEASURED = "measured"
    HEARD = "heard"
    ASLEEP = "asleep"


class Pace:
    """Says what kind each step is. `budget`: share of the step time; from 1.0 on, every step is measured.

    ``with pace:`` around the guard's own work counts its time. `spent`: seconds since the last step was settled;
    `late`: those of them that belong to the measured step before. `also`: steps that must be heard at least. `inner`:
    how many of our hooks sit on modules inside the model.
    """

    def __init__(self, budget: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._budget, self._clock = budget, clock
        self._work = time.thread_time if clock is time.perf_counter else clock
        self.spent = self.late = 0.0
        self._worked = self._work_start = 0.0  # of `spent`, while no other process had the processor
        self.also: list[Callable[[int], bool]] = []
        self.inner = 0
        self._began = self._start = clock()
        self._opening = min(MOST, PURSE * budget)
        self._hearing, self._measuring = 0.0, 0.0  # seconds in the purses
        self._heard, self._measured, self._late = (deque[float](maxlen=RECENT) for _ in range(3))  # seconds a step
        self._step_time = 0.0
        self._share = 1.0  # of the time spent that was work
        self._window = 0  # measured steps that are still to come in this window
        self._slept = 0
        self._again = AGAIN

    def __enter__(self) -> None:
        self._start, self._work_start = self._clock(), self._work()

    def __exit__(self, *_: object) -> None:
        self.spent += self._clock() - self._start
        self._worked += self._work() - self._work_start

    def kind(self, step: int) -> Kind:
        """What the step after `step` steps is. Asked once for each that is not slept through."""
        if self._budget >= 1:
            return Kind.MEASURED
        opening = self._opening > 0 and step < OPENING
        if self._window > 0:
            self._window -= 1
            return Kind.MEASURED
        if step < ALWAYS or (opening and _opens(step)):
            return Kind.MEASURED
        if self._measuring >= self._of_a_window() or self._slept >= LONGEST:
            self._window, self._slept = WINDOW - 1, 0
            return Kind.MEASURED
        heard = (opening and step < HEARD) or self._hearing >= _middle(self._heard) or self._must(step)
        return Kind.HEARD if heard else Kind.ASLEEP

    def again(self, step: int) -> None:
        """What can learn has changed: the next steps are measured, one more than at first, for this one was not."""
        if step >= ALWAYS and self._window <= 0 < self._again:
            self._again -= 1
            self._window = ALWAYS + 1

    @property
    def affords(self) -> bool:
        """Whether something beyond steps, such as one more evaluation, may be looked at."""
        return self._budget >= 1 or self._opening > 0 or self._measuring >= 0

    def sleeps(self, step: int) -> int:
        """How many steps to sleep through from `step` on, when that one is of the kind to sleep."""
        rate = (SEEN * self._budget * self._step_time - self._hooks(1, 1)) / 2
        longest = LONGEST
        if rate > 0:
            hearing, measuring = _middle(self._heard) - self._hearing, self._of_a_window() - self._measuring
            longest = min(LONGEST, max(1, math.ceil(min(hearing, measuring) / rate)))
        if self._opening > 0 and step < _FIRSTS[-1]:
            longest = min(longest, _FIRSTS[bisect_left(_FIRSTS, step + 1)] - step)
        return next((n for n in range(1, longest) if self._must(step + n)), longest) if self.also else longest

    def settle(self, step: int, kind: Kind, *, steps: int = 1, forwards: int = 1) -> None:
        """Steps of one kind are over, `step` is the number of all so far: earn, and pay."""
        now = self._clock()
        elapsed, spent, late = now - self._began, self.spent, self.late
        self._share = min(1.0, self._worked / spent) if spent > 0 else 1.0
        self._began, self.spent, self.late, self._worked = now, 0.0, 0.0, 0.0
        own = max(elapsed - spent, 1e-6)
        self._step_time = MEMORY * self._step_time + (1 - MEMORY) * own / steps if self._step_time else own / steps
        self._earn(SEEN * self._budget * own - self._hooks(steps, forwards))
        if late:
            self._late.append(late)
        if kind is Kind.ASLEEP:
            self._slept += steps
        else:
            (self._heard if kind is Kind.HEARD else self._measured).append(spent - late)
        heard = spent - late if kind is Kind.HEARD else 0.0
        opening = self._opening > 0 and step <= OPENING
        self._hearing = self._pay(self._hearing, heard, opening)
        self._measuring = self._pay(self._measuring, spent - heard, opening)

    def _pay(self, purse: float, spent: float, opening: bool) -> float:
        """What is left of a purse. In the opening it never owes: what it does not hold comes from the run's first.

        That one is a fixed sum, of which a machine that does much else must not take more: it pays for our work alone.
        """
        if not opening or purse >= spent:
            return purse - spent
        self._opening -= min(self._share * (spent - max(purse, 0.0)), ONCE)
        return min(purse, 0.0)

    def _earn(self, income: float) -> None:
        hearing, most = self._hearing + income / 2, 4 * _middle(self._heard)
        self._hearing = min(hearing, most)
        measuring = self._measuring + income / 2 + hearing - self._hearing
        self._measuring = min(measuring, 2 * self._of_a_window())

    def _hooks(self, steps: int, forwards: int) -> float:
        return STEP * steps + (FORWARD + INNER * self.inner) * forwards

    def _of_a_window(self) -> float:
        return WINDOW * (_middle(self._measured) + _middle(self._late))

    def _must(self, step: int) -> bool:
        return any(must(step) for must in self.also)


def _opens(step: int) -> bool:
    """Whether a step of the opening is measured."""
    place = bisect_left(_FIRSTS, step)
    return place < len(_FIRSTS) and _FIRSTS[place] == step


def _middle(values: deque[float]) -> float:
    """The median; 0 of none."""
    return sorted(values)[len(values) // 2] if values else 0.0
