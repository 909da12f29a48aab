"""A slow copy of a model that follows it: momentum distillation's teacher (ALBEF, arXiv 2107.07651, section 3.3).

What it is used for is a loss's business: `losses/distil.py`.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from sightline.errors import UserError


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
    # Those that lie on ranks, and those that do not: never in one operation.
    for kind in {type(parameter) for parameter in slow.values()}:
        own = {name: p for name, p in slow.items() if type(p) is kind}
        torch._foreach_lerp_(list(own.values()), [fast[name].to(p.dtype) for name, p in own.items()], 1 - momentum)
    for name, buffer in kept.items():
        buffer.copy_(live[name])
