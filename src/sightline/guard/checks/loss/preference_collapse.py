"""L9 · Preference training prefers nothing, the wrong answer, or makes both answers unlikely.

Symptom: reward margins stay at zero and the loss at ln 2 (IPO: 1/(2 beta)^2); or margins fall below zero; or the log
probabilities of both answers fall together while the margin stays flat, and the model's text falls apart.
Root cause: the reference is the policy itself (or moves with it, as biases do that LoRA trains); chosen and rejected
are swapped, or the same once cut; the reference is made anew in every epoch; beta or the rate lets both fall too soon.
Fix: a frozen copy as reference, beta 0.1 (0.3 to 0.5 where text falls apart), a rate of 1e-6 (1e-5 with LoRA).
Stays silent when: margins grow, however slowly; both rewards fall while their margin grows, as DPO does; only frozen
weights are shared (LoRA without a copy); the host says that it moves the reference; it is made anew for new pairs.
Sources:
- https://github.com/eric-mitchell/direct-preference-optimization/issues/32 (2023-08-11): both fall, by design
- https://arxiv.org/abs/2305.18290 (2023-05-29): DPO, its frozen reference and beta 0.1
"""

from __future__ import annotations

from statistics import median

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import BatchSeen, DataSeen, MetricsHistory, ReferenceSeen
from sightline.guard.evidence.trends import levels
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vlm")
NOISE, NATS = 8, 1e-4  # times what two looks differ by, and at least: kernels of another thread count give 1e-6
NOTHING = 1e-6  # of a reward: a policy that took one step of 1e-7 is further from its reference
STILL = 8  # logged margins after the first, which is zero by construction
PAIRS = 4  # that are equal, all of their batch: a few may be duplicates of the data's
ENOUGH = 24  # logged values, from which a trend is told from noise: eight a third
WRONG = 0.4  # of the pairs: below chance by more than a few dozen pairs scatter
COPY = "reference = copy.deepcopy(policy).eval().requires_grad_(False), kept out of the optimizer"
BY_ADAPTER = "let adapters alone learn (LoraConfig bias='none', no other part thawed), or give the trainer a ref_model"
FALL, FLAT = 20.0, 0.1  # nats an answer loses, e^-20; and the share of it that the margin gains


def find(
    metrics: MetricsHistory | None = None,
    reference: ReferenceSeen | None = None,
    batch: BatchSeen | None = None,
    data: DataSeen | None = None,
) -> Verdict:
    """Is the reference a model of its own that stays, and do margins and log probabilities go where they should?"""
    alike = _alike(batch) if batch is not None and data is not None and data.objective == "preference" else None
    if finding := alike or (_reference(reference) if reference is not None else None):
        return finding
    series = {} if metrics is None else metrics.preferences()
    if not series.get("margins"):
        looked = reference is not None and reference.difference is not None
        return None if looked else CannotTell("reward margins, nor a reference model that was seen twice")
    return _margins(series) or _both_fall(series)


def _alike(batch: BatchSeen) -> Finding | None:
    if (pairs := batch.equal_halves) < PAIRS or batch.input_ids is None or batch.phase == "evaluation":
        return None
    message = f"chosen and rejected are token for token the same in all {pairs} pairs of a batch"
    fix = f"raise max_length (rows end at {batch.input_ids.shape[1]} tokens) above prompt and answer, or mend the data"
    return Finding("error", message, fix, {"pairs": pairs, "row": batch.text(batch.input_ids[0].tolist())[-200:]})


def _reference(seen: ReferenceSeen) -> Finding | None:
    moved = seen.difference is not None and seen.difference > max(NATS, NOISE * seen.noise)
    if seen.renewed and not seen.synced:
        message, fix = f"the reference model {seen.words}", "make the reference once, before step 1, and leave it"
        return Finding("warning", message, fix, {"times": seen.renewed, "since step": seen.since})
    if not seen.shared and (not moved or seen.synced):
        return None
    facts = {"shared": seen.shared, "its log probabilities moved by": seen.difference, "since step": seen.since}
    message = f"the reference model {seen.words}: the policy is compared with itself"
    return Finding("error", message, BY_ADAPTER if seen.by_adapter else COPY, facts)


def _margins(series: dict[str, list[float]]) -> Finding | None:
    margins, right = series["margins"], series.get("accuracies", [])
    if len(margins) > STILL and max(map(abs, margins)) < NOTHING:
        return Finding(
            severity="error",
            message=f"the reward margin is zero in all of {len(margins)} logged steps: policy and reference are one",
            fix="give the loss a frozen copy of the policy as reference, and check that the policy's weights move",
            seen={"largest margin": max(map(abs, margins)), "logged": len(margins)},
        )
    if len(margins) < ENOUGH:
        return None
    first, middle, last = levels(margins)
    if last < middle < first and last < 0 and right and median(right[-len(right) // 3 :]) < WRONG:
        return Finding(
            severity="error",
            message=f"the rejected answer is preferred more and more: the margin went from {first:.3g} to {last:.3g}",
            fix="swap chosen and rejected back, or the sign of the loss: -logsigmoid(beta * (chosen - rejected))",
            seen={"margin by thirds": [first, middle, last], "accuracy at the end": median(right[-len(right) // 3 :])},
        )
    return None


def _both_fall(series: dict[str, list[float]]) -> Finding | None:
    chosen, rejected = (series.get(kind, []) for kind in ("chosen", "rejected"))
    if min(len(chosen), len(rejected)) < ENOUGH:
        return None
    falls = [levels(one)[0] - levels(one)[-1] for one in (chosen, rejected)]
    if min(falls) < FALL or abs(falls[1] - falls[0]) > FLAT * min(falls):
        return None
    return Finding(
        severity="warning",
        message=f"both answers lose {min(falls):.0f} nats of log probability, and the margin between them stays flat",
        fix="raise beta (0.3 to 0.5), lower the learning rate (1e-6; 1e-5 with LoRA), or add an SFT loss on the chosen",
        seen={"chosen fell by": falls[0], "rejected fell by": falls[1], "margins": levels(series["margins"])},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """DPO on one pair; the fault is a reference that is the policy."""
    import copy

    import torch
    from torch import nn

    policy, ids = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9)), torch.tensor([[1, 2, 3, 4], [1, 2, 5, 6]])
    reference = copy.deepcopy(policy).requires_grad_(False)
    if faulty:
        reference = policy
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    guard = run.attach(policy, optimizer)
    guard.reference(reference)
    for _ in range(3):
        optimizer.zero_grad()
        ours, theirs = (model(ids)[:, :-1].log_softmax(-1) for model in (policy, reference))
        gain = (ours - theirs.detach()).gather(-1, ids[:, 1:, None]).sum((1, 2))
        nn.functional.softplus(-0.1 * (gain[0] - gain[1])).backward()
        optimizer.step()
        guard.log({"rewards/margins": 0.1 * (gain[0] - gain[1])})
