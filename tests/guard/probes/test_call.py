"""What a call's bare tensors are taken for: by the names of the model's arguments, else by their values."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput

from sightline.guard.probes.call import Call, differentiable, outcome

IDS = torch.tensor([[5, 3, 8, 2, 9, 4], [7, 7, 1, 3, 2, 6]])
LABELS = torch.tensor([[3, 8, 2, 9, 4, 1], [7, 1, 3, 2, 6, 5]])


class Named(nn.Module):
    def forward(self, tokens: Tensor, position_ids: Tensor, labels: Tensor | None = None) -> Tensor:
        return tokens


class Bare(nn.Module):
    def forward(self, x: Tensor, a: Tensor, b: Tensor | None = None) -> Tensor:
        return x


def roles(model: nn.Module, *tensors: Tensor) -> dict[str, int]:
    call = Call(model, tensors)
    found = {name: call.tensor(name) for name in ("input_ids", "labels", "position_ids")}
    return {
        name: next(n for n, t in enumerate(tensors) if t is value) for name, value in found.items() if value is not None
    }


def test_names_of_the_models_own_arguments() -> None:
    assert roles(Named(), IDS, LABELS, IDS + 1) == {"input_ids": 0, "position_ids": 1, "labels": 2}


OTHERS = {
    "positions": torch.arange(6).expand(2, 6),
    "positions that restart": torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 0, 1, 2, 3]]),
}
PARTS = {
    "documents": torch.tensor([[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1, 1]]),
    "sentences": torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1]]),
    "mask, right": torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]),
    "mask, left": torch.tensor([[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_positions_are_told_by_their_values(name: str) -> None:
    assert roles(Bare(), IDS, OTHERS[name]) == {"input_ids": 0, "position_ids": 1}
    assert roles(Bare(), IDS, OTHERS[name], LABELS) == {"input_ids": 0, "position_ids": 1, "labels": 2}


@pytest.mark.parametrize("name", PARTS)
def test_parts_and_masks_are_no_labels(name: str) -> None:
    assert roles(Bare(), IDS, PARTS[name]) == {"input_ids": 0}
    assert roles(Bare(), IDS, PARTS[name], LABELS) == {"input_ids": 0, "labels": 2}


@pytest.mark.parametrize(
    "labels",
    [LABELS, (IDS > 4).long(), IDS.masked_fill(IDS > 4, -100), torch.arange(4, 10).expand(2, 6), LABELS[:, :3]],
    ids=["next tokens", "yes or no", "masked", "counting up", "shorter"],
)
def test_labels_are_what_is_neither(labels: Tensor) -> None:
    assert roles(Bare(), IDS, labels) == {"input_ids": 0, "labels": 1}


def test_ids_that_may_be_labels() -> None:
    other = torch.zeros(2, 4, dtype=torch.long)
    bare = Call(Bare(), (IDS, other))
    assert bare.surely_read(IDS) and not bare.surely_read(other)
    assert Call(Bare(), (), {"labels": IDS, "decoder_input_ids": other}).surely_read(other)
    assert not Call(Bare(), (), {"input_ids": IDS, "labels": other}).surely_read(other)


def test_ids_of_a_decoder() -> None:
    call = Call(Bare(), (IDS, LABELS[:, :4]))
    assert call.ids_of(torch.Size((2, 4))) is call.args[1]
    assert call.ids_of(torch.Size((2, 6))) is IDS
    assert call.ids_of(torch.Size((2, 9))) is IDS
    named = Call(Bare(), (), {"input_ids": IDS, "decoder_input_ids": LABELS})
    assert named.ids_of(torch.Size((2, 6))) is LABELS


@pytest.mark.parametrize("sharded", [True, False])
def test_a_model_in_pieces_is_not_run_again(sharded: bool) -> None:
    """A pass of ours on one rank alone would wait for the others' parts."""
    model = nn.Linear(3, 3)
    if sharded:
        model.weight.to_local = lambda: model.weight  # type: ignore[assignment]
    assert Call(model, (torch.ones(2, 3),)).repeatable is not sharded


@dataclass
class Kept:
    input_ids: Tensor
    pixel_values: Tensor


@dataclass(frozen=True, slots=True)
class Slotted:
    input_ids: Tensor
    pixel_values: Tensor


@pytest.mark.parametrize("kind", [Kept, Slotted])
def test_a_batch_object_is_changed_whatever_keeps_its_fields(kind: type) -> None:
    ids, images, others = torch.ones(2, 3, dtype=torch.long), torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    batch = kind(ids, images)
    seen = Call(nn.Identity(), (batch,), {}).changed(pixel_values=others)
    assert seen.args[0].pixel_values is others and seen.args[0].input_ids is ids and type(seen.args[0]) is kind
    assert batch.pixel_values is images


def test_outputs_in_a_tuple_beside_something_else() -> None:
    """A model around one of transformers' gives its output and a number of its own."""
    logits, loss = torch.randn(2, 3, 5, requires_grad=True), torch.randn((), requires_grad=True)
    given = CausalLMOutput(loss=loss, logits=logits)
    for output in (given, (given, 4), (torch.ones(2), given)):
        told = outcome(output)
        assert told.loss is loss and told.logits is logits
    assert [id(one) for one in differentiable((given, 4))] == [id(loss), id(logits)]
    assert outcome((logits, 4)).logits is logits and differentiable(logits) == [logits] and differentiable(4) == []


def test_a_part_that_is_given_what_autocast_made() -> None:
    first, last = nn.Linear(4, 6), nn.Linear(6, 2)
    with torch.autocast("cpu", dtype=torch.float16):
        made = first(torch.randn(3, 4))
        said = last(made)
    again = Call(last, (made,)).run().logits
    assert again is not None and torch.equal(said, again)
    whole = Call(first, (torch.randn(3, 4),)).run().logits
    assert whole is not None and whole.dtype == torch.float32
    half = Call(last.bfloat16(), (made.bfloat16(),)).run().logits
    assert half is not None and half.dtype == torch.bfloat16
