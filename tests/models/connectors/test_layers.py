"""The switches of cross-attention layers, each against a law or an independent computation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.errors import UserError
from sightline.models.connectors import build_connector
from sightline.models.connectors.gated_cross_attention import GatedCrossAttention
from sightline.models.connectors.perceiver import Attention, Perceiver, Resampler
from sightline.models.connectors.q_former import QFormer
from sightline.models.layers.dropout import Dropouts, DropPath, at_depth
from sightline.models.layers.former import FormerBody, Layer
from sightline.models.layers.norm import HeadNorm, make_norm
from sightline.models.recompute import recompute
from sightline.recipe.schema import ConnectorSpec, Layers, Start
from tests.models.connectors.former import WIDTH, WIDTH_IN, WIDTH_OUT, former, pairs, spec
from tests.models.connectors.texts import batch_of

EXACT = {"atol": 1e-12, "rtol": 1e-9}
LOOSE = {"atol": 1e-4, "rtol": 1e-4}  # the eps of 1e-6
SMALL = {"depth": 2, "heads": 2, "head_width": 8}
KINDS = {
    "q-former": spec(),
    "perceiver": ConnectorSpec(kind="perceiver", queries=3, config=SMALL),
    "gated-cross-attention": ConnectorSpec(kind="gated-cross-attention", queries=3, config=SMALL),
}


def made(kind: str, *, seed: int = 0, layers: dict[str, Any] | None = None, start: dict[str, Any] | None = None) -> Any:
    """A tiny connector with these switches, in fp64 and training mode."""
    torch.manual_seed(seed)
    told = KINDS[kind].model_copy(update={"layers": Layers(**(layers or {})), "start": Start(**(start or {}))})
    module: Any = build_connector(WIDTH_IN, WIDTH_OUT, told)
    if isinstance(module, GatedCrossAttention):
        module.reach(3)
    return module.double()


def seen(count: int = 4) -> Tensor:
    return torch.randn(count, 5, WIDTH_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


# --- the house's own Q-Former layers --------------------------------------------------------------------------------


def own_body(of: QFormer, layers: Layers) -> QFormer:
    """`of` with its body replaced by the house's, on the same weights."""
    body = FormerBody(of.body.config, layers).to(of.queries.dtype)
    body.load_state_dict(of.body.state_dict())
    of.body = body.train(of.training)
    return of


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("what", ["look", "compare", "match", "write"])
def test_with_default_switches_they_are_transformers(what: str, dtype: torch.dtype, close: float) -> None:
    features, ids, mask = pairs(dtype)
    results, grads = [], []
    for own in (False, True):
        model = former(dtype)
        model = own_body(model, Layers()) if own else model
        features_in = features.clone().requires_grad_()
        normed = model.norm(features_in)
        made = {
            "look": lambda model=model, features_in=features_in: model(features_in),
            "compare": lambda model=model, normed=normed: (
                model.embed_images(normed) @ model.embed_texts(ids, mask)[:, :, None]
            ),
            "match": lambda model=model, normed=normed: model.match(normed, ids, mask),
            "write": lambda model=model, normed=normed: model.caption(normed, batch_of(ids, mask))[0],
        }[what]()
        made.square().mean().backward()
        results.append(made.detach())
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(results[1], results[0], atol=close, rtol=close)
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=close, rtol=1e-5 if close > 1e-9 else 1e-8, msg=name)


def test_another_switch_is_not_transformers() -> None:
    """The clean twin's fault: what differs must show in the numbers."""
    features, *_ = pairs()
    told = former()(features)
    for layers in (Layers(norm="rmsnorm"), Layers(qk_norm=True), Layers(place="pre")):
        model = former()
        body = FormerBody(model.body.config, layers).double()
        body.load_state_dict(model.body.state_dict(), strict=False)
        model.body = body.eval()
        assert not torch.allclose(model(features), told, atol=1e-3), layers


