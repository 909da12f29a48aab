"""T5 · Losses are averaged per micro-batch, so a token counts more the fewer there are beside it.

Symptom: none in the log. Loss curves with and without gradient accumulation differ, answers of short rows are learnt
better than those of long ones, and results change with the batch size although the effective batch does not.
Root cause: each micro-batch's loss is the mean over its own supervised tokens, and these means are added or averaged:
(a/1 + b/9)/2 is not (a + b)/10. So it is with each rank's mean. Where masks or lengths make the counts unequal, tokens
get unequal weights.
Fix: sum the token losses (`reduction="sum"`) and divide by the number of supervised tokens of the whole step, over all
micro-batches and ranks (in transformers' Trainer: pass on `num_items_in_batch`; behind DDP, which averages, times the
number of ranks).
Stays silent when: all tokens of a step weigh the same; micro-batches have about the same number of supervised tokens
(then a mean of means is right); only a last, smaller micro-batch now and then differs; the loss weighs its tokens on
purpose in another way, as several tasks' losses in one backward pass do, or heads of their own, or rows that are
averaged one by one; it is neither a cross-entropy nor a sum or mean of what a mask leaves; a pass leaves no parameter a
gradient beside one that does (`torch.autograd.grad` for an attack on the inputs).
Sources:
- https://github.com/huggingface/transformers/issues/24725 (2023-07-10): 11 and 101 tokens, tenfold unequal gradients
- https://github.com/meta-pytorch/torchtune/pull/1875 (2024-10-20): dividing by all tokens gives the same loss curves
- https://github.com/ml-explore/mlx-lm/pull/1413 (2026-06-18): updates biased towards short examples
"""

from __future__ import annotations

from collections.abc import Sequence

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import History, LossSeen, RanksSeen, StepSeen
from sightline.guard.specimen import Run

DOMAINS = ("any",)
STEPS = 3  # steps that prove it: one or two may be the partial batch at the end of an epoch
PASSES = 3  # of a step, where a graph alone tells: two may be two tasks
UNEQUAL = 1.25  # largest over smallest count: below it the weights differ less than other choices of a recipe do
APART = 2.0  # the same for ranks, whose batches are larger: what chance alone makes of texts is left to the recipe
EXACT = 0.03  # relative: the median weight, read from bf16 gradients (spacing 0.8 %), is good to about 1 %
SOFTMAX = 0.9  # of the positions must look like cross-entropy; less, and a weight means something else
Part = tuple[int, float]  # how much is supervised, and the sum of all weights


def find(history: History | None = None, ranks: RanksSeen | None = None) -> Verdict:
    """Compare what one token weighs in each micro-batch of a step, as its gradient shows, with their counts."""
    if ranks is not None and (among := _ranks(ranks)):
        return _finding(*among, "token", "rank", " (all-reduce it), times the number of ranks")
    several = [step for step in (history.measured if history else ()) if len(step.micro) > 1 and len(step.met) != 1]
    steps = [(step, _parts(step)) for step in several if all(_readable(m) for m in step.micro)]
    others = [(step, _weighed(step)) for step in (history.measured if history else ()) if len(step.means) >= PASSES]
    if not steps and not others:
        return CannotTell("optimizer step of two or more micro-batches whose cross-entropy could be read")
    for known in (steps, others):
        wrong = [(step, parts) for step, parts in known if _mean_of_means(parts, UNEQUAL)]
        if len(wrong) >= STEPS and 2 * len(wrong) >= len(known):
            step, parts = wrong[-1]
            word, how = ("token", " (num_items_in_batch)") if _text(step) else ("row", "")
            return _finding(parts, len(wrong), step.step, word, "micro-batch", how)
    return None


def _finding(parts: Sequence[Part], wrong: int, step: int, word: str, part: str, how: str) -> Finding:
    (few, _), (many, _) = (extreme(parts, key=lambda p: p[0]) for extreme in (min, max))
    return Finding(
        severity="warning",
        message=f"a {word} in a {part} of {few} supervised {word}s counts {many / few:.2g} times as much as one in a"
        f" {part} of {many} of the same step: the loss is a mean of means",
        fix=f"divide each {part}'s summed loss by the supervised {word}s of the whole step{how}",
        seen={
            f"supervised {word}s": [count for count, _ in parts],
            f"weight of a {word}": [float(f"{weight / count:.3g}") for count, weight in parts],
            "steps": wrong,
        },
        step=step,
    )


def _ranks(seen: RanksSeen) -> tuple[list[Part], int, int] | None:
    """What each rank supervised and how much that weighed, in the last of the steps that prove it. They average."""
    found = []
    for one in seen.rounds:
        taught = [part for rank in one.ranks for part in rank.taught]
        known = all(rank.taught for rank in one.ranks) and all(n and w and s >= SOFTMAX for n, w, s in taught)
        if known and (one.wrapped or one.pulled_alike):
            found.append((one.step, [(sum(p[0] for p in r.taught), sum(p[1] for p in r.taught)) for r in one.ranks]))
    wrong = [(step, sums) for step, sums in found if _mean_of_means(sums, APART)]
    return (wrong[-1][1], len(wrong), wrong[-1][0]) if len(wrong) > STEPS and 2 * len(wrong) >= len(found) else None


def _text(step: StepSeen) -> bool:
    """Whether what is supervised are tokens, and not a classifier's rows."""
    return step.tokens is not None or any(m.input_ids is not None for m in step.micro)


def _readable(micro: LossSeen) -> bool:
    return micro.supervised > 0 and bool(micro.weight) and micro.softmax_rows >= SOFTMAX


def _parts(step: StepSeen) -> list[Part]:
    return [(m.supervised, m.shares) for m in step.micro]


def _weighed(step: StepSeen) -> list[Part]:
    return [(count, count * weight) for count, weight in step.means]


def _mean_of_means(parts: Sequence[Part], unequal: float) -> bool:
    """Unequal counts, and weight x count the same in all parts (with one global mean, the weight is).

    Classes may have weights of their own: then the sums of all are the same."""
    counts, sums = [count for count, _ in parts], [weight for _, weight in parts]
    return max(counts) >= unequal * min(counts) and max(sums) <= (1 + EXACT) * min(sums)


def specimen(run: Run, *, faulty: bool) -> None:
    """A short and a long answer in each step, accumulated."""
    import torch
    from torch import nn

    model = nn.Sequential(nn.Embedding(8, 8), nn.Linear(8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.attach(model, optimizer)
    rows = [torch.tensor([[1, 2, 3]]), torch.tensor([[3, 2, 5, 6, 7, 1, 4, 2, 6]])]
    for _ in range(4):
        optimizer.zero_grad()
        for row in rows:
            share = 1 / 10  # of the step's ten supervised tokens
            if faulty:
                share = 1 / (len(rows) * (row.shape[1] - 1))
            logits, targets = model(row)[0, :-1], row[0, 1:]
            (nn.functional.cross_entropy(logits, targets, reduction="sum") * share).backward()
        optimizer.step()
