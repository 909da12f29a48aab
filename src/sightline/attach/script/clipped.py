"""When a script clips gradients: while a step is still to use them, or where there are none, or none any more."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from sightline.attach.hook import Hook
from sightline.attach.script.watch import Models
from sightline.attach.torch_loop import Attachment
from sightline.guard.evidence import ClippedSeen

CLIPPERS = {"clip_grad_norm_": "max_norm", "clip_grad_value_": "clip_value"}
CALLS = 12  # that are judged
LIMIT = 1e4  # and above: nobody means to clip, but to be told the norm
LARGEST = 2**16  # elements of the gradient that is kept until the next step


class Clips:
    """All of a script's, of which the first few are judged. `fault`: told of errors of our own."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self._models = models
        self._seen = ClippedSeen(0)
        self._used: dict[int, tuple[Tensor, Tensor, int]] = {}  # of an optimizer: parameter, gradient, its version
        told = functools.partial(_told, fault)
        self._came, self._went = Hook(self._clips, told), Hook(self._clipped, told)
        self._stepped, self._norms = Hook(self._steps, told), list[Tensor]()
        self._handle: Any = None

    def install(self) -> None:
        """Hear them from now on."""
        self._handle = register_optimizer_step_post_hook(self._stepped)
        for name, limit in CLIPPERS.items():
            clip = self._heard(getattr(clip_grad, name), limit)
            for home in (clip_grad, torch.nn.utils):
                setattr(home, name, clip)

    def _heard(self, clip: Callable[..., Any], limit: str) -> Callable[..., Any]:
        @functools.wraps(clip)
        def clipping(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            if self._handle is None:
                return clip(parameters, *args, **kwargs)
            if isinstance(parameters, Iterable) and not isinstance(parameters, Tensor):
                parameters = list(parameters)  # a generator is read once
            most = args[0] if args else kwargs.get(limit)
            self._came(parameters, most)
            found = clip(parameters, *args, **kwargs)
            self._went(parameters, most, found)
            return found

        return clipping

    def _clips(self, parameters: Tensor | list[Tensor], limit: Any) -> None:
        given = [parameters] if isinstance(parameters, Tensor) else parameters
        if not given or not isinstance(limit, int | float) or limit >= LIMIT:
            return
        seen, held = self._seen, {id(p) for p in given}
        kept = [(p, grad, version) for p, grad, version in self._used.values() if id(p) in held]
        late = bool(kept) and all(p.grad is grad and grad._version == version for p, grad, version in kept)
        early = all(p.grad is None for p in given)
        self._seen = seen = replace(seen, calls=seen.calls + 1, late=seen.late + late, early=seen.early + early)

    def _clipped(self, parameters: Tensor | list[Tensor], limit: Any, norm: Any) -> None:
        """After it did. `norm`: what it found, if it looks for a norm."""
        if type(norm) is Tensor and norm.dim() == 0 and isinstance(limit, int | float) and 0 < limit < LIMIT:
            self._norms.append(norm.detach() / limit)
        if self._seen.calls < CALLS:
            return
        held = {id(p) for p in ([parameters] if isinstance(parameters, Tensor) else parameters)}
        norms = torch.stack([one.to(norm.device) for one in self._norms]) if self._norms else torch.zeros(1)
        self._close()
        for one in self._models.live:
            if one.attachment is not None and any(id(p) in held for p in one.recorder.model.parameters()):
                seen = replace(self._seen, step=one.recorder.step)
                one.recorder.mailbox.post([norms], functools.partial(_show, one.attachment, seen))

    def _steps(self, optimizer: Optimizer, *_: Any) -> None:
        """Keep the smallest gradient that was used, so that it is known when it comes again."""
        held = [p for group in optimizer.param_groups for p in group["params"] if type(p.grad) is Tensor]
        if held and (least := min(held, key=Tensor.numel)).numel() <= LARGEST:
            self._used[id(optimizer)] = least, least.grad, least.grad._version
        else:
            self._used.pop(id(optimizer), None)

    def _close(self) -> None:
        self._handle.remove()
        self._handle = None
        self._used.clear()
        self._norms.clear()


def _show(attachment: Attachment, seen: ClippedSeen, norms: list[Tensor]) -> None:
    attachment.show(replace(seen, cut=float(norms[0].median())))


def _told(fault: Callable[[str], None], error: Exception) -> None:
    fault(f"clipping: {type(error).__name__}: {error}")
