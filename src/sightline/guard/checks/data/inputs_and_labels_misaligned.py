"""I5 · Inputs and labels do not belong together: an input returns with another class, or an image without its mask.

Symptom: the loss stays near that of guessing, or falls for what is memorised; accuracy is chance on simple data.
Root cause: inputs and labels are shuffled, sorted or filtered separately: two loaders zipped that shuffle on their own,
a batch sorted by length without its labels, an off-by-one between two lists. Or their shapes are (n, 1) and (n,): then
the difference is (n, n), each output is compared with every label, and the best answer to all is the mean.
Or image and mask (or boxes) are augmented with random numbers of their own; or a collate function sorts one part alone,
or a tower its texts, by length; or features have the order of a shuffling loader, and labels that of the data set; or
numbered files, or their masks, are sorted as texts (scan_10 before scan_2) or as a folder lists them, the others not;
or one of both is put in a drawn order, or shifted by a row, once and for all; or images come from a loader that
shuffles on its own, and questions with their answers from another. Or each image has several texts, which follow image
by image, and images are repeated as a whole (0, 1, 0, 1 beside 0, 0, 1, 1). Or outputs reach the loss through
`view(-1, classes)` where classes are not the last dimension: each place has numbers of its neighbours.
Fix: shuffle with one permutation (`i = torch.randperm(n); x, y = x[i], y[i]`), or keep each pair in one data set row;
give outputs and targets one shape: `outputs.squeeze(-1)`.
Stays silent when: inputs come back with the class they had, or so often that the rest is label noise; inputs never
repeat (fresh augmentation, one epoch). Inputs are noise, or few, or tell of their labels: rows alike in the one are so
in the other, or classes of new rows are told apart. Numbers that a squared error teaches may be drawn anew, or be few.
Rows may be a series. Images beside texts may be drawn with replacement, keep some of their texts or classes, or move no
output; repeated ones may meet texts that others have too, never come back (nor lie image by image in one tensor), or
all be compared with all texts. Softmaxes may go along whole planes or lines of outputs, a part of one dimension, or
what was permuted. All targets of a batch may be one number (a discriminator's), or the mean of its outputs (a loss that
holds them together); all may be compared with all on purpose (contrast, ranks, kernels): outputs on both sides, or a
choice among pairs. Rows may come in an order that a model, its loss or a collate function tells, or in pairs it draws.
Sources:
- https://arxiv.org/abs/2103.14749 (2021-03-26): label errors in ten test sets are 3.4 % on average, 10 % at most
- https://docs.pytorch.org/docs/stable/data.html (2026-11-01): a data set's row holds the sample with its label
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import (
    AxisSeen,
    CrossedSeen,
    ExtractedSeen,
    FeedSeen,
    FiledSeen,
    KinSeen,
    MatchesSeen,
    OrdersSeen,
    PairedSeen,
    PullSeen,
    RowsSeen,
)
from sightline.guard.evidence.apart import apart, misread
from sightline.guard.evidence.dealt import dealt
from sightline.guard.evidence.elsewhere import elsewhere
from sightline.guard.evidence.matching import parted, unrelated
from sightline.guard.evidence.tiled import tiled
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vision", "vlm")
AGAIN = 16  # inputs that came back: fewer would not tell a separate shuffle from label noise
FEW = 8  # conflicts: at 10 % noise, 8 of 16 have a chance of 6e-5
MOST = 0.75  # of what independent labels would have, and its scatter: noise of 20 % in two classes has 0.64


def find(
    feed: FeedSeen | None = None,
    pull: PullSeen | None = None,
    paired: PairedSeen | None = None,
    matches: MatchesSeen | None = None,
    kin: KinSeen | None = None,
    kept: ExtractedSeen | None = None,
    crossed: CrossedSeen | None = None,
    orders: OrdersSeen | None = None,
    filed: FiledSeen | None = None,
    rows: RowsSeen | None = None,
    axis: AxisSeen | None = None,
) -> Verdict:
    """Compare the classes of inputs that came back with what independent classes would give."""
    if finding := orders and _out_of_order(orders, feed):
        return finding
    one = apart(paired, filed, kept) or misread(axis) or dealt(feed, rows) or tiled(feed, rows, orders)
    if one := one or parted(matches) or unrelated(kin, matches) or elsewhere(feed):
        return Finding("error" if one.sure else "warning", one.what, one.remedy, one.seen)
    if crossed is not None or (pull is not None and pull.targets_lost):
        return _all_with_all(crossed, pull)
    again, conflicts, independent = feed.came_back() if feed else (0, 0, 0.0)
    if again < AGAIN or (orders is not None and orders.meets == "labels"):
        return CannotTell(f"{AGAIN} inputs that came back, with the class that the loss taught for each")
    if conflicts < max(FEW, MOST * independent * again + (independent * (1 - independent) * again) ** 0.5):
        return None
    what = f"{conflicts} of {again} inputs that came back were taught another class than before"
    fix = "shuffle, sort and filter inputs and labels with one index (x[i], y[i]), or keep pairs in one data set row"
    return Finding("error", what, fix, {"came back": again, "expected if unrelated": independent * again})


def _all_with_all(crossed: CrossedSeen | None, pull: PullSeen | None) -> Finding:
    fix = "give outputs and targets the same shape (outputs.squeeze(-1)): (n, 1) minus (n,) is (n, n)"
    if crossed is not None:
        shapes = {"outputs": crossed.given, "with": crossed.other, "together": crossed.made}
        what = "each output meets the values of all samples: in the loss {} and {} become {}".format(*shapes.values())
        return Finding("error", what, fix, {name: list(shape) for name, shape in shapes.items()})
    assert pull is not None
    what = f"the loss pulls all {pull.rows} outputs of a batch to one number, another one in each batch"
    return Finding("error", what, fix, {"pulled to": pull.centres, "mean of the outputs": pull.means})


def _out_of_order(seen: OrdersSeen, feed: FeedSeen | None) -> Finding | None:
    if not seen.wrong(feed):
        return None
    one, other = seen.one[seen.apart[0]], seen.other[seen.apart[0]]
    what = f"the model puts sample {one} of one input together with sample {other} of another"
    if seen.meets == "labels":
        what = f"the model gives its output for sample {one} in the place of sample {other}, whose label it is taught"
    what += f", and so for {len(seen.apart)} of {len(seen.one)} places of a batch"
    fix = "undo a sort by length after the packed sequence, h[order.argsort()], or give enforce_sorted=False"
    return Finding("error", what, fix, {"first rows": seen.one[:FEW], "of the other": seen.other[:FEW]})


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
