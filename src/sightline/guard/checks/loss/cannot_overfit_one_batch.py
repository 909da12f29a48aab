"""T8 · The model cannot learn even one batch by heart.

Symptom: the loss of a real run falls a little and stays; more data, more steps and other rates change nothing.
Root cause: something between input and loss is cut or crossed: outputs that do not depend on the parameters that learn
(a detached tensor, a frozen body with nothing to adapt), targets in another order than the inputs, a sign error in the
loss, an activation after which the loss cannot be reached, too little capacity.
Fix: look at what the finding saw: no fall at all means a cut (follow `requires_grad` from the loss back to the inputs);
a fall that stops means a crossing (print ten inputs beside their targets) or an output that cannot take the values.
Stays silent when: a copy of the model, trained on the batch alone without dropout, brings its loss down to half; the
host did not ask; the loss is not positive, so that half of it means nothing; steps are so slow that time ran out.
Sources:
- https://karpathy.github.io/2019/04/25/recipe/ (2019-04-25): overfit a single batch of as little as two examples
- https://discuss.pytorch.org/t/loss-of-single-batch-optimization/128480 (2021-08-06): else training is ill-defined
- https://arxiv.org/abs/2204.00400 (2022-04-01): TheDeepChecker trains on a tiny sample until its loss is about 0
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import OverfitSeen
from sightline.guard.specimen import Run

DOMAINS = ("any",)
HALF = 0.5  # of the first loss: a batch that can be learnt by heart goes to about 0
STILL = 0.95  # of the first loss: TheDeepChecker's limit, a fall of 5 %, below which nothing was learnt


def find(overfit: OverfitSeen) -> Verdict:
    """How far did the copy's loss come down?"""
    if not overfit.first > 0:
        return CannotTell("loss above 0 on the batch")
    if overfit.least <= HALF * overfit.first:
        return None
    if not overfit.complete:
        return CannotTell(f"more than {overfit.steps} steps in the time that they may take")
    still = overfit.least > STILL * overfit.first
    what = "does not fall" if still else "stays above half of the first"
    fix = "follow requires_grad back from the loss" if still else "print ten inputs beside their targets"
    return Finding(
        severity="error" if still else "warning",
        message=f"a copy trained on one batch alone for {overfit.steps} steps: its loss {what}",
        fix=f"{fix}: something between input and loss is {'cut' if still else 'cut or crossed'}",
        seen={"first loss": overfit.first, **{f"least at rate {rate:g}": loss for rate, loss in overfit.rates}},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """Eight rows of noise with eight labels; the fault detaches what the body makes, and freezes the head."""
    import torch
    from torch import nn

    body, head = nn.Sequential(nn.Linear(8, 32), nn.ReLU()), nn.Linear(32, 4)
    model = nn.Sequential(body, head)
    inputs, labels = torch.randn(8, 8), torch.randint(0, 4, (8,))
    if faulty:
        model = nn.Sequential(body, nn.Softplus(), nn.Softmax(dim=-1), head.requires_grad_(False), nn.Tanh())
    guard = run.attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    guard.overfit((inputs,), lambda copy, batch: nn.functional.cross_entropy(copy(*batch), labels))
