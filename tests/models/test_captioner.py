"""CoCa: comparison and caption of one forward pass, against attention written down by hand in fp64 and by torch."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.data.batch import Batch
from sightline.data.pack import pack
from sightline.data.row import Row
from sightline.errors import UserError
from sightline.models.build import Built, build
from sightline.models.captioner import CaptionHead, CaptionPairVLM
from sightline.models.saved import load_model
from sightline.recipe.read import validate
from sightline.train.objectives import objective_of
from sightline.train.parallel.ranks import Ranks
from sightline.train.precision import pick_precision
from tests.losses.references import torchmultimodal
from tests.models.conftest import row
from tests.train.tiny import RECIPE

HEADS, EPS = 2, 1e-5
TEXTS = ("a red square", "two green circles on blue", "a dog", "nothing at all")
TEXT = {
    "model_type": "clip_text_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 12,
}
EXACT = {"rtol": 0, "atol": 1e-9}
CPU = torch.device("cpu")


def rows() -> list[Row]:
    return [row(number, "", text, image=number) for number, text in enumerate(TEXTS)]


def made(dtype: torch.dtype = torch.float64, **changes: Any) -> tuple[Built, CaptionPairVLM, Any]:
    pair = {
        "vision": RECIPE["model"]["compose"]["vision"],
        "language": {"config": TEXT},
        "tokenizer": {"build": "words"},
        "embed": 8,
        "pool": "attention",
        "caption": {"blocks": 2, "queries": 3},
    } | changes
    stage = RECIPE["stages"][0] | {"objective": {"itc": 1, "itg": 2}}
    recipe = validate(RECIPE | {"model": {"pair": pair}, "stages": [stage]}, where="coca")
    built = build(recipe.model, seed=0, texts=TEXTS, dtype=dtype)
    model = built.model.eval()
    assert isinstance(model, CaptionPairVLM)
    torch.manual_seed(1)
    for parameter in model.parameters():  # biases and norms start at 0 and 1, where a mix-up would not show
        parameter.data += 0.1 * torch.randn_like(parameter)
    return built, model, recipe.stages[0]


def batch_of(built: Built) -> Batch:
    assert built.pairs is not None
    examples = [built.pairs.encode(one) for one in rows()]
    batch = built.pairs.collate(pack(examples, "none", max(map(len, examples))))
    assert batch.pixel_values is not None
    batch.pixel_values = batch.pixel_values.to(next(built.model.parameters()).dtype)
    return batch


# --- by hand ---------------------------------------------------------------------------------------------------------


def normed(x: Tensor, norm: Any) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def attended(asking: Tensor, seen: Tensor, module: Any, causal: bool = False) -> Tensor:
    """One asking row after the other, one head after the other."""
    width = asking.shape[-1]
    if module._qkv_same_embed_dim:
        weights = module.in_proj_weight.split(width)
    else:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    query, key, value = (
        x @ w.T + b for x, w, b in zip((asking, seen, seen), weights, module.in_proj_bias.split(width), strict=True)
    )
    size, made = width // HEADS, torch.zeros_like(asking)
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        for place in range(asking.shape[1]):
            upto = place + 1 if causal else seen.shape[1]
            scores = (query[:, place, None, part] * key[:, :upto, part]).sum(-1) / math.sqrt(size)
            made[:, place, part] = (scores.softmax(-1)[..., None] * value[:, :upto, part]).sum(1)
    return made @ module.out_proj.weight.T + module.out_proj.bias


def decoded(words: Tensor, seen: Tensor, layers: Any) -> Tensor:
    """Pre-norm layers: causal self-attention, cross-attention, an MLP with GELU."""
    for layer in layers:
        own = normed(words, layer.norm1)
        words = words + attended(own, own, layer.self_attn, causal=True)
        words = words + attended(normed(words, layer.norm2), seen, layer.multihead_attn)
        wide = normed(words, layer.norm3) @ layer.linear1.weight.T + layer.linear1.bias
        wide = wide * (1 + torch.erf(wide / math.sqrt(2))) / 2
        words = words + wide @ layer.linear2.weight.T + layer.linear2.bias
    return words


def by_hand(model: CaptionPairVLM, batch: Batch) -> tuple[Tensor, Tensor]:
    """Means of the comparison and of the captions."""
    head: Any = model.connector
    features = normed(model.features_of(batch), head.norm) if not model.vision.normed else model.features_of(batch)
    asking = normed(head.looked.queries, head.looked.norm).expand(len(features), -1, -1)
    seen = normed(attended(asking, features, head.looked.attend), head.looked_norm)
    one = normed(head.summary.queries, head.summary.norm).expand(len(features), -1, -1)
    image = attended(one, seen, head.summary.attend)[:, 0] @ head.image_projection.weight.T
    read = model.language(input_ids=batch.input_ids).last_hidden_state
    last = batch.attention_mask.sum(1) - 1
    text = read[torch.arange(len(read)), last] @ head.text_projection.weight.T
    image, text = (x[batch.image_index] if x is image else x for x in (image, text))
    logits = head.temperature.log_scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    comparison = -(logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()).sum() / 2 / len(text)
    written = normed(decoded(read, seen[batch.image_index], head.decoder.layers), head.decoded)
    total, count = torch.zeros((), dtype=read.dtype), 0
    for place, length in enumerate(batch.attention_mask.sum(1).tolist()):
        for word in range(length - 1):
            chances = (written[place, word] @ head.to_words.weight.T).log_softmax(-1)
            total, count = total - chances[batch.input_ids[place, word + 1]], count + 1
    return comparison, total / count


def test_losses_and_gradients_are_those_worked_out_by_hand() -> None:
    built, model, stage = made()
    batch = batch_of(built)
    comparison, caption = by_hand(model, batch)
    (comparison + 2 * caption).backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    objective = objective_of(stage)
    objective.check(model)
    counts = objective.counts([batch])
    factors = {name: objective.weights[name] / count for name, count in counts.items()}
    assert counts == {"itc": 4, "itg": float(batch.attention_mask.sum() - 4)}
    sums = objective.backward(model, [batch], factors, pick_precision("fp32", CPU), Ranks(0, 1, CPU))
    assert float(sums["itc"]) / counts["itc"] == pytest.approx(float(comparison.detach()), abs=1e-9)
    assert float(sums["itg"]) / counts["itg"] == pytest.approx(float(caption.detach()), abs=1e-6)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys() == dict(model.named_parameters()).keys(), "all of it learns"
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_the_decoder_is_torchmultimodals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its CoCa's layer (pre-norm, self-attention, cross-attention, MLP), on the same weights, to 1e-6 in fp32."""
    stand_in = types.ModuleType("torchvision.ops.stochastic_depth")
    stand_in.StochasticDepth = object  # type: ignore[attr-defined]
    for name in ("torchvision", "torchvision.ops", "torchvision.ops.stochastic_depth"):
        monkeypatch.setitem(sys.modules, name, stand_in)
    transformer = torchmultimodal("modules.layers.transformer", monkeypatch)
    _, model, _ = made(torch.float32)
    head: Any = model.connector
    torch.manual_seed(5)
    words, seen = torch.randn(3, 5, 16), torch.randn(3, 4, 16)
    theirs = transformer.TransformerDecoder(
        2, 16, HEADS, 24, layer_norm_eps=EPS, norm_first=True, use_cross_attention=True, dim_kv=16
    )
    for own, other in zip(head.decoder.layers, theirs.layer, strict=True):
        for ours, its in ((own.self_attn, other.attention), (own.multihead_attn, other.cross_attention)):
            parts = zip(ours.in_proj_weight.split(16), ours.in_proj_bias.split(16), strict=True)
            for (weight, bias), name in zip(parts, ("q_proj", "k_proj", "v_proj"), strict=True):
                getattr(its, name).load_state_dict({"weight": weight, "bias": bias})
            its.output_proj.load_state_dict(ours.out_proj.state_dict())
        norms = ("attention_layernorm", "cross_attention_layernorm", "feedforward_layernorm")
        for ours, name in zip((own.norm1, own.norm2, own.norm3), norms, strict=True):
            getattr(other, name).load_state_dict(ours.state_dict())
        linears = [part for part in other.feedforward.modules() if isinstance(part, torch.nn.Linear)]
        linears[0].load_state_dict(own.linear1.state_dict())
        linears[1].load_state_dict(own.linear2.state_dict())
        other.feedforward.model[1] = torch.nn.GELU()
    sight = torch.ones(5, 5, dtype=torch.bool).tril()
    told = theirs.eval()(words, seen, attention_mask=sight[None, None])
    torch.testing.assert_close(head.decoder(words, seen, tgt_mask=~sight), told.last_hidden_state, rtol=0, atol=1e-6)


