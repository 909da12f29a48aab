"""The door for Lightning: a callback of its Trainer, whichever of its two names it is imported by.

    from sightline.attach.lightning import GuardCallback

    trainer = lightning.Trainer(callbacks=[GuardCallback(tokenizer=tokenizer)])
    trainer.fit(module, loader)

Lightning calls `training_step` and not the module, so the calls of the networks inside it are the forward passes; the
loss is the one that it is about to differentiate, and an update is looked at from inside the optimizer's closure.
"""

from __future__ import annotations

import math
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.calls import Calls
from sightline.attach.data_set import data_seen
from sightline.attach.hook import Hook, listening
from sightline.attach.open_step import Loss
from sightline.attach.options import checked
from sightline.attach.recorder import Recorder
from sightline.attach.torch_loop import Attachment, attach
from sightline.errors import UserError
from sightline.guard.check import Finding
from sightline.guard.probes.call import Call, outcome

PACKAGES = ("lightning.pytorch", "pytorch_lightning")  # one library under two names, with a Callback class each
REDUCED = {"16-mixed": "float16", "bf16-mixed": "bfloat16"}
BLIND = {  # evidence, or a check's code -> why Lightning does not show it
    "I3": "the trainer sets the epoch of its samplers itself",
    "L10": "models are fetched before the trainer is made; `sightline run` tells what the hub refused",
}
LARGEST = 2**30  # bytes of a checkpoint that is read back: seconds from a disk


def _bases() -> tuple[type, ...]:
    """The Callback of each name that the host has imported; of the first that is installed, when it has none yet."""
    import importlib

    if found := [sys.modules[name] for name in PACKAGES if name in sys.modules]:
        return tuple(package.Callback for package in found)
    for name in PACKAGES:
        try:
            return (importlib.import_module(name).Callback,)
        except ModuleNotFoundError:
            continue
    raise UserError("Lightning is not installed", where="sightline.attach.lightning", fix="pip install lightning")


