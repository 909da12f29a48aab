"""The Q-Former against a plain computation in fp64, transformers' BLIP-2, torchmultimodal's, and its own laws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Blip2Config, Blip2ForImageTextRetrieval, Blip2QFormerConfig, Blip2VisionConfig, OPTConfig

from sightline.data.batch import IGNORE
from sightline.errors import UserError
from sightline.models.connectors.q_former import QFormer
from tests.losses.references import torchmultimodal
from tests.models.connectors.former import (
    CONFIG,
    EMBED,
    LONGEST,
    QUERIES,
    WIDTH,
    WIDTH_IN,
    WORDS,
    by_hand,
    former,
    pairs,
    spec,
)
from tests.models.connectors.texts import batch_of

EXACT = {"atol": 1e-12, "rtol": 1e-9}
FP32 = {"atol": 1e-6, "rtol": 1e-5}


def everything(place: int, other: int) -> bool:
    return True


def writing(place: int, other: int) -> bool:
    """Queries see queries; a word sees all queries and the words before it."""
    return other < QUERIES or other <= place


# --- against a plain computation -----------------------------------------------------------------------------------


def test_images_and_texts_apart() -> None:
    made = former()
    features, ids, mask = pairs()
    seen = made.norm(features)
    images, texts = made.embed_images(seen), made.embed_texts(ids, mask)
    for i in range(len(ids)):
        looked = by_hand(made, seen[i], None, everything)
        torch.testing.assert_close(images[i], F.normalize(made.image_projection(looked), dim=-1), **EXACT)
        said = by_hand(made, None, ids[i][mask[i]], everything)
        torch.testing.assert_close(texts[i], F.normalize(made.text_projection(said[0]), dim=0), **EXACT)
        torch.testing.assert_close(made(features)[i], made.to_language(looked), **EXACT)


def test_pairs_are_judged_by_queries_that_see_all_words() -> None:
    made = former()
    features, ids, mask = pairs()
    seen = made.norm(features)
    logits = made.match(seen, ids, mask)
    for i in range(len(ids)):
        both = by_hand(made, seen[i], ids[i][mask[i]], everything)
        torch.testing.assert_close(logits[i], made.matcher(both[:QUERIES]), **EXACT)


def test_a_text_is_written_from_the_image_and_the_words_before() -> None:
    made = former()
    features, ids, mask = pairs()
    seen = made.norm(features)
    logits, targets = made.caption(seen, batch_of(ids, mask))
    expected, wanted = [], []
    for i, length in enumerate(mask.sum(1).tolist()):
        begun = torch.cat([torch.tensor([made.write_id]), ids[i, 1:length]])
        hidden = by_hand(made, seen[i], begun, writing)[QUERIES:-1]
        expected.append(made.writer(hidden, made.words.word_embeddings.weight))
        wanted.append(ids[i, 1:length])
    assert targets.tolist() == torch.cat(wanted).tolist()
    torch.testing.assert_close(logits, torch.cat(expected), **EXACT)


@pytest.mark.parametrize("what", ["compare", "match", "write"])
def test_gradients_are_those_of_the_plain_computation(what: str) -> None:
    made = former()
    features, ids, mask = pairs(count=2)

    def plainly() -> Tensor:
        seen, total = made.norm(features), torch.zeros((), dtype=torch.float64)
        for i in range(len(ids)):
            said = ids[i][mask[i]]
            if what == "compare":
                looked = F.normalize(made.image_projection(by_hand(made, seen[i], None, everything)), dim=-1)
                text = F.normalize(made.text_projection(by_hand(made, None, said, everything)[0]), dim=0)
                total = total + (looked @ text).square().sum()
            elif what == "match":
                total = total + made.matcher(by_hand(made, seen[i], said, everything)[:QUERIES]).square().sum()
            else:
                said = torch.cat([torch.tensor([made.write_id]), said[1:]])
                hidden = by_hand(made, seen[i], said, writing)[QUERIES:-1]
                total = total + made.writer(hidden, made.words.word_embeddings.weight).square().sum()
        return total

    def batched() -> Tensor:
        seen = made.norm(features)
        if what == "compare":
            return (made.embed_images(seen) @ made.embed_texts(ids, mask)[:, :, None]).square().sum()
        if what == "match":
            return made.match(seen, ids, mask).square().sum()
        return made.caption(seen, batch_of(ids, mask))[0].square().sum()

    expected, found = gradients(made, plainly()), gradients(made, batched())
    assert expected.keys() == found.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, atol=1e-10, rtol=1e-8, msg=name)


def gradients(made: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Of every parameter that the loss reaches; a row of the embeddings that it does not reach is 0."""
    made.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}


