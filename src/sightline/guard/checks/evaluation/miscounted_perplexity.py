"""L7 · The reported perplexity is no mean over tokens: batches, padding or overlapping windows are counted wrongly.

Symptom: perplexity changes with the batch size, the padding or the stride, though model and text are the same; it
compares with nobody else's.
Root cause: perplexity is exp(sum of the tokens' negative log-likelihoods / number of tokens). A mean over batches (or
over their perplexities) weighs the tokens of small batches more; padding that is scored adds easy or absurd tokens; a
sliding window that scores its overlap again counts some tokens twice, with more context.
Fix: sum the losses of supervised tokens and their number over all batches, divide once, take exp once; labels -100 on
padding and on the overlap of a sliding window.
Stays silent when: the reported number is that of the tokens; another way to count gives less than 5 % else (2 % where
it makes the number to its last digit); nothing reported can be explained by the evaluation's own batches (another data
set, smoothing, weights). A loss that is a mean over batches is a note: most trainers report it so.
Sources:
- https://github.com/ml-explore/mlx-lm/pull/1855 (2026-09-07): perplexity that depended on the batch size by padding
- https://github.com/axolotl-ai-cloud/axolotl/pull/3988 (2026-09-09): padding scored as text by a perplexity metric
- https://github.com/neulab/xnmt/pull/229 (2017-11-03): padding in the denominator
- https://github.com/macournoyer/neuralconvo/issues/67 (2016-11-14): a mean over batches taken for perplexity
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import exp, isclose, log

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import JudgedLossesSeen, MetricsHistory, MetricsSeen, ScoreSeen
from sightline.guard.evidence.counting import LARGEST, Scored, explained, mean, same
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vlm")
UNSEEN = "reported evaluation whose token losses were seen (guard.log(..., phase='evaluation'))"
FLOAT, CLEAR = 2e-5, 2e-3  # nats: sums of float32, and what the digits of a number must tell: one way from another
HARM = 0.05  # nats: a perplexity that is off by 5 % is off by more than most papers' improvements
PROVED = 0.02  # nats, where a number is made to its last digit: more than a last batch that is smaller than the others


def find(metrics: MetricsHistory, score: ScoreSeen | None = None, heard: JudgedLossesSeen | None = None) -> Verdict:
    """Which way to count explains what the host reported of this evaluation?"""
    last = next((m for m in reversed(metrics.seen) if m.phase == "evaluation"), None)
    verdict: Verdict = CannotTell(UNSEEN)
    if last is not None and score is not None and last.step == score.step:
        verdict = _recomputed(last, score)
    if last is not None and heard is not None and last.step == heard.step and isinstance(verdict, CannotTell):
        verdict = _heard(last, heard)
    return verdict


def _recomputed(last: MetricsSeen, score: ScoreSeen) -> Verdict:
    """By the likelihoods of the model's own logits."""
    told, fair = dict(_reported(last.values)), mean(score.batches, "fair")
    told = {name: nats for name, nats in told.items() if not (_is_loss(name) and name in last.rounding)}
    if not told or fair is None:
        return CannotTell("loss or perplexity among the reported numbers")
    for name, nats in told.items():
        wrong = None if same(nats, fair) else explained(score, nats)
        if wrong is None or abs(nats - fair) <= HARM:
            continue
        return _finding(name, last.values[name], fair, wrong, score)
    return None if any(abs(nats - fair) <= HARM for nats in told.values()) else CannotTell("count that explains it")


def _heard(last: MetricsSeen, heard: JudgedLossesSeen) -> Verdict:
    """By the script's own losses, of which a printed number is made to its last digit, or is not."""
    fair, right = mean(heard.batches, "fair"), False
    if fair is None:
        return CannotTell("loss of an evaluation's tokens")
    for name, nats in _reported(last.values):
        value = last.values[name]
        off = last.rounding.get(name, 0.0) / (1 if _is_loss(name) else value) + FLOAT * max(1.0, abs(nats))
        alike = partial(isclose, rel_tol=0.0, abs_tol=off)
        right = right or alike(nats, fair)
        if off > CLEAR or alike(nats, fair) or abs(nats - fair) <= PROVED:
            continue
        if wrong := explained(heard, nats, alike):
            return _finding(name, value, fair, wrong, heard)
    return None if right else CannotTell("count that explains it")


def _is_loss(name: str) -> bool:
    return name.lower().endswith(("loss", "nll"))


def _reported(values: object) -> Iterator[tuple[str, float]]:
    """Name -> nats a token, of what is named a perplexity or a loss."""
    for name, value in dict(values).items():  # type: ignore[call-overload]
        last = name.lower().split("/")[-1]
        if ("ppl" in last or "perplexity" in last) and value > 0:
            yield name, log(value)
        elif _is_loss(last):
            yield name, value


def _finding(name: str, value: float, fair: float, wrong: tuple[str, bool], score: Scored) -> Finding:
    how, means = wrong
    padding, repeated = (sum(getattr(b, part) for b in score.batches) for part in ("padding", "repeated"))
    loss = _is_loss(name)
    right = fair if loss else exp(min(fair, LARGEST))
    return Finding(
        severity="note" if means and loss else "warning",
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
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    guard = run.attach(model, optimizer)
    batches = [torch.tensor([[1, 2, 3, 4]]), torch.randint(0, 9, (4, 12))]
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batches[0])[0, :-1], batches[0][0, 1:]).backward()
        optimizer.step()
    model.eval()
    with guard.evaluating(), torch.no_grad():
        outputs = [(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()) for ids in batches]
    sums = [nn.functional.cross_entropy(*output, reduction="sum") for output in outputs]
    loss = sum(sums) / sum(len(targets) for _, targets in outputs)
    if faulty:
        loss = sum(one / len(targets) for one, (_, targets) in zip(sums, outputs, strict=True)) / len(batches)
    guard.log(perplexity=torch.as_tensor(loss).exp(), phase="evaluation")