# --- what it is ------------------------------------------------------------------------------------------------------


def test_a_caption_sees_the_image_and_the_words_before() -> None:
    built, model, _ = made()
    batch = batch_of(built)
    pairs = model.represent(batch)
    assert pairs.seen is not None and pairs.seen.shape == (4, 3, 16) and pairs.image.shape == (4, 8)
    logits, targets = model.caption(pairs.seen, batch, pairs.kept)
    torch.testing.assert_close(model.caption(pairs.seen, batch)[0], logits, **EXACT)
    assert torch.equal(targets, torch.cat([batch.input_ids[i, 1:n] for i, n in enumerate(batch.attention_mask.sum(1))]))
    other = model.caption(pairs.seen.roll(1, 0), batch)[0]
    assert not torch.allclose(other[0], logits[0]), "another image"
    changed = batch_of(built)
    changed.input_ids[0, 3] = changed.input_ids[0, 1]
    again = model.caption(pairs.seen, changed)[0]
    torch.testing.assert_close(again[:3], logits[:3], **EXACT)
    assert not torch.allclose(again[3], logits[3]), "the word itself"
    assert torch.equal(model.represent(changed).text[1:], pairs.text[1:]) and not torch.allclose(
        model.represent(changed).text[0], pairs.text[0]
    )