def test_transformers_body_is_kept_unless_a_switch_departs_from_it() -> None:
    kept = [{}, {"place": "post"}, {"attention_dropout": 0.3}]
    left = [{"place": "pre"}, {"norm": "rmsnorm"}, {"qk_norm": True}, {"path_dropout": 0.1}]
    assert [isinstance(made("q-former", layers=layers).body, FormerBody) for layers in kept] == [False] * 3
    assert [isinstance(made("q-former", layers=layers).body, FormerBody) for layers in left] == [True] * 4
    assert made("q-former", layers={"attention_dropout": 0.3}).body.config.attention_probs_dropout_prob == 0.3


def pre_norm_layer(layer: Layer, hidden: Tensor, features: Tensor) -> Tensor:
    """Xiong et al. 2020, figure 1 (b): x + f(norm(x)), branch after branch, of queries alone; one row at a time."""

    def branch(block: Any, x: Tensor, around: Tensor | None) -> Tensor:
        read = block.output.LayerNorm(x)
        attention, heads = block.attention, block.attention.num_attention_heads
        around = read if around is None else around
        query, key, value = attention.query(read), attention.key(around), attention.value(around)
        parts = []
        for q, k, v in zip(query.chunk(heads, -1), key.chunk(heads, -1), value.chunk(heads, -1), strict=True):
            parts.append(torch.softmax(q @ k.T / q.shape[-1] ** 0.5, -1) @ v)
        return x + block.output.dense(torch.cat(parts, -1))

    rows = []
    for x, around in zip(hidden, features, strict=True):
        x = branch(layer.attention, x, None)
        if layer.has_cross_attention:
            x = branch(layer.crossattention, x, around)
        read = layer.output_query.LayerNorm(x)
        rows.append(x + layer.output_query.dense(F.gelu(layer.intermediate_query.dense(read))))
    return torch.stack(rows)


def test_norms_before_the_branches() -> None:
    model = made("q-former", layers={"place": "pre"}).eval()
    assert isinstance(model, QFormer)
    features = model.norm(seen())
    hidden = model.body.layernorm(model.queries.expand(len(features), -1, -1))
    for layer in model.body.encoder.layer:
        hidden = pre_norm_layer(layer, hidden, features)
    torch.testing.assert_close(model._look(features), model.body.final_norm(hidden), **EXACT)


@pytest.mark.parametrize("kind", ["q-former", "perceiver"])
def test_where_branches_end_in_zero_a_pre_norm_layer_is_the_identity(kind: str) -> None:
    zero = made(kind, layers={"place": "pre"}, start={"residual": "zero"}).eval()
    other = made(kind, layers={"place": "pre"}).eval()
    if kind == "q-former":
        start = zero.body.layernorm(zero.queries.expand(4, -1, -1))
        found, moved = zero._look(zero.norm(seen())), other._look(other.norm(seen()))
        expected = zero.body.final_norm(start)
    else:
        found, moved = zero[0](seen()), other[0](seen())
        expected = zero[0].norm(zero[0].latents.expand(4, -1, -1))
    torch.testing.assert_close(found, expected, **EXACT)
    assert not torch.allclose(moved, expected, atol=1e-2)
    found.square().sum().backward()
    assert all(bool(part.weight.grad.any()) for part in last_maps(zero)[:1]), "and it can leave it"


def last_maps(module: nn.Module) -> list[nn.Linear]:
    ends = (".output.dense", ".output_query.dense", ".attention.out", ".mlp.3")
    return [part for name, part in module.named_modules() if name.endswith(ends) and isinstance(part, nn.Linear)]


def test_norms_behind_the_sums_of_a_resampler() -> None:
    resampler: Resampler = made("perceiver", layers={"place": "post"}).eval()[0]
    features, latents = seen(), resampler.latents.expand(4, -1, -1)
    for layer in resampler.layers:
        around = torch.cat([layer.norm_features(features), latents], 1)
        latents = layer.norm_latents(latents + layer.attention(latents, around))
        latents = layer.mlp[0](latents + layer.mlp[3](F.gelu(layer.mlp[1](latents))))
    torch.testing.assert_close(resampler(features), resampler.norm(latents), **EXACT)
    hidden = resampler.layers[-1](resampler.latents.expand(4, -1, -1), features)
    torch.testing.assert_close(hidden.mean(-1), torch.zeros(4, 3, dtype=torch.float64), atol=1e-9, rtol=0)


