"""I4 · Samples of a batch get mixed up or lost, on their way to the model or inside it.

Symptom: a model that trains far below its worth; a prediction that changes with its batch; an error at the last batch.
Root cause: a data set that fills one buffer again; a transform of a batch that makes its first row alone; a processor
that gives ids for one row alone; a loop that takes `x[0]` of a batch, or whose `loss = ...` forgets all samples but the
last; features that run on into the next row's places; a `view` that takes the batch for another dimension, a recurrent
or attention layer without `batch_first=True`, a softmax or mean over dimension 0, a `squeeze()` at batch 1.
Fix: name the dimension: `squeeze(-1)`, `flatten(1)`, `softmax(dim=-1)`; `batch_first=True`; keep dimension 0 for the
batch from input to output; give a processor one list of images for each text.
Stays silent when: changing one sample's input, or its image, moves that sample's output alone, in eval mode, beyond
rounding, or others by jumps (experts that are full); outputs compare all samples with all on purpose (n x n); the rows
are one fixed set, such as a graph's nodes; dimension 1 may be the batch, as in (time, batch); a text that all samples
of a batch share tells as much of one as of another; a softmax over samples is a choice among them, or contrast.
Sources:
- https://github.com/huggingface/transformers/issues/34204 (2024-10-16): a processor that gave the ids of the first
  sample for the whole batch (Transformers-34204 of the TrainCheck paper)
- https://github.com/pytorch/pytorch/issues/1538 (2017-05-11): an LSTM without batch_first trains, with other results
- https://docs.pytorch.org/docs/stable/generated/torch.squeeze.html (2026-11-01): squeeze also removes a batch dimension
  of size 1, with a warning about unexpected errors
- http://karpathy.github.io/2019/04/25/recipe/ (2019-04-25): view instead of transpose mixes samples and still trains
"""

from __future__ import annotations

from collections.abc import Mapping

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import AxisSeen, CollatedSeen, FeedSeen, LoaderSeen, LossSeen, RowsSeen, SharedTextSeen
from sightline.guard.evidence.lost import collapsed, unequal
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vision", "vlm")
NOISE = 4  # times one rounding of the largest output
POOLED = "an image, or features, of one sample moved the outputs of most other samples as well"
PASSED_ON = "an image, or features, of one sample moved the outputs of another sample as well"
LEAK = 1e-2  # of the change in the changed row: a real mix moves others as much; batch-wide numerics stay below 1e-3


def find(
    rows: RowsSeen | None = None,
    shared: SharedTextSeen | None = None,
    feed: FeedSeen | None = None,
    collated: CollatedSeen | None = None,
    loss: LossSeen | None = None,
    loader: LoaderSeen | None = None,
    axis: AxisSeen | None = None,
) -> Verdict:
    """Samples that were lost, or given another's text or input, or that the loss forgets, or that are mixed."""
    if one := collapsed(collated, shared, feed) or unequal(axis, feed, rows, loader):
        return Finding("error", one.what, one.remedy, one.seen)
    if rows is None and shared is not None:
        return None
    if rows is None:
        return CannotTell("batch whose rows could be changed")
    sized = loader is not None and loader.size == rows.rows != rows.second
    unclear = not sized and (rows.columns or rows.output[:1] == (rows.second,))
    if unclear and not (loss is not None and loss.goes_on(1)):
        return CannotTell("sign that dimension 0 is the batch: dimension 1 may be, and the first one time")
    return _mixed(rows)


def _mixed(rows: RowsSeen) -> Verdict:
    """One row's input was replaced: which rows of the output moved? Are there as many rows as samples?"""
    if not rows.varied:
        return CannotTell("batch other than the one the model is always fed")
    if rows.lost:
        return _finding(f"{rows.rows} samples went in and {rows.output[0]} came out", rows, {})
    if rows.own is None:
        return CannotTell("output with one entry for each sample")
    if rows.own <= NOISE * rows.noise:
        return CannotTell("sample whose own output a changed input moves")
    moved = [change for change in rows.others if change > max(NOISE * rows.noise, LEAK * rows.own)]
    if not moved or rows.jumps:
        found = [(POOLED, rows.pooled), (PASSED_ON, rows.passed_on)]
        return next((_finding(what, rows, {"moved in it and in others": told}) for what, told in found if told), None)
    what = f"a change in one sample's input moved the outputs of {len(moved)} other samples"
    return _finding(what, rows, {"moved in it": rows.own, "most moved in others": moved[0]})


def _finding(message: str, rows: RowsSeen, seen: Mapping[str, object]) -> Finding:
    return Finding(
        severity="error",
        message=message,
        fix="keep dimension 0 for the batch: batch_first=True, flatten(1), squeeze(-1), softmax(dim=-1), no (time, B)",
        seen={**seen, "samples": rows.rows, "shape of the output": rows.output},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """A recurrent layer that is given (batch, time, features)."""
    import torch
    from torch import nn

    class Reader(nn.Module):
        def __init__(self, first: bool) -> None:
            super().__init__()
            self.core, self.out = nn.GRU(4, 8, batch_first=first), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.core(x)[0][:, -1])

    model = Reader(first=True)
    if faulty:
        model = Reader(first=False)
    run.attach(model, optimizer := torch.optim.SGD(model.parameters(), lr=0.1))
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(6, 5, 4)).square().mean().backward()
        optimizer.step()
