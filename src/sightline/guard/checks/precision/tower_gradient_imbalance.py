"""P5 · One tower's gradients are larger than another's by orders of magnitude.

Symptom: the loss falls for a while and stalls; one tower, or one of several encoders, hardly changes while another
swings; with clipping, the global gradient norm is that of one, and its spikes scale down everybody's step.
Root cause: the signal is scaled where the towers meet: features that were not normalised or are divided twice, a
connector with a far too small or too large init, a loss term of one tower with another's weight, or per-tower
gradients that ranks or accumulation average differently.
Fix: find the factor in `seen` where the towers meet and take it out (normalise the connector's output to the text
embeddings' RMS, weigh the loss terms); until then clip each by itself: `clip_grad_norm_(tower.parameters(), 1.0)`.
Stays silent when: the ratio stays within three orders of magnitude, in norms or relative to the weights (under SGD,
where one norm of all gradients cuts them to a tenth or less: two, or 30 times where the weak tower alone would not be
cut, and moves as much less); it grew as one tower had learnt what it can; it is closing from step to step (a gate that
starts at 0 opens); a tower is frozen, gets no gradient at all (T1, X1), or is as small as a temperature.
Sources:
- https://github.com/NVIDIA-NeMo/Megatron-Bridge/pull/5555 (2026-08-13): encoder gradients misscaled without an error
- https://github.com/waifu-diffusion/network-trainer/pull/4 (2023-03-30): one global norm over two towers, separated
- https://github.com/datawhalechina/torch-rechub/pull/30 (2022-07-06): GradNorm balances gradients of several tasks
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, isfinite
from statistics import median

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import ClippedSeen, History, ScheduleSeen, Setup, StepSeen
from sightline.guard.specimen import Run

DOMAINS = ("vlm",)
STEPS = 4  # measured steps in a row: a single batch may have little to say to a tower
RATIO = 1e3  # healthy update-to-weight ratios span 1e-4 to 1e-1: no one rate serves towers that lie further apart
SMALL = 1000  # elements: a gate, a temperature or a few norms have no stable norm
SHARED, CUT = 100.0, 10.0  # of towers that one norm clips so far: the weak one is cut for the strong one's sake
ALONE = 30.0  # the same, where the weak one by itself would not have been cut at all
CLOSING = 0.67  # later ratios over earlier ones: a gate that opens linearly has 0.4 to 0.63 in its first six steps

Pulls = dict[str, tuple[float, float]]  # tower -> norm of its gradient, and the same over the norm of its weights


def find(
    history: History,
    schedule: ScheduleSeen | None = None,
    clipped: ClippedSeen | None = None,
    setup: Setup | None = None,
) -> Verdict:
    """Compare the strongest and the weakest tower, in gradient norm and relative to their weights, step by step."""
    measured = history.measured
    if len(measured) < STEPS:
        return CannotTell(f"{STEPS} measured optimizer steps")
    inside = {part: name for name, tower in (setup.towers if setup else {}).items() for part in tower.readers}
    first, pulls = ([_pulls(step, inside) for step in part] for part in (measured[:STEPS], measured[-STEPS:]))
    parts = [part for part in pulls[-1] if all(part in pull for pull in pulls)]
    towers = [part for part in parts if part not in inside]
    if towers == ["model"]:  # whose encoders stand side by side
        towers = parts = [part for part in parts if part in inside]
    if len(towers) < 2:
        return CannotTell("two towers that learn")
    if schedule is not None and schedule.restored:
        return CannotTell("first steps of the training: the optimizer had a state before them")
    strong = max(towers, key=lambda part: pulls[-1][part][1])
    weak = min((p for p in parts if inside.get(p) != strong), key=lambda part: pulls[-1][part][1])
    ratios, before = ([_ratio(pull, strong, weak) for pull in many] for many in (pulls, first))
    early, late = ratios[: STEPS // 2], ratios[STEPS // 2 :]
    closing = median(late) < CLOSING * median(early) or median(ratios) < CLOSING * median(before)
    plain = setup is not None and setup.optimizer == "SGD"  # the others scale each parameter's step by its own past
    least = RATIO
    if plain and clipped is not None and clipped.cut >= CUT:
        norms = [pull[strong][0] / pull[weak][0] for pull in (*first, *pulls) if strong in pull and weak in pull]
        moves = [(s.update_ratio(strong) or 0.0) / (s.update_ratio(weak) or inf) for s in measured[-STEPS:]]
        least = ALONE if min(norms, default=0.0) > clipped.cut and min(moves) >= ALONE else SHARED
    if min(*ratios, *before) < least or closing or inf in before:  # no gradient at first: a gate that opens
        return None
    return Finding(
        severity="warning",
        message=f"the gradients of tower '{strong}' are {ratios[-1]:.1g} times those of tower '{weak}'",
        fix=f"look for that factor where '{weak}' meets '{strong}' and take it out; until then clip each by itself",
        seen={f"gradient norm of {part}": pulls[-1][part][0] for part in (strong, weak)}
        | {"ratio in the last steps": [float(f"{ratio:.2g}") for ratio in ratios]},
    )


def _pulls(step: StepSeen, inside: Iterable[str]) -> Pulls:
    """The towers, and parts that read `inside` one, that learn and have a gradient that is finite and not 0."""
    found = {}
    for tower in (*step.towers, *inside):
        learning = [p for p in step.tower(tower) if p.trainable and p.optimized and p.grad_norm is not None]
        gradient, weight = _norm(p.grad_norm or 0.0 for p in learning), _norm(p.weight_norm for p in learning)
        if sum(p.numel for p in learning) >= SMALL and gradient and weight and isfinite(gradient):
            found[tower] = (gradient, gradient / weight)
    return found


def _ratio(pulls: Pulls, strong: str, weak: str) -> float:
    """By the smaller of the two measures; infinite where the weak tower has no gradient."""
    if weak not in pulls or strong not in pulls:
        return inf
    return min(s / w for s, w in zip(pulls[strong], pulls[weak], strict=True))


def _norm(parts: Iterable[float]) -> float:
    return sum(part * part for part in parts) ** 0.5


def specimen(run: Run, *, faulty: bool) -> None:
    """Three small towers; the features are scaled down on their way."""
    import torch
    from torch import nn

    class TinyVLM(nn.Module):
        scale = 1.0

        def __init__(self) -> None:
            super().__init__()
            self.vision, self.connector = nn.Conv2d(3, 32, 4, stride=4), nn.Linear(32, 32)
            self.language = nn.Sequential(nn.Embedding(16, 32), nn.Linear(32, 16))

        def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
            seen = self.connector(self.vision(pixel_values).flatten(2).mean(-1)) * self.scale
            return self.language[1](self.language[0](input_ids) + seen[:, None])

    model, ids = TinyVLM(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    model.scale = 1e-5 if faulty else 1.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    run.attach(model, optimizer)
    for _ in range(5):
        optimizer.zero_grad()
        logits = model(ids, torch.randn(2, 3, 8, 8))
        nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
