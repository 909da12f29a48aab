"""I4 · Samples of a batch get mixed up or lost, on their way to the model or inside it.

Symptom: a model that trains far below its worth; a prediction that changes with its batch; an error at the last batch.
Root cause: a data set that fills one buffer again; a processor that gives ids for one row alone; a loop that takes
`x[0]` of a batch; features that run on into the next row's places; a `view` that takes the batch for another dimension,
a recurrent or attention layer without `batch_first=True`, a softmax or mean over dimension 0, a `squeeze()` at batch 1.
Fix: name the dimension: `squeeze(-1)`, `flatten(1)`, `softmax(dim=-1)`; `batch_first=True`; keep dimension 0 for the
batch from input to output; give a processor one list of images for each text.
Stays silent when: changing one sample's input, or its image, moves that sample's output alone, in eval mode, beyond
rounding, or others by jumps (experts that are full); outputs compare all samples with all on purpose (n x n); the rows
are one fixed set, such as a graph's nodes; dimension 1 may be the batch, as in (time, batch); a text that all samples
of a batch share tells as much of one as of another.
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
from sightline.guard.evidence import CollatedSeen, FeedSeen, LoaderSeen, LossSeen, RowsSeen, SharedTextSeen
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vision", "vlm")
NOISE = 4  # times one rounding of the largest output
POOLED = "an image, or features, of one sample moved the outputs of most other samples as well"
PASSED_ON = "an image, or features, of one sample moved the outputs of another sample as well"
LEAK = 1e-2  # of the change in the changed row: a real mix moves others as much; batch-wide numerics stay below 1e-3
ALIKE, MOST = 8, 0.9  # different batches of one input each, and their share of all: a last one may hold one sample


def find(
    rows: RowsSeen | None = None,
    shared: SharedTextSeen | None = None,
    feed: FeedSeen | None = None,
    collated: CollatedSeen | None = None,
    loss: LossSeen | None = None,
    loader: LoaderSeen | None = None,
) -> Verdict:
    """Samples that were lost, or given another's text, or all of another's input, or that the model mixes."""
    if collated and collated.of_one:
        what = f"{collated.by} is given {collated.samples} samples and goes on with one of them: the rest is lost"
        return Finding("error", what, "hand on all samples of a batch", {"samples of a batch": collated.samples})
    found = (_one_text(shared) if shared else None) or (_one_input(feed) if feed else None)
    if found or (rows is None and shared is not None):
        return found
    if rows is None:
        return CannotTell("batch whose rows could be changed")
    sized = loader is not None and loader.size == rows.rows != rows.second
    unclear = not sized and (rows.columns or rows.output[:1] == (rows.second,))
    if unclear and not (loss is not None and loss.goes_on(1)):
        return CannotTell("sign that dimension 0 is the batch: dimension 1 may be, and the first one time")
    return _mixed(rows)


def _one_text(shared: SharedTextSeen) -> Finding | None:
    """A text that tells the class of one sample, and of no other in its batch, was that sample's own."""
    if (only := shared.only()) is None:
        return None
    best, told, others = only
    what = f"all {shared.rows} samples of a batch share one row of token ids, that of sample {best} alone"
    fix = "give the processor one list of images for each text, so that ids have one row a sample"
    return Finding(
        "error", what, fix, {"nats that it tells of this sample's classes": told, "and of another's": others}
    )


def _one_input(feed: FeedSeen) -> Finding | None:
    one = [batch.inputs for batch in feed.batches if batch.one_sample]
    if len(set(one)) < ALIKE or len(one) < MOST * len(feed.batches):
        return None
    what = f"all {len(one[0])} inputs of a batch are one and the same, though their classes differ"
    fix = "give each sample memory of its own: x.copy() or x.clone() of what the data set fills again"
    return Finding("error", what, fix, {"batches of one input": len(one), "of": len(feed.batches)})


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
