"""D2 · Ranks train on the same batches, so more ranks bring nothing new.

Symptom: a run on eight ranks learns as one would; an epoch takes as long as on one; every rank logs the same loss.
Root cause: the loader has no sampler that splits the data (`DistributedSampler`, `shard`, `split_dataset_by_node`), the
sampler was given the local rank or a world of 1, or every rank draws its data from the same seed.
Fix: give the loader `DistributedSampler(dataset, num_replicas=world_size, rank=rank)` (global numbers), split an
iterable data set by rank, or seed generated data with `seed + rank`.
Stays silent when: batches differ between ranks at the steps compared; the batch never changes (a fixed batch proves
nothing); parameters are sharded or differ by rank (tensor and pipeline parallel ranks must see the same data).
Sources:
- https://docs.pytorch.org/docs/stable/data.html (2026-11-01): DistributedSampler restricts each process to its own part
  of the data set
- https://github.com/k2-fsa/icefall/issues/1616 (2024-05-04): identical batches on all GPUs, until the sampler was given
  rank and world size
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import RanksSeen
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vision", "vlm", "diffusion", "rl")
STEPS = 4  # compared: one equal batch may be chance in a tiny data set, four different ones in a row are not


def find(ranks: RanksSeen) -> Verdict:
    """Compare hashes of the inputs that ranks fed at the same steps."""
    rounds = [r for r in ranks.rounds if r.comparable and all(f.batch is not None for f in r.ranks)]
    if len({r.ranks[0].batch for r in rounds}) < STEPS:
        return CannotTell(f"{STEPS} different batches at steps that all ranks reached")
    last = rounds[-1]
    if any(f.sharded for f in last.ranks) or (last.differing and not last.wrapped):
        return CannotTell("replicated parameters")
    groups = [tuple(tuple(f.rank for f in r.ranks if f.batch == one.batch) for one in r.ranks) for r in rounds]
    always = [group for group in dict.fromkeys(groups[0]) if len(group) > 1 and all(group in g for g in groups)]
    if not always:
        return None
    return Finding(
        severity="error",
        message=f"ranks {', '.join(map(str, always[0][:8]))} were fed the same batches at all {len(rounds)} steps"
        " compared",
        fix="split the data: DistributedSampler(dataset, num_replicas=world_size, rank=rank) with the global rank, or"
        " seed + rank where data is generated",
        seen={"ranks": always[0], "steps": [r.step for r in rounds][:8], "world size": ranks.world},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """Two replicas in one process, each with its loader; gradients averaged by hand."""
    import copy

    import torch
    from torch import distributed, nn
    from torch.utils.data import DistributedSampler, TensorDataset

    data, store, first = torch.randn(64, 4), distributed.HashStore(), nn.Linear(4, 2)
    replicas = [copy.deepcopy(first), first]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in replicas]
    for rank in (1, 0):
        run.attach(replicas[rank], optimizers[rank]).replicas.among(store, rank, 2)
    places = [0, 0 if faulty else 1]
    rows: TensorDataset = TensorDataset(data)
    samplers = [DistributedSampler[object](rows, num_replicas=2, rank=place) for place in places]
    for batches in zip(*(torch.tensor(list(sampler)).split(4) for sampler in samplers), strict=True):
        for model, batch in zip(replicas, batches, strict=True):
            model(data[batch]).square().mean().backward()
        for one, other in zip(*(list(model.parameters()) for model in replicas), strict=True):
            mean = (one.grad + other.grad) / 2
            one.grad, other.grad = mean.clone(), mean.clone()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
