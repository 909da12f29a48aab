"""L7 · The reported perplexity is no mean over tokens: batches, padding or overlapping windows are counted wrongly.

Symptom: perplexity (or accuracy) changes with batch size, padding or stride alone; it compares with nobody's.
Root cause: perplexity is exp(sum of the tokens' negative log-likelihoods / number of tokens). A mean over batches (or
over their perplexities) weighs the tokens of small batches more; padding adds easy tokens; overlaps of windows count
twice; nats are no bits; means are divided by rows; only the last batch's loss is left; labels are smoothed.
Fix: sum the losses of supervised tokens and their number, divide once, take exp once; -100 on padding and overlap.
Stays silent when: the reported number is that of the tokens; another way to count gives less than 5 % else (2 % where
it makes the number to its last digit, and two standard errors of what is no loss); nothing reported can be explained by
the evaluation's own batches; a loss of smoothed labels is called one. A loss over batches or first places is a note.
Sources:
- https://github.com/ml-explore/mlx-lm/pull/1855 (2026-09-07): perplexity that depended on the batch size by padding
- https://github.com/axolotl-ai-cloud/axolotl/pull/3988 (2026-09-09): padding scored as text by a perplexity metric
- https://github.com/neulab/xnmt/pull/229 (2017-11-03): padding in the denominator
- https://github.com/macournoyer/neuralconvo/issues/67 (2016-11-14): a mean over batches taken for perplexity
"""

from __future__ import annotations

from functools import partial
from math import isclose

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import BatchMeansSeen, JudgedLossesSeen, MetricsHistory, MetricsSeen, ScoreSeen
from sightline.guard.evidence.counting import Scored, explained, is_loss, made, mean, nats_off, reported, same, unit
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vlm")
FLOAT, CLEAR, FAR = 2e-5, 2e-3, 4e-3  # nats: sums of float32; what digits must tell; or as a share of what is off
HARM = 0.05  # nats: a perplexity that is off by 5 % is off by more than most papers' improvements
PROVED = 0.02  # nats, where a number is made to its last digit: more than a last batch that is smaller than the others
SIGMAS = 2.0  # within them, another draw of as many rows gives another number as well: both say the same


def find(
    metrics: MetricsHistory | None = None,
    score: ScoreSeen | None = None,
    heard: JudgedLossesSeen | None = None,
    means: BatchMeansSeen | None = None,
) -> Verdict:
    """Which way to count explains what the host reported of this evaluation?"""
    if means is not None and (finding := _over_batches(means)) is not None:
        return finding
    last = next((m for m in reversed(metrics.seen if metrics else ()) if m.phase == "evaluation"), None)
    verdict: Verdict = CannotTell("evaluation whose token losses were seen (guard.log(..., phase='evaluation'))")
    own = heard if last and heard and last.step == heard.step else None
    if last and score and last.step == score.step and not (own and score.unmarked):
        verdict = _recomputed(last, score)
    if last and own and isinstance(verdict, CannotTell):
        verdict = _heard(last, own)
    return verdict


def _recomputed(last: MetricsSeen, score: ScoreSeen) -> Verdict:
    """By the likelihoods of the model's own logits."""
    told, fair = dict(reported(last.values)), mean(score.batches, "fair")
    told = {name: nats for name, nats in told.items() if not (is_loss(name) and name in last.rounding)}
    if not told or fair is None:
        return CannotTell("loss or perplexity among the reported numbers")
    for name, nats in sorted(told.items(), key=lambda one: is_loss(one[0])):
        wrong = None if same(nats, fair) else explained(score, nats) or unit(name, score, nats)
        if wrong is None or abs(nats - fair) <= HARM:
            continue
        return _finding(name, last.values[name], fair, wrong, score)
    return None if any(abs(nats - fair) <= HARM for nats in told.values()) else CannotTell("count that explains it")


def _heard(last: MetricsSeen, heard: JudgedLossesSeen) -> Verdict:
    """By the script's own losses, of which a printed number is made to its last digit, or is not."""
    fair, right = mean(heard.batches, "fair"), False
    if fair is None:
        return CannotTell("loss of an evaluation's tokens")
    told = reported(last.values, losses=not any(one.smoothed for one in heard.batches))
    for name, nats in sorted(told, key=lambda one: is_loss(one[0])):
        value = last.values[name]
        off = nats_off(name, value, last.rounding.get(name, 0.0)) + FLOAT * max(1.0, abs(nats))
        alike = partial(isclose, rel_tol=0.0, abs_tol=off)
        right = right or alike(nats, fair)
        if off > max(CLEAR, FAR * abs(nats - fair)) or alike(nats, fair) or abs(nats - fair) <= PROVED:
            continue
        if wrong := explained(heard, nats, alike) or unit(name, heard, nats, alike):
            return _finding(name, value, fair, wrong, heard)
    return None if right else CannotTell("count that explains it")


def _over_batches(means: BatchMeansSeen) -> Verdict:
    """By the script's own code, run again over each batch: a mean of a share of hits, or of something else."""
    off, least = abs(means.value - means.whole), PROVED if means.share else HARM
    if off <= max(SIGMAS * means.error, least * abs(means.whole)):
        return None
    return Finding(
        severity="note" if means.last and not means.share else "warning",
        message=f"'{means.name}' {means.value:.4g} is a mean over unequal batches; over rows it is {means.whole:.4g}",
        fix="add up hits (or losses) and their number over all batches, and divide once",
        seen={"reported": means.value, "recomputed": means.whole, "standard error": means.error},
    )


def _finding(name: str, value: float, fair: float, wrong: tuple[str, bool], score: Scored) -> Finding:
    how, means = wrong
    padding, repeated = (sum(getattr(b, part) for b in score.batches) for part in ("padding", "repeated"))
    right = made(name, fair)
    return Finding(
        severity="note" if means and is_loss(name) else "warning",
        message=f"'{name}' {value:.4g} is taken {how}; over the tokens it is {right:.4g}",
        fix="add up token losses and token counts over all batches, divide once, take exp once"
        + ("; labels -100 on padding" if padding else "")
        + ("; labels -100 on the overlap of windows" if repeated else ""),
        seen={"reported": value, "recomputed": right, "padding scored": padding, "tokens scored twice": repeated},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """A short and a long batch, one of them easy."""
    import torch
    from torch import nn

    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9))
    guard = run.attach(model, optimizer := torch.optim.SGD(model.parameters(), lr=2.0))
    batches = [torch.tensor([[1, 2, 3, 4]]), torch.randint(0, 9, (4, 12))]
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batches[0])[0, :-1], batches[0][0, 1:]).backward()
        optimizer.step()
    model.eval()
    with guard.evaluating(), torch.no_grad():
        outputs = [(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()) for ids in batches]
    reduction, parts = ("mean", len(batches)) if faulty else ("sum", sum(len(targets) for _, targets in outputs))
    loss = sum(nn.functional.cross_entropy(*one, reduction=reduction) for one in outputs) / parts
    guard.log(perplexity=torch.as_tensor(loss).exp(), phase="evaluation")
