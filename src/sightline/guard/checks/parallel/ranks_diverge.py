"""D1 · The ranks' copies of the model are no longer the same.

Symptom: none while it trains: every rank's loss falls. The checkpoint of rank 0 is worse than the logged average, the
ranks disagree in evaluation, and adding ranks does not help.
Root cause: each rank drew its own initial weights, and only gradients are exchanged; or these are not, for some or all
parameters: the loop calls `ddp.module(...)` or a method of it in place of `ddp(...)`, a parameter was added or swapped
after wrapping, a hand-written all-reduce leaves some out; or one rank changes weights alone (loads, clips or
re-initialises them behind `if rank == 0`).
Fix: start all ranks from the same weights (DDP, or a broadcast); call the wrapper itself in every training forward;
load and initialise before wrapping, on all ranks; reduce the gradient of every parameter, zeros where a rank has none.
Stays silent when: all ranks begin the step with the same bits; parameters are sharded; ranks never were alike (DDP was
made around no model of theirs) and have gradients of their own (each trains its own model); values come together again
at a later step (local SGD that averages every few steps); ranks step unevenly (`Join`, or counts of steps that differ
at the end), so that no step of one is another's. Buffers, such as running means, may differ.
Sources:
- https://docs.pytorch.org/docs/stable/notes/ddp.html (2026-11-01): replicas start alike and stay so because all get the
  same averaged gradient, by hooks that only the wrapper's forward prepares
- https://github.com/jingyaogong/minimind/pull/854 (2026-09-14): a loop that called `.module`: nothing was reduced
- https://github.com/pytorch/pytorch/issues/104336 (2023-06-28): moving a wrapped model between devices ends the
  reduction without a word (PyTorch-104336 of the TrainCheck paper; also DeepSpeed-1801, clipping on one rank,
  PyTorch-84803, data damaged between devices, and x-jxmnop-ddp-out-of-sync, forward passes beside the wrapper)
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import RanksSeen, Round
from sightline.guard.evidence.parallel import BESIDE
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vision", "vlm", "diffusion", "rl")
ROUNDS = 3  # rounds in a row: one alone may fall between a step and an average that follows it
LONG = 40  # steps: averaging every 2, 4, 5, 8, 10, 20 or 40 steps has shown itself by then


def find(ranks: RanksSeen) -> Verdict:
    """Compare hashes of the values with which the ranks began the same steps."""
    rounds = [r for r in ranks.rounds if r.comparable]
    if not rounds:
        return CannotTell("parameters that all ranks hold whole and under the same names")
    last, alike = rounds[-1], [r for r in rounds if len(r.differing) < len(r.ranks[0].state)]
    if never := _never_alike(rounds):
        return _unlike(never, rounds, ranks.world)
    if not alike and not last.began_alike:
        return CannotTell("replicated parameters: the ranks never held the same values")
    apart = [name for name in last.differing if _apart(name, rounds)]
    if not apart or not (last.wrapped or ranks.final or last.step >= LONG):
        return None
    first = next(r for r in rounds if apart[0] in r.differing)
    return Finding(
        severity="error" if last.wrapped and not apart[0].startswith(BESIDE) else "warning",
        message=f"{len(apart)} of {len(last.ranks[0].state)} parameters differ between {ranks.world} ranks that"
        f" should hold the same values, first {apart[0]}",
        fix="call the DDP wrapper (not its .module) in the training forward, change weights on all ranks alike, and"
        " average the gradient of every parameter over ranks before each step (a loss with parameters: DDP(loss))",
        seen={"parameters": apart[:5], "first seen to differ at step": first.step, "steps compared": len(rounds)},
        step=first.step,
    )


def _never_alike(rounds: list[Round]) -> list[str]:
    """Parameters that every round found apart though all ranks step with the same gradients."""
    pulled = [r for r in rounds if r.ranks[0].graded]
    if len(pulled) < ROUNDS or not all(r.pulled_alike for r in pulled):
        return []
    return [name for name in pulled[0].ranks[0].graded if all(name in r.differing for r in rounds)]


def _unlike(names: list[str], rounds: list[Round], world: int) -> Finding:
    first = rounds[0]
    return Finding(
        severity="error",
        message=f"{world} ranks step with the same gradients, and {len(names)} of {len(first.ranks[0].state)}"
        f" parameters were never the same, first {names[0]}",
        fix="start all ranks from the same weights: broadcast parameters and buffers from rank 0 (DDP does), or seed"
        " alike before the model is made",
        seen={"parameters": names[:5], "steps compared": len(rounds)},
        step=first.step,
    )


def _apart(name: str, rounds: list[Round]) -> bool:
    """Differs in all rounds since it first did, in enough of them, and was alike once or is wrapped to be so.

    What the optimizer holds beside the model is in no wrapper, and may be a rank's own part of something.
    """
    differs = [name in r.differing for r in rounds]
    since = differs[differs.index(True) :]
    wrapped = rounds[-1].began_alike and not name.startswith(BESIDE)
    return len(since) >= ROUNDS and all(since) and (differs[0] is False or wrapped)


def specimen(run: Run, *, faulty: bool) -> None:
    """Two replicas in one process, their gradients averaged by hand as `all_reduce` would."""
    import copy

    import torch
    from torch import distributed, nn

    store, first = distributed.HashStore(), nn.Linear(4, 2)
    replicas = [copy.deepcopy(first), first]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in replicas]
    for rank in (1, 0):
        run.attach(replicas[rank], optimizers[rank]).replicas.among(store, rank, 2)
    for _ in range(5):
        for model in replicas:
            model(torch.randn(8, 4)).square().mean().backward()
        for one, other in zip(*(list(model.parameters()) for model in replicas), strict=True):
            mean = (one.grad + other.grad) / 2
            if not faulty:
                one.grad, other.grad = mean.clone(), mean.clone()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
