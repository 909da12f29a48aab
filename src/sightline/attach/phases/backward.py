"""Backward passes, heard through hooks on tensors: that one began, the loss it began from, what the loss supervised."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.gradient import class_dim, loss_seen, read_gradient
from sightline.attach.open_step import Loss, OpenStep, learns
from sightline.attach.phases.reach import Reach
from sightline.attach.phases.state import State
from sightline.attach.standing import Standing
from sightline.guard.evidence import LossSeen
from sightline.guard.evidence.other_words import shown_words
from sightline.guard.probes.call import Call, differentiable, outcome
from sightline.guard.probes.reads import reads, reads_alone

ASKED = -1  # in place of an output's: a pass that gave gradients to somebody who goes on to compute with them
OWN = 0.9  # of the targets are these very ids: so they may be labels, that the model does not read where they stand


class Backward:
    """Hooks the outputs of a training forward, so that the backward pass tells of itself.

    `came`: how many gradients of logits have come.
    """

    def __init__(self, state: State, standing: Standing, reach: Reach) -> None:
        self._state, self._standing, self._reach, self.came = state, standing, reach, 0
        self._reads: bool | None = None  # the model reads each token at its place and none ahead, once it was asked
        self._alone: bool | None = None  # and these ids alone

    def listen(self, step: OpenStep, call: Call, output: Any) -> None:
        """A training forward gave `output`: tell when its backward pass begins, and what the loss supervised."""
        result, begun = outcome(output), set[int]()
        if result.loss is not None and learns(result.loss):
            value = Loss.of(result.loss)
            result.loss.register_hook(lambda _: self.began(step, begun, value))
            step.begun.append(begun)
            if not step.measured:
                return
        outputs = differentiable(output)
        if outputs and not (step.begun and step.begun[-1] is begun):
            step.begun.append(begun)
        for place, tensor in enumerate(outputs, 1):  # the host may make its loss of any of them
            if tensor is not result.loss:
                tensor.register_hook(lambda _, place=place: self.began(step, begun, None, place))
        if step.measured and result.logits is not None and result.logits.dim() > 1 and learns(result.logits):
            box = [result.logits.detach(), call.ids_of(result.logits.shape[:-1])]
            result.logits.register_hook(lambda grad: self.gradient_came(step, grad, box, call))

    def loss_made(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook of a loss module: the loss that the model itself does not return."""
        s = self._state
        if s.open_step is None or s.muted or not isinstance(output, Tensor) or not learns(output):
            return
        with s.pace:
            step, value = s.open_step, Loss.of(output)
            output.register_hook(lambda _: self.loss_came(step, value))

    def began(self, step: OpenStep, begun: set[int], loss: Loss | None, place: int = 0) -> None:
        """Tensor hook: runs before any gradient of this backward pass reaches a parameter.

        `begun`: places of the outputs that the pass came through. One that it comes through again is of another pass.
        A pass that makes a graph of its own is of a penalty on gradients: none of them reaches a parameter in it.
        """
        s = self._state
        if s.muted:
            return
        first, of_gradients = not begun, torch.is_grad_enabled()
        if not of_gradients and not self._reach.counts(step):
            return
        met = not of_gradients and (place in begun or begun <= {ASKED})
        if met:
            begun.clear()
        begun.add(ASKED if of_gradients else place)
        if not first and not met:
            return
        with s.pace:
            s.backwards += first
            step.unheard = not met
            if step.measured and met and step.anew(torch._C._current_graph_task_id()):
                over, touched = step.handed_over, self._standing.touched(s.step, still=step.loose)
                step.passes += 1
                s.mailbox.post([s.meter.grad_norms()], lambda v: step.meet(v[0].tolist(), touched, handed_over=over))
            if loss is not None and first:
                self.loss_came(step, loss)

    def loss_came(self, step: OpenStep, loss: Loss) -> None:
        """A backward pass began from this loss of `step`."""
        if self._reach.counts(step):
            step.hear(loss)

    def gradient_came(
        self,
        step: OpenStep,
        grad: Tensor,
        box: list[Tensor | None],
        call: Call | None = None,
        text: Tensor | None = None,
    ) -> None:
        """Tensor hook: the gradient of the loss with respect to logits. `box`: the logits, and the ids they are of.

        `text`: the ids that stand among these, where the logits are not the model's own output.
        """
        s = self._state
        if s.muted or not box or not self._reach.counts(step):
            return
        with s.pace:
            logits, ids = box
            box.clear()
            self.came += 1
            micro, number = len(step.micro), s.step
            assert logits is not None
            tensors = [*read_gradient(logits, grad), *(one for one in (ids, text) if one is not None)]
            kind = logits.shape[class_dim(logits)], str(logits.dtype).removeprefix("torch.")

            def arrived(values: list[Tensor]) -> None:
                seen = loss_seen(number, micro, values[:3] if ids is not None else values[:2], *kind)
                if text is not None:
                    s.onlookers.taught(values[-1], seen)
                if call and ids is not None and not self._of(call, ids, seen):
                    seen = replace(seen, input_ids=None, targets=None)
                step.micro.append(replace(seen, micro=len(step.micro)))
                s.offer(step.micro[-1])

            s.mailbox.post(tensors, arrived)

    def _of(self, call: Call, ids: Tensor, seen: LossSeen) -> bool:
        """Whether these ids are those that the loss is of: the model is asked where they look like its targets."""
        if (seen.agreement(0) or 0.0) > OWN:
            return self._read(call, ids)
        return shown_words(seen) is None or self._lone(call, ids)

    def _read(self, call: Call, ids: Tensor) -> bool:
        """Whether the model reads these ids where they stand, and none ahead: what it is trained on is then its input.

        A decoder may move its labels on by one place before it reads them, and who corrects a text looks ahead.
        """
        if self._reads is None:
            with self._state.silence():
                found = reads(call, ids)
            self._reads = call.surely_read(ids) if found is None else found.own and not found.ahead
        return self._reads

    def _lone(self, call: Call, ids: Tensor) -> bool:
        """Whether the model reads these ids and no others: they are no encoder's, beside which a decoder is trained."""
        if self._alone is None:
            with self._state.silence():
                self._alone = bool(reads_alone(call, ids))
        return self._alone
