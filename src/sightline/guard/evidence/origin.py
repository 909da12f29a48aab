"""Where weights come from, told from what a run shows: a fresh initialisation, or training (and is that undone?)."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from statistics import median

from sightline.guard.evidence.learning import HeadSeen
from sightline.guard.evidence.setup import Setup
from sightline.guard.evidence.steps import History, ParameterSeen, StepSeen

KNOWS = 0.75  # of ln V: a fresh language model's first loss is ln V or above; a trained one's is far below
NEAR = 0.1  # relative: sampling error of a norm, and the first step itself
SMALLEST = 64  # elements whose norm tells a distribution
UNIFORM = 1.8  # kurtosis of a uniform distribution
NORMAL = 0.02  # standard deviation of weights in the initialisation of most transformers
EARLY = 2  # the set-up is read anew once an unnamed optimizer has stepped, and the history begins with step 2
JUMP = 0.1  # change of a norm that no optimizer step explains: far above the 3 % error of a measured update
LATER = 5  # steps in a row: one bad batch is no harm
HOT = 1e-2  # update over weight a step: ten times the healthy 1e-3
RISE, NATS = 1.3, 0.05  # a loss that stays above RISE x the first, and NATS x ln V higher, was not chance
SOON, BACK = range(1, 5), 5  # steps after the first: a jump comes at once, and what came back is back by now
PEAK, NEXT = 5, 2  # times the first loss; times the level before and after: a jump's highest, and its two highest
SEEN, UNTIL = 2, 8  # steps by which what came back is known, and the last of them


def trained_language(history: History, setup: Setup) -> float | None:
    """First loss of the run, or of the stage that woke the language tower, where it shows that this was trained before.

    None where it does not. Known only with a loss in nats a token and the number of tokens in the vocabulary.
    """
    first, rows = _beginning(history, setup), setup.embedding_rows
    if first is None or first.loss is None or not rows or rows < 2:
        return None
    return first.loss if 0 <= first.loss < KNOWS * log(rows) else None


def _beginning(history: History, setup: Setup) -> StepSeen | None:
    """The run's first step, or the first in which all of the language tower learnt, after others had without it."""
    if history.steps[0].step <= EARLY:
        return history.steps[0]
    woken, measured = set(setup.unfrozen), history.measured
    if setup.unfrozen_at is None or not measured:
        return None
    language = [p.name in woken for p in measured[0].tower("language") if p.trainable]
    others = [p.name in woken for p in measured[0].tower("connector") if p.trainable]
    if not language or not all(language) or any(others):
        return None
    return next((s for s in (*history.before, *history.steps) if s.step == setup.unfrozen_at + 1), None)


def forgetting(history: History, setup: Setup) -> dict[str, float] | None:
    """The numbers that show a trained language tower being broken: it moves fast, and the loss rose and stays there."""
    start, late = trained_language(history, setup), [step.loss for step in history.steps[-LATER:]]
    losses = [loss for loss in late if loss is not None]
    ratio = usual_ratio(history, "language")
    if start is None or len(history.steps) <= LATER or len(losses) < LATER or ratio is None or ratio <= HOT:
        return None
    if min(losses) <= max(RISE * start, start + NATS * log(setup.embedding_rows or 2)):
        return None
    return {"first loss": start, "least of the last losses": min(losses), "language: update over weight": ratio}


def jolted(history: History, setup: Setup) -> dict[str, float] | None:
    """The numbers that show a trained language tower being shaken: it moves fast, and the loss jumps and comes back.

    Only the loss of the very first step is of weights and data as they then were: another task of a stage shows in it.
    """
    start, first = trained_language(history, setup), _beginning(history, setup)
    if start is None or first is None:
        return None
    every = (*history.before, *history.steps)
    seen = {step.step - first.step: step for step in every if step.loss is not None}
    soon = [seen[n].loss or 0.0 for n in SOON if n in seen]
    before = [step.loss or 0.0 for n, step in seen.items() if n < 0]
    rest = [step.loss or 0.0 for n, step in seen.items() if n >= BACK]
    if len(soon) < len(SOON) or len(rest) < SEEN or max(seen) < UNTIL:
        return None
    *_, following, peak = sorted(soon)
    if peak < max(PEAK * start, start + NATS * log(setup.embedding_rows or 2), NEXT * max(before, default=0.0)):
        return None
    if following < NEXT * max(start, *rest) or soon[-1] >= following:
        return None
    ratios = [ratio for n in SOON if n in seen and (ratio := seen[n].update_ratio("language")) is not None]
    if not ratios or max(ratios) <= HOT:
        return None
    return {"first loss": start, "highest of the next losses": peak, "language: update over weight": max(ratios)}


def usual_ratio(history: History, tower: str) -> float | None:
    """Median over the measured steps of a tower's update over its weights."""
    ratios = [ratio for step in history.measured if (ratio := step.update_ratio(tower)) is not None]
    return median(ratios) if ratios else None


def fresh(step: StepSeen, tower: str) -> bool:
    """Whether every linear map of a tower has, after its first step, the norms of an untrained one.

    Told where weight and bias are both seen: torch's own initialisation draws both from U(-1/sqrt(n), 1/sqrt(n)) for n
    inputs, so both have a root mean square of 1/sqrt(3n); that of most transformers has normal weights and no bias.
    """
    return untrained(step.tower(tower))


def jumped(before: Sequence[ParameterSeen], after: StepSeen) -> list[str]:
    """Parameters whose norms changed between two steps by more than the later step's own update."""
    was = {p.name: p.weight_norm for p in before}
    now = [p for p in after.parameters if p.name in was]
    return [p.name for p in now if abs(p.weight_norm - was[p.name]) > 2 * p.update_norm + JUMP * p.weight_norm]


def untrained(parameters: Sequence[ParameterSeen]) -> bool:
    """Whether all linear maps among these have the norms of untrained ones (see `fresh`); False where none is."""
    seen = {p.name: p for p in parameters}
    pairs = [(p, seen.get(name.removesuffix("weight") + "bias")) for name, p in seen.items() if name.endswith("weight")]
    maps = [(w, b) for w, b in pairs if b is not None and w.numel >= SMALLEST and w.numel > b.numel]
    return bool(maps) and all(_untrained(weight, bias) for weight, bias in maps)


def new(head: HeadSeen) -> bool:
    """Whether an output layer is as `torch.nn.Linear` makes it: weights and bias from U(-1/sqrt(n), 1/sqrt(n))."""
    size, spread = head.inputs * head.classes, (3 * head.inputs) ** -0.5
    slack = 0.1 + 2 * (4 / size) ** 0.5  # two standard errors of a uniform sample's kurtosis, which is 1.8
    if size < SMALLEST or abs(head.kurtosis - UNIFORM) > slack or abs(head.rms / spread - 1) > NEAR + size**-0.5:
        return False
    return head.bias_rms is None or abs(head.bias_rms / spread - 1) <= NEAR + head.classes**-0.5


def _untrained(weight: ParameterSeen, bias: ParameterSeen) -> bool:
    spread = (weight.numel / bias.numel * 3) ** -0.5
    if _close(bias.weight_norm, bias.update_norm):  # it was zero before this step
        return _close(_rms(weight), NORMAL) or _close(_rms(weight), spread)
    return _close(_rms(weight), spread) and abs(_rms(bias) / spread - 1) <= NEAR + bias.numel**-0.5


def _rms(parameter: ParameterSeen) -> float:
    return parameter.weight_norm / parameter.numel**0.5


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= NEAR * other
