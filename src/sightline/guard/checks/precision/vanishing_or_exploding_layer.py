"""P6 · One layer's gradients vanish, or its updates explode.

Symptom: the first layers stay at their initial values while the last ones learn, so a deep model is no better than a
shallow one; or the loss leaps, the weights of a layer are replaced at every step, and NaN is near (P1).
Root cause: a product over depth: each layer multiplies what passes back by a factor far from 1. Saturating activations
(sigmoid: at most 0.25), an init that does not fit fan-in and activation, no normalisation, no residual path; too high a
rate for one layer.
Fix: init by fan-in and activation (`nn.init.kaiming_normal_(w, nonlinearity="relu")`), ReLU or GELU in place of sigmoid
or tanh, a residual path with normalisation; for explosions also a lower `lr` and clipping at 1.0.
Stays silent when: a gradient is exactly 0 or absent (a gate or low-rank adapter that starts at 0, an expert or token
that was not used) or is growing from step to step; the optimizer makes up for a small gradient, so that the layer moves
as others do, and the loss falls; only a bias or a scalar is affected; the rate is small for all, or rising; the loss is
next to nothing.
Sources:
- https://arxiv.org/abs/1803.01719 (2018-03-05): when signals vanish or explode at init, and that 2/fan-in avoids it
- https://neptune.ai/blog/vanishing-and-exploding-gradients-debugging-monitoring-fixing (2026-11-21): both, by layer
- https://github.com/SilasMarvin/dnns-from-scratch-in-zig/pull/7 (2024-08-24): five layers vanish; He's init mends 30
"""

from __future__ import annotations

from itertools import takewhile
from statistics import median

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import History
from sightline.guard.evidence.depth import Layers, layers_of, lost_in
from sightline.guard.specimen import Run

DOMAINS = ("any",)
STEPS = 4  # measured steps in a row: a zero-initialised part opens within them, a fault stays
VANISHED = 1e-6  # of the strongest layer's gradient: TheDeepChecker's limit, made independent of the loss's scale
FAINT = 1e-4  # at first, of layers whose gradients are 0 by now: what is switched off on purpose had more
STARVED = 0.1  # of the strongest layer's relative update: Adam moves layers alike until its eps swallows a gradient
GROWING = 1.5  # later shares over earlier ones: a gate that opens linearly has 2.3 to 1.57 in its first six steps
REPLACED = 0.9  # update over weights, after the step: such a step replaces the weights (healthy: 1e-4 to 1e-1)
EXPLODED = 1e6  # root mean square of a gradient's elements: TheDeepChecker's limit
LEARNED = 0.05  # of the first losses: what is left to learn may well need some of the layers alone
STUCK, WAITED = 0.01, 16  # of the loss, and steps: a gate or a warm-up has opened by then
FEWEST = 2  # layers: of a single one that others go round, little may pass


def find(history: History) -> Verdict:
    """Look at each layer of each tower in the last measured steps."""
    if len(measured := history.measured) < STEPS:
        return CannotTell(f"{STEPS} measured optimizer steps")
    for tower in measured[-1].towers:
        first, seen = ([layers_of(step, tower) for step in part] for part in (measured[:STEPS], measured[-STEPS:]))
        if finding := _exploding(seen) or (not history.warming(STEPS) and _vanishing(seen, first, history)) or None:
            return finding
    return None


def _exploding(seen: list[Layers]) -> Finding | None:
    bad = [n for n in seen[-1] if all(n in s and (s[n][1] >= REPLACED or s[n][0] >= EXPLODED) for s in seen)]
    if not bad:
        return None
    worst = max(bad, key=lambda n: seen[-1][n])
    return Finding(
        severity="warning",
        message=f"{len(bad)} of {len(seen[-1])} layers explode, most of all {worst}",
        fix="init by fan-in, lower lr, clip the gradient norm at 1.0",
        seen={"gradient (rms)": seen[-1][worst][0], "update over weights": seen[-1][worst][1], "layers": bad[:5]},
    )


def _vanishing(seen: list[Layers], first: list[Layers], history: History) -> Finding | None:
    faint = [_weak(layers) for layers in (*seen, *(first if history.fell(to=LEARNED, over=STEPS) else ()))]
    weak = [name for name in seen[-1] if all(name in names for names in faint)]
    bad = [name for name in weak if not _growing(_shares(seen, name), _shares(first, name))]
    if not (bad := bad or _cut_off(seen, first, history)):
        return None
    now = {name: seen[-1].get(name, (0.0, 0.0)) for name in (*seen[-1], *bad)}
    worst, best = min(bad, key=lambda n: now[n]), max(now, key=lambda n: now[n])
    lost = lost_in({name: gradient for name, (gradient, _) in now.items()})
    return Finding(
        severity="warning",
        message=f"the gradients of {len(bad)} of {len(now)} layers vanish, most of all {worst}{lost}",
        fix="init by fan-in and activation, ReLU or GELU in place of sigmoid, a residual path with normalisation",
        seen={f"gradient (rms) of {worst}": now[worst][0], f"of {best}": now[best][0], "layers": bad[:5]},
    )


def _weak(layers: Layers) -> set[str]:
    """The layers whose gradient and update are next to nothing beside the largest ones."""
    gradient, update = (max((layer[part] for layer in layers.values()), default=0.0) for part in (0, 1))
    return {name for name, (g, u) in layers.items() if g <= VANISHED * gradient and u <= STARVED * update}


def _cut_off(seen: list[Layers], first: list[Layers], history: History) -> list[str]:
    """The first layers of all, to which less and less came until nothing does; or, where nothing was learnt yet, next
    to nothing: an optimizer that moves them follows what is left there after rounding."""
    gone = takewhile(lambda n: not any(_shares(seen, n)) and 0.0 < max(_shares(first, n)) <= FAINT, first[-1])
    if len(bad := list(gone)) >= FEWEST:
        return bad
    if history.step < WAITED or not history.stands(within=STUCK, over=STEPS):
        return []
    names = list(takewhile(lambda n: all(0.0 < s <= VANISHED for s in _shares([*seen, *first], n)), seen[-1]))
    return names if len(names) >= FEWEST else []


def _shares(seen: list[Layers], name: str) -> list[float]:
    """The layer's gradient over the strongest layer's, step by step; 0 where it has none."""
    return [layers[name][0] / max(g for g, _ in layers.values()) if name in layers else 0.0 for layers in seen]


def _growing(now: list[float], first: list[float]) -> bool:
    """Or had no gradient at first: it stands behind a gate or an adapter that starts at 0, and opens."""
    early, late = median(now[: STEPS // 2]), median(now[STEPS // 2 :])
    return 0.0 in first or late >= GROWING * early or median(now) >= GROWING * median(first)


def specimen(run: Run, *, faulty: bool) -> None:
    """Twelve layers, with a sigmoid after each."""
    import torch
    from torch import nn

    activation: type[nn.Module] = nn.ReLU
    if faulty:
        activation = nn.Sigmoid
    model = nn.Sequential(*(part for _ in range(12) for part in (nn.Linear(16, 16), activation())), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.attach(model, optimizer)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(32, 16)).sub(1).square().mean().backward()
        optimizer.step()
