"""A pair model that starts from a dual encoder is that dual encoder: transformers' embeddings, logits, loss, gradients.

CLIPModel and SiglipModel take the mean over pairs where Sightline sums and counts. CLIPModel halves the two directions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, PreTrainedModel, SiglipConfig, SiglipModel

from sightline.data.batch import Batch
from sightline.data.pack import pack
from sightline.data.row import Row
from sightline.errors import UserError
from sightline.losses.contrastive import info_nce
from sightline.losses.sigmoid import pairwise_sigmoid
from sightline.models.build import Built, build
from sightline.models.pair import PairVLM
from sightline.models.pair_source import NAMES
from sightline.models.saved import load_model
from sightline.models.tokenizer import word_tokenizer
from sightline.recipe.schema import ModelSpec
from tests.models.conftest import row

TEXTS = ("a red square", "two green circles on blue", "a dog", "nothing at all")
VISION = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
TEXT = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGE = {"image_size": 16, "patch_size": 8}
WORDS = {"vocab_size": 40, "max_position_embeddings": 12, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
TOLERANCE = {"rtol": 0, "atol": 1e-6}
EXACT = {"rtol": 0, "atol": 1e-9}


@pytest.fixture(params=["clip", "siglip"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def theirs(kind: str, tmp_path: Path) -> PreTrainedModel:
    """A dual encoder of random weights, saved with its tokenizer to `tmp_path`."""
    torch.manual_seed(3)
    vision, text = VISION | IMAGE, TEXT | WORDS
    tokenizer = word_tokenizer(TEXTS, None)
    tokenizer.add_special_tokens(
        {"eos_token": "<end>"}
    )  # has the highest id, as CLIP's, by which transformers finds it
    if kind == "clip":
        model: Any = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=20))
    else:
        model = SiglipModel(SiglipConfig(vision_config=vision, text_config=text | {"projection_size": 24}))
        model.logit_scale.data.fill_(2.3), model.logit_bias.data.fill_(-1.7)
    for parameter in model.parameters():  # biases and norms start at 0 and 1, where a mix-up would not show
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.eval().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return model


def _spec(kind: str, folder: Path, **changes: Any) -> ModelSpec:
    pair: dict[str, Any] = {
        "vision": {"source": str(folder), "layer": -1},
        "language": {"source": str(folder), "pool": "end" if kind == "clip" else "last", "max_length": 12},
        "embed": 20 if kind == "clip" else 24,
    }
    if kind == "siglip":
        pair |= {"pool": "attention", "project": "text", "max_scale": None, "bias": -10.0, "temperature": 0.1}
    return ModelSpec.model_validate({"pair": pair | changes})


def _rows() -> list[Row]:
    return [row(number, "", text, image=number) for number, text in enumerate(TEXTS)]


def _both(
    theirs: PreTrainedModel, kind: str, folder: Path, dtype: torch.dtype = torch.float32
) -> tuple[Built, PairVLM, Batch, Any]:
    """Our model and a batch, and what transformers says of the same tokens and pixels."""
    built = build(_spec(kind, folder), seed=0, dtype=dtype)
    model = built.model.eval()
    assert isinstance(model, PairVLM)
    assert built.pairs is not None
    examples = [built.pairs.encode(row) for row in _rows()]
    batch = built.pairs.collate(pack(examples, "none", max(map(len, examples))))
    told = theirs(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask if kind == "clip" else None,  # SigLIP's processor makes none
        pixel_values=batch.pixel_values,
        return_loss=True,
    )
    return built, model, batch, told


def _logits(model: PairVLM, image: Tensor, text: Tensor) -> Tensor:
    scale, bias = model.scale_and_bias()
    return scale * image @ text.T + (0 if bias is None else bias)


def _loss(model: PairVLM, image: Tensor, text: Tensor) -> Tensor:
    scale, bias = model.scale_and_bias()
    if bias is None:
        total, count = info_nce(image, text, image, text, scale)
    else:
        total, count = pairwise_sigmoid(image, text, scale, bias)
    return total / count


def test_embeddings_logits_and_loss_are_transformers(theirs: PreTrainedModel, kind: str, tmp_path: Path) -> None:
    _, model, batch, told = _both(theirs, kind, tmp_path)
    pairs = model.represent(batch)
    torch.testing.assert_close(pairs.image, told.image_embeds, **TOLERANCE)
    torch.testing.assert_close(pairs.text, told.text_embeds, **TOLERANCE)
    logits = _logits(model, pairs.image, pairs.text)
    torch.testing.assert_close(logits, told.logits_per_image, rtol=1e-6, atol=5e-6)  # logits of up to 15
    torch.testing.assert_close(_loss(model, pairs.image, pairs.text), told.loss, rtol=1e-6, atol=1e-6)


def test_losses_by_hand_in_fp64(theirs: PreTrainedModel, kind: str, tmp_path: Path) -> None:
    """Without transformers: each pair's own term, one at a time."""
    _, model, batch, _ = _both(theirs, kind, tmp_path)
    pairs = model.represent(batch)
    logits = _logits(model.double(), pairs.image.double(), pairs.text.double())
    terms = []
    for i in range(len(logits)):
        if kind == "clip":
            terms += [-logits[i].log_softmax(0)[i] / 2, -logits[:, i].log_softmax(0)[i] / 2]
        else:
            terms += [-F.logsigmoid(logits[i, j] if i == j else -logits[i, j]) for j in range(len(logits))]
    expected = torch.stack(terms).sum() / len(logits)
    torch.testing.assert_close(_loss(model.float(), pairs.image, pairs.text).double(), expected, rtol=1e-6, atol=1e-6)


