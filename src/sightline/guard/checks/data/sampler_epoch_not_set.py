"""I3 · The distributed sampler gives the same order in every epoch, because its epoch is never set.

Symptom: the loss curve has the same shape in every epoch, bump for bump; each rank sees the same part of the data for
the whole run.
Root cause: `DistributedSampler` shuffles with `seed + epoch`, and `epoch` stays 0 until `set_epoch` is called; so do
samplers of one's own (of buckets, say), and streams, that are told epochs.
Fix: `sampler.set_epoch(epoch)` (of a stream: the data set's) at the start of every epoch, before the loader is
iterated.
Stays silent when: two epochs come in different orders; the sampler says `shuffle=False`, or would give the same order
in another epoch; none splits data between ranks or is told epochs; an epoch has fewer than eight samples; workers read
a stream.
Sources:
- https://docs.pytorch.org/docs/stable/data.html (2026-11-01): without set_epoch the same ordering is used in all epochs
- https://github.com/pytorch/pytorch/issues/31771 (2020-01-02): the data cannot be shuffled, each epoch is the same
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import LoaderSeen
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vision", "vlm", "diffusion")
SAMPLES = 8  # an order of eight repeats by chance once in 40,320 shuffles


def find(loader: LoaderSeen) -> Verdict:
    """Compare the order at the start of this epoch with that of the epoch before."""
    if (loader.replicas is None and not loader.deals) or loader.shuffles is False:
        return None
    orders = [order for order in loader.orders if order is not None]
    if len(orders) < 2:
        return CannotTell("second epoch of a loader whose sampler is told epochs")
    if orders[-1] != orders[-2] or (not loader.deals and (loader.samples or 0) < SAMPLES):
        return None
    return Finding(
        severity="warning",
        message=f"epochs {loader.epoch - 1} and {loader.epoch} read the data in the same order, though the sampler is"
        " to shuffle",
        fix="call set_epoch(epoch) of the loader's sampler (or stream) before each epoch's loop",
        seen={"samples an epoch on this rank": loader.samples, "epochs in this order": orders.count(orders[-1])},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """Two epochs with a distributed sampler."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

    model, data = nn.Linear(4, 2), torch.randn(32, 4)
    rows = TensorDataset(data)
    sampler: DistributedSampler[object] = DistributedSampler(rows, num_replicas=2, rank=0)
    loader = DataLoader(rows, batch_size=4, sampler=sampler)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.attach(model, optimizer, loader)
    for epoch in range(2):
        if not faulty:
            sampler.set_epoch(epoch)
        for (batch,) in loader:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
