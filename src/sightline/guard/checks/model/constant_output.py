"""M2 · The model gives one and the same output, whatever it is given.

Symptom: the loss stops at the best constant guess, accuracy at the commonest class's share, retrieval at chance.
Root cause: units that are dead for every input (a step too large for ReLU, a bias far below 0), saturation (inputs or
weights far too large for sigmoid or tanh), inputs that are multiplied by 0 or masked out, or a representation that
collapses because nothing in its loss keeps samples apart, or is taken where all samples are alike (the first token of
a causal model; an autoencoder whose KL outweighs what it is to restore). Dropout or noise hide it in training: what
evaluations are given is compared too.
Fix: lower `lr` (with warm-up) or use GELU or LeakyReLU for dead units; normalise inputs for saturated ones; stop the
gradient of one branch, or add negatives, for collapsed representations.
Stays silent when: inputs hardly differ; the loss wants all outputs alike (the gradients of the samples agree), unless
no gradient comes through; the run has just begun (a head of zeros); outputs differ by more than a thousandth of their
size, or by more than rounding while the run goes on: many start on a plateau where all outputs are nearly the commonest
answer, and leave it. Vectors that the loss compares with each other alone may differ by 0.15 of their size, or 0.2 of
what they did at the start, and may be drawn to targets that are alike, as those of a teacher.
Sources:
- https://github.com/ayush9818/MLDS-SQ (2026-11-21): a network of dead ReLUs is a constant function
- https://arxiv.org/abs/2011.10566 (2020-11-20): SimSiam without stop-gradient: outputs collapse to one vector
- https://arxiv.org/abs/2204.00400 (2022-04-01): TheDeepChecker: outputs must depend on the inputs
"""

from __future__ import annotations

from collections.abc import Sequence

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import CollapseSeen, History, OutputsSeen, Vectors
from sightline.guard.specimen import Run

DOMAINS = ("any",)
ROWS = 4  # samples: two or three may be alike
PASSES = 3  # measured passes in a row: one batch may be of one kind
ONE = 1e-3  # relative spread: cosine within 1e-6 of 1; a regression of 300 K by a few K has 1e-2
SAME = 1e-6  # what float32 rounds off: nothing of a sample is left, and no gradient can tell samples apart
INPUTS = 0.05  # relative spread of inputs that differ: photos and features have 0.3 to 1
APART = 0.1  # relative spread of the gradients: where targets differ it is about 1
ALONE = 0.01  # of a gradient: float32 leaves 1e-5; a loss with targets of its own has 0.1 to 1
FLAT = 0.15  # spread of directions: a mean cosine of 0.98
FALLEN = 0.2  # beside the start: a healthy run's spread rises or stays
NEARER = 0.5  # the loss to its bound than at the start: where all is one, large steps still move it to and fro
DRAWN = 1.0  # of a gradient, what is left beside another's: 0 of two that draw at each other, 1.4 of any two


def find(
    outputs: OutputsSeen | None = None, vectors: CollapseSeen | None = None, history: History | None = None
) -> Verdict:
    """Are outputs one, though inputs are not, and though the loss pulls them apart?"""
    if vectors is not None and (found := _collapsed(vectors)):
        return found
    if outputs is None and vectors is not None and vectors.rows >= ROWS:  # nothing but these vectors is made
        return None
    if outputs is None or outputs.rows < ROWS or len(outputs.outputs) < PASSES:
        return CannotTell(f"{PASSES} measured passes of {ROWS} samples or more after the first steps")
    one = all(spread <= (ONE if outputs.over else SAME) for spread in outputs.outputs)  # NaN is P1's business
    apart = min(outputs.pulls) >= APART or (max(outputs.outputs) <= SAME and _nothing_comes(history))
    if not one or outputs.inputs < INPUTS or not apart:
        return None
    return Finding(
        severity="error",
        message=f"{outputs.rows} different samples give one output{' in eval mode' if outputs.mode == 'eval' else ''}:"
        f" it differs by {max(outputs.outputs):.1g} of itself",
        fix="look for dead or saturated units (lower lr, warm-up, GELU or LeakyReLU, normalised inputs), and at which"
        " place a text is pooled (an eos_token_id that no row has)",
        seen={
            "spread of outputs": max(outputs.outputs),
            "spread of inputs": outputs.inputs,
            "spread of what the loss asks for": min(outputs.pulls),
        },
    )


def _nothing_comes(history: History | None) -> bool:
    """Whether no parameter has had a gradient but 0 in the last measured steps, though there is a loss."""
    last = history.measured[-PASSES:] if history else ()
    norms = {p.grad_norm for step in last for p in step.parameters if p.trainable and p.optimized}
    return len(last) == PASSES and norms == {0.0} and all(step.loss for step in last)


def _collapsed(seen: CollapseSeen) -> Finding | None:
    """Whether a loss that knows no targets, only these vectors, has made them one, or nothing."""
    every = range(len(seen.ended[0].spread))
    same = all(len(one.spread) == len(every) for one in (*seen.began, *seen.ended))
    if seen.rows < ROWS or seen.inputs < INPUTS or not same:
        return None

    def fell(name: str, places: Sequence[int], to: float = FALLEN) -> bool:
        return all(max(of(seen.ended, name, i)) < to * min(of(seen.began, name, i)) for i in places)

    turned = [i for i in every if max(of(seen.ended, "turned", i)) < ALONE]
    flat = fell("spread", every) and all(max(of(seen.ended, "spread", i)) < FLAT for i in turned or every)
    if len(turned) > 1:
        gone = flat and fell("pulls", turned, NEARER) and all(one.opposed < DRAWN for one in seen.ended)
    else:
        long = all(min(of(seen.ended, "turned", i)) > 1 - ALONE for i in every)  # no gradient moves a direction
        drawn = all(one.opposed < ALONE for one in seen.ended)
        gone = (flat and (long or drawn)) or (drawn and fell("sizes", every))
    if not gone:
        return None
    name = "spread" if flat else "sizes"
    first, last = (max(value for i in every for value in of(part, name, i)) for part in (seen.began, seen.ended))
    return Finding(
        severity="error",
        message=f"the vectors of {seen.rows} different samples came to be one: they differ by {last:.1g},"
        f" at the start by {first:.1g}, and the loss compares them with each other alone",
        fix="detach one branch behind a predictor, add negatives, or a term for the variance over samples",
        seen={"at the start": first, "at the end": last, "spread of inputs": seen.inputs},
    )


def of(part: Sequence[Vectors], name: str, place: int) -> list[float]:
    """One measure of one set of vectors, reading by reading."""
    return [getattr(one, name)[place] for one in part]


def specimen(run: Run, *, faulty: bool) -> None:
    """A classifier; the fault puts all units of a layer where ReLU is 0."""
    import torch
    from torch import nn

    first = nn.Linear(8, 16)
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(16, 3))
    if faulty:
        nn.init.constant_(first.bias, -100.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.attach(model, optimizer)
    for _ in range(14):
        inputs = torch.randn(16, 8)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), inputs[:, :3].argmax(dim=1)).backward()
        optimizer.step()