# --- who sees whom -------------------------------------------------------------------------------------------------


def test_a_word_is_written_without_those_after_it() -> None:
    made = former()
    features, ids, mask = pairs()
    seen, whole = made.norm(features), torch.ones_like(mask)
    ids = ids.clamp(min=1)

    def logits(seen: Tensor, ids: Tensor) -> Tensor:
        return made.caption(seen, batch_of(ids, whole))[0].view(len(ids), -1, WORDS)

    told = logits(seen, ids)
    for place in range(1, ids.shape[1]):
        other = ids.clone()
        other[:, place] = other[:, place] % (WORDS - 2) + 1
        moved = (logits(seen, other) - told).abs().amax((0, 2))
        assert bool((moved[:place] == 0).all()), "a word that comes later is seen"
        assert bool((moved[place:] > 1e-3).all()), "a word that came before is not seen"
    assert bool(((logits(seen.flip(0), ids) - told).abs().amax(2) > 1e-3).all()), "the image is not seen"


def test_queries_never_see_words_but_where_pairs_are_judged() -> None:
    made = former()
    features, ids, mask = pairs()
    seen, states = made.norm(features), []
    made.body.register_forward_hook(lambda *call: states.append(call[2].last_hidden_state[:, :QUERIES]))
    for words in (ids, ids.flip(0)):
        made.caption(seen, batch_of(words, torch.ones_like(mask)))
    made.embed_images(seen)
    torch.testing.assert_close(states[0], states[1], atol=0, rtol=0)
    torch.testing.assert_close(states[0], states[2], **EXACT)
    for words in (ids, ids.flip(0)):
        made.match(seen, words, torch.ones_like(mask))
    assert float((states[3] - states[4]).detach().abs().max()) > 1e-3


def test_padding_changes_nothing() -> None:
    made = former()
    features, ids, mask = pairs()
    seen = made.norm(features)
    noise = torch.where(mask, ids, 7)
    torch.testing.assert_close(made.embed_texts(noise, mask), made.embed_texts(ids, mask), atol=0, rtol=0)
    torch.testing.assert_close(made.match(seen, noise, mask), made.match(seen, ids, mask), atol=0, rtol=0)
    told, other = (made.caption(seen, batch_of(words, mask))[0] for words in (ids, noise))
    torch.testing.assert_close(told, other, atol=0, rtol=0)


# --- against the references ----------------------------------------------------------------------------------------


def reference(made: QFormer) -> Blip2ForImageTextRetrieval:
    """transformers' BLIP-2 with the same weights; its vision tower is replaced where it is called."""
    config = Blip2Config(
        vision_config=Blip2VisionConfig(hidden_size=WIDTH_IN, num_hidden_layers=1, num_attention_heads=2).to_dict(),
        qformer_config=Blip2QFormerConfig(
            **CONFIG, encoder_hidden_size=WIDTH_IN, use_qformer_text_input=True
        ).to_dict(),
        text_config=OPTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16).to_dict(),
        num_query_tokens=QUERIES,
        image_text_hidden_size=EMBED,
        image_token_index=None,
    )
    theirs = Blip2ForImageTextRetrieval(config).eval()
    theirs.vision_model = Features()
    own = made.state_dict()
    names = {
        "query_tokens": "queries",
        "embeddings.": "words.",
        "qformer.": "body.",
        "vision_projection.": "image_projection.",
        "text_projection.": "text_projection.",
        "itm_head.": "matcher.",
    }
    state = {}
    for name in theirs.state_dict():
        old = next(prefix for prefix in names if name.startswith(prefix))
        state[name] = own[names[old] + name.removeprefix(old)]
    theirs.load_state_dict(state)
    return theirs


class Features(nn.Module):
    """A vision tower whose features are given as its pixels."""

    def forward(self, pixel_values: Tensor, **_: Any) -> tuple[Tensor]:
        return (pixel_values,)


