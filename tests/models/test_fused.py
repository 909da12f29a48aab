"""Texts that look at images: the text tower is BERT's first blocks, the rest sees the image, and nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, BertModel

from sightline.data.pack import pack
from sightline.errors import UserError
from sightline.models.build import Built, build, build_meta
from sightline.models.fused import FusedPairVLM
from sightline.models.saved import load_model
from sightline.recipe.schema import ModelSpec
from tests.models.conftest import VISION, row

CAPTIONS = ("red square here", "green square", "a blue one", "red")
BERT: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 24,  # the image tokens' width, too, as transformers' own cross-attention wants it
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "vocab_size": 40,
}


def spec(fusion: dict[str, Any] | None = None, language: dict[str, Any] | None = None) -> ModelSpec:
    pair = {
        "vision": {"config": VISION, "layer": -1},
        "language": language or {"config": BERT, "pool": "first"},
        "tokenizer": {"build": "words"},
        "embed": 8,
        "pool": "mean",
        "fusion": fusion or {"blocks": 1},
    }
    return ModelSpec.model_validate({"pair": pair})


def made(fusion: dict[str, Any] | None = None) -> Built:
    built = build(spec(fusion), seed=0, texts=CAPTIONS)
    built.model.eval()
    return built


def batch_of(built: Built) -> Any:
    assert built.pairs is not None
    rows = [row(i, "what is it", text, image=i) for i, text in enumerate(CAPTIONS)]
    return built.pairs.collate([pack([built.pairs.encode(one)], "none", 64)[0] for one in rows])


def fused(built: Built) -> FusedPairVLM:
    assert isinstance(built.model, FusedPairVLM)
    return built.model


def test_the_text_tower_is_berts_first_blocks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    bert = BertModel(AutoConfig.for_model(**BERT), add_pooling_layer=False).eval()
    bert.save_pretrained(tmp_path)
    built = build(spec({"blocks": 1}, {"source": str(tmp_path), "pool": "first"}), seed=0, texts=CAPTIONS)
    model, batch = fused(built).eval(), batch_of(built)
    states = bert(batch.input_ids, batch.attention_mask.long(), output_hidden_states=True).hidden_states
    torch.testing.assert_close(model.read(batch.input_ids, batch.attention_mask), states[2], atol=1e-6, rtol=1e-5)
    assert [len(model.blocks(tower)) for tower in ("language", "connector")] == [2, 0]
    # without what it sees, the fusing block is BERT's own last one
    head = model.connector
    with torch.no_grad():
        for block in head.fusion:
            block.crossattention.output.dense.weight.zero_()
            block.crossattention.output.LayerNorm.weight.fill_(1)
    last, own = bert.encoder.layer[-1], head.fusion[0]
    for name, value in last.state_dict().items():
        assert torch.equal(value, own.state_dict()[name])


def test_fusing_is_bert_with_cross_attention() -> None:
    """transformers' own decoder with cross-attention, told not to be causal by a mask of both sides."""
    built = made()
    model, batch = fused(built), batch_of(built)
    pairs = model.represent(batch)
    assert pairs.seen is not None
    config = AutoConfig.for_model(**BERT | {"num_hidden_layers": 1, "is_decoder": True, "add_cross_attention": True})
    config._attn_implementation = "eager"
    whole = BertModel(config, add_pooling_layer=False).eval()
    whole.encoder.layer[0].load_state_dict(model.connector.fusion[0].state_dict())
    hidden = model.read(batch.input_ids, batch.attention_mask)
    mask = torch.zeros(len(hidden), 1, 1, hidden.shape[1]).masked_fill(
        ~batch.attention_mask[:, None, None], torch.finfo(torch.float32).min
    )
    expected = whole.encoder(hidden, attention_mask=mask, encoder_hidden_states=pairs.seen).last_hidden_state
    found = model.connector.fuse(hidden, batch.attention_mask, pairs.seen)
    torch.testing.assert_close(found[batch.attention_mask], expected[batch.attention_mask], atol=1e-6, rtol=1e-5)


