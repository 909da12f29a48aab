"""How a stage's model lies on the ranks, and what a step, a checkpoint and the stage's end do differently for it.

A run's model is at home: whole, on every rank. A layout may train another one in its place, `away`, which is spread
over the ranks and has the same names; when the stage ends, its weights are brought home. So whatever comes between
stages and behind the last one (evaluation, export) knows of one whole model alone. A home from which a layout spreads
another is in memory that the processes of a machine share (`home.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.models.build import Built
from sightline.models.vlm import VLM
from sightline.recipe.schema import Clip, Parallel, Stage
from sightline.train.clip import Norms, clip_gradients
from sightline.train.ema import Ema
from sightline.train.groups import build_optimizer, parameters_by_tower
from sightline.train.objectives import Objective, Term
from sightline.train.parallel.home import moved, shared
from sightline.train.parallel.ranks import Ranks
from sightline.train.parallel.saved import load_weights, read, read_optimizer
from sightline.train.parallel.sharded import give_back
from sightline.train.parallel.spread import bring_home, share_buffers
from sightline.train.precision import Precision


class Layout:
    """Whole models and averaged gradients: DDP on several ranks, nothing at all on one. The base of the others.

    Attributes:
        sharded: whether each rank writes its own part of a checkpoint, and no rank can go through the model alone.
        spreads: whether another model than the one at home is trained, which then stays in the host's memory.
        together: whether no rank can go through the model alone, though the main one writes checkpoints.
        layered: whether weights and gradients are to be seen layer by layer after a step.
        watched: whether the guard can watch the model that is trained.
        parted: whether a rank by itself has only a part of the weights to answer with.
        one_pass: why an objective cannot take several passes through the model for one backward pass, where it cannot.
        keeps: whether this process writes the home, which others of its machine may share. It does so when a stage has
            ended; while one is trained nobody does, and what learns lies in memory of its own.
        ranks: those that are fed different rows.
    """

    sharded = False
    spreads = False
    together = False
    layered = True
    watched = True
    parted = False
    one_pass = ""
    keeps = True

    def __init__(self, settings: Parallel, ranks: Ranks) -> None:
        self.settings, self.ranks = settings, ranks

    def at_home(self, make: Callable[[], Built]) -> Built:
        """What `make` makes, where the run's model is at home; all ranks must call."""
        if self.spreads:
            built, self.keeps = shared(make)
            return built
        built = make()
        built.model.to(self.ranks.device)
        return built

    def check(self, model: VLM, stage: Stage, objective: Objective, precision: Precision) -> None:
        """Raise UserError where this layout cannot train `stage` of `model` (its `requires_grad` is decided)."""
        where = f"stages.{stage.name}"
        if self.one_pass and not objective.overlaps:
            what = f"losses that compare a step's pairs, and trades, take several passes at once, and {self.one_pass}"
            raise UserError(what, where=f"{where}.objective", fix="set parallel: ddp, or fsdp for pairs")
        if self.parted and stage.early_stop and stage.early_stop.metric == "accuracy":
            what = "answers are written by one rank at a time, which has only a part of the weights"
            raise UserError(what, where=f"{where}.early_stop", fix="stop by the loss, or set parallel: ddp")

    def place(self, home: VLM, stage: Stage) -> VLM:
        """The model to train: `home` itself, or another with its weights that lies on the ranks."""
        return home

    def wrap(self, model: VLM, objective: Objective) -> nn.Module:
        """What the step calls: the placed `model`, which exchanges gradients in its backward pass where it can."""
        return self.ranks.wrap(model) if objective.overlaps else model

    def optimizer(self, model: VLM, stage: Stage) -> Optimizer:
        """The stage's optimizer of the placed model."""
        return build_optimizer(model, stage)

    def towers(self, optimizer: Optimizer) -> dict[str, list[Tensor]]:
        """What this rank holds of the weights that learn, by tower."""
        return parameters_by_tower(optimizer)

    def backward(
        self,
        objective: Objective,
        module: nn.Module,
        batches: Sequence[Batch],
        factors: Mapping[Term, float],
        precision: Precision,
        optimizer: Optimizer,
    ) -> dict[Term, Tensor]:
        """Gradients of a step, exchanged over ranks; returns this rank's sums (see `Objective.backward`)."""
        losses = objective.backward(module, batches, factors, precision, self.ranks)
        self.exchange(objective, optimizer)
        return losses

    def exchange(self, objective: Objective, optimizer: Optimizer) -> None:
        """What is left to exchange of gradients once a step's backward passes are done."""
        if not objective.overlaps:
            self.ranks.average_gradients([p for group in optimizer.param_groups for p in group["params"]])

    def value(self, objective: Objective, model: VLM, batch: Batch) -> dict[Term, tuple[Tensor, float]]:
        """Each term's sum and count on a held-out batch, as the placed `model` answers (see `Objective.value`)."""
        found = objective.value(model, batch)
        if self.sharded:
            give_back(model)
        return found

    @property
    def parts(self) -> Ranks:
        """The processes over which what each holds of the model is added up."""
        return self.ranks

    def agreed(self, stop: bool) -> bool:
        """Whether to tell the other data ranks of a wish to stop: that of any process fed the same rows."""
        return stop

    def update(self, optimizer: Optimizer, precision: Precision, clip: Clip | None) -> Norms:
        """Unscale, clip and move the weights; returns the gradients' norms before clipping."""
        precision.scaler.unscale_(optimizer)
        norms = clip_gradients(optimizer, clip)
        precision.scaler.step(optimizer)
        precision.scaler.update()
        return norms

    @contextmanager
    def at_work(self, home: VLM) -> Iterator[None]:
        """`home` on this rank's device inside the block."""
        if not self.spreads:
            yield
            return
        with moved(home, self.ranks.device):
            yield

    def state(self, model: nn.Module, optimizer: Optimizer, averages: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All tensors of a checkpoint by part and name: "model.<name>", "optimizer.<name>.<kind>", "ema.<name>".

        All ranks must call. Where not `sharded`, only the main rank's answer counts.
        """
        found = {f"model.{name}": tensor.detach() for name, tensor in model.state_dict().items()}
        for name, parameter in model.named_parameters():
            for kind, value in optimizer.state.get(parameter, {}).items():
                found[f"optimizer.{name}.{kind}"] = value
        return found | {f"ema.{name}": value for name, value in averages.items()}

    def take_up(self, folder: Path, model: nn.Module, optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
        """Load weights and optimizer state of the checkpoint `folder`, which any layout may have written."""
        read(folder, {f"model.{name}": tensor for name, tensor in model.state_dict().items()})
        read_optimizer(folder, model, optimizer, groups)

    def load_weights(self, folder: Path, model: nn.Module) -> None:
        """Load the weights alone of the checkpoint `folder` into the placed model; all ranks must call."""
        load_weights(folder, model)

    def averages(self, model: nn.Module, decay: float) -> Ema:
        """An exponential moving average of the placed model's weights that learn."""
        return Ema(model, decay)

    def bring_home(self, away: VLM, home: VLM) -> None:
        """Give `home` the weights of `away`, and the first rank's buffers, on every rank; all ranks must call."""
        self.collect(away, home)
        if self.spreads:
            self.ranks.barrier()  # until it is written by those that keep it

    def collect(self, away: VLM, home: VLM) -> None:
        """`bring_home` as far as this process has a part in it."""
        if self.spreads:
            bring_home(away, home, self.keeps)
        elif self.ranks.world > 1:
            share_buffers(away)