@pytest.mark.parametrize("matching", [False, True])
def test_similarities_and_matches_are_those_of_transformers(matching: bool) -> None:
    made = former(torch.float32)
    features, ids, mask = pairs(torch.float32)
    theirs = reference(made)
    seen = made.norm(features)
    out = theirs(
        pixel_values=seen, input_ids=ids, attention_mask=mask.long(), use_image_text_matching_head=matching
    ).logits_per_image
    if matching:
        own = made.match(seen, ids, mask).mean(1)
    else:
        own = (made.embed_images(seen) @ made.embed_texts(ids, mask).T).amax(1)
    torch.testing.assert_close(own, out, **FP32)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    grads = gradients(made, (own * weights).sum())
    theirs(
        pixel_values=made.norm(features).detach(),
        input_ids=ids,
        attention_mask=mask.long(),
        use_image_text_matching_head=matching,
    ).logits_per_image.mul(weights).sum().backward()
    wanted = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    assert len(wanted) > 30
    ours = {
        "query_tokens": "queries",
        "embeddings": "words",
        "qformer": "body",
        "vision_projection": "image_projection",
    }
    ours |= {"text_projection": "text_projection", "itm_head": "matcher"}
    for name, grad in wanted.items():
        head, _, rest = name.partition(".")
        torch.testing.assert_close(grads[".".join(filter(None, (ours[head], rest)))], grad, **FP32, msg=name)


def test_layers_are_those_of_torchmultimodal(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = torchmultimodal("models.blip2.qformer_layers", monkeypatch)
    made = former(torch.float32)
    features, ids, mask = pairs(torch.float32)
    theirs = layers.QformerEncoder(
        num_hidden_layers=3, dim_q=WIDTH, dim_feedforward=24, num_heads=2, activation=nn.GELU, dim_kv=WIDTH_IN
    ).eval()
    assert not theirs.load_state_dict(_torchmultimodals(made), strict=True).unexpected_keys
    embeds = made.body.layernorm(made.words(input_ids=ids, query_embeds=made.queries.expand(len(ids), -1, -1)))
    sight = F.pad(mask, (QUERIES, 0), value=True)[:, None, None, :]
    expected = theirs(embeds, features, attention_mask=sight, query_length=QUERIES)[0]
    found = made.matcher(expected[:, :QUERIES])
    torch.testing.assert_close(made.match(features, ids, mask), found, **FP32)


def _torchmultimodals(made: QFormer) -> dict[str, Tensor]:
    """Our layers by torchmultimodal's names."""
    names = {
        "attention.attention.query": "self_attention.q_proj",
        "attention.attention.key": "self_attention.k_proj",
        "attention.attention.value": "self_attention.v_proj",
        "attention.output.dense": "self_attention.output_proj",
        "attention.output.LayerNorm": "self_attn_layernorm",
        "intermediate.dense": "feedforward.model.0",
        "output.dense": "feedforward.model.2",
        "output.LayerNorm": "feedforward_layernorm",
        "intermediate_query.dense": "feedforward_query.model.0",
        "output_query.dense": "feedforward_query.model.2",
        "output_query.LayerNorm": "feedforward_layernorm_query",
    }
    cross = {
        "cross" + old: new.replace("self_attention", "cross_attention").replace("self_attn", "cross_attn")
        for old, new in names.items()
        if old.startswith("attention")
    }
    state = {}
    for name, value in made.body.encoder.state_dict().items():
        _, number, rest = name.split(".", 2)
        part, _, kind = rest.rpartition(".")
        state[f"layers.{number}.{(names | cross)[part]}.{kind}"] = value
    return state


# --- bad input -----------------------------------------------------------------------------------------------------


def test_a_text_beyond_the_limit_is_told() -> None:
    made = former()
    features, *_ = pairs()
    ids = torch.ones(4, LONGEST + 1, dtype=torch.int64)
    for call in (
        lambda: made.embed_texts(ids, ids.bool()),
        lambda: made.match(made.norm(features), ids, ids.bool()),
        lambda: made.caption(made.norm(features), batch_of(ids, ids.bool())),
    ):
        with pytest.raises(UserError, match=f"{LONGEST + 1} tokens is more than the Q-Former's {LONGEST}"):
            call()
    made.embed_texts(ids[:, 1:], ids[:, 1:].bool())


def test_a_config_that_cannot_be_is_told() -> None:
    with pytest.raises(UserError, match="3 heads do not divide a width of 16"):
        QFormer(WIDTH_IN, 4, spec(num_attention_heads=3))


def test_one_pair_alone_is_no_special_case() -> None:
    made = former()
    features, ids, mask = pairs()
    seen = made.norm(features)
    torch.testing.assert_close(made.embed_images(seen[:1]), made.embed_images(seen)[:1], **EXACT)
    torch.testing.assert_close(made.match(seen[:1], ids[:1], mask[:1]), made.match(seen, ids, mask)[:1], **EXACT)


def test_unsupervised_texts_give_no_logits() -> None:
    made = former()
    features, ids, mask = pairs()
    batch = batch_of(ids, mask)
    batch.labels[:] = IGNORE
    logits, targets = made.caption(made.norm(features), batch)
    assert logits.shape == (0, WORDS) and targets.shape == (0,)
