"""All that is listened to once a script has torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from sightline.attach.alive import note
from sightline.attach.named import NAMED
from sightline.attach.script import drawn, filled, opened, reopened
from sightline.attach.script.aliases import Aliases
from sightline.attach.script.averages import Averages
from sightline.attach.script.by_hand import ByHand
from sightline.attach.script.by_method import ByMethod
from sightline.attach.script.chains import Chains
from sightline.attach.script.checkpoints.kept import Kept
from sightline.attach.script.checkpoints.resumes import Resumes
from sightline.attach.script.checkpoints.saves import Saves
from sightline.attach.script.checkpoints.unrestored import Unrestored
from sightline.attach.script.checkpoints.unsaved import Unsaved
from sightline.attach.script.clipped import Clips
from sightline.attach.script.columns import Columns
from sightline.attach.script.extracted import Extracted
from sightline.attach.script.from_nothing import FromNothing
from sightline.attach.script.hosts import Hosts
from sightline.attach.script.imports import Notice
from sightline.attach.script.last_read import LastRead
from sightline.attach.script.loaders import Loaders
from sightline.attach.script.loss.judging import Judging
from sightline.attach.script.loss.roots import Losses
from sightline.attach.script.loss.words import Words
from sightline.attach.script.main import installed
from sightline.attach.script.origins import Told, rests
from sightline.attach.script.plateaus import Plateaus
from sightline.attach.script.processes.collectives import Collectives
from sightline.attach.script.rebound import Rebound
from sightline.attach.script.scoring.listen import Scores
from sightline.attach.script.scoring.unreset import Unreset
from sightline.attach.script.scout import Scout
from sightline.attach.script.stand_ins import StandIns
from sightline.attach.script.teachers import Teachers
from sightline.attach.script.tokenizers import Tokenizers
from sightline.attach.script.twins import Twins
from sightline.attach.script.unheard import Unheard
from sightline.attach.script.watch import Models
from sightline.attach.torch_loop import Attachment
from sightline.guard.check import Finding


def watched(
    budget: float, tell: Callable[[Finding], None], fault: Callable[[str], None]
) -> tuple[Models, Scout, Callable[[], None]]:
    """Listen to this process from now on: the models, who finds them, and what is to be called at the end.

    `tell` is called with each new finding, `fault` with an error of the guard's own.
    """
    models = Models(budget, tell, fault)
    scout = Scout(models, fault)
    note()
    scout.install()
    scout.beheld += [rests, Teachers(models, fault).look, Aliases(models, fault).look]
    scout.made.append(Twins(models, fault).made)
    loaders = Loaders(fault)
    loaders.install()
    extracted = Extracted(models, loaders, fault)
    extracted.install()
    scout.made.append(extracted.made)
    origins, _ = Told(fault), FromNothing(models, fault)
    origins.install()
    collectives = Collectives(models, fault)
    collectives.install()
    saves = Saves(models, fault)
    saves.install()
    resumes = Resumes(models, saves, fault)
    resumes.install()
    scout.made.append(resumes.made)
    Unrestored(models, resumes, fault).install()
    Kept(models, saves, fault).install()
    saves.every += [Unsaved(models, fault).saved, StandIns(models, fault).install()]
    for patching in (Plateaus, Clips, Rebound, Averages):
        patching(models, fault).install()
    for hearing in (ByMethod, Unheard, Chains):
        hearing(models, fault)
    scores = Scores(fault, lambda: [one.recorder for one in models.live if not one.blind])
    scores.install()
    words, judging, last, unreset = Words(models, fault), Judging(fault), LastRead(fault), Unreset(fault)
    for listener in (opened, reopened, drawn, filled, words, judging, last, unreset):
        listener.install()
    losses, columns, texts = Losses(models, fault), Columns(models, fault), Tokenizers(fault)
    losses.install()
    ByHand(models, scout, fault).install()
    Attachment.made = models.adopt
    for library in (Hosts(models, budget, fault), losses, words, origins, resumes.parts, texts, columns, judging):
        Notice(library.on_import()).install()
    NAMED.listen(lambda file: not installed(file), lambda error: fault(f"names: {type(error).__name__}: {error}"))
    torch.jit.script = _without_hooks(torch.jit.script, models)

    def close() -> None:
        collectives.close()
        for audience in (unreset, last, judging, words):
            audience.close()
        scores.close()

    return models, scout, close


def _without_hooks(compile_: Callable[..., Any], models: Models) -> Callable[..., Any]:
    """TorchScript reads a module's hooks as code of the model: ours are off while it does."""

    @functools.wraps(compile_)
    def script(*args: Any, **kwargs: Any) -> Any:
        with models.lifted():
            return compile_(*args, **kwargs)

    return script
