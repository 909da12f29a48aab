"""Onlookers: each watches one side of a run through the same few hooks and turns it into evidence. None decides.

An onlooker is a class with `shows`, the kinds of evidence that it makes (it is left out when no check wants any), and
any of the methods of `Onlooker`. What it measures goes through the recorder's mailbox, so that no step waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from sightline.attach.onlookers.bare import Bare
from sightline.attach.onlookers.binary import Binary
from sightline.attach.onlookers.casts import Casts
from sightline.attach.onlookers.collapse import Collapse
from sightline.attach.onlookers.critic import Critic
from sightline.attach.onlookers.cut_off import CutOff
from sightline.attach.onlookers.ends import Ends
from sightline.attach.onlookers.features import Features
from sightline.attach.onlookers.first_alone import FirstAlone
from sightline.attach.onlookers.first_words import FirstWords
from sightline.attach.onlookers.fresh_frozen import FreshFrozen
from sightline.attach.onlookers.graded import Graded
from sightline.attach.onlookers.guesses import Guesses
from sightline.attach.onlookers.held_rows import HeldRows
from sightline.attach.onlookers.hidden import Hidden
from sightline.attach.onlookers.joined import Joined
from sightline.attach.onlookers.kinship import Kinship
from sightline.attach.onlookers.last_batch import LastBatch
from sightline.attach.onlookers.last_place import LastPlace
from sightline.attach.onlookers.left_in_eval import LeftInEval
from sightline.attach.onlookers.left_out import LeftOut
from sightline.attach.onlookers.loss_scale import LossScale
from sightline.attach.onlookers.matches import Matches
from sightline.attach.onlookers.new_rows import NewRows
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.onlookers.outputs import Head, Outputs
from sightline.attach.onlookers.outside import Outside
from sightline.attach.onlookers.own_mode import OwnMode
from sightline.attach.onlookers.own_reference import OwnReference
from sightline.attach.onlookers.pair_scores import PairScores
from sightline.attach.onlookers.pictures import Pictures
from sightline.attach.onlookers.placeholder import Placeholder
from sightline.attach.onlookers.pull import Pull
from sightline.attach.onlookers.redrawn import Redrawn
from sightline.attach.onlookers.renewed import Renewed
from sightline.attach.onlookers.replaced import Replaced
from sightline.attach.onlookers.rounding import Rounding
from sightline.attach.onlookers.row_order import RowOrder
from sightline.attach.onlookers.schedule import Schedules
from sightline.attach.onlookers.shared_rows import SharedRows
from sightline.attach.onlookers.shared_text import SharedText
from sightline.attach.onlookers.standstill import Standstill
from sightline.attach.onlookers.ties import Ties
from sightline.attach.onlookers.turned_mask import TurnedMask
from sightline.attach.onlookers.unsettled import Unsettled
from sightline.guard.evidence import LossSeen
from sightline.guard.probes.call import Call

KINDS: tuple[type[Onlooker], ...] = (
    Schedules,
    Head,
    Binary,
    PairScores,
    Outputs,
    Collapse,
    Pictures,
    Placeholder,
    Joined,
    Pull,
    LossScale,
    Rounding,
    Casts,
    SharedRows,
    HeldRows,
    Redrawn,
    SharedText,
    Ties,
    Standstill,
    Unsettled,
    CutOff,
    FreshFrozen,
    NewRows,
    Hidden,
    Bare,
    Renewed,
    Replaced,
    Outside,
    OwnMode,
    LeftInEval,
    LeftOut,
    LastBatch,
    LastPlace,
    TurnedMask,
    OwnReference,
    Guesses,
    Kinship,
    Matches,
    RowOrder,
    Features,
    Ends,
    FirstWords,
    Critic,
    FirstAlone,
    Graded,
)


class Onlookers:
    """All onlookers of one recorder, which calls these methods for every host alike, and times them."""

    def __init__(self, recording: Recording, wants: Callable[[str], bool]) -> None:
        self.all = [kind(recording) for kind in KINDS if any(wants(shown) for shown in kind.shows)]
        # who does nothing in a phase is not called in it: there are many, and a step may take a millisecond
        self._forward = [one for one in self.all if type(one).forward is not Onlooker.forward]
        self._hearing = [one for one in self._forward if not one.measured_only]
        self._backward = [one for one in self.all if type(one).backward is not Onlooker.backward]
        self._before = [one for one in self.all if type(one).before_step is not Onlooker.before_step]
        self._after = [one for one in self.all if type(one).after_step is not Onlooker.after_step]

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """The host ran the model, to train or to judge it."""
        for onlooker in self._forward if measured else self._hearing:
            onlooker.forward(call, output, training=training, measured=measured)

    def taught(self, ids: Tensor, loss: LossSeen) -> None:
        """A loss taught this of a batch's ids, and the model itself shows no logits."""
        for onlooker in self.all:
            onlooker.taught(ids, loss)

    def backward(self, root: Tensor) -> None:
        """A backward pass is about to begin."""
        for onlooker in self._backward:
            onlooker.backward(root)

    def before_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """An optimizer of the model is about to step."""
        for onlooker in self._before:
            onlooker.before_step(optimizer, measured=measured)

    def after_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """It stepped."""
        for onlooker in self._after:
            onlooker.after_step(optimizer, measured=measured)

    def again(self) -> None:
        """What can learn has changed: a stage of the run begins."""
        for onlooker in self.all:
            onlooker.again()

    def sleeps(self) -> list[Onlooker]:
        """The guard falls asleep: those who must be told of each step all the same."""
        return [onlooker for onlooker in self.all if onlooker.sleeps()]

    def woke(self, steps: int) -> None:
        """The guard slept through so many steps."""
        for onlooker in self.all:
            onlooker.woke(steps)

    def planned(self, steps: int) -> None:
        """The host says how many optimizer steps it will take."""
        for onlooker in self.all:
            onlooker.planned(steps)

    def autocast(self, device: str, dtype: str) -> None:
        """The host says that it runs the model under autocast for `device` to `dtype`."""
        for onlooker in self.all:
            onlooker.autocast(device, dtype)

    def released(self) -> None:
        """The last step was taken."""
        for onlooker in self.all:
            onlooker.released()

    def close(self, *, broken: bool) -> None:
        """The run is over, `broken` by an error or not."""
        for onlooker in self.all:
            onlooker.close(broken=broken)
