"""One linear map (LLaVA, Liu et al. 2023, section 4.1)."""

from __future__ import annotations

from torch import nn

from sightline.errors import UserError
from sightline.recipe.schema import ConnectorSpec


def tokens(count: int, spec: ConnectorSpec) -> int:
    """As many tokens as patches."""
    return count


def build(width_in: int, width_out: int, spec: ConnectorSpec) -> nn.Module:
    """(N, P, width_in) -> (N, P, width_out). Raises UserError when the recipe gives it a hidden layer."""
    if spec.hidden is not None:
        raise UserError(
            f"a linear connector has no hidden layer, but 'hidden' is {spec.hidden}",
            where="model.compose.connector.hidden",
            fix="remove 'hidden', or set model.compose.connector.kind to mlp",
        )
    return nn.Linear(width_in, width_out)
