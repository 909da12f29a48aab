"""The resampler against its own formula in fp64, written out query by query."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.models.connectors.perceiver import Attention, Resampler, build, tokens
from sightline.recipe.schema import ConnectorSpec


def attended(layer: Attention, asking: Tensor, seen: Tensor) -> Tensor:
    """Flamingo's attention of one image, one head and one latent at a time."""
    width = layer.query.out_features // layer.heads
    keys, values = (layer.key_value.weight @ seen.T).chunk(2)
    rows = []
    for one in asking:
        heads = []
        for head in range(layer.heads):
            part = slice(head * width, (head + 1) * width)
            query = layer.query.weight[part] @ one
            weights = torch.softmax(query @ keys[part] / width**0.5, 0)
            heads.append(values[part] @ weights)
        rows.append(layer.out.weight @ torch.cat(heads))
    return torch.stack(rows)


def resampled(module: Resampler, features: Tensor) -> Tensor:
    latents = module.latents
    for layer in module.layers:
        asking = layer.norm_latents(latents)
        latents = latents + attended(layer.attention, asking, torch.cat([layer.norm_features(features), asking]))
        latents = latents + layer.mlp[3](F.gelu(layer.mlp[1](layer.mlp[0](latents))))
    return module.norm(latents)


def test_it_is_the_papers_figure_5() -> None:
    torch.manual_seed(0)
    module = Resampler(12, 3, depth=2, heads=2, head_width=4).double()
    features = torch.randn(2, 5, 12, dtype=torch.float64)
    found = module(features)
    for image in range(2):
        torch.testing.assert_close(found[image], resampled(module, features[image]), atol=1e-12, rtol=1e-12)


def test_where_features_stand_does_not_matter_but_what_they_are() -> None:
    torch.manual_seed(0)
    module = Resampler(12, 3, depth=2, heads=2, head_width=4).double()
    features = torch.randn(1, 5, 12, dtype=torch.float64)
    found = module(features)
    torch.testing.assert_close(module(features[:, torch.randperm(5)]), found)
    features[0, 0, 0] += 1
    assert not torch.allclose(module(features), found)


def test_its_tokens_fit_the_language_tower() -> None:
    spec = ConnectorSpec(kind="perceiver", queries=5, config={"depth": 1, "heads": 2, "head_width": 4})
    module = build(12, 20, spec)
    assert tokens(99, spec) == 5
    assert module(torch.randn(2, 7, 12)).shape == (2, 5, 20)
    assert tokens(99, ConnectorSpec(kind="perceiver")) == 64
