"""M1 · Rows of the evaluation were trained on.

Symptom: validation scores are too good, and the model disappoints on data that are really new.
The rows are equal by their bytes, or nearly: images that were scaled, saved as JPEG or brightened, texts of which nine
word triples in ten are the same. Of these a sample is compared, and only where training repeats its rows exactly. Of
windows drawn anywhere in a text, long spans are compared; of windows that overlap, what was trained on behind them.
Where rows repeat within training too, it is counted how often each is there: copies are many that are there equally
often, on both sides as a random split puts them there.
Root cause: duplicates were made (oversampled, sliced, augmented) before the split; the training set still holds the
rows that the validation set was taken from; one file is in both folders; each rank of several splits by its own seed.
Fix: remove duplicates and split by source (photo, patient, document) before anything is copied or sliced; train on
`train_indices` alone.
Stays silent when: evaluation rows are new; one row in many is shared by chance, because the data have few different
rows (as their own repetitions show); what runs without gradients is the training set itself, as a whole (a training
score, also beside a test, a feature bank, a reference's log-probabilities), or rows before they are trained on (a pool,
a rollout); rows are nearly equal and training is augmented, so that a training score looks the same; windows to judge
by come from the whole of a text (an estimate of the training loss), or from text of few sentences.
Sources:
- https://github.com/stefyste/RIAWELC/issues/2 (2026-02-19): all 2,443 test images are training images; 93 % became 82 %
- https://github.com/tqwei05/PlantSeg/issues/11 (2026-03-26): 70 duplicate groups between test and training
- https://github.com/huggingface/datasets/issues/4261 (2022-04-30): training rows in validation and test
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import NearRowsSeen, SharedRowsSeen, SharedSpansSeen
from sightline.guard.evidence.copies import copied, grouped, held_out_on_one_rank, interleaved
from sightline.guard.specimen import Run

DOMAINS = ("any",)
ROWS = 3  # shared rows: one or two may be a mistake of the data that harms nobody
SHARE = 0.01  # of the rows evaluated: published sets have duplicates below it
CHANCE = 2.0  # times the most that chance gives, with the bound below
BOUND = 3.0  # twins that may have been missed: with none in n pairs, the rate is below 3 / n (95 %)
PART = 0.67  # of the rows trained on: evaluation of so few is a part of them, of more a training score
AGAIN = 0.2  # of the training rows come again to the last byte: half of them in two epochs, few where augmented
NEAR = 8  # nearly equal rows: more than of equal ones, for one picture may be drawn like another
NEW = 0.2  # of the batches of windows that were trained on: of new text, so that those are a training score
KNOWN, UNKNOWN, WINDOWS = 0.7, 0.35, 4  # times what training batches have in common with those before; batches
TEXT = 0.05  # of the spans that come again go on otherwise: of natural text one in a hundred, of few sentences many
APART = 0.5  # of the near rows: in batches with rows of neither kind, so that they are no training score on its own


def find(rows: SharedRowsSeen, spans: SharedSpansSeen | None = None) -> Verdict:
    """Are more rows shared than chance gives, and is it not the training set as a whole that is evaluated?"""
    if spans is not None and (finding := _stream(spans)):
        return finding
    if not rows.evaluated or not rows.trained:
        return CannotTell("evaluation after training steps with rows that can be compared")
    found = _equal(rows) or (_near(rows, rows.near) if rows.near and rows.again >= AGAIN else None)
    return _windows(rows) if interleaved(rows) and not isinstance(found, Finding) else found


def _stream(seen: SharedSpansSeen) -> Finding | None:
    """A small part of a text, of which batches are drawn to judge by, and which training draws from as often as not."""
    known, new = sum(rate >= KNOWN for rate in seen.rates), sum(rate <= UNKNOWN for rate in seen.rates)
    if known < WINDOWS or new >= NEW * known or seen.distinct > PART * seen.trained or seen.parted > TEXT:
        return None
    message = f"windows of {known} evaluated batches were trained on: spans of {seen.length} tokens are the same"
    fix = "draw training windows from the training part alone: data[:n] to train on, data[n:] to judge by"
    return Finding("warning", message, fix, {"batches": known, "spans": seen.distinct, "spans trained": seen.trained})


def _windows(rows: SharedRowsSeen) -> Finding | None:
    if (seen := rows.tails) is None:
        return None
    message = f"training goes on where {seen.found} of {seen.judged} evaluated windows end: it was shown what follows"
    fix = "split the series or text in time before it is cut into overlapping windows, with a gap of one window"
    return Finding("warning", message, fix, {"windows": seen.judged, "followed": seen.found, "width": seen.width})


def _near(rows: SharedRowsSeen, near: NearRowsSeen) -> Finding | None:
    """More near rows than the data's own pairs give, among others, or all of a part of what was trained on."""
    chance = near.evaluated * near.trained * (near.twins + BOUND) / max(1, near.pairs)
    if near.near < max(NEAR, SHARE * near.evaluated) or not (near.near > CHANCE * chance or grouped(near)):
        return None
    if near.mixed < APART * near.near and not (rows.complete and rows.evaluated <= PART * rows.trained):
        return None
    return Finding(
        severity="warning",
        message=f"{near.near} of {near.evaluated} evaluated {near.kind} are nearly equal to ones trained on",
        fix="split by source before rows are copied, scaled or edited: compare perceptual hashes or word triples, and"
        " keep all copies of one source on one side",
        seen={"near": near.near, "evaluated": near.evaluated, "trained": near.trained, "by chance": chance},
    )


def _equal(rows: SharedRowsSeen) -> Verdict:
    if rows.shared < max(ROWS, SHARE * rows.evaluated):
        return None
    chance = rows.evaluated * rows.trained * (rows.twins + BOUND) / rows.pairs if rows.pairs else 0.0
    copies, abroad = copied(rows), held_out_on_one_rank(rows)
    if rows.shared <= CHANCE * min(chance, float(rows.evaluated)) and not copies:
        return CannotTell("rows different enough to tell a shared one from a chance")
    part = rows.shared == rows.evaluated and rows.complete and rows.evaluated <= PART * rows.trained
    if rows.apart or not (part or rows.mixed or copies or abroad):
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
    everything = torch.randn(80, 8)
    train, validation = everything[:64], everything[64:]
    if faulty:
        train = everything
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
