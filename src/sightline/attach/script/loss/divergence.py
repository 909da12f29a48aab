"""A divergence between probabilities in the graph under a loss, whose input was to be their logarithms.

`kl_div(input, target)` is the sum of target x (log target - input). Given probabilities for the input, it is a number
that falls when they gather where the target is largest, and no divergence. Its graph shows what it was given. So does
that of `ctc_loss`, which takes logarithms as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sightline.attach.graph import nodes
from sightline.attach.recorder import Recorder
from sightline.attach.script.loss.logits import MOST, SAME
from sightline.guard.evidence import DivergenceSeen

ROWS = 256  # rows of a target that are looked at
WHOLE = 1e-3  # probabilities sum to one within float16 rounding
ALIGNED = ("CtcLossBackward0", "CudnnCtcLossBackward0")
SURE = 0.999  # largest of a row of probabilities that teaches more than one class


def show_divergence(root: Tensor, recorder: Recorder) -> None:
    """A backward pass begins from `root`: tell of a divergence that was given probabilities, if one is under it."""
    every = list(nodes([root.grad_fn], most=MOST))  # the nearest come first: another term of the loss may go deep
    if any(type(node).__name__ in ALIGNED and _softmax(node.next_functions[0][0]) for node in every):
        recorder.offer(DivergenceSeen(recorder.step, 0, 1.0, 1.0, aligned=True))
        return
    for taught in (_taught(node) for node in every if node is not None):
        if taught is None:
            continue
        rows = taught.detach().flatten(0, -2)[:ROWS].float()
        whole = (rows >= 0).all(dim=-1) & ((rows.sum(dim=-1) - 1).abs() <= WHOLE)
        soft = whole & (rows.amax(dim=-1) < SURE)
        classes, number = rows.shape[-1], recorder.step

        def arrived(values: list[Tensor], number: int = number, classes: int = classes) -> None:
            recorder.offer(DivergenceSeen(number, classes, *values[0].tolist()))

        recorder.mailbox.post([torch.stack([whole.float().mean(), soft.float().mean()])], arrived)
        return


def _taught(node: Any) -> Tensor | None:
    """The probabilities t of t log t - t p, or of t (log t - p), where p came from a softmax and t does not learn."""
    name, behind = type(node).__name__, [next_ for next_, _ in node.next_functions]
    if name not in ("SubBackward0", "MulBackward0") or len(behind) != 2 or behind[0] is not None:
        return None
    inner = behind[1]
    parts = [next_ for next_, _ in inner.next_functions] if inner is not None else []
    fits = type(inner).__name__ == ("MulBackward0" if name == "SubBackward0" else "SubBackward0")
    if not fits or len(parts) != 2 or parts[0] is not None or not _softmax(parts[1]):
        return None
    taught = getattr(inner if name == "SubBackward0" else node, "_saved_self", None)
    return taught if isinstance(taught, Tensor) and taught.dim() > 1 else None


def _softmax(node: Any) -> bool:
    """Whether a value is a softmax's output, but for its shape and dtype."""
    for _ in range(8):
        name = type(node).__name__
        if not name.startswith(SAME) or not node.next_functions:
            return name.startswith("SoftmaxBackward")
        node = node.next_functions[0][0]
    return False
