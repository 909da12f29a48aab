"""Connectors: widths, token counts, and what cannot fit."""

from __future__ import annotations

import pytest
import torch

from sightline.errors import UserError
from sightline.models.connectors import build_connector, known, token_count
from sightline.models.connectors.pixel_shuffle import PixelShuffle
from sightline.recipe.schema import ConnectorSpec


@pytest.mark.parametrize("kind", sorted({*known()} - {"gated-cross-attention"}))  # its latents are not tokens
def test_gives_as_many_tokens_of_the_width_as_it_says(kind: str) -> None:
    spec = ConnectorSpec(kind=kind)
    out = build_connector(6, 10, spec)(torch.randn(3, 16, 6))
    assert out.shape == (3, token_count(16, spec), 10)


def test_pixel_shuffle_puts_neighbours_together() -> None:
    grid = torch.arange(16.0).view(1, 16, 1)  # 4 x 4 patches, each its own number
    assert PixelShuffle(2)(grid)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_mlp_takes_the_hidden_width() -> None:
    assert build_connector(6, 10, ConnectorSpec(kind="mlp", hidden=7))[0].out_features == 7


def test_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'pixel-shuffle'"):
        token_count(16, ConnectorSpec(kind="pixel-shufle"))


@pytest.mark.parametrize(("count", "factor", "told"), [(17, 2, "square grid"), (25, 2, "one of 1, 5"), (16, 2, None)])
def test_grid_that_cannot_be_cut(count: int, factor: int, told: str | None) -> None:
    spec = ConnectorSpec(kind="pixel-shuffle", factor=factor)
    if told is None:
        assert token_count(count, spec) == 4
        return
    with pytest.raises(UserError, match=told):
        token_count(count, spec)


def test_linear_refuses_a_hidden_layer() -> None:
    with pytest.raises(UserError, match="no hidden layer"):
        build_connector(6, 10, ConnectorSpec(kind="linear", hidden=7))