# --- norms ----------------------------------------------------------------------------------------------------------


def test_rmsnorm_is_torchs_and_its_formula() -> None:
    norm = make_norm("rmsnorm", 12, eps=1e-6)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    theirs = nn.RMSNorm(12, eps=1e-6)
    theirs.load_state_dict(norm.state_dict())
    x = 7 * torch.randn(3, 5, 12)
    assert torch.equal(norm(x), theirs(x))
    wide = x.double()
    formula = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight.double()
    torch.testing.assert_close(norm(x).double(), formula, atol=1e-6, rtol=1e-5)
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x.bfloat16()).float(), norm(x.bfloat16().float()), atol=0.02, rtol=0.02)
    assert isinstance(make_norm("layernorm", 12), nn.LayerNorm)


@pytest.mark.parametrize("kind", KINDS)
def test_rmsnorm_takes_the_place_of_every_norm_in_the_layers(kind: str) -> None:
    module = made(kind, layers={"norm": "rmsnorm"})
    inside = module.body if kind == "q-former" else module
    assert not any(isinstance(part, nn.LayerNorm) for part in inside.modules())
    assert any(isinstance(part, nn.RMSNorm) for part in inside.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_qk_norm_bounds_the_logits_however_large_the_weights(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    largest: dict[bool, float] = {}
    attend = F.scaled_dot_product_attention

    def watched(query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        largest[normed] = max(largest.get(normed, 0.0), float(logits.detach().abs().max()) / query.shape[-1] ** 0.5)
        return attend(query, key, *args, **kwargs)

    for normed in (True, False):
        module = made(kind, layers={"qk_norm": normed, "place": None if kind != "q-former" else "pre"}).eval()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if any(part in name for part in ("query.", "key.", "key_value.")):
                    parameter.mul_(1000.0)
        monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
        assert bool(torch.isfinite(module(seen())).all())
        monkeypatch.undo()
    assert largest[True] <= 1 + 1e-6 < 10 < largest[False]


def test_qk_norm_is_of_each_head_by_itself() -> None:
    norm, query, key = HeadNorm(4).double(), *torch.randn(2, 2, 3, 5, 4, dtype=torch.float64)
    nn.init.constant_(norm.key_norm.weight, 3.0)
    normed, other = norm(query, 1e3 * key)
    torch.testing.assert_close(normed.square().mean(-1).sqrt(), torch.ones(2, 3, 5, dtype=torch.float64), **LOOSE)
    torch.testing.assert_close(other, norm(query, key)[1], **LOOSE)
    torch.testing.assert_close(F.cosine_similarity(other, key, dim=-1), torch.ones(2, 3, 5, dtype=torch.float64))


# --- dropout --------------------------------------------------------------------------------------------------------


def test_drop_path_keeps_the_expectation_and_drops_whole_rows() -> None:
    torch.manual_seed(0)
    drop, branch = DropPath(0.3), torch.randn(20_000, 1, 3).abs() + 1
    kept = drop(branch) / branch
    assert bool(((kept == 0) | ((kept - 1 / 0.7).abs() < 1e-5)).all())
    assert bool(((kept == 0) == (kept[:, :, :1] == 0)).all()), "a row is dropped whole"
    assert float((kept[:, 0, 0] == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.02)
    assert drop.eval()(branch) is branch
    assert DropPath(0.0).train()(branch) is branch


@pytest.mark.parametrize("kind", KINDS)
def test_paths_are_dropped_in_training_alone_and_more_at_the_top(kind: str) -> None:
    module = made(kind, layers={"path_dropout": 0.5})
    rates = [part.p for part in module.modules() if isinstance(part, DropPath)]
    assert max(rates) == 0.5 and min(rates) == at_depth(0.5, 0, 3 if kind == "q-former" else 2)
    plain = made(kind, layers={}).eval()
    plain.load_state_dict(module.state_dict())
    torch.testing.assert_close(module.eval()(seen()), plain(seen()), **EXACT)
    torch.manual_seed(1)
    one, other = module.train()(seen()), module(seen())
    assert not torch.equal(one, other)


@pytest.mark.parametrize("kind", ["q-former", "perceiver"])
def test_attention_dropout_is_of_training_alone(kind: str) -> None:
    config = {"place": "pre"} if kind == "q-former" else {}
    dropping = made(kind, layers={"attention_dropout": 0.5, **config})
    keeping = made(kind, layers={"attention_dropout": 0.0, **config})
    keeping.load_state_dict(dropping.state_dict())
    torch.testing.assert_close(dropping.eval()(seen()), keeping.eval()(seen()), **EXACT)
    assert not torch.equal(dropping.train()(seen()), dropping(seen()))
    torch.testing.assert_close(keeping.train()(seen()), keeping(seen()), atol=0, rtol=0)


@pytest.mark.parametrize("layers", [{"attention_dropout": 0.4}, {"attention_dropout": 0.4, "path_dropout": 0.2}])
def test_a_share_of_all_dropout_and_back(layers: dict[str, Any]) -> None:
    """In transformers' body and in the house's."""
    module = made("q-former", layers=layers)
    own = rates_in(module)
    assert 0.4 in own
    Dropouts(module).share(0.25)
    assert rates_in(module) == [pytest.approx(0.25 * rate) for rate in own]
    Dropouts(module).share(0.5)  # the next stage's: the rates are still those that the recipe gave
    assert rates_in(module) == [pytest.approx(0.5 * rate) for rate in own]
    assert bool(Dropouts(module)) and rates_in(module) == own
    assert not Dropouts(made("perceiver"))
    Dropouts(module).share(0.0)
    torch.testing.assert_close(module.train()(seen()), module.eval()(seen()), **EXACT)


def rates_in(module: nn.Module) -> list[float]:
    fields = ("p", "attention_dropout")
    found = (getattr(part, field, None) for part in module.modules() for field in fields)
    return [rate for rate in found if isinstance(rate, float)]


# --- how weights start ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [{}, {"place": "pre"}])
def test_xavier_of_a_q_former(layers: dict[str, Any]) -> None:
    module = made("q-former", layers=layers, start={"weights": "xavier"})
    for part in module.body.modules():
        if isinstance(part, nn.Linear):
            bound = (6 / (part.in_features + part.out_features)) ** 0.5
            assert bound * 0.8 < float(part.weight.detach().abs().max()) <= bound
            assert not bool(part.bias.any())


def test_xavier_of_a_resampler_takes_keys_and_values_apart() -> None:
    module = made("perceiver", start={"weights": "xavier"})
    for part in module.modules():
        if isinstance(part, Attention):
            for half in part.key_value.weight.chunk(2):
                bound = (6 / sum(half.shape)) ** 0.5
                assert bound * 0.9 < float(half.detach().abs().max()) <= bound


@pytest.mark.parametrize("kind", KINDS)
def test_queries_start_as_wide_as_told(kind: str) -> None:
    torch.manual_seed(0)
    told = KINDS[kind].model_copy(update={"queries": 400, "start": Start(queries=0.5)})
    module: Any = build_connector(WIDTH_IN, WIDTH_OUT, told)
    queries = {"q-former": "queries", "perceiver": "0.latents", "gated-cross-attention": "resampler.latents"}[kind]
    assert float(dict(module.named_parameters())[queries].detach().std()) == pytest.approx(0.5, rel=0.05)


def test_cross_attention_starts_as_self_attention() -> None:
    same = KINDS["q-former"].model_copy(update={"start": Start(cross="self")})
    module: Any = build_connector(WIDTH, WIDTH_OUT, same)
    plain: Any = build_connector(WIDTH, WIDTH_OUT, KINDS["q-former"])
    for copied, fresh in zip(module.blocks, plain.blocks, strict=True):
        if copied.has_cross_attention:
            states = [block.crossattention.state_dict() for block in (copied, fresh)]
            own = [block.attention.state_dict() for block in (copied, fresh)]
            assert all(torch.equal(states[0][name], own[0][name]) for name in own[0])
            assert not torch.equal(states[1]["attention.query.weight"], own[1]["attention.query.weight"])


# --- what makes no sense --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "told", "message"),
    [
        ("mlp", {"layers": Layers(qk_norm=True)}, "a mlp has no cross-attention for 'layers' to change"),
        ("linear", {"start": Start(weights="xavier")}, "no cross-attention for 'start'"),
        ("gated-cross-attention", {"layers": Layers(place="post")}, "before anything is learned"),
        ("gated-cross-attention", {"start": Start(residual="zero")}, "no gradient"),
        ("gated-cross-attention", {"start": Start(cross="self")}, "no self-attention of its own"),
        ("perceiver", {"start": Start(cross="self")}, "no self-attention of its own"),
        ("q-former", {"start": Start(cross="self")}, "features of width 12"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: str, told: dict[str, Any], message: str) -> None:
    clean = KINDS.get(kind, ConnectorSpec(kind=kind))
    build_connector(WIDTH_IN, WIDTH_OUT, clean)
    with pytest.raises(UserError, match=message):
        build_connector(WIDTH_IN, WIDTH_OUT, clean.model_copy(update=told))


def test_layers_are_told_to_the_trainer() -> None:
    assert len(made("q-former").blocks) == 3 and len(made("gated-cross-attention").blocks) == 1
    perceiver = made("perceiver")
    assert isinstance(perceiver, Perceiver) and len(perceiver.blocks) == 2
    former = made("q-former")
    assert former.inputs == [former.words]


@pytest.mark.parametrize("layers", [{}, {"path_dropout": 0.3}], ids=["transformers' body", "the house's"])
def test_layers_computed_again_in_the_backward_pass_drop_what_they_dropped(layers: dict[str, Any]) -> None:
    grads = []
    for on in (False, True):
        module = made("q-former", layers={"attention_dropout": 0.3, **layers}).train()
        recompute(module.blocks, on)
        torch.manual_seed(7)
        module(seen()).square().sum().backward()
        grads.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and len(grads[0]) > 20
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, **EXACT, msg=name)


@pytest.mark.parametrize("kind", ["q-former", "perceiver"])
def test_in_half_precision_they_are_about_the_same(kind: str) -> None:
    told = {"norm": "rmsnorm", "qk_norm": True, "place": "pre"}
    module = made(kind, layers=told).float().eval()
    features = seen().float()
    whole = module(features)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = module(features)
    half = module.bfloat16()(features.bfloat16())
    assert half.dtype == torch.bfloat16
    for other in (mixed, half):
        assert float((other.float() - whole).detach().norm() / whole.detach().norm()) < 0.05


def test_gated_layers_begin_by_adding_nothing_whatever_the_switches() -> None:
    told = {"norm": "rmsnorm", "qk_norm": True, "attention_dropout": 0.2, "path_dropout": 0.5}
    layer = made("gated-cross-attention", layers=told, start={"weights": "xavier"}).layers[0]
    hidden, features = torch.randn(8, 4, WIDTH_OUT, dtype=torch.float64), seen(8)
    sight = torch.ones(8, 1, 4, 5, dtype=torch.bool)
    assert torch.equal(layer.train()(hidden, features, sight), hidden)
    with torch.no_grad():
        layer.attention_gate.fill_(0.5)
        layer.mlp_gate.fill_(0.5)
    assert torch.equal(layer.eval()(hidden, features, sight), layer(hidden, features, sight))
    torch.manual_seed(0)
    added = layer.train()(hidden, features, sight) - hidden
    unmoved = (added == 0).flatten(1).all(1)
    assert 0 < int(unmoved.sum()) < 8, "rows that skip both branches, and rows that do not"
    assert isinstance(layer.attention.head_norm, HeadNorm) and layer.attention.attention_dropout == 0.2
