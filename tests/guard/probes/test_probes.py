"""Probes see the fault, see nothing on the clean twin, and leave no trace."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from sightline.guard.probes.call import Call
from sightline.guard.probes.image_pairs import image_pairs
from sightline.guard.probes.leak import documents_of, leak
from sightline.guard.probes.non_finite import first_non_finite
from sightline.guard.probes.overfit import overfit
from sightline.guard.probes.reference import Reference
from sightline.guard.probes.round_trip import round_trip
from sightline.guard.probes.rows import rows_apart
from sightline.guard.probes.twice import difference


class Packed(nn.Module):
    """One attention layer over packed rows. `masked`: documents are kept apart. `short`: logits where labels are."""

    def __init__(self, *, masked: bool = True, short: bool = False, looks: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.masked, self.short, self.looks = masked, short, looks
        self.embed, self.see, self.head = nn.Embedding(12, 8), nn.Linear(4, 8), nn.Linear(8, 12)
        self.drop = nn.Dropout(0.5)

    def forward(self, input_ids: Tensor, labels: Tensor, **more: Tensor) -> Any:
        x = self.drop(self.embed(input_ids))
        if self.looks and "pixel_values" in more:
            x = x + self.see(more["pixel_values"]).unsqueeze(1)
        groups = more.get("group_ids", torch.zeros_like(input_ids))
        segments = more.get("segment_ids", groups)
        sight = torch.ones(input_ids.shape[1], input_ids.shape[1]).tril().bool()
        if self.masked:
            same = (segments[:, :, None] == segments[:, None]) | (segments[:, None] == 0)
            sight = sight & (groups[:, :, None] == groups[:, None]) & same
        logits = self.head(x + scaled_dot_product_attention(x, x, x, attn_mask=sight))
        if not self.short:
            loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            return SimpleNamespace(loss=loss, logits=logits)
        where = labels[:, 1:] != -100
        return logits[:, :-1][where], labels[:, 1:][where]


IDS = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4, 3, 2, 1]])
LABELS = IDS.where(torch.tensor([0, 0, 1, 1, 0, 1, 1, 1]).bool(), -100)
GROUPS = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0]])
SHARED = torch.tensor([[0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 0, 0, 0, 0, 0, 0]])


def call(model: nn.Module, **more: Tensor) -> Call:
    return Call(model, (), {"input_ids": IDS, "labels": LABELS, **more})


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("ids", ["groups", "prefix"])
def test_leak(short: bool, masked: bool, ids: str) -> None:
    more = {"group_ids": GROUPS} if ids == "groups" else {"group_ids": SHARED * 0, "segment_ids": SHARED}
    one = call(Packed(masked=masked, short=short), **more)
    documents = documents_of(one)
    assert documents is not None
    seen = leak(one, documents, 3)
    assert seen is not None and seen.step == 3
    assert seen.inside > 1e-3
    assert (seen.outside == 0) == masked


def test_documents_by_positions_that_restart() -> None:
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6, 7]])
    documents = documents_of(call(Packed(), position_ids=positions))
    assert documents is not None and documents.ids.tolist() == [[1] * 4 + [2] * 4, [1] * 8]


def test_an_unpacked_batch_has_nothing_to_leak() -> None:
    one = call(Packed(), group_ids=torch.zeros_like(IDS))
    documents = documents_of(one)
    assert documents is not None and leak(one, documents, 0) is None


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("looks", [False, True])
def test_image_pairs(short: bool, looks: bool) -> None:
    torch.manual_seed(1)
    seen = image_pairs(call(Packed(looks=looks, short=short), pixel_values=torch.randn(2, 4)), 5)
    assert seen is not None and seen.own.shape == seen.other.shape == (2,)
    assert seen.changed == looks


def test_image_pairs_agree_with_the_models_own_loss() -> None:
    model = Packed().eval()
    one = call(model, pixel_values=torch.randn(2, 4))
    seen = image_pairs(one, 0)
    assert seen is not None
    assert torch.allclose(seen.own.mean(), one.run().loss, atol=1e-6)  # rows have equally many labels


def test_one_image_makes_no_pair() -> None:
    assert image_pairs(Call(Packed(), (), {"input_ids": IDS[:1], "pixel_values": torch.randn(1, 4)}), 0) is None


@pytest.mark.parametrize("training", [True, False])
def test_twice(training: bool) -> None:
    gap = difference(call(Packed().train(training)))
    assert gap is not None and (gap > 0) == training


def test_the_first_module_that_is_not_finite_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.fill_(float("nan"))
    assert first_non_finite(Call(model, (torch.ones(1, 2),))) == "1"
    assert first_non_finite(Call(model[0], (torch.ones(1, 2),))) is None


def test_round_trip_names_what_differs() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight  # tied
    saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    clean = round_trip(model, {k: v for k, v in saved.items() if k != "1.weight"}, Path("x"), 1)
    assert not (clean.missing or clean.unexpected or clean.changed or clean.dtypes) and clean.compared == 3
    saved["0.bias"] = saved["0.bias"] + 1
    saved["1.bias"] = saved["1.bias"].half()
    saved["more"] = torch.ones(1)
    seen = round_trip(model, saved, Path("x"), 1)
    assert seen.unexpected == ("more",) and set(seen.changed) >= {"0.bias"} and set(seen.dtypes) == {"1.bias"}
    assert seen.dtypes["1.bias"] == ("float32", "float16")


def test_the_ends_of_packed_documents_are_no_samples() -> None:
    model = nn.Embedding(9, 4)
    model.forward = lambda input_ids, ends: nn.functional.embedding(input_ids, model.weight)
    packed = {"input_ids": torch.arange(8)[None], "ends": torch.tensor([0, 3, 8])}
    assert rows_apart(Call(model, (), packed), 3, varied=True) is None
    apart = rows_apart(Call(model, (), {"input_ids": torch.eye(3, 5).long(), "ends": torch.ones(3)}), 3, varied=True)
    assert apart is not None
    assert apart.rows == 3


class Asked(nn.Module):
    """A question about a picture, whose features hardly count yet. `over`: what they are averaged over."""

    def __init__(self, *over: int, gate: float = 1e-2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.over, self.gate = over, gate
        self.look = nn.Sequential(nn.Conv2d(3, 8, 2), nn.BatchNorm2d(8), nn.ReLU())
        self.read, self.head = nn.Linear(6, 8), nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 5))

    def forward(self, picture: Tensor, question: Tensor) -> Tensor:
        seen = self.look(picture).mean(dim=self.over)
        return self.head(torch.tanh(self.read(question)) * (1 + self.gate * seen))


@pytest.mark.parametrize(
    ("model", "pooled"),
    [(Asked(0, 2, 3), True), (Asked(2, 3), False), (Asked(2, 3, gate=1.0), False), (Asked(0, 2, 3, gate=0.0), False)],
    ids=["over the batch", "over the picture", "that counts", "that is not seen yet"],
)
def test_pictures_that_are_pooled_over_the_batch(model: nn.Module, pooled: bool) -> None:
    torch.manual_seed(0)
    seen = rows_apart(Call(model, (torch.randn(16, 3, 6, 6), torch.randn(16, 6))), 3, varied=True)
    assert seen is not None and seen.own is not None and seen.own > 0.1 and len(seen.alone) == 1
    assert (seen.pooled is not None) == pooled and max(seen.others) < 0.01 * seen.own
    assert model.training and model.look[1].num_batches_tracked == 0


@pytest.mark.parametrize("mixes", [False, True])
def test_queries_beside_as_many_examples(mixes: bool) -> None:
    """A prototypical network. Mixing is told from comparing: it comes from the queries too."""
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
    net.forward = lambda examples, queries: torch.cdist(  # type: ignore[method-assign]
        net[1](net[0](queries - queries.mean(dim=0) if mixes else queries)),
        net[1](net[0](examples)).view(5, 5, -1).mean(dim=1),
    )
    seen = rows_apart(Call(net, (torch.randn(25, 6), torch.randn(25, 6))), 3, varied=True)
    assert seen is not None and seen.own is not None and seen.own > 0.01 and seen.alone == ()
    assert (max(seen.others) > 0.01 * seen.own) == mixes


def test_a_picture_that_is_all_there_is_is_not_asked_about_twice() -> None:
    seen = rows_apart(Call(nn.Flatten(), (torch.randn(4, 3, 2, 2),)), 3, varied=True)
    assert seen is not None and seen.alone == ()


def test_a_reference_that_is_called_otherwise_is_not_called() -> None:
    policy = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9))
    batch = Call(policy, (), {"input_ids": torch.tensor([[1, 2, 3]]), "rejected": torch.tensor([[1, 2, 4]])})
    seen = Reference(policy, policy[0], synced=False).look(batch, 0)
    assert seen is not None
    assert (seen.shared, seen.difference) == (72, None)


def test_one_batch_is_learnt_though_forward_is_the_models_own_no_more() -> None:
    """As accelerate's autocast and TRL's fused head do: a copied model would run the first one's weights."""
    model = nn.Linear(4, 4)
    plain, before = model.forward, model.weight.detach().clone()
    model.forward = lambda x: plain(x)
    inputs, labels = torch.eye(4), torch.tensor([2, 0, 3, 1])
    seen = overfit(Call(model, (inputs,)), 0, lambda one: cross_entropy(one(inputs), labels))
    assert seen is not None
    assert min(loss for _, loss in seen.rates) < 0.5 * seen.first
    assert torch.equal(model.weight, before)


def test_a_call_is_changed_without_touching_the_hosts_batch() -> None:
    batch = SimpleNamespace(input_ids=IDS, labels=LABELS)
    before, after = Call(nn.Identity(), (batch,)), Call(nn.Identity(), (batch,)).changed(input_ids=IDS + 1)
    assert torch.equal(after.tensor("input_ids"), IDS + 1)
    assert before.tensor("input_ids") is IDS is batch.input_ids
    assert not before.repeatable  # an object of unknown kind may be a cache
    assert Call(nn.Identity(), (IDS,), {"use_cache": False}).repeatable
