"""Where a model's weights come from, and which of them learn: read once, before the first step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
MATRICES = 8  # the largest, by elements: most of what a model knows
ELEMENTS = 4096  # of a matrix whose tails tell something: the standard error of its kurtosis is 0.08
TAILS = 3.5  # kurtosis: inits draw 3.0 (normal) and less (uniform, truncated); trained matrices mostly have more


def only_norms(model: nn.Module) -> bool:
    """Whether all that requires a gradient is the scale or shift of a normalisation, and something does."""
    learning = {id(p) for p in model.parameters() if p.requires_grad}
    norms = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    return bool(learning) and learning <= norms


def trained_before(model: nn.Module, head: Tensor) -> Tensor:
    """0-dim bool: normalisations counted more than this batch, or most of the largest matrices have heavy tails."""
    counts = [count for name, count in model.named_buffers() if name.endswith("num_batches_tracked")]
    whole = [p for p in model.parameters() if p.dim() > 1 and p is not head and not hasattr(p, "to_local")]
    large = sorted((p for p in whole if p.is_floating_point() and p.numel() >= ELEMENTS), key=torch.numel)[-MATRICES:]
    found = torch.zeros((), dtype=torch.bool, device=head.device)
    if counts:
        found = found | (torch.stack([count.detach().to(head.device) for count in counts]) > 1).any()
    if large:
        found = found | (torch.stack([_heavy(p).to(head.device) for p in large]).float().mean() > 0.5)
    return found


def _heavy(matrix: Tensor) -> Tensor:
    values = matrix.detach().float()
    second = values.square().mean()
    return values.pow(4).mean() > TAILS * second.square()
