"""D3 · At one step the ranks exchange different gradients, so the run hangs, crashes or adds up what does not match.

Symptom: a hang at some step, a timeout half an hour later, "Expected to have finished reduction in the prior
iteration"; or, with a hand-written exchange, no error and wrong sums. Ranks that wait at different places and do not
move are told while they hang, after half a minute or 20 times the longest step.
Root cause: which modules run depends on the rank's own batch (a text-only batch skips the vision tower, an empty one
skips a head), or ranks run different numbers of micro-batches. Collectives match by order, not by name.
Fix: run every trainable module on every rank, with weight zero where a batch has nothing for it (a dummy image times
0); or `DistributedDataParallel(..., find_unused_parameters=True)`; in a hand-written exchange fill missing gradients
with zeros; give all ranks the same number of micro-batches.
Stays silent when: all ranks run the same trainable modules; DDP looks for unused parameters and the same number of
backward passes exchange gradients; ranks are independent of each other; one rank waits for
another that is at work, or all wait at the same place; who has nothing to give calls elsewhere, with zeros.
Sources:
- https://docs.pytorch.org/docs/stable/notes/ddp.html (2026-11-01): DDP waits for every parameter of its buckets unless
  find_unused_parameters is set, and all ranks must reduce in the same order
- https://github.com/deepspeedai/DeepSpeed/issues/5794 (2024-07-23): a rank without tokens for the experts of the last
  layer skips a collective, and the ranks hang (DeepSpeed-5794 of the TrainCheck paper)
- https://github.com/modelscope/ms-swift/pull/9639 (2026-06-24): text-only rows skip the vision tower on one rank, and
  the ranks wait for each other for ever
- https://github.com/huggingface/trl/issues/6617 (2026-08-01): a vision tower that takes no part breaks DDP's reducer
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import CollectivesSeen, RanksSeen, RanksStuckSeen, Round
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vision", "vlm", "diffusion", "rl")


def find(
    ranks: RanksSeen | None = None, stuck: RanksStuckSeen | None = None, called: CollectivesSeen | None = None
) -> Verdict:
    """Compare where the ranks wait for each other, and what ran and got a gradient on each rank, step by step."""
    if called is not None and len(set(called.calls.values())) > 1:
        return _mismatch(called)
    if stuck is not None and len({(r.call, r.line, r.step) for r in stuck.ranks}) > 1:
        return _hang(stuck)
    if ranks is None:
        return CannotTell("step that all ranks reached")
    rounds = [r for r in ranks.rounds if all(f.forwards for f in r.ranks)]
    if not rounds:
        return CannotTell("step that all ranks reached")
    alike = [r for r in ranks.rounds if r.comparable and len(r.differing) < len(r.ranks[0].state)]
    if not rounds[-1].wrapped and not alike:
        return CannotTell("ranks that work on the same parameters")
    return next((finding for r in rounds if (finding := _judged(r))), None)


def _mismatch(seen: CollectivesSeen) -> Finding:
    """Calls match by order: these two would meet."""
    calls = " while ".join(f"rank {rank} calls {call}" for rank, call in sorted(seen.calls.items()))
    what = "is called at different places" if seen.apart else "is not the same on all ranks"
    return Finding(
        severity="warning" if seen.apart else "error",
        message=f"collective {seen.number} of the group {what}: {calls}",
        fix="make every rank call the same collectives in the same order, with zeros where it has nothing to give: none"
        " under a condition that depends on a rank's own batch",
        seen={"by rank": dict(seen.calls), "number": seen.number},
    )


def _hang(stuck: RanksStuckSeen) -> Finding:
    """All ranks wait, and not at one place."""
    where = "; ".join(f"rank {r.rank} in {r.call} ({r.line}, after {r.step} steps)" for r in stuck.ranks[:4])
    return Finding(
        severity="error",
        message=f"the run hangs: all ranks have waited for {stuck.seconds:.0f} s at different places: {where}",
        fix="make every rank call the same collectives in the same order: no collective under a condition of one rank"
        " alone, and the same number of batches on all",
        seen={"by rank": {r.rank: f"{r.call} at {r.line}, step {r.step}" for r in stuck.ranks}},
    )


def _judged(one: Round) -> Finding | None:
    """One step. Behind DDP what ran decides; without it, what has a gradient after the exchange."""
    counts = [f.forwards for f in one.ranks]
    if one.wrapped and len(set(counts)) > 1:
        return _finding(one, f"run {counts} backward passes that exchange gradients", {"by rank": counts})
    if one.wrapped and all(f.finds_unused for f in one.ranks):
        return None
    sets = [frozenset(f.called if one.wrapped else f.graded) for f in one.ranks]
    if len(set(sets)) == 1 or not all(sets):
        return None
    alone = sorted(frozenset.union(*sets) - frozenset.intersection(*sets))
    without = [f.rank for f, names in zip(one.ranks, sets, strict=True) if alone[0] not in names]
    what = "do not run" if one.wrapped else "have no gradient for"
    return _finding(one, f"differ: {without} {what} {alone[0]}", {"not on all ranks": alone[:5], "count": len(alone)})


def _finding(one: Round, what: str, seen: dict[str, object]) -> Finding:
    return Finding(
        severity="error",
        message=f"at step {one.step} the ranks {what}",
        fix="run every trainable module on every rank (times zero where the batch has nothing for it), or set"
        " find_unused_parameters=True; take the same number of micro-batches on all ranks",
        seen=seen,
        step=one.step,
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """Two replicas; rank 1 has only text, and leaves the vision part out."""
    import copy

    import torch
    from torch import distributed, nn

    store, first = distributed.HashStore(), nn.ModuleDict({"vision": nn.Linear(4, 2), "text": nn.Linear(4, 2)})
    first.forward = lambda text, image: first["text"](text) + first["vision"](image)
    replicas = [first, copy.deepcopy(first)]
    only = replicas[1]
    only.forward = lambda text, image: only["text"](text) + 0 * only["vision"](image)
    if faulty:
        only.forward = lambda text, image: only["text"](text)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in replicas]
    for rank in (1, 0):
        run.attach(replicas[rank], optimizers[rank]).replicas.among(store, rank, 2)
    for _ in range(3):
        for model in replicas:
            model(torch.randn(8, 4), torch.randn(8, 4)).square().mean().backward()
        for one, other in zip(*(list(model.parameters()) for model in replicas), strict=True):
            if one.grad is not None and other.grad is not None:
                one.grad = other.grad = (one.grad + other.grad) / 2
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
