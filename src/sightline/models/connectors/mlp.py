"""Two linear maps with a GELU between them (LLaVA-1.5's `mlp2x_gelu`, Liu et al. 2024, section 3.2)."""

from __future__ import annotations

from torch import nn

from sightline.recipe.schema import ConnectorSpec


def tokens(count: int, spec: ConnectorSpec) -> int:
    """As many tokens as patches."""
    return count


def build(width_in: int, width_out: int, spec: ConnectorSpec) -> nn.Module:
    """(N, P, width_in) -> (N, P, width_out) through `spec.hidden` units (None: width_out)."""
    hidden = spec.hidden or width_out
    return nn.Sequential(nn.Linear(width_in, hidden), nn.GELU(), nn.Linear(hidden, width_out))
