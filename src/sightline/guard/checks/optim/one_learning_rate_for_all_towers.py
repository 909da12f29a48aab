"""X3 · One learning rate drives a fresh connector and a trained language model.

Symptom: the loss jumps up in the first steps and takes long to come back, and the language model has forgotten what it
knew (the rate suits the connector); or image answers stay at the level of guesses (the rate suits the language model).
Root cause: `optimizer = AdamW(model.parameters(), lr=...)`. A connector that starts from random weights needs rates
about fifty times those that trained towers bear; one number cannot serve both. So, too, where the connector's own
group goes by a name that none of its parameters has, or where a stage that aligned the connector alone is followed by
one in which all learn at its rate. Or the towers were given rates of their own, and a schedule that was told one
(`OneCycleLR(max_lr=...)`) put it in the place of all.
Fix: one parameter group a tower: connector lr 1e-3, language 2e-5, vision 2e-6 or frozen (requires_grad False);
a schedule that asks for rates gets one a group.
Stays silent when: the towers have rates of their own; only one of them learns; the language tower learns through LoRA
adapters; everything starts from scratch (the first loss is about ln V); or one low rate suits all, because the
connector is trained already: the loss neither rises nor jumps, and no fresh tower stands still. Of a connector drawn
in this process beside a language tower that was loaded: at the run's end it is elsewhere, or the rate is no low one,
and the other is not half its weights away (a tenth, at a connector's rate, if it went further than that); and no group
of the optimizer is empty that was to have a higher rate.
Sources:
- https://blog.gitcode.com/9e8839125e9b2ab631d76f463634f9a7.html (2025-07-01): nanoVLM: projection 1e-3, backbones 5e-5
- https://github.com/LLaVA-VL/LLaVA-NeXT/issues/492 (2025-10-21): rates a tower given, and not taken by the optimizer
- https://github.com/hiyouga/LlamaFactory/issues/6008 (2024-11-12): LLaVA's mm_projector_lr 2e-5 beside 2e-4 for LoRA
- https://leeroopedia.com/index.php/Principle:Haotian_liu_LLaVA_Feature_Alignment_Pretraining (2026-02-13): 1e-3 for
  the projector alone
"""

from __future__ import annotations

from collections.abc import Mapping

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import History, ScheduleSeen, Setup, TowerSetup
from sightline.guard.evidence.levelled import left_behind, levelled
from sightline.guard.evidence.origin import forgetting, fresh, jolted, trained_language, usual_ratio
from sightline.guard.specimen import Run

DOMAINS = ("vlm",)
COLD = 1e-4  # a tower from random weights that moves less needs over ten thousand steps to become another
PATIENCE = 20  # steps before a slow tower is called slow
WARM = 0.9  # of the group's rate: a warm-up is over


def find(history: History, setup: Setup, schedule: ScheduleSeen | None = None) -> Verdict:
    """One rate for both, unmeant; or the harm: a trained tower that breaks, or a fresh one that stands still."""
    connector, language = setup.towers.get("connector"), setup.towers.get("language")
    if connector is None or language is None:
        return CannotTell("connector and language tower")
    if not setup.joint:
        return None
    if schedule is not None and (found := levelled(schedule)) is not None:
        message, fix = f"connector and language tower learn at one rate: {found[0]}", found[1]
        return Finding("warning", message, fix, {"given": schedule.given, "schedule": schedule.scheduler or "by hand"})
    if len({*connector.learning_rates, *language.learning_rates}) != 1:
        return None
    if schedule is not None and (left := left_behind(schedule, connector.learning_rates[0])):
        return _finding(left[0], connector, left[1], highest=max(schedule.rates, default=0.0))
    measured, steps = history.measured, history.steps
    if len(measured) < 2 or not setup.embedding_rows or steps[0].loss is None:
        return CannotTell("loss of the first step, and two measured steps")
    if (start := trained_language(history, setup)) is None:
        return None
    if seen := forgetting(history, setup):
        what = f"the trained language tower moves by {seen['language: update over weight']:.1%} of its weights a step"
        return _finding(f"{what}, and the loss rose", language, seen)
    if seen := jolted(history, setup):
        times = seen["highest of the next losses"] / max(start, 1e-9)
        what = f"the trained language tower moves by {seen['language: update over weight']:.1%} of its weights a step"
        return _finding(f"{what}, and the loss jumped to {times:.0f} times what it was", language, seen)
    ratio, rate = usual_ratio(history, "connector"), measured[-1].tower("connector")[0].learning_rate
    warm = rate is not None and rate >= WARM * connector.learning_rates[0]
    if warm and len(steps) >= PATIENCE and ratio is not None and 0 < ratio < COLD and fresh(measured[0], "connector"):
        what = f"the fresh connector moves by {ratio:.1e} of its weights a step"
        return _finding(what, connector, {"first loss": start, "connector: update over weight": ratio})
    return None


def _finding(what: str, tower: TowerSetup, seen: Mapping[str, object], highest: float = 0.0) -> Finding:
    rate = max(tower.learning_rates[0], highest)
    return Finding(
        severity="warning",
        message=f"connector and language tower share one learning rate, {rate:g}: {what}",
        fix=f"one parameter group a tower: connector 1e-3, language 2e-5, vision 2e-6 or frozen (all have {rate:g})",
        seen={"learning rate": rate, **seen},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """A language model that has learnt to count by ones and twos meets a fresh connector."""
    import torch
    from torch import nn

    vision, connector = nn.Conv2d(3, 8, 4), nn.Linear(8, 32)
    language = nn.Sequential(nn.Embedding(32, 32), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
    model = nn.ModuleDict({"vision": vision, "connector": connector, "language": language})
    model.forward = lambda ids, x: language[1:](language[0](ids) + connector(vision(x).flatten(1))[:, None])

    def loss_of(images: torch.Tensor) -> torch.Tensor:
        ids = torch.randint(1, 3, (16, 9)).cumsum(dim=1) % 32
        return nn.functional.cross_entropy(model(ids[:, :-1], images).flatten(0, 1), ids[:, 1:].flatten())

    teacher = torch.optim.Adam(language.parameters(), lr=1e-2)
    for _ in range(60):
        teacher.zero_grad()
        loss_of(torch.zeros(16, 3, 4, 4)).backward()
        teacher.step()
    rates = {"vision": 1e-3, "connector": 1e-2, "language": 1e-4}
    if faulty:
        rates = dict.fromkeys(rates, 1e-1)
    optimizer = torch.optim.Adam([{"params": model[name].parameters(), "lr": rate} for name, rate in rates.items()])
    guard = run.attach(model, optimizer, towers={name: [name] for name in model})
    for _ in range(12):
        optimizer.zero_grad()
        loss = loss_of(torch.randn(16, 3, 4, 4))
        loss.backward()
        optimizer.step()
        guard.step(loss=loss)
