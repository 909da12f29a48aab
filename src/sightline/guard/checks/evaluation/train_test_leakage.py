"""M1 · Rows of the evaluation were trained on.

Symptom: validation scores are too good, and the model disappoints on data that are really new.
The rows are equal by their bytes, or nearly: images that were scaled, saved as JPEG or brightened, texts of which nine
word triples in ten are the same, views of one picture (moved, mirrored, noisy) of which equally many were made, rows of
numbers far nearer to a few others than to the rest (a patient's slices, copies with noise). Of these a sample is
compared, and only where training repeats its rows exactly. Or the picture of a row is the same, with another text: each
picture has so many, and training lacks what is evaluated. Of windows drawn anywhere in a text, long spans are compared;
of those that overlap, what was trained on behind them.
Where rows repeat within training too, it is counted how often each is there: copies are many that are there equally
often, on both sides as a random split puts them there. Samples are told by their places in a data set, too (a split
that is drawn anew), and by what it holds there (augmented images; the training set itself, beside an unread loader).
Root cause: duplicates were made (oversampled, sliced, augmented) before the split; training still holds what is judged,
or an earlier stage did; one file is in both folders; ranks split by seeds of their own; the wrong loader is judged.
Fix: remove duplicates and split by source (photo, patient, document) before anything is copied; train on the rest.
Stays silent when: evaluation rows are new; one row in many is shared by chance; what runs without gradients is the
training set as a whole (a training score, a feature bank), or rows before they are trained on (a pool, a rollout); rows
are nearly equal and training is augmented; drawings are alike by their kinds; training has all texts of pictures that
are judged with others; an input is one side of pairs; of pairs of ids some are new (negatives); windows to judge by are
from the whole of a text, or one of few sentences; a setting may choose what is shown; weights were set back (folds).
Sources:
- https://github.com/stefyste/RIAWELC/issues/2 (2026-02-19): all 2,443 test images are training images; 93 % became 82 %
- https://github.com/tqwei05/PlantSeg/issues/11 (2026-03-26): 70 duplicate groups between test and training
- https://github.com/huggingface/datasets/issues/4261 (2022-04-30): training rows in validation and test
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import RedrawnSeen, SharedRowsSeen, SharedSpansSeen, copies
from sightline.guard.evidence.rows import HeldRowsSeen
from sightline.guard.specimen import Run

DOMAINS = ("any",)
ROWS = 3  # shared rows: one or two may be a mistake of the data that harms nobody
AGAIN = 0.2  # of the training rows come again to the last byte: half of them in two epochs, few where augmented


def find(
    rows: SharedRowsSeen,
    spans: SharedSpansSeen | None = None,
    drawn: RedrawnSeen | None = None,
    held: HeldRowsSeen | None = None,
) -> Verdict:
    """Are more rows shared than chance gives, and is it not the training set as a whole that is evaluated?"""
    if drawn is not None and copies.redrawn(drawn):
        message = f"{drawn.shared} of {drawn.judged} evaluated samples were trained on, by their places in the data set"
        fix = "split once, before the first stage, and keep that split, or its places, until the run is over"
        return Finding("warning", message, fix, {"shared": drawn.shared, "trained": drawn.taught, "of": drawn.size})
    if spans is not None and (batches := copies.drawn_from_training(spans)):
        message = f"windows of {batches} evaluated batches were trained on: spans of {spans.length} tokens are the same"
        fix = "draw training windows from the training part: data[:n] to train on, data[n:] to judge by"
        return Finding("warning", message, fix, {"batches": batches, "spans": spans.distinct, "trained": spans.trained})
    if held is not None and held.evaluated and isinstance(one := _equal(held), Finding):
        return one
    if held is not None and (whole := copies.judged_by_training(held)):
        return Finding("warning", whole.what, whole.remedy, whole.seen)
    if not rows.evaluated or not rows.trained:
        return CannotTell("evaluation after training steps with rows that can be compared")
    if rows.one_side:
        return CannotTell("inputs that are whole samples: the loss compares outputs with others, as of text and image")
    found = _equal(rows) or _near(rows)
    return found if isinstance(found, Finding) else _windows(rows) or found


def _windows(rows: SharedRowsSeen) -> Finding | None:
    if (seen := rows.tails) is None or not copies.interleaved(rows):
        return None
    message = f"training goes on where {seen.found} of {seen.judged} evaluated windows end: it was shown what follows"
    fix = "split the series or text in time before it is cut into overlapping windows, with a gap of one window"
    return Finding("warning", message, fix, {"windows": seen.judged, "followed": seen.found, "width": seen.width})


def _near(rows: SharedRowsSeen) -> Finding | None:
    """Rows that are not equal, and were made of one."""
    near, pictures = rows.near, rows.pictures
    if pictures is not None and copies.split_by_text(rows):
        count, of, what = pictures.shared, pictures.evaluated, "rows have pictures of training rows, with other texts"
    elif rows.again < AGAIN:
        return None
    elif near is not None and copies.nearly_copied(rows):
        count, of, what = near.near, near.evaluated, f"{near.kind} are nearly equal to ones trained on"
    elif (made := copies.made_of_one(rows)) is not None:
        count, of, what = made.near, made.evaluated, "rows are views of ones trained on: moved, mirrored or noisy"
    else:
        return None
    fix = "split by source (photo, patient, document) before rows are copied, augmented or given several texts each"
    return Finding("warning", f"{count} of {of} evaluated {what}", fix, {"shared": count, "evaluated": of})


def _equal(rows: SharedRowsSeen) -> Verdict:
    if rows.shared < max(ROWS, copies.SHARE * rows.evaluated):
        return None
    chance = copies.by_chance(rows)
    copied, abroad = copies.copied(rows), copies.held_out_on_one_rank(rows)
    if rows.shared <= copies.CHANCE * min(chance, float(rows.evaluated)) and not copied:
        return CannotTell("rows different enough to tell a shared one from a chance")
    part = rows.shared == rows.evaluated and rows.complete and rows.evaluated <= copies.PART * rows.trained
    if rows.apart or rows.extracted or not (part or rows.mixed or copied or abroad):
        return None
    known, judged = rows.worst if rows.worst and not abroad else (rows.shared, rows.evaluated)
    return Finding(
        "warning",
        f"{known} of {judged} evaluated rows had been trained on" + abroad * " by other ranks",
        "split with one seed on all ranks: random_split(..., generator=torch.Generator().manual_seed(0))"
        if abroad
        else "remove them from training: deduplicate and split before rows are copied, sliced or oversampled",
        {"distinct shared": rows.shared, "evaluated": rows.evaluated, "trained": rows.trained, "chance pairs": chance},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """Three epochs on 64 rows, and a validation of 16."""
    import torch
    from torch import nn

    model = nn.Linear(8, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = torch.randn(80, 8)
    train, validation = rows if faulty else rows[:64], rows[64:]
    guard = run.attach(model, optimizer)
    for _ in range(3):
        for rows in train[torch.randperm(len(train))].split(16):
            optimizer.zero_grad()
            model(rows).square().mean().backward()
            optimizer.step()
        with guard.evaluating(), torch.no_grad():
            model.eval()
            model(validation)
            model.train()
