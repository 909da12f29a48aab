"""L3's borders: which padded batches teach what, by labels, masks and the embedding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.data.missing_pad_token import find
from sightline.guard.evidence import BatchSeen, LossSeen, Setup, TokenizerSetup

IDS = torch.tensor([[5, 3, 4, 6, 7, 3, 2], [5, 3, 6, 7, 2, 2, 2], [5, 4, 4, 7, 6, 2, 2]])  # 2: EOS and pad
MASK = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 0]]).bool()


def judged(ids: torch.Tensor, labels: torch.Tensor | None, mask: torch.Tensor | None = MASK, **more: Any):
    given = {"pad_id": 2, "eos_id": 2, "rows": 8, "phase": "train", "step": 0, "loss": None, **more}
    tokenizer = TokenizerSetup(8, given["pad_id"], given["eos_id"])
    batch = BatchSeen(phase=given["phase"], step=given["step"], input_ids=ids, labels=labels, attention_mask=mask)
    return find(batch, Setup(towers={}, tokenizer=tokenizer, embedding_rows=given["rows"]), given["loss"])


def unless(where: torch.Tensor) -> torch.Tensor:
    return IDS.masked_fill(where, -100)


def test_eos_masked_with_the_padding() -> None:
    assert "stop" in judged(IDS, unless(IDS == 2)).message


def test_eos_that_ends_a_row_is_supervised() -> None:
    assert judged(IDS, unless(~MASK)) is None


def test_one_supervised_eos_is_enough() -> None:
    labels = unless(IDS == 2)
    labels[2, 5] = 2
    assert judged(IDS, labels) is None


@pytest.mark.parametrize("mask", [None, IDS != 2])
def test_a_mask_made_by_id_hides_the_eos_and_the_longest_row_shows_it(mask: torch.Tensor | None) -> None:
    assert isinstance(judged(IDS, unless(IDS == 2), mask), Finding)
    assert judged(IDS, unless(~MASK), mask) is None


def test_text_without_eos_padded_with_eos() -> None:
    """The longest row has no EOS, so none of the shorter ones need have one."""
    ids = IDS.clone()
    ids[0, -1] = 3
    assert judged(ids, ids.masked_fill(ids == 2, -100), ids != 2) is None


@pytest.mark.parametrize("width", [8, 10])
def test_a_round_width_may_be_padding_alone(width: int) -> None:
    ids = torch.full((3, width), 3)
    ids[:, -1] = 2
    ids[1:, -3:] = 2
    assert judged(ids, ids.masked_fill(ids == 2, -100), None) is None


def test_an_ordinary_token_as_pad() -> None:
    ids = torch.tensor([[5, 3, 0, 6, 7, 1], [4, 0, 6, 7, 1, 0], [5, 4, 4, 1, 0, 0]])
    labels = ids.masked_fill(ids == 0, -100)
    assert "ordinary" in judged(ids, labels, ids != 0, pad_id=0, eos_id=1).message
    fair = labels.clone()
    fair[0, 2] = fair[1, 1] = 0
    assert judged(ids, fair, ids != 0, pad_id=0, eos_id=1) is None


def test_a_single_row_may_be_chance() -> None:
    assert judged(IDS[1:2], unless(IDS == 2)[1:2], MASK[1:2]) is None


def test_no_pad_token_matters_only_where_there_is_padding() -> None:
    told = judged(IDS, None, pad_id=None)
    assert told.severity == "note" and "no pad token" in told.message
    assert judged(IDS, unless(~MASK), pad_id=None).severity == "note"
    assert judged(IDS, unless(IDS == 2), pad_id=None).severity == "warning"  # by id, and with it each true EOS
    assert judged(IDS, None, torch.ones_like(MASK), pad_id=None) is None
    assert isinstance(judged(IDS, None, None, pad_id=None), CannotTell)


def test_a_token_beyond_the_embedding() -> None:
    over = judged(IDS, unless(~MASK), rows=7)
    assert over.severity == "error" and over.seen["id"] == 7
    assert judged(IDS, unless(~MASK), rows=7, step=3) is None


def test_labels_read_off_the_gradient() -> None:
    def loss(labels: torch.Tensor) -> LossSeen:
        return LossSeen(0, 0, 9, 0.1, 1.0, 0.0, IDS, labels.roll(-1, dims=1))

    assert isinstance(judged(IDS, None, loss=loss(unless(IDS == 2))), Finding)
    assert judged(IDS, None, loss=loss(unless(~MASK))) is None
    assert isinstance(judged(IDS, None), CannotTell)


def test_the_models_config_names_the_end_without_a_tokenizer() -> None:
    def told(labels: torch.Tensor, mask: torch.Tensor | None, *ends: int) -> bool:
        batch = BatchSeen("train", 0, input_ids=IDS, labels=labels, attention_mask=mask)
        return isinstance(find(batch, Setup(towers={}, ends=ends)), Finding)

    assert told(unless(IDS == 2), MASK, 2)
    assert not told(unless(IDS == 2), MASK, 3)  # who knows what fills these rows up?
    assert not told(unless(IDS == 2), None, 2)
    assert not told(unless(~MASK), MASK, 2)  # the end is taught


def test_evaluation_batches_are_none_of_its_business() -> None:
    assert isinstance(judged(IDS, unless(IDS == 2), phase="evaluation"), CannotTell)


def decoded(rows: list[list[int]]) -> torch.Tensor:
    """Labels of a decoder, filled up with -100 to a width."""
    return torch.tensor([row + [-100] * (6 - len(row)) for row in rows])


@pytest.mark.parametrize(
    ("rows", "more", "found"),
    [
        ([[5, 3], [5, 3, 4], [6, 7, 3], [6, 7, 3, 3, 4]], {}, True),
        (
            [[5, 3], [5, 3, 4], [6, 7, 3], [6, 7, 3, 3, 4, 4]],
            {},
            False,
        ),  # the longest row ends in a word: there is no end
        ([[5, 3], [5, 3, 4], [6, 7, 3], [6, 7, 3, 3, 2]], {}, False),
        ([[5, 3], [5, 3, 4], [6, 7, 3], [6, 7, 3, 3, 4]], {"pad_id": 0}, False),
        ([[5, 3], [6, 3], [7, 3], [6, 4]], {}, False),  # of one length: none needs an end
        ([[5, 3], [5, 3, 4], [6, 7, 3, 3, 4]], {}, False),  # few
        ([[5, 3], [5, 3, 4], [6, 7, 3], [6, 7, 3, 3, 4]], {"phase": "evaluation"}, False),
    ],
)
@pytest.mark.parametrize("ids", [None, torch.full((4, 9), 3)])
def test_labels_of_a_decoder(
    rows: list[list[int]], more: dict[str, Any], found: bool, ids: torch.Tensor | None
) -> None:
    verdict = judged(ids, decoded(rows), None, **more)
    assert isinstance(verdict, Finding) is found
