"""Does the reference stay where it was, and is it a model of its own? One batch is shown to it early and late."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sightline.guard.evidence import ReferenceSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.restore import untouched

GIVEN = ("input_ids", "attention_mask")  # of the policy's keywords, what every causal language model takes


class Reference:
    """Keeps the first batch of token ids and what the reference said of it."""

    def __init__(self, policy: nn.Module, reference: nn.Module, *, synced: bool) -> None:
        self._policy, self._model, self._synced = policy, reference, synced
        self._given: Call | None = None
        self._first: Tensor | None = None
        self._since, self._noise = 0, 0.0

    def look(self, call: Call, step: int) -> ReferenceSeen | None:
        """The evidence at `step`; `call` gives the batch at the first look. None where it holds no token ids."""
        if self._given is None:
            kwargs = {name: _own(value) for name, value in call.kwargs.items() if name in GIVEN}
            given = Call(self._model, tuple(_own(argument) for argument in call.args), kwargs)
            if given.tensor("input_ids") is None or not given.repeatable:
                return None
            if not _takes(given):
                return self._seen(step, None)
            self._given = given
            self._since = step
            if (first := self._said()) is not None and (again := self._said()) is not None:
                self._first, self._noise = first, float((first - again).abs().max())
            return self._seen(step, None)
        now = self._said()
        gap = None if now is None or self._first is None else float((now - self._first).abs().max())
        return self._seen(step, gap)

    def _seen(self, step: int, gap: float | None) -> ReferenceSeen:
        return ReferenceSeen(step, shared(self._policy, self._model), self._since, gap, self._noise, self._synced)

    def _said(self) -> Tensor | None:
        """(B, T - 1) float32 log probability of each token but the first."""
        ids = self._given.tensor("input_ids") if self._given is not None else None
        if self._given is None or ids is None or ids.dim() != 2 or ids.shape[1] < 2:
            return None
        with untouched(self._model), torch.no_grad():
            self._model.eval()
            logits = self._given.run().logits
        if logits is None or logits.shape[:2] != ids.shape:
            return None
        spoken = logits[:, :-1].float().log_softmax(dim=-1)
        return spoken.gather(-1, ids[:, 1:, None]).squeeze(-1)


class WithoutAdapters(Reference):
    """The policy with its adapters switched off, as PEFT does it: what learns beside them moves this reference, too."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy, policy, synced=False)

    def _seen(self, step: int, gap: float | None) -> ReferenceSeen:
        return ReferenceSeen(step, 0, self._since, gap, self._noise, by_adapter=True)

    def _said(self) -> Tensor | None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        model: Any = self._model
        if not any(isinstance(module, BaseTunerLayer) for module in model.modules()):
            return None  # merged: the base is no longer the reference
        with untouched(model), model.disable_adapter():
            return super()._said()


def _takes(call: Call) -> bool:
    """Whether the reference may be called so: the policy may stand inside the module that is watched."""
    try:
        inspect.signature(call.model.forward).bind(*call.args, **call.kwargs)
    except (TypeError, ValueError):
        return False
    return True


def _own(value: Any) -> Any:
    """A copy that no host writes into."""
    if isinstance(value, Mapping):
        return {name: _own(part) for name, part in value.items()}
    return value.clone() if isinstance(value, Tensor) else value


def shared(policy: nn.Module, reference: nn.Module) -> int:
    """Elements of the policy's trainable parameters that live in the reference's memory."""
    places = {p.data_ptr() for p in reference.parameters() if p.numel()}
    return sum(p.numel() for p in policy.parameters() if p.requires_grad and p.numel() and p.data_ptr() in places)
