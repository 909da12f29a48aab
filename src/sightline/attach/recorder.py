"""Turns what torch's public hooks see into evidence: forward passes, backward passes and optimizer steps.

The hot loop never waits for the device: what is measured goes through the mailbox and becomes evidence when it has
arrived. Every step is counted and its loss kept; parameters, batches and gradients are read on sampled steps only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.beside import Beside
from sightline.attach.gradient import loss_seen, read_gradient
from sightline.attach.mailbox import Mailbox
from sightline.attach.meter import Before, Meter, rates_of
from sightline.attach.onlookers import Onlookers
from sightline.attach.open_step import OpenStep, learns
from sightline.attach.pace import Pace
from sightline.attach.probing import Probing
from sightline.attach.read import batch_seen, decoder, image_features, token_tensors
from sightline.attach.setup import Facts, image_token_of, read_setup, same_setup
from sightline.attach.signals import Signals
from sightline.attach.towers import Towers
from sightline.guard.evidence import Evidence, Phase, Progress, Setup, StepSeen
from sightline.guard.probes.call import Call, differentiable, outcome
from sightline.guard.probes.non_finite import first_non_finite

FIRST_PROGRESS = 8  # forwards; then 16, 32, ...


class Recorder:
    """Records one model. `offer` takes evidence; `budget` is the share of step time that measuring may cost."""

    def __init__(
        self,
        model: nn.Module,
        towers: Towers,
        facts: Facts,
        probing: Probing,
        offer: Callable[[Evidence], Any],
        *,
        optimizer: Optimizer | None,
        budget: float,
    ) -> None:
        self.model, self.towers, self.facts, self.probing, self.offer = model, towers, facts, probing, offer
        self.optimizers = [optimizer] if optimizer is not None else []
        self.mailbox, self.meter, self._pace = Mailbox(), Meter(model, dict(towers.of)), Pace(budget)
        self.step, self.forwards, self.backwards = 0, 0, 0
        self.muted, self.declared = False, False
        self.setup: Setup | None = None
        self.last_call: Call | None = None
        self._open: OpenStep | None = None
        self._stepped: list[tuple[OpenStep, Callable[[list[Tensor]], None]]] = []
        self._before: Before | None = None
        self.signals = Signals(lambda: not self.muted and self._open is not None and self._open.measured)
        self._evaluated = False
        self._grad_norms: dict[int, tuple[int, float]] = {}
        self.beside = Beside()
        self.onlookers = Onlookers(self, probing.wants)

    # --- forward -------------------------------------------------------------------------------------------------

    def before_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hook before the model's forward pass."""
        if self.muted:
            return
        with self._pace.timed():
            self.signals.clear()
            if torch.is_grad_enabled() and not self.declared and self._open is None:
                self.begin()
            self.mailbox.open()

    def after_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Hook after the model's forward pass; also after one that raised, with no output."""
        if self.muted:
            return
        with self._pace.timed():
            call = Call(self.model, args, kwargs)
            if torch.is_grad_enabled() and not self.declared:
                self.trained(call, output)
            else:
                self.judged(call, output)
            self.mailbox.open()

    def begin(self) -> None:
        """The first training forward of a step."""
        self.beside.begins()
        self.flush()
        self.end_evaluation()
        self._open = OpenStep(self._pace.measures(self.step))
        self._evaluated = False
        if self._open.measured:
            self.show_setup()

    def show_setup(self) -> None:
        """Offer the set-up, when it is new."""
        setup = read_setup(self.model, self.towers, self.optimizers, self.facts, self.step)
        if self.setup is None or not same_setup(setup, self.setup):
            self.setup = setup
            self.offer(setup)

    def trained(self, call: Call, output: Any) -> None:
        """A training forward of the model gave `output`."""
        self.forwards += 1
        self.last_call = call
        step = self._open
        if self.forwards >= FIRST_PROGRESS and self.forwards & (self.forwards - 1) == 0:
            self.offer(self.progress(closed=False))
        if step is None:
            return
        if step.measured:
            self.show_batch(call, "train")
            if shown := self.signals.evidence(self.step):
                tensors, made = shown
                self.mailbox.post(tensors, lambda values: self.offer(made(values)))
        with self.silence():
            self.probing.on_training(call, self.step, self.offer)
        step.count_items(call, self.mailbox)
        self._listen(step, call, output)
        self.beside.trained(call, output)
        self.onlookers.forward(call, output, training=True, measured=step.measured)

    def _listen(self, step: OpenStep, call: Call, output: Any) -> None:
        """Hook the outputs, so that the backward pass tells when it begins and what the loss supervised."""
        result, began = outcome(output), [False]
        if result.loss is not None and learns(result.loss):
            value = result.loss.detach().mean()
            result.loss.register_hook(lambda _: self._backward_began(step, began, value))
        for tensor in differentiable(output):  # the loss may be one that the host makes of any of them
            if tensor is not result.loss:
                tensor.register_hook(lambda _: self._backward_began(step, began, None))
        if step.measured and result.logits is not None and result.logits.dim() > 1 and learns(result.logits):
            box = [result.logits.detach(), call.tensor("input_ids")]
            result.logits.register_hook(lambda grad: self._gradient_came(step, grad, box))

    def loss_made(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook of a loss module: the loss that the model itself does not return."""
        if self.muted or self._open is None or not isinstance(output, Tensor) or not learns(output):
            return
        step, value = self._open, output.detach().mean()
        output.register_hook(lambda _: self._loss_came(step, value))

    def show_batch(self, call: Call, phase: Phase) -> None:
        """Offer what the model was given, as soon as it is on the CPU."""
        tensors = token_tensors(call)
        made = None if phase == "preflight" else self.signals.features  # a batch that is only shown made none
        step, features = self.step, image_features(call, made)
        image = image_token_of(self.model, self.facts)
        decode = self.facts.decode or decoder(self.facts.tokenizer)

        def arrived(values: list[Tensor]) -> None:
            seen = dict(zip(tensors, values, strict=True))
            self.offer(batch_seen(seen, call, phase, step, image, features, decode))

        self.mailbox.post(list(tensors.values()), arrived)

    # --- backward ------------------------------------------------------------------------------------------------

    def _backward_began(self, step: OpenStep, began: list[bool], loss: Tensor | None) -> None:
        """Tensor hook: runs before any gradient of this backward pass reaches a parameter."""
        if self.muted or began[0]:
            return
        began[0] = True
        with self._pace.timed():
            self.backwards += 1
            if step.measured:
                self.mailbox.post([self.meter.grad_norms()], lambda v: step.meet(v[0].tolist()))
            if loss is not None:
                self._loss_came(step, loss)

    def _loss_came(self, step: OpenStep, loss: Tensor) -> None:
        self.mailbox.post([loss], lambda v: step.losses.append(float(v[0])))

    def _gradient_came(self, step: OpenStep, grad: Tensor, box: list[Tensor | None]) -> None:
        if self.muted or not box:
            return
        with self._pace.timed():
            logits, ids = box
            box.clear()
            micro, number = len(step.micro), self.step
            assert logits is not None
            tensors = [*read_gradient(logits, grad), *([] if ids is None else [ids])]
            kind = logits.shape[-1], str(logits.dtype).removeprefix("torch.")

            def arrived(values: list[Tensor]) -> None:
                step.micro.append(replace(loss_seen(number, micro, values, *kind), micro=len(step.micro)))
                self.offer(step.micro[-1])

            self.mailbox.post(tensors, arrived)

    # --- the optimizer -------------------------------------------------------------------------------------------

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hook before any optimizer's step."""
        if self.muted or not self._knows(optimizer):
            return
        with self._pace.timed():
            self.mailbox.open()
            step = self._open or (self._stepped[-1][0] if self._stepped else None)
            if step and step.non_finite is None and any(not math.isfinite(loss) for loss in step.losses):
                step.non_finite = self._name_non_finite()
            if not any(callable(value) for value in (*args[1:], *kwargs.values())):  # a closure runs inside the step
                self._look(optimizer, step)
            self.beside.stepping()

    def gradients_ready(self, optimizer: Optimizer) -> None:
        """A host's word from inside an optimizer's closure: the backward pass is over, the update comes next."""
        if not self.muted and self._knows(optimizer):
            with self._pace.timed():
                self._look(optimizer, self._open)

    def _look(self, optimizer: Optimizer, step: OpenStep | None) -> None:
        self._before = self.meter.before() if step and step.measured else None
        self.onlookers.before_step(optimizer, measured=self._before is not None)

    def after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hook after any optimizer's step."""
        if self.muted or not self._knows(optimizer):
            return
        with self._pace.timed():
            second = self._open is None and bool(self._stepped)  # another optimizer, after the same backward pass
            step = self._stepped[-1][0] if second else (self._open or OpenStep(measured=False))
            self.step += not second
            self._close_step(step, optimizer)
            self._open, self._before = None, None
            self.onlookers.after_step(optimizer, measured=step.measured)
        if not second:
            self._pace.stepped(self.step, measured=step.measured)
            self.beside.stepped()

    def _close_step(self, step: OpenStep, optimizer: Optimizer) -> None:
        before, number = self._before, self.step
        rates = rates_of(optimizer, {id(p): name for name, p in self.meter.named}) if before else {}
        table: list[Tensor] = []
        if before:
            self.mailbox.post([self.meter.after(before)], table.extend)

        def build(_: list[Tensor]) -> None:
            parameters = self.meter.seen(table[0], before, rates) if before and table else ()
            held = [place for place, (name, _) in enumerate(self.meter.named) if name in rates]
            known, norm = self._grad_norms.get(id(optimizer), (-1, 0.0))
            carried = math.hypot(*(step.carried[i] for i in held)) if step.carried and held else None
            seen = StepSeen(
                step=number,
                loss=step.loss,
                tokens=step.tokens,
                micro=tuple(step.micro),
                carried=carried,
                previous_grad_norm=norm if known == number - 1 else None,
                parameters=parameters,
                first_non_finite=step.non_finite,
            )
            if parameters:
                norms = (p.grad_norm for p in parameters if p.optimized and p.grad_norm is not None)
                self._grad_norms[id(optimizer)] = (number, math.hypot(*norms))
            self.offer(seen)

        self._stepped.append((step, build))

    def flush(self) -> None:
        """Steps that are over become evidence, once their measurements have arrived."""
        for _, build in self._stepped:
            self.mailbox.post([], build)
        self._stepped = []

    def told(self, loss: float | Tensor | None, tokens: int | None) -> None:
        """The host's own word on the step just taken (or, before the optimizer stepped, the one being made)."""
        step = self._stepped[-1][0] if self._stepped else self._open
        if step is None:
            return
        step.tokens = tokens if tokens is not None else step.tokens
        if loss is not None:
            step.summed = False
            step.losses.clear()
            value = torch.as_tensor(loss, dtype=torch.float32)
            self.mailbox.post([value], lambda v: step.losses.__setitem__(slice(None), [float(v[0])]))

    def progress(self, *, closed: bool) -> Progress:
        """How far the run got."""
        return Progress(self.forwards, self.backwards, self.step, closed, self.facts.accumulation)

    def _knows(self, optimizer: Optimizer) -> bool:
        if any(optimizer is known for known in self.optimizers):
            return True
        ours = {id(p) for _, p in self.meter.named}
        if not any(id(p) in ours for group in optimizer.param_groups for p in group["params"]):
            return False
        self.optimizers.append(optimizer)
        return True

    def _name_non_finite(self) -> str | None:
        if self.last_call is None or not self.last_call.repeatable:
            return None
        with self.silence():
            return first_non_finite(self.last_call) or "the loss function"

    # --- evaluation ----------------------------------------------------------------------------------------------

    def judged(self, call: Call, output: Any = None) -> None:
        """An evaluation forward. The first after training steps stands for the others, but for scores and padding."""
        with self.silence():
            self.probing.language.judged(call, outcome(output), self.step, self.mailbox, self.offer)
        self.onlookers.forward(call, output, training=False, measured=True)
        if self._evaluated:
            return
        self._evaluated = True
        self.show_batch(call, "evaluation")
        lively = tuple(name for tower in self.towers.modules for name in self.towers.lively(tower))
        with self.silence():
            self.probing.on_evaluation(call, self.step, lively, self.declared, self.offer)

    def end_evaluation(self) -> None:
        """No more batches belong to the evaluation that was running, if any."""
        self.probing.language.round_over(self.step, self.mailbox, self.offer)

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Our own forward passes are not the host's."""
        self.muted, was = True, self.muted
        try:
            yield
        finally:
            self.muted = was
