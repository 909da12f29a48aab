"""I5 · Inputs and labels do not belong together: the same input comes back with another class.

Symptom: the training loss stays near that of guessing, and what little it falls is memorised for one epoch; accuracy is
chance on data that a simple model learns.
Root cause: inputs and labels are shuffled, sorted or filtered separately: two loaders zipped that shuffle on their own,
a batch sorted by length without its labels, an off-by-one between two lists.
Fix: shuffle with one permutation (`i = torch.randperm(n); x, y = x[i], y[i]`), or keep each pair in one data set row.
Stays silent when: inputs come back with the class they had, or so often that the rest is label noise; inputs never
repeat (fresh augmentation, one epoch), or repeat as one fixed wrong pairing: then behaviour cannot tell.
Sources:
- https://arxiv.org/abs/2103.14749 (2021-03-26): label errors in ten test sets are 3.4 % on average, 10 % at most: far
  below what a separate shuffle makes
- https://docs.pytorch.org/docs/stable/data.html (2026-11-01): a data set's row holds the sample with its label
"""

from __future__ import annotations

from collections import Counter

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import FeedSeen
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vision", "vlm")
AGAIN = 16  # inputs that came back: fewer would not tell a separate shuffle from label noise
FEW = 8  # conflicts: at 10 % noise, 8 of 16 have a chance of 6e-5
HALF = 0.5  # of the conflicts that independent labels would have; label noise (3-10 %) stays far below


def find(feed: FeedSeen) -> Verdict:
    """Compare the classes of inputs that were fed more than once with what independent classes would give."""
    last: dict[int, tuple[int, int]] = {}
    classes: Counter[int] = Counter()
    again = conflicts = 0
    for batch in feed.batches:
        for row, label in zip(batch.inputs, batch.classes or (), strict=False):
            step, before = last.get(row, (batch.step, label))
            again += step < batch.step
            conflicts += step < batch.step and before != label
            last[row] = (batch.step, label)
            classes[label] += 1
    if again < AGAIN:
        return CannotTell(f"{AGAIN} inputs that came back, with the class that the loss taught for each")
    independent = 1 - sum((count / classes.total()) ** 2 for count in classes.values())
    if conflicts < FEW or conflicts < HALF * independent * again:
        return None
    return Finding(
        severity="error",
        message=f"{conflicts} of {again} inputs that came back were taught another class than before",
        fix="shuffle, sort and filter inputs and labels with one index (x[i], y[i]), or keep each pair in one row of"
        " the data set",
        seen={"came back": again, "with another class": conflicts, "expected if unrelated": independent * again},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """Epochs over 24 points; the fault shuffles labels on their own."""
    import torch
    from torch import nn

    inputs, labels, model = torch.randn(24, 4), torch.arange(24) % 3, nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.attach(model, optimizer)
    for _ in range(3):
        order = torch.randperm(24)
        other = order
        if faulty:
            other = torch.randperm(24)
        for start in range(0, 24, 8):
            rows, taught = order[start : start + 8], other[start : start + 8]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[rows]), labels[taught]).backward()
            optimizer.step()
