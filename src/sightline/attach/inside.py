"""A language model inside the model, which is given embeddings where others are given ids: which token stands where.

A prefix of image vectors, or features written over placeholders: the rest of the embeddings is what the token embedding
just gave. So the loss can be compared with the text, though the model around it returns nothing but that loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.open_step import learns
from sightline.attach.recorder import Recorder
from sightline.guard.probes.call import Call, outcome


class Inside:
    """Hears the token embedding and the inner model in measured training steps."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._words: tuple[Tensor, Tensor] | None = None  # the ids last embedded, and their embeddings

    def listen(self, models: Sequence[nn.Module], hook: Callable[[Callable[..., None]], Any]) -> list[Any]:
        """Hear these; the handles that take the hooks away."""
        handles = []
        for model in models:
            find: Any = getattr(model, "get_input_embeddings", None)
            embedding = find() if callable(find) else None
            if isinstance(embedding, nn.Module):
                handles.append(embedding.register_forward_hook(hook(self.embedding_gave)))
                handles.append(model.register_forward_hook(hook(self.model_gave), with_kwargs=True))
        return handles

    @property
    def _wanted(self) -> bool:
        r = self._recorder
        return r.open_step is not None and r.open_step.measured and torch.is_grad_enabled() and not r.muted

    def embedding_gave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook of the token embedding."""
        fits = self._wanted and args and isinstance(args[0], Tensor) and args[0].dim() == 2
        self._words = (args[0], output.detach()) if fits and isinstance(output, Tensor) else None

    def model_gave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Forward hook of the inner model."""
        words, self._words = self._words, None
        given, r = kwargs.get("inputs_embeds"), self._recorder
        if not self._wanted or words is None or not isinstance(given, Tensor) or given.dim() != 3:
            return
        logits, step = outcome(output).logits, r.open_step
        if logits is None or not learns(logits) or logits.dim() != 3 or logits.shape[:2] != given.shape[:2]:
            return
        if (ids := placed(*words, given.detach())) is None or step is None:
            return
        box: list[Tensor | None] = [logits.detach(), ids]
        call, (text, _) = Call(module, args, kwargs), words

        def came(grad: Tensor) -> None:
            if len(logits._backward_hooks or ()) < 2:  # else the model around it returns them, and they are heard there
                r.backward.gradient_came(step, grad, box, call, text)

        logits.register_hook(came)


def placed(ids: Tensor, made: Tensor, given: Tensor) -> Tensor | None:
    """(B, W) the ids (B, T) whose embeddings `made` (B, T, D) stand in `given` (B, W, D); -1 where others do.

    From the first place on, or up to the last one. Nothing is read from the device.
    """
    before = given.shape[1] - made.shape[1]
    if before < 0 or len(given) != len(made) or given.shape[2] != made.shape[2] or made.shape[:2] != ids.shape:
        return None
    found = torch.full(given.shape[:2], -1, dtype=ids.dtype, device=given.device)
    for start in {0, before}:
        part = slice(start, start + made.shape[1])
        same = (given[:, part] == made).all(dim=-1)
        found[:, part] = torch.where(same, ids.to(given.device), found[:, part])
    return found
