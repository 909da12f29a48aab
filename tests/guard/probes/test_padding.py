"""A row of a padded batch against the same row alone, in models of transformers and in ones that need more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from sightline.guard.probes.call import Call
from sightline.guard.probes.padding import padding, side_of

ROWS = ([3, 4, 5, 6, 7], [8, 9], [10, 11, 12])


def padded(side: str) -> dict[str, torch.Tensor]:
    widest = max(map(len, ROWS))
    filled = [[0] * (widest - len(r)) + r if side == "left" else r + [0] * (widest - len(r)) for r in ROWS]
    ids = torch.tensor(filled)
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def little(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "gpt2":
        config: Any = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=20, initializer_range=0.5)
        return transformers.GPT2LMHeadModel(config)
    narrow = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(**narrow, num_key_value_heads=2, vocab_size=20, initializer_range=0.5)
    return transformers.LlamaForCausalLM(config)


def look(model: nn.Module, given: dict[str, torch.Tensor], **more: Any) -> Any:
    return padding(Call(model, (), given), given["attention_mask"].bool(), 1, **more)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_a_row_says_at_its_last_real_token(kind: str, side: str) -> None:
    seen = look(little(kind), padded(side))
    assert seen is not None and seen.side == side and seen.rows == 2
    assert (seen.gap > 0.1) == (kind == "gpt2" and side == "left")  # absolute positions count the padding


def test_positions_counted_from_the_mask_make_left_padding_harmless() -> None:
    given = padded("left")
    given["position_ids"] = (given["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    seen = look(little("gpt2"), given)
    assert seen is not None and seen.gap < 1e-4


def test_where_the_host_went_on_from() -> None:
    model, given = little("llama"), padded("right")
    with torch.no_grad():
        logits = model(**given).logits
    ends = given["attention_mask"].sum(-1) - 1
    padding_says, text_says = logits[:, -1].argmax(-1), logits[torch.arange(3), ends].argmax(-1)
    assert look(model, given, chosen=padding_says).followed == float("inf")
    assert look(model, given, chosen=text_says).followed == float("-inf")
    assert look(model, given, chosen=text_says, last_only=True).followed == float("inf")


def test_mode_and_random_state_come_back() -> None:
    model, state = little("gpt2").train(), torch.get_rng_state()
    look(model, padded("left"))
    assert model.training and torch.equal(state, torch.get_rng_state())


class Needs(nn.Module):
    """Cannot be called with one row of another length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 4)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.embed(input_ids.view(3, 5))


@pytest.mark.parametrize(
    "given",
    [padded("left"), {**padded("left"), "inputs_embeds": torch.zeros(3, 5, 4)}, {**padded("left"), "bias": [object()]}],
    ids=["fails", "embeddings", "not repeatable"],
)
def test_no_answer_where_a_row_cannot_be_taken_out(given: dict[str, Any]) -> None:
    assert look(Needs(), given) is None


@pytest.mark.parametrize(
    ("mask", "side"),
    [
        ([[1, 1, 1], [1, 1, 1]], None),
        ([[1, 1, 1], [0, 1, 1]], "left"),
        ([[1, 1, 1], [1, 0, 0]], "right"),
        ([[0, 1, 1], [1, 1, 0]], None),
        ([[1, 0, 1], [1, 1, 1]], None),
        ([[0, 0, 0], [1, 1, 0]], "right"),
    ],
)
def test_side(mask: list[list[int]], side: str | None) -> None:
    assert side_of(torch.tensor(mask).bool()) == side


class Sees(nn.Module):
    """A decoder whose rows begin with what their image says."""

    def __init__(self, *, shuffled: bool) -> None:
        super().__init__()
        self.look, self.language, self.shuffled = nn.Linear(12, 16), little("llama"), shuffled

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, pictures: Any) -> Any:
        seen = self.look(torch.stack([*pictures]).flatten(1))
        seen = seen.flip(0) if self.shuffled else seen
        embeds = self.language.get_input_embeddings()(input_ids) + seen[:, None]
        return self.language(inputs_embeds=embeds, attention_mask=attention_mask)


@pytest.mark.parametrize("listed", [False, True], ids=["one tensor", "a list"])
def test_each_row_takes_its_image_along(listed: bool) -> None:
    pictures = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(0)) * 3
    given = {**padded("right"), "pictures": list(pictures) if listed else pictures}
    seen = look(Sees(shuffled=False), given, chosen=torch.tensor([0, 0, 0]))
    assert seen is not None and seen.side == "right" and seen.gap > 0.1
    assert look(Sees(shuffled=True), given, chosen=torch.tensor([0, 0, 0])) is None  # whose image it is nobody knows
