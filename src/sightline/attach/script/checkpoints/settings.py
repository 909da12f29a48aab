"""Settings of torch's own layers that no state holds, and no shape shows: a number of heads, of groups, an order.

A model that is rebuilt for a checkpoint without its config may have others, and then gives other answers with the very
same weights. Nobody judges a model with another number of heads on purpose, as one may with a window or a temperature.
"""

from __future__ import annotations

from torch import nn

SETTINGS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.MultiheadAttention, "num_heads"),
    (nn.GroupNorm, "num_groups"),
    (nn.TransformerEncoderLayer, "norm_first"),
    (nn.TransformerDecoderLayer, "norm_first"),
)


def otherwise(trained: nn.Module, copy: nn.Module) -> tuple[str, ...]:
    """Where they differ, with the numbers of both."""
    theirs = dict(trained.named_modules())
    return tuple(
        f"{name}.{key}".lstrip(".") + f" (trained with {getattr(one, key)}, read back with {getattr(module, key)})"
        for name, module in copy.named_modules()
        for kind, key in SETTINGS
        if isinstance(module, kind) and type(one := theirs.get(name)) is type(module)
        if getattr(one, key) != getattr(module, key)
    )
