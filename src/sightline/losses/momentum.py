"""Momentum distillation: a slow copy of the student gives soft targets (ALBEF, arXiv 2107.07651, section 3.3)."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sightline.errors import UserError
from sightline.losses.similarity import similarity


def slow_copy(student: nn.Module) -> nn.Module:
    """A copy of `student` that has no gradients and stays in evaluation mode: its targets are free of dropout.

    ALBEF's released code leaves dropout on in its momentum model; the paper does not say.
    """
    teacher = copy.deepcopy(student).requires_grad_(False)
    for parameter in teacher.parameters():
        parameter.grad = None
    return teacher.eval()


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float = 0.995) -> None:
    """Move the teacher's weights (1 - momentum) of the way to the student's; buffers are copied.

    Raises:
        UserError: modules whose parameters or buffers differ in name or shape, or a momentum outside [0, 1].
    """
    if not 0 <= momentum <= 1:
        raise UserError(f"momentum is {momentum}, not between 0 and 1", where="momentum")
    slow, fast = dict(teacher.named_parameters()), dict(student.named_parameters())
    kept, live = dict(teacher.named_buffers()), dict(student.named_buffers())
    for ours, theirs in ((slow, fast), (kept, live)):
        if {n: t.shape for n, t in ours.items()} != {n: t.shape for n, t in theirs.items()}:
            odd = sorted(ours.keys() ^ theirs.keys()) or [n for n in ours if ours[n].shape != theirs[n].shape]
            raise UserError(f"the teacher is no copy of the student: they differ in {odd[0]}", where="momentum")
    if slow:
        torch._foreach_lerp_(list(slow.values()), [fast[name].to(p.dtype) for name, p in slow.items()], 1 - momentum)
    for name, buffer in kept.items():
        buffer.copy_(live[name])


@torch.no_grad()
def soft_targets(
    image: Float[Tensor, "B *Q E"],
    text: Float[Tensor, "B E"],
    all_image: Float[Tensor, "M *Q E"],
    all_text: Float[Tensor, "M E"],
    scale: Float[Tensor, ""],
) -> tuple[Float[Tensor, "B M"], Float[Tensor, "B M"]]:
    """The teacher's distributions over all texts and over all images: `targets` of `contrastive.info_nce`.

    All arguments are the teacher's embeddings; `scale` is the student's (equation 6).
    """
    with torch.autocast(image.device.type, enabled=False):
        dtype = torch.promote_types(image.dtype, torch.float32)
        image, text, all_image, all_text = (t.to(dtype) for t in (image, text, all_image, all_text))
        to_text, to_image = similarity(image * scale, all_text)[0], similarity(text * scale, all_image)[0]
    return to_text.softmax(1), to_image.softmax(1)


def ramp(step: int, ramp_steps: int, alpha: float = 0.4) -> float:
    """The teacher's share at 0-based `step`: from 0 in a line to `alpha` over `ramp_steps`, an epoch in ALBEF."""
    return alpha if ramp_steps <= 0 else alpha * min(1.0, step / ramp_steps)