def test_a_word_depends_on_the_image_and_on_both_sides() -> None:
    built = made()
    model, batch = fused(built), batch_of(built)
    pairs = model.represent(batch)
    assert pairs.seen is not None
    seen, mask = pairs.seen[:1], torch.ones(1, 3, dtype=torch.bool)
    texts = batch.input_ids[:1, :3]
    hidden = model.read(texts, mask)
    before = model.connector.fuse(hidden, mask, seen)
    assert not torch.allclose(before, model.connector.fuse(hidden, mask, seen + 1.0), atol=1e-4)
    changed = hidden.clone()
    changed[:, -1] += 1.0
    after = model.connector.fuse(changed, mask, seen)
    assert not torch.allclose(before[:, 0], after[:, 0], atol=1e-5), "the first word sees the last"
    assert torch.equal(model.embed_texts(texts, mask), model.embed_texts(texts, mask)), "and no image is asked for"


def test_padding_says_nothing() -> None:
    built = made()
    model, batch = fused(built), batch_of(built)
    pairs = model.represent(batch)
    assert pairs.seen is not None and not bool(batch.attention_mask[3].all())
    whole = model.match(pairs.seen, batch.input_ids, batch.attention_mask)
    short = int(batch.attention_mask[3].sum())
    alone = model.match(pairs.seen[3:], batch.input_ids[3:, :short], batch.attention_mask[3:, :short])
    torch.testing.assert_close(whole[3:], alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("objective", "idle"),
    [
        ({"itc": 1, "itm": 1, "mlm": 1}, set()),
        ({"itc": 1, "itm": 1}, {"words"}),
        ({"itc": 1, "mlm": 1}, {"matcher"}),
        ({"itc": 1}, {"words", "matcher", "fusion"}),
        ({"mlm": 1}, {"matcher", "image_projection", "text_projection", "temperature"}),
    ],
)
def test_idle_is_exactly_what_has_no_gradient(objective: dict[str, float], idle: set[str]) -> None:
    built = made()
    model, batch = fused(built), batch_of(built)
    pairs = model.represent(batch)
    assert pairs.seen is not None
    loss = torch.zeros(())
    if "itc" in objective:
        loss = loss + (model.scale_and_bias()[0] * pairs.image @ pairs.text.T).log_softmax(1).diagonal().sum()
    if "itm" in objective:
        loss = loss + model.match(pairs.seen, batch.input_ids, batch.attention_mask).square().sum()
    if "mlm" in objective:
        words = model.unmask(pairs.seen, batch.input_ids, batch, batch.attention_mask)
        loss = loss + words.log_softmax(1)[:, 0].sum()
    loss.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    told = set().union(*(model.idle(tower, objective) for tower in ("vision", "connector", "language")))
    assert without == told
    assert {name.split(".")[1] for name in told} == idle


def test_what_is_saved_and_what_is_exported(tmp_path: Path) -> None:
    built = made({"blocks": 1, "momentum": 0.5, "queue": 5})
    model, batch = fused(built), batch_of(built)
    assert model.teacher is not None and model.queue is not None
    state = model.state_dict()
    assert {"queue.pushed", "teacher.connector.matcher.weight"} <= state.keys()
    model.train()
    assert not model.teacher.training and not any(p.requires_grad for p in model.teacher.parameters())
    own = {name for tower in ("vision", "connector", "language") for name, _ in model.tower_parameters(tower)}
    assert not any("teacher" in name for name in own)
    model.save(tmp_path)
    again = load_model(tmp_path)
    other = fused(again)
    assert other.teacher is None and other.queue is None
    expected, found = model.eval().represent(batch), other.represent(batch)
    assert torch.equal(expected.image, found.image) and torch.equal(expected.text, found.text)
    assert expected.seen is not None and found.seen is not None
    match = (batch.input_ids, batch.attention_mask)
    assert torch.equal(model.match(expected.seen, *match), other.match(found.seen, *match))


def test_the_slow_copy_follows() -> None:
    model = fused(made({"blocks": 1, "momentum": 0.75}))
    assert model.teacher is not None
    start = {name: p.clone() for name, p in model.teacher.named_parameters()}
    with torch.no_grad():
        for tower in ("vision", "connector", "language"):
            for _, parameter in model.tower_parameters(tower):
                parameter += 1
    model.follow()
    for name, parameter in model.teacher.named_parameters():
        torch.testing.assert_close(parameter, start[name] + 0.25)


def test_what_does_not_fit() -> None:
    with pytest.raises(UserError, match="3 of 3 blocks look"):
        build_meta(spec({"blocks": 3}))
    clip = {"model_type": "clip_text_model", "hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 2}
    with pytest.raises(UserError, match="only a BERT"):
        build_meta(spec(None, {"config": clip | {"num_attention_heads": 2}}))
    with pytest.raises(ValueError, match="give 'momentum' too"):
        spec({"queue": 4})
