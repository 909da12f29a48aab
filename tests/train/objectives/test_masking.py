"""Masked words: BERT's shares, never a special token, the same choice in however many micro-batches and ranks."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from sightline.data.batch import Batch
from sightline.data.row import Row
from sightline.errors import UserError
from sightline.models.tokenizer import word_tokenizer
from sightline.train.objectives import PairLosses
from sightline.train.objectives.masking import Masking
from tests.train.objectives.test_pairs import PAIRS, micro_batches, stage_and_model
from tests.train.objectives.test_slow import fused_stage_and_model

WORDS = " ".join(f"word{i}" for i in range(60))


def masking(share: float = 0.15) -> Masking:
    tokenizer = word_tokenizer([WORDS], None)
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    return Masking(tokenizer, share, "learn")


def texts(of: Masking, count: int, length: int) -> Batch:
    """`count` texts of `length` random words between a start and an end, each followed by two of padding."""
    torch.manual_seed(0)
    words = torch.tensor(of.words)[torch.randint(len(of.words), (count, length))]
    ids = torch.cat([torch.ones(count, 1), words, torch.full((count, 1), 2), torch.zeros(count, 2)], 1).long()
    real = torch.ones_like(ids, dtype=torch.bool)
    real[:, -2:] = False
    keys = tuple(f"{i}.png" for i in range(count))
    return Batch(ids, ids, ids, ids, ids, real, torch.arange(count), image_keys=keys)


def test_shares_are_berts() -> None:
    mask = masking()
    batch = texts(mask, 500, 20)
    found = mask(batch, 0, 0)
    assert found.where.sum(1).tolist() == [3] * 500, "15% of 20 words"
    assert torch.equal(found.targets, batch.input_ids[found.where])
    assert torch.equal(found.input_ids[~found.where], batch.input_ids[~found.where])
    read = found.input_ids[found.where]
    kinds = Counter(
        "mask" if r == mask.mask else "same" if r == t else "other" for r, t in zip(read, found.targets, strict=True)
    )
    assert kinds["mask"] / 1500 == pytest.approx(0.8, abs=0.03)
    assert kinds["other"] / 1500 == pytest.approx(0.1, abs=0.03)
    assert kinds["same"] / 1500 == pytest.approx(0.1, abs=0.03)
    places = found.where[:, 1:21].double().mean(0)
    assert float(places.min()) > 0.08, "no place is spared"


def test_special_tokens_are_never_masked_and_never_put_in() -> None:
    mask = masking(1.0)
    found = mask(texts(mask, 50, 6), 0, 0)
    assert found.where.sum(1).tolist() == [6] * 50 and not bool(found.where[:, [0, 7, 8, 9]].any())
    put = set(found.input_ids[found.where].tolist()) - {mask.mask}
    assert put <= set(mask.words) and not put & mask.special


def test_a_short_text_loses_one_word_and_an_empty_one_none() -> None:
    mask = masking()
    assert mask(texts(mask, 4, 1), 0, 0).where.sum(1).tolist() == [1] * 4
    assert mask(texts(mask, 4, 0), 0, 0).where.sum() == 0


def test_the_choice_is_of_the_seed_the_step_and_the_row() -> None:
    mask = masking()
    batch = texts(mask, 8, 20)
    first = mask(batch, 3, 7)
    torch.rand(5)  # not of the random numbers that others draw
    assert torch.equal(first.input_ids, mask(batch, 3, 7).input_ids)
    for other in (mask(batch, 3, 8), mask(batch, 4, 7)):
        assert not torch.equal(first.where, other.where)
    half = Batch(*(getattr(batch, n)[4:] for n in ("input_ids",) * 5), batch.attention_mask[4:], torch.arange(4, 8))
    half.image_keys = batch.image_keys
    assert torch.equal(mask(half, 3, 7).input_ids, first.input_ids[4:])


def test_a_tokenizer_without_a_mask(rows: list[Row]) -> None:
    with pytest.raises(UserError, match="no mask token"):
        Masking(word_tokenizer([WORDS], None), 0.15, "learn")
    stage, built = stage_and_model(rows, {"itc": 1.0})
    asked = stage.model_copy(update={"objective": {"itc": 1.0, "mlm": 1.0}})
    with pytest.raises(UserError, match="no head for mlm"):
        PairLosses(asked).check(built.model)


def test_the_count_is_known_before_and_is_that_of_the_loss(rows: list[Row]) -> None:
    stage, built = fused_stage_and_model(rows, {"itc": 1.0, "mlm": 1.0})
    losses = PairLosses(stage)
    losses.check(built.model)
    counts = {size: losses.counts(micro_batches(built, rows, size))["mlm"] for size in (1, 3, PAIRS)}
    assert len(set(counts.values())) == 1 and counts[1] >= PAIRS
    (batch,) = micro_batches(built, rows, PAIRS)
    built.model.eval()
    losses.before_step(5, 10)
    held_out = losses.value(built.model, batch)["mlm"]
    losses.before_step(6, 10)
    again = losses.value(built.model, batch)["mlm"]
    assert torch.equal(held_out[0], again[0]) and held_out[1] == again[1], "held-out texts lose the same words always"