def test_the_text_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built, model, stage = made()
    reads = []
    read = model.read
    monkeypatch.setattr(model, "read", lambda *given: reads.append(1) or read(*given))
    objective_of(stage).value(model, batch_of(built))
    assert len(reads) == 1


@pytest.mark.parametrize("size", [1, 3])
def test_micro_batches_give_the_gradient_of_one_batch(size: int) -> None:
    built, model, stage = made()
    assert built.pairs is not None
    found = []
    for each in (4, size):
        model.zero_grad()
        encoded = [built.pairs.encode(one) for one in rows()]
        parts = [encoded[start : start + each] for start in range(0, 4, each)]
        batches = [built.pairs.collate(pack(part, "none", max(map(len, part)))) for part in parts]
        for batch in batches:
            assert batch.pixel_values is not None
            batch.pixel_values = batch.pixel_values.double()
        objective = objective_of(stage)
        counts = objective.counts(batches)
        factors = {name: objective.weights[name] / count for name, count in counts.items()}
        objective.backward(model, batches, factors, pick_precision("fp32", CPU), Ranks(0, 1, CPU))
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_what_an_objective_does_not_reach_is_idle() -> None:
    built, model, _ = made()
    batch = batch_of(built)
    for objective in ({"itc": 1}, {"itg": 1}):
        model.zero_grad()
        pairs = model.represent(batch)
        if "itc" in objective:
            (model.scale_and_bias()[0] * pairs.image @ pairs.text.T).square().sum().backward()
        else:
            model.caption(pairs.seen, batch, pairs.kept)[0].square().sum().backward()
        unreached = {name for name, p in model.named_parameters() if p.grad is None}
        assert unreached == {
            name for tower in ("vision", "connector", "language") for name in model.idle(tower, objective)
        }


def test_a_saved_model_says_the_same(tmp_path: Path) -> None:
    built, model, _ = made(torch.float32)
    model.save(tmp_path)
    again = load_model(tmp_path)
    assert isinstance(again.model, CaptionPairVLM) and isinstance(again.model.connector, CaptionHead)
    batch = batch_of(built)
    one, other = model.represent(batch), again.model.represent(batch)
    assert torch.equal(one.image, other.image) and torch.equal(one.text, other.text)
    assert torch.equal(model.caption(one.seen, batch)[0], again.model.caption(other.seen, batch)[0])


def test_what_cannot_write() -> None:
    bert = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with pytest.raises(UserError, match="a bert sees all words at once"):
        made(language={"config": bert | {"intermediate_size": 16}})
    with pytest.raises(UserError, match="'caption' needs pool: attention"):
        made(language={"config": TEXT, "pool": "mean"})
    with pytest.raises(UserError, match="both stand on the text tower"):
        made(fusion={"blocks": 1})
