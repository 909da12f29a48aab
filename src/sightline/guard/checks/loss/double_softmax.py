"""T4 · Softmax, or sigmoid, is taken twice, or its logarithm never: the loss takes probabilities for something else.

Symptom: the loss falls slowly and stops at a floor far above zero (for C classes at ln(C - 1 + e) - 1: 1.46 for ten,
nearly ln V for a vocabulary), while accuracy may look tolerable. Gradients are small where the model is most wrong.
Root cause: `cross_entropy` takes log_softmax of its input. A model that ends in softmax, or a loop that calls softmax
before the loss, gives it numbers between 0 and 1, whose softmax is nearly flat whatever the model says. So does a
sigmoid before `binary_cross_entropy_with_logits`: then no probability is below one half, nor the loss below 0.31.
`nll_loss` takes no softmax, and not the logarithm either: given probabilities, it is their mean below zero. `kl_div`
and `ctc_loss` take none of their first argument.
Fix: pass raw logits to `cross_entropy`: remove the softmax before the loss, and take it where probabilities are read;
or keep it and use `nll_loss` on its logarithm. The same for sigmoid, or keep it and use `binary_cross_entropy`.
Stays silent when: the input is logits, or log-probabilities (log_softmax of those changes nothing); or probabilities
go to a loss without a softmax of its own (`nll_loss` of their logarithm). A loss that is linear in the probability
(1 - p, Brier) is told apart for few classes; for hundreds its gradient is the same: allow this check with that reason.
Sources:
- https://github.com/Lightning-Universe/lightning-bolts/issues/654 (2021-05-26): softmax twice in a library's logistic
  regression
- https://github.com/jindongwang/Deep-learning-activity-recognition/issues/10 (2021-01-07): a softmax layer before
  CrossEntropyLoss
- https://github.com/shaoxiongji/federated-learning/issues/9 (2019-12-24): accuracy 90 % with it, 95 % without
- https://github.com/bhanML/Co-teaching/issues/4 (2019-03-04): log_softmax twice, which is harmless
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Severity, Verdict
from sightline.guard.evidence import BinaryLossSeen, DivergenceSeen, History, LossSeen
from sightline.guard.specimen import Run

DOMAINS = ("any",)
MOST = 0.9  # of the supervised positions: the form of a gradient is exact, so all but rounding errors show it
SOFT = 0.05  # of the rows of a divergence's targets teach more than one class: a teacher is sure of most
FEWEST = 8  # supervised positions from which an uneven weight is told from chance


def find(
    loss: LossSeen | None = None,
    binary: BinaryLossSeen | None = None,
    history: History | None = None,
    divergence: DivergenceSeen | None = None,
) -> Verdict:
    """Read the form of the loss off its gradient, and the kind of numbers off its input."""
    if divergence is not None and divergence.whole > MOST and divergence.soft > SOFT:
        return _divergence(divergence)
    if binary is not None and _lone(binary):
        return _logarithm(loss, history.steps[-1].loss if history else None)
    if binary is not None and binary.doubled > MOST and binary.outputs * binary.graded >= FEWEST:
        return _sigmoid(binary)
    if loss is None or not loss.supervised:
        return CannotTell("supervised position in a measured backward pass")
    if loss.softmax_rows < MOST:  # no softmax in the loss at all
        return None
    if loss.probability_rows > MOST:
        return _finding("the model's outputs are probabilities", "the softmax at the end of the model", "error", loss)
    if loss.supervised >= FEWEST and loss.doubled_rows > MOST:
        return _finding("softmax is called on the logits", "the softmax between model and loss", "warning", loss)
    return None


def _lone(binary: BinaryLossSeen) -> bool:
    """Whether of each sample's outputs one alone has a gradient, which raises it: no sigmoid's loss is like that."""
    return binary.classes > 1 and binary.ones == 1 and abs(binary.graded * binary.classes - 1) <= 1 - MOST


def _logarithm(loss: LossSeen | None, value: float | None) -> Verdict:
    """A loss that is linear in one probability of each row is minus their mean only where a logarithm is missing."""
    if loss is None or value is None:
        return CannotTell("loss, with outputs of which it raises one a sample")
    if value >= 0 or loss.supervised < FEWEST or loss.probability_rows <= MOST or loss.softmax_rows >= MOST:
        return None
    message = "probabilities are given to a loss that takes their logarithms, as nll_loss does: it is below 0"
    fix = "take log_softmax in place of softmax before nll_loss, or give raw logits to cross_entropy"
    return Finding("error", message, fix, {"loss": value, "positions given as probabilities": loss.probability_rows})


def _divergence(seen: DivergenceSeen) -> Finding:
    if seen.aligned:
        message = "probabilities are given to a loss over alignments that takes their logarithms, as ctc_loss does"
        return Finding("error", message, "give ctc_loss log_softmax(logits) as its first argument")
    message = "probabilities are given to a divergence that takes their logarithms, as kl_div does: it has no floor"
    fix = "give kl_div log_softmax(logits) as its first argument; its second are probabilities (log_target=False)"
    return Finding("error", message, fix, {"targets that are probabilities": seen.whole, "classes": seen.classes})


def _finding(what: str, remove: str, severity: Severity, loss: LossSeen) -> Finding:
    return Finding(
        severity=severity,
        message=f"{what} before a cross-entropy that takes the softmax itself: it is taken twice",
        fix=f"pass raw logits to cross_entropy: remove {remove}",
        seen={
            "positions given as probabilities": loss.probability_rows,
            "positions with the gradient of two softmaxes": max(loss.doubled_rows, loss.probability_rows),
        },
    )


def _sigmoid(binary: BinaryLossSeen) -> Finding:
    what, remove = "a sigmoid is called on the logits", "the sigmoid between model and loss"
    if binary.squashed:
        what, remove = "the model's outputs are probabilities", "the sigmoid at the end of the model"
    return Finding(
        severity="error",
        message=f"{what} before a binary cross-entropy that takes the sigmoid itself: it is taken twice",
        fix=f"pass raw logits to binary_cross_entropy_with_logits: remove {remove}",
        seen={"first loss": binary.loss, "outputs with the gradient of two sigmoids": binary.doubled},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """A classifier of three steps; the fault is a softmax as its last layer."""
    import torch
    from torch import nn

    last: nn.Module = nn.Identity()
    if faulty:
        last = nn.Softmax(dim=-1)
    model = nn.Sequential(nn.Linear(8, 5), last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.attach(model, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.arange(16) % 5).backward()
        optimizer.step()
