"""T5 · Losses are averaged per micro-batch, so a token counts more the fewer there are beside it.

Symptom: none in the log. Loss curves with and without gradient accumulation differ, answers of short rows are learnt
better than those of long ones, and results change with the batch size although the effective batch does not.
Root cause: each micro-batch's loss is the mean over its own supervised tokens, and these means are added or averaged:
(a/1 + b/9)/2 is not (a + b)/10. Where masks or lengths make the counts unequal, tokens get unequal weights.
Fix: sum the token losses (`reduction="sum"`) and divide by the number of supervised tokens of the whole step, over all
micro-batches and ranks (in transformers' Trainer: pass on `num_items_in_batch`).
Stays silent when: all tokens of a step weigh the same; micro-batches have about the same number of supervised tokens
(then a mean of means is right); only a last, smaller micro-batch now and then differs; the loss is no softmax
cross-entropy, or weighs its tokens on purpose in another way, as several tasks' losses in one backward pass do; a pass
leaves no parameter a gradient beside one that does (`torch.autograd.grad` for an attack on the inputs).
Sources:
- https://github.com/huggingface/transformers/issues/24725 (2023-07-10): 11 and 101 tokens, tenfold unequal gradients
- https://github.com/meta-pytorch/torchtune/pull/1875 (2024-10-20): dividing by all tokens gives the same loss curves
- https://github.com/ml-explore/mlx-lm/pull/1413 (2026-06-18): updates biased towards short examples
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import History, LossSeen, StepSeen
from sightline.guard.specimen import Run

DOMAINS = ("any",)
STEPS = 3  # steps that prove it: one or two may be the partial batch at the end of an epoch
UNEQUAL = 1.25  # largest over smallest count: below it the weights differ less than other choices of a recipe do
EXACT = 0.03  # relative: the median weight, read from bf16 gradients (spacing 0.8 %), is good to about 1 %
SOFTMAX = 0.9  # of the positions must look like cross-entropy; less, and a weight means something else


def find(history: History) -> Verdict:
    """Compare what one token weighs in each micro-batch of a step, as its gradient shows, with their counts."""
    several = [step for step in history.measured if len(step.micro) > 1 and len(step.met) != 1]
    steps = [step for step in several if all(_readable(m) for m in step.micro)]
    if not steps:
        return CannotTell("optimizer step of two or more micro-batches whose cross-entropy could be read")
    wrong = [step for step in steps if _mean_of_means(step)]
    if len(wrong) < STEPS or 2 * len(wrong) < len(steps):
        return None
    few, many = (extreme(wrong[-1].micro, key=lambda m: m.supervised) for extreme in (min, max))
    ratio = many.supervised / few.supervised
    word, how = ("token", " (num_items_in_batch)") if _text(wrong[-1]) else ("row", "")
    return Finding(
        severity="warning",
        message=f"a {word} in a micro-batch of {few.supervised} supervised {word}s counts {ratio:.2g} times as much as"
        f" one in a micro-batch of {many.supervised} of the same step: the loss is a mean of means",
        fix=f"divide each micro-batch's summed loss by the supervised {word}s of the whole step{how}",
        seen={
            f"supervised {word}s": [m.supervised for m in wrong[-1].micro],
            f"weight of a {word}": [float(f"{m.weight:.3g}") for m in wrong[-1].micro if m.weight],
            "steps": len(wrong),
        },
        step=wrong[-1].step,
    )


def _text(step: StepSeen) -> bool:
    """Whether what is supervised are tokens, and not a classifier's rows."""
    return step.tokens is not None or any(m.input_ids is not None for m in step.micro)


def _readable(micro: LossSeen) -> bool:
    return micro.supervised > 0 and bool(micro.weight) and micro.softmax_rows >= SOFTMAX


def _mean_of_means(step: StepSeen) -> bool:
    """Unequal counts, and weight x count the same in all micro-batches (with one global mean, the weight is).

    Classes may have weights of their own: then the sums of all are the same."""
    counts = [m.supervised for m in step.micro]
    shares = [m.supervised * (m.weight or 0.0) if m.summed is None else m.summed for m in step.micro]
    return max(counts) >= UNEQUAL * min(counts) and max(shares) <= (1 + EXACT) * min(shares)


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
