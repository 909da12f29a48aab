"""T2 · Gradients of the last step are added to this one's, or those of a micro-batch are cleared before the step.

Symptom: the loss falls at first, then jumps or diverges; the gradient norm grows from step to step although the data
do not change; a smaller learning rate only delays it. No error is raised, because adding up gradients is a feature.
Root cause: `backward()` adds to `.grad`. Without `optimizer.zero_grad()` between a step and the next backward pass,
every step uses the sum of all gradients so far (or, where only some parameter groups are cleared, of those left out).
Or `model.zero_grad()` clears the model, and the optimizer holds more: a loss with centres or proxies of its own.
Two networks that learn from each other (a GAN): the generator's backward pass leaves gradients in the discriminator
as well, and its `zero_grad()` after its own step comes too early for them.
The reverse: it is called for each micro-batch, or step() is not, and the step uses the gradient of the last one alone.
Fix: call `optimizer.zero_grad()` once an optimizer step, after `optimizer.step()` or before the first `backward()` of
the next one; with gradient accumulation not between the micro-batches; of two networks, before its own backward pass.
Stays silent when: the gradients are gone (None or all zero) at the moment the first backward pass after a step begins,
wherever in the loop they were cleared, or are this pass's own (a temperature that the loss uses outside the model has
its before the model's outputs do); another optimizer's parameters, not this one's, still hold theirs; passes whose
losses are no parts of one mean are cleared apart (sharpness-aware steps, gradients that are combined by hand), and
their batches are not a loader's next ones, or weights move in between, or the gradient used is not the last one's.
Sources:
- https://github.com/pytorch/ignite/issues/583 (2019-08-22): an official example that cleared at the wrong place
- https://arxiv.org/abs/2506.14813 (2026-11-21): StackOverflow-60335387 of the TrainCheck paper is this fault
- https://github.com/pytorch/tutorials/pull/2800 (2024-03-14): the quickstart tutorial's place of zero_grad
- https://github.com/udacity/deep-learning-v2-pytorch/pull/160 (2019-05-04): a course notebook without zero_grad
"""

from __future__ import annotations

import math

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import LastBatchSeen, OutsideSeen, StepSeen
from sightline.guard.specimen import Run

DOMAINS = ("any",)
SHARE = 0.03  # relative: the weight of a token, read from its gradient, is good to about 1 %
SOFTMAX = 0.9  # of the positions must look like cross-entropy; less, and a weight means something else
STRAY = 0.03  # of this step's gradient norm: gradients that nobody left give exactly 0, less would turn no step
SAME = 1e-3  # relative: what is added to a gradient and taken away again leaves it as it was, up to rounding
LEFT = 0.5  # of the last step's gradient norm: whole gradients left give 1.0, cleared ones give exactly 0


def find(step: StepSeen, outside: OutsideSeen | None = None, last: LastBatchSeen | None = None) -> Verdict:
    """Compare the gradients that the step's first backward pass met with those that the last step used."""
    if outside is not None and outside.left > 0 and outside.apart <= SAME * outside.left:
        return _outside(outside)
    if (dropped := _dropped(step) or _last(last, step)) is not None:
        return dropped
    if step.strayed and step.strayed >= STRAY * (step.grad_norm() or math.inf):
        return _strayed(step)
    if step.carried is None or step.previous_grad_norm is None:
        return CannotTell("gradients at the start of two measured steps in a row")
    if step.previous_grad_norm == 0 or not step.carried >= LEFT * step.previous_grad_norm:  # NaN is P1's business
        return None
    return Finding(
        severity="error",
        message="the gradients of the previous step were still there when this step's first backward pass began",
        fix="call optimizer.zero_grad() once after every optimizer.step() (moved by hand: set each p.grad to None)",
        seen={"norm left over": step.carried, "norm of the previous step": step.previous_grad_norm},
    )


def _outside(outside: OutsideSeen) -> Finding:
    return Finding(
        severity="error",
        message="a parameter beside the model keeps the gradient of the previous step, and this step's is added:"
        f" {outside.name}",
        fix="clear all that the optimizer holds: optimizer.zero_grad(), not model.zero_grad()",
        seen={"norm left by the previous step": outside.left, "norm in this step": outside.now},
    )


def _strayed(step: StepSeen) -> Finding:
    return Finding(
        severity="error",
        message="a backward pass on to the network before this one left gradients here, that were added to this step's",
        fix="call this optimizer's zero_grad() right before its own backward pass, not only after its step",
        seen={"norm left by the other's pass": step.strayed, "norm of this step": step.grad_norm()},
    )


def _dropped(step: StepSeen) -> Finding | None:
    """The losses are parts of one mean, and every pass but the first met nothing of the one before."""
    passes = len(step.micro)
    if passes < 2 or len(step.met) != passes or any(step.met[1:]) or not step.grad_norm():
        return None
    parts = [m.supervised * (m.weight or 0.0) for m in step.micro if m.softmax_rows >= SOFTMAX]
    if len(parts) < passes or abs(sum(parts) - 1) > SHARE:
        return None
    return Finding(
        severity="error",
        message=f"{passes} micro-batches make a step's loss, and the gradients of all but the last were cleared",
        fix="call optimizer.zero_grad() once after every optimizer.step(), not for each micro-batch",
        seen={"gradient norms at the start of each backward pass": list(step.met), "parts of the loss": parts},
    )


def _last(last: LastBatchSeen | None, step: StepSeen) -> Finding | None:
    """Each pass was of the loader's next batch, and every one but the first met nothing of the one before."""
    if last is None or step.step < last.steps[-1] or len(step.met) != last.passes or any(step.met[1:]):
        return None
    return Finding(
        severity="error",
        message=f"{last.passes} batches pass between two steps, and the gradients of all but the last were cleared",
        fix="call zero_grad() once after every step(), not for each batch; or step() for each batch, if that was meant",
        seen={"steps": last.steps, "gradient norms at the start of each backward pass": step.met[:8]},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """A regression of three steps."""
    import torch
    from torch import nn

    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.attach(model, optimizer)
    for _ in range(3):
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        if not faulty:
            optimizer.zero_grad()
