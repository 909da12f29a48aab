"""SigLIP against brute force in fp64, open_clip and transformers' own model, forward and backward."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sightline.errors import UserError
from sightline.losses import sigmoid as module
from sightline.losses import similarity as chunking
from sightline.losses.sigmoid import pairwise_sigmoid
from tests.losses import brute
from tests.losses.references import open_clip_losses
from tests.losses.test_contrastive import assert_near, with_gradients

SCALE, BIAS = torch.tensor(10.0, dtype=torch.float64), torch.tensor(-10.0, dtype=torch.float64)
ROWS, COLUMNS = torch.tensor([4, 1, 4, 2, 9]), torch.tensor([4, 4, 7, 1, 2, 2, 3])


@pytest.fixture(autouse=True, params=["plain", "chunked"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of computing: small batches take the plain one by themselves."""
    if request.param == "chunked":
        monkeypatch.setattr(module, "SMALL", -1)


@pytest.mark.parametrize("chunk", [1 << 22, 15, 1], ids=["one chunk", "two rows", "row by row"])
@pytest.mark.parametrize("kind", ["own", "own later", "no positives", "by id"])
def test_equals_brute_force(kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "CHUNK", chunk)
    image, text = brute.embeddings(5)[0], brute.embeddings(7, seed=1)[1]
    places = torch.arange(7) - torch.arange(5)[:, None]
    options: dict[str, Any]
    options, positive = {
        "own": ({}, places == 0),
        "own later": ({"own": 2}, places == 2),
        "no positives": ({"own": None}, places == 99),
        "by id": ({"image_ids": ROWS, "text_ids": COLUMNS}, ROWS[:, None] == COLUMNS),
    }[kind]
    inputs = (image, text, SCALE, BIAS)
    expected = with_gradients(lambda *x: brute.sigmoid(*x, positive), *inputs)
    assert_near(with_gradients(lambda *x: pairwise_sigmoid(*x, **options)[0], *(x.float() for x in inputs)), expected)
    assert_near(with_gradients(lambda *x: pairwise_sigmoid(*x, **options)[0], *inputs), expected, 1e-8)


def test_blocks_add_up_to_the_whole() -> None:
    image, text = brute.embeddings(6)
    whole, count = pairwise_sigmoid(image, text, SCALE, BIAS)
    parts = [
        pairwise_sigmoid(image[a : a + 3], text[b : b + 3], SCALE, BIAS, own=0 if a == b else None)[0]
        for a in (0, 3)
        for b in (0, 3)
    ]
    assert count == 6
    torch.testing.assert_close(sum(parts), whole)


def test_equals_open_clip() -> None:
    reference = open_clip_losses().SigLipLoss()
    inputs = [x.float() for x in (*brute.embeddings(33), SCALE, BIAS)]
    assert_near(with_gradients(lambda *x: pairwise_sigmoid(*x)[0] / 33, *inputs), with_gradients(reference, *inputs))


def test_equals_transformers() -> None:
    """A tiny SiglipModel's own loss. Made at random it starts at log-scale 0 and bias 0, so both are set first."""
    from transformers import SiglipConfig, SiglipModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={**sizes, "vocab_size": 30, "max_position_embeddings": 4, "projection_size": 16},
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
    )
    model = SiglipModel(config).eval()
    with torch.no_grad():
        model.logit_scale.fill_(math.log(10))
        model.logit_bias.fill_(-3.0)
    out = model(
        input_ids=torch.randint(30, (4, 4)), pixel_values=torch.randn(4, 3, 16, 16), return_loss=True, return_dict=True
    )
    total, count = pairwise_sigmoid(out.image_embeds, out.text_embeds, model.logit_scale.exp(), model.logit_bias)
    torch.testing.assert_close(total / count, out.loss, rtol=1e-6, atol=1e-6)
    learned = [p for p in model.parameters() if p.requires_grad]
    theirs = torch.autograd.grad(out.loss, learned, retain_graph=True, allow_unused=True)
    ours = torch.autograd.grad(total / count, learned, allow_unused=True)
    for mine, reference in zip(ours, theirs, strict=True):
        assert (mine is None) == (reference is None)
        if mine is not None and reference is not None:
            assert_near([mine], [reference])


def test_captions_of_one_image_are_positives() -> None:
    image, text = brute.embeddings(4)
    ids = torch.zeros(4, dtype=torch.long)
    total, _ = pairwise_sigmoid(image, text, SCALE, BIAS, image_ids=ids, text_ids=ids)
    expected = brute.sigmoid(image, text, SCALE, BIAS, torch.ones(4, 4, dtype=torch.bool))
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("pairs", [0, 1])
def test_no_pair_and_one_pair(pairs: int) -> None:
    image, text = (x.requires_grad_() for x in brute.embeddings(pairs))
    total, count = pairwise_sigmoid(image, text, SCALE, BIAS)
    total.backward()
    assert count == pairs
    torch.testing.assert_close(total, brute.sigmoid(image, text, SCALE, BIAS, torch.eye(pairs) == 1))
    assert image.grad is not None and image.grad.isfinite().all()


def test_a_block_of_a_rank_without_texts_costs_nothing() -> None:
    image, text = (x.requires_grad_() for x in brute.embeddings(3))
    total, count = pairwise_sigmoid(image, text[:0], SCALE, BIAS, own=None)
    total.backward()
    assert (total.item(), count) == (0, 3)
    assert image.grad is not None and float(image.grad.abs().max()) == 0


def test_zero_vectors_and_far_logits_are_finite() -> None:
    for image, scale in ((torch.zeros(3, 4), 10.0), (torch.eye(4)[:3], 1e6)):
        inputs = image, image, torch.tensor(scale), torch.tensor(-10.0)
        assert all(x.isfinite().all() for x in with_gradients(lambda *x: pairwise_sigmoid(*x)[0], *inputs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": torch.randn(4, 5)}, r"got \(4, 8\) and \(4, 5\)"),
        ({"own": 1}, "own texts 1 to 5"),
        ({"text": torch.randn(3, 8)}, "own texts 0 to 4"),
        ({"image_ids": torch.arange(4)}, "needed together"),
        ({"image_ids": torch.arange(4), "text_ids": torch.arange(3)}, r"text_ids has shape \(3,\)"),
        ({"scale": torch.tensor(math.inf)}, "scale is inf"),
        ({"bias": torch.tensor(math.nan)}, "bias nan"),
    ],
)
def test_bad_input_is_told(change: dict[str, Tensor], message: str) -> None:
    good = {"image": torch.randn(4, 8), "text": torch.randn(4, 8), "scale": SCALE, "bias": BIAS}
    pairwise_sigmoid(**good)
    with pytest.raises(UserError, match=message):
        pairwise_sigmoid(**(good | change))