def test_gradients_are_transformers(theirs: PreTrainedModel, kind: str, tmp_path: Path) -> None:
    """In fp64, where rounding hides nothing: to 1e-9."""
    _, model, batch, told = _both(theirs.double(), kind, tmp_path, torch.float64)
    told.loss.backward()
    pairs = model.represent(batch)
    _loss(model, pairs.image, pairs.text).backward()
    wanted = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for own, name in NAMES[kind].items():
        torch.testing.assert_close(model.connector.get_parameter(own).grad, wanted[name], **EXACT, msg=own)
    for tower, prefix in (("vision.model", "vision_model"), ("language", "text_model")):
        for name, parameter in model.get_submodule(tower).named_parameters():
            torch.testing.assert_close(
                parameter.grad, wanted[f"{prefix}.{name}"], **EXACT, msg=lambda m, n=name: f"{n}: {m}"
            )
    scale = model.connector.temperature.log_scale.grad
    torch.testing.assert_close(scale, wanted["logit_scale"].reshape(()), **EXACT)
    if kind == "siglip":
        torch.testing.assert_close(model.connector.bias.grad, wanted["logit_bias"].reshape(()), **EXACT)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_a_text_is_the_same_alone_and_beside_a_longer_one(theirs: PreTrainedModel, kind: str, tmp_path: Path) -> None:
    built, model, batch, _ = _both(theirs, kind, tmp_path)
    assert built.pairs is not None
    alone = torch.tensor([built.pairs.encode_text(TEXTS[2])])
    together = model.embed_texts(batch.input_ids, batch.attention_mask)[2:3]
    torch.testing.assert_close(
        model.embed_texts(alone, torch.ones_like(alone, dtype=torch.bool)), together, **TOLERANCE
    )


@pytest.mark.slow
def test_it_is_the_same_after_saving(theirs: PreTrainedModel, kind: str, tmp_path: Path) -> None:
    built, model, batch, _ = _both(theirs, kind, tmp_path)
    before = model.represent(batch)
    model.save(tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    assert isinstance(again.model, PairVLM)
    after = again.model.represent(batch)
    assert torch.equal(before.image, after.image)
    assert torch.equal(before.text, after.text)
    assert built.pairs is not None
    assert again.pairs is not None
    assert again.pairs.encode_text(TEXTS[0]) == built.pairs.encode_text(TEXTS[0])


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"embed": 28, "project": "both"}, "model.pair"),
        ({"pool": "mean"}, "model.pair.pool"),
        ({"max_scale": 5.0, "temperature": 0.5}, "model.pair.max_scale"),
    ],
)
def test_another_connector_than_the_checkpoint_has_is_refused(
    theirs: PreTrainedModel, kind: str, tmp_path: Path, changes: dict[str, Any], where: str
) -> None:
    with pytest.raises(UserError) as told:
        build(_spec(kind, tmp_path, **changes), seed=0)
    assert where in str(told.value)


def test_a_checkpoint_with_a_bias_needs_one_in_the_recipe(tmp_path: Path) -> None:
    folder = tmp_path
    model = SiglipModel(SiglipConfig(vision_config=VISION | IMAGE, text_config=TEXT | WORDS | {"projection_size": 24}))
    model.save_pretrained(folder)
    word_tokenizer(TEXTS, None).save_pretrained(folder)
    with pytest.raises(UserError, match="has a bias"):
        build(_spec("siglip", folder, bias=None), seed=0)


def test_images_that_nothing_projects_must_have_the_width_of_the_space() -> None:
    pair = {
        "vision": {"config": {"model_type": "siglip_vision_model"} | VISION | IMAGE, "layer": -1},
        "language": {"config": {"model_type": "siglip_text_model"} | TEXT, "pool": "last", "max_length": 12},
        "tokenizer": {"build": "words"},
        "pool": "attention",
        "project": "text",
        "embed": 32,
    }
    with pytest.raises(UserError, match="nothing projects them"):
        build(ModelSpec.model_validate({"pair": pair}), seed=0, texts=TEXTS)