class Stepping(Calls):
    """Those of a module in `Trainer.fit`, whose evaluations Lightning declares: in a step without gradients is none."""

    def entered(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hook before a call. A strategy runs training_step as the module's forward."""
        if "forward" not in module.__dict__:
            super().entered(module, args, kwargs)

    def judged(self, call: Call, output: Any) -> None:
        """A teacher's answer, features, or a rollout; else an evaluation."""
        recorder = self.recorder
        if recorder.declared or not self.within:
            recorder.judged(call, output)
            return
        with recorder.silence():
            recorder.probing.language.generated(call, outcome(output), recorder.step, recorder.offer)


class Judging(Calls):
    """Those that come after the fit: what learns is no longer this module's business."""

    def entered(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hook before a call."""
        if self.training:
            return
        super().entered(module, args, kwargs)
        if self.depth == 1:
            self.recorder.before_forward(module, args, kwargs)


class GuardCallback(*_bases()):  # type: ignore[misc]
    """Watches `Trainer.fit`. Afterwards, `findings` and `records()` hold the verdicts.

    Args:
        options: what `sightline.attach` takes beside the model and its optimizer, e.g. ``tokenizer``, ``towers``,
            ``allow``, ``raise_on="error"``, ``on_finding=None``.

    Raises:
        UserError: an option is not one of `sightline.attach`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.guard: Attachment | None = None
        self._options, self._saved, self._read_back = checked(options), False, False
        self._handles: list[Any] = []
        self._evaluation: AbstractContextManager[None] | None = None
        self._known: dict[str, Any] = {}
        self._logged = 0

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found so far and is not allowed; () before training began."""
        return self.guard.findings if self.guard else ()

    def records(self) -> list[dict[str, object]]:
        """Every check's verdict, as `findings.jsonl` holds it; [] before training began."""
        return self.guard.records() if self.guard else []

    # --- what Lightning calls: training --------------------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach, now that strategy and optimizers are set up."""
        self.close()
        loader = trainer.train_dataloader
        facts = {"dataloader": loader, "accumulation": trainer.accumulate_grad_batches, **self._options}
        optimizer = trainer.optimizers[0] if trainer.optimizers else None
        self.guard = attach(pl_module, optimizer, heard=False, **facts)
        self.guard.replicas.wrapped_in(trainer.strategy.model)
        if 0 < (planned := trainer.estimated_stepping_batches) < math.inf:
            self.guard.planned(int(planned))
        if (dtype := REDUCED.get(str(trainer.precision))) is not None:  # off again when the loss is differentiated
            self.guard.autocast(trainer.strategy.root_device.type, dtype)
        self._calls: Calls = Stepping(self.guard._recorder)
        self.listen(pl_module)
        tokenizer = facts.get("tokenizer")
        if (seen := data_seen(getattr(loader, "dataset", None), tokenizer=tokenizer)) is not None:
            self.guard.show(seen)
        self._show_resume(trainer)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """A step begins with its first batch. What was saved since the last one can be read back: nothing moved."""
        if self.guard is None:
            return
        self._read_saved(trainer)
        self._calls.taken()
        self._calls.within = True
        self._begin(self.guard._recorder)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """The forward pass is over, and this is its loss (over the number of batches that are accumulated)."""
        if self.guard is None:
            return
        recorder = self.guard._recorder
        self._begin(recorder)
        if recorder.asleep:
            recorder.counted()
        else:
            self._calls.trained()
        if (step := recorder.open_step) is not None:
            times = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
            step.hear(Loss.of(loss), told=True, times=times)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """All gradients are there, and the update comes next. A loss scale may skip it, and steps without a closure."""
        if self.guard is not None and getattr(trainer.precision_plugin, "scaler", None) is None:
            self.guard._recorder.gradients_ready(optimizer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """What the module logged, as often as the Trainer hands it to its loggers."""
        if self.guard is not None:
            self._calls.within = False
        step, every = trainer.global_step, max(1, trainer.log_every_n_steps)
        if self.guard is not None and step % every == 0 and step != self._logged:
            self._logged = step
            self._log(trainer, "train")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Judge the last evidence."""
        if self.guard is not None:
            self._log(trainer, "train")
            self._read_saved(trainer)
        self.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The run broke off: the findings stay, and nothing is concluded from where it ended."""
        if self.guard is not None:
            self.guard.__exit__(type(exception), exception, None)
        self.close()

    # --- what Lightning calls: evaluation and checkpoints --------------------------------------------------------

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """All that follows is evaluation."""
        if self.guard is not None:
            self._known = dict(trainer.callback_metrics)
            self._evaluation = self.guard.evaluating()
            self._evaluation.__enter__()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """What was logged anew is about the evaluation."""
        if self._evaluation is not None:
            self._evaluation.__exit__(None, None, None)
            self._evaluation = None
            self._log(trainer, "evaluation")

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Mapping[str, Any]) -> None:
        """A checkpoint is about to be written."""
        self._saved = True

    def listen(self, module: nn.Module) -> None:
        """Hear its networks' calls, until `rest`."""
        hooks = Hook(self._calls.entered), Hook(self._calls.left)
        self._handles = [h for part in (module, *_networks(module)) for h in listening(part, *hooks)]

    def rest(self) -> None:
        """Hear nothing, and stay attached."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def listen_on(self) -> None:
        """The fit is over: hear what its networks judge, and no more."""
        assert self.guard is not None
        self.rest()
        self._calls = Judging(self.guard._recorder)
        self.listen(self.guard.model)

    @property
    def fitting(self) -> bool:
        """Whether a fit is under way."""
        return isinstance(getattr(self, "_calls", None), Stepping)

    def close(self) -> None:
        """Stop watching. A second call does nothing."""
        self.rest()
        if self.guard is not None:
            self.guard.close()

    # --- inside --------------------------------------------------------------------------------------------------

    def _begin(self, recorder: Recorder) -> None:
        if recorder.open_step is None and torch.is_grad_enabled():
            recorder.begin()

    def _log(self, trainer: Any, phase: Any) -> None:
        """Offer the numbers that are new or were written anew."""
        assert self.guard is not None
        metrics = dict(trainer.callback_metrics)
        new = {name: value for name, value in metrics.items() if self._known.get(name) is not value}
        self._known = metrics
        self.guard.log(new, phase=phase)

    def _show_resume(self, trainer: Any) -> None:
        """Training goes on from a checkpoint: is everything as it was saved there?"""
        path = Path(str(trainer.ckpt_path or ""))
        if self.guard is None or not trainer.global_step or not path.is_file() or path.stat().st_size > LARGEST:
            return
        with suppress(pickle.UnpicklingError):  # it holds objects that are not safe to load
            self.guard.resumed(path, load=_content)

    def _read_saved(self, trainer: Any) -> None:
        """Read the first checkpoint back, if that takes seconds."""
        if not self._saved or self._read_back or self.guard is None or not trainer.is_global_zero:
            return
        named = ("last_model_path", "best_model_path")
        paths = (getattr(callback, name, "") for callback in trainer.checkpoint_callbacks for name in named)
        files = [Path(path) for path in paths if path and Path(path).is_file()]
        self._saved = False
        if not files:
            return
        newest = max(files, key=lambda file: file.stat().st_mtime_ns)
        if newest.stat().st_size > LARGEST:
            self.guard.watch.absent("RoundTripSeen", "a checkpoint was saved, and its file is too large to read back")
            return
        self._read_back = True
        try:
            state = _content(newest)["state_dict"]
        except pickle.UnpicklingError:
            self.guard.watch.absent("RoundTripSeen", "the checkpoint holds objects that are not safe to load")
            return
        if _averaged(state, self.guard.model.state_dict()):
            self.guard.watch.absent("RoundTripSeen", "a hook saves other weights than the model's: an average of them")
            return
        self.guard.checkpoint(newest, load=lambda _: state)


def _content(path: Path) -> Mapping[str, Any]:
    """A checkpoint; where an average of the weights is saved in their place, Lightning keeps them beside it."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    return {**content, "state_dict": content.get("current_model_state", content["state_dict"])}


def _averaged(saved: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> bool:
    """Whether other values were saved, whole and in the same format: Lightning itself saves what is live."""
    if saved.keys() != live.keys() or any(saved[name].dtype != live[name].dtype for name in live):
        return False
    return any(not torch.equal(saved[name], live[name].detach().cpu()) for name in live)


def _networks(module: nn.Module) -> Iterator[nn.Module]:
    """The parts that a module may call by themselves: its children that learn, and those of mere containers."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _networks(child)
        elif any(True for _ in child.parameters()):
            yield child
