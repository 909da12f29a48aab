"""M3 · A metric is not perfect when the ground truth itself is the prediction.

Symptom: scores stay low however good the outputs look, or models rank against what people see.
Root cause: predictions and targets do not speak the same language: class ids shifted by one, boxes as corner and size
where corners are expected, another order of rows, positions without a label (-100) that are counted, or decoded as a
word; what a causal model says of the next token beside the label of this one; texts whose writing ends (`max_length`,
20 by default) before those that are wanted do; texts stripped, cleaned up or decoded without special tokens on one side
alone, or still behind their prompt; numbers of which one side alone is denormalised; probabilities squashed again; the
likeliest of one column, which is always the first; hits divided by `len(loader) * batch_size`, where the last batch is
short, or by all places, padding and columns counted; a mean over classes in which those that are not there are 0; an
overlap without its factor of 2; the last batch in the place of all; or the metric itself is wrong; or it is never set
back, and counts the answers of earlier evaluations along.
Fix: convert predictions to the metric's format and offset (its docs say which), and feed it the targets as predictions
until it says 1.0. Of torchmetrics, call `metric.reset()` before each evaluation.
Stays silent when: the ground truth scores what the host calls perfect, or, where the host says nothing, 1 (or more) as
the best of all predictions tried, or the least of them (an error, a distance); the host showed no metric; all
predictions score the same, which is not the share of noes, of one column; a function of a script's own (asked under
`sightline run`) does more than compute, nothing shows in which form predictions come, or no form is perfect for it;
what counts on is no mean's sums (a total, the best so far, a mean over epochs, votes for each row), or the rows were
others; part of an overlap is multiplied by who asked for it; a class is in none of the samples; predictions on another
scale are on their way (small, or their mean has moved), or they are not on that of labels which the metric converts.
Sources:
- https://github.com/once-for-auto-driving/once_devkit/issues/32 (2022-08-16): the truth itself scores 72.65 %
- https://github.com/cocodataset/cocoapi/issues/507 (2021-04-12): corners where size is expected: 0.73 for the truth
- https://github.com/Lightning-AI/torchmetrics/issues/1644 (2023-03-22): identical inputs, and a recall that is not 1
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import GeneratedSeen, OracleSeen, UnresetSeen
from sightline.guard.specimen import Run

DOMAINS = ("any",)
TEXTS, CUT, MOST = 4, 0.9, 0.5  # texts written; share of them that are cut, and of those wanted that do not fit
NEAR = 1e-3  # of a perfect score: rounding of float16 sums, and the 1e-6 that ratios add


def find(
    oracle: OracleSeen | None = None, generated: GeneratedSeen | None = None, unreset: UnresetSeen | None = None
) -> Verdict:
    """Compare the truth's score with perfection where that is known, else with the scores of wrong predictions."""
    if unreset is not None:
        return _unreset(unreset)
    if generated is not None and (finding := _cut_short(generated)):
        return finding
    if oracle is None:
        return CannotTell("metric that was given the truth")
    if oracle.alone:
        what = f"tells of the last of {oracle.alone} batches alone: {max(oracle.spoilt):.4g} where all others are wrong"
        return _finding(oracle, what)
    if oracle.pairs:
        what = f"compares each prediction with every label, as (N, 1) beside (N,) does: {oracle.truth:.4g}, not "
        return _finding(oracle, f"{what}{oracle.perfect:.4g}")
    truth, worst, best = oracle.truth, min(oracle.spoilt), max(oracle.spoilt)
    if oracle.perfect is not None:
        if abs(truth - oracle.perfect) <= NEAR * max(1.0, abs(oracle.perfect)):
            return None
        reads = f", which it gives for {oracle.reads}" if oracle.reads else ""
        return _finding(oracle, f"scores {truth:.4g} for the ground truth itself, not {oracle.perfect:g}{reads}")
    if truth == worst == best:
        return CannotTell("metric that tells the truth from shuffled predictions")
    if worst < truth < best:
        return _finding(oracle, f"scores {truth:.4g} for the ground truth itself, and {best:.4g} for shuffled rows")
    if 0 <= worst <= best <= truth < 1 - NEAR:  # a share that is best for the truth, and short of the whole
        return _finding(oracle, f"scores {truth:.4g} for the ground truth itself, the best it ever gives")
    return None


def _unreset(seen: UnresetSeen) -> Finding:
    """The truth would score less than 1, for there are the mistakes of a model that had learnt less."""
    return Finding(
        severity="warning",
        message=f"metric '{seen.name}' is never set back: beside its {seen.now} it counts {seen.before} of before",
        fix="metric.reset() after compute(), or counts of one's own set to 0, before each evaluation",
        seen={"batches or rows of this evaluation": seen.now, "of earlier ones": seen.before},
    )


def _cut_short(seen: GeneratedSeen) -> Finding | None:
    """Nearly all that is written runs into a limit, and most of what is wanted does not fit under it."""
    if seen.rows < TEXTS or seen.unended < CUT * seen.rows or seen.longer < MOST * seen.rows:
        return None
    return Finding(
        severity="warning",
        message=f"writing ends after {seen.limit} tokens, and {seen.longer} of {seen.rows} wanted texts are longer",
        fix=f"generation_max_length or max_new_tokens above {seen.wanted} (20 by default; it ends at {seen.limit})",
        seen={"cut off": seen.unended, "texts": seen.rows, "limit": seen.limit, "wanted, median": seen.wanted},
    )


def _finding(oracle: OracleSeen, what: str) -> Finding:
    return Finding(
        severity="error",
        message=f"metric '{oracle.name}' {what}",
        fix="bring predictions into the metric's format (shape, class offset, boxes, order of rows; a causal model's"
        " [:, :-1] beside labels[:, 1:]; texts cleaned up alike on both sides, without the prompt), and leave out what"
        " has no label: labels != -100, or the pad token in its place before ids are decoded, both with"
        " skip_special_tokens=True; convert numbers on both sides or on neither; divide hits by the rows that came, of"
        " all batches",
        seen={"truth": oracle.truth, "shuffled": list(oracle.spoilt), "perfect": oracle.perfect},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """Intersection over union of boxes given as corners."""
    import torch

    boxes = torch.tensor([[10.0, 10.0, 30.0, 40.0], [50.0, 5.0, 90.0, 60.0], [0.0, 0.0, 20.0, 20.0]])
    predictions = boxes.clone()
    if faulty:
        predictions[:, 2:] -= predictions[:, :2]

    def mean_iou(these: torch.Tensor, those: torch.Tensor) -> float:
        inner = (torch.minimum(these[:, 2:], those[:, 2:]) - torch.maximum(these[:, :2], those[:, :2])).clamp(min=0)
        areas = [(b[:, 2:] - b[:, :2]).prod(dim=1) for b in (these, those)]
        return float((inner.prod(dim=1) / (sum(areas) - inner.prod(dim=1))).mean())

    guard = run.attach(torch.nn.Linear(2, 2))
    guard.metric(mean_iou, boxes, predictions)
