"""Perplexities among what a script says."""

from __future__ import annotations

import pytest

from sightline.attach.script.loss.words import BITS, LOSS, NAMED, rounding


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("epoch 2 perplexity 9.380", [("perplexity", "9.380")]),
        ("Validation PPL: 12.5, loss 2.1", [("PPL", "12.5")]),
        ("{'val/ppl': 3.25e+02}", [("val/ppl", "3.25e+02")]),
        ("val_ppl=7.10 train_ppl=6.01", [("val_ppl", "7.10"), ("train_ppl", "6.01")]),
        ("perplexity is 4.5", [("perplexity", "4.5")]),
        ("apples 3.5", []),
        ("perplexity of the model after 3 epochs", []),
        ("ppl 12", []),
    ],
)
def test_a_number_behind_its_name(line: str, found: list[tuple[str, str]]) -> None:
    assert NAMED.findall(line) == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("step 60 loss 2.105 val loss 2.301", [("val loss", "2.301")]),
        ("{'eval_loss': 1.25, 'lr': 0.1}", [("eval_loss", "1.25")]),
        ("Test NLL = 3.5e-1", [("Test NLL", "3.5e-1")]),
        ("validation mean loss: 0.70", [("validation mean loss", "0.70")]),
        ("loss 2.1, train_loss 2.0, interval loss 3.5", []),
    ],
)
def test_a_loss_of_an_evaluation(line: str, found: list[tuple[str, str]]) -> None:
    assert LOSS.findall(line) == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("val bits per char: 1.523", [("bits per char", "1.523")]),
        ("step 9 | val_bpb=0.981 | lr 0.1", [("val_bpb", "0.981")]),
        ("8 bits of 3.5, a bit later 1.2", []),
    ],
)
def test_bits(line: str, found: list[tuple[str, str]]) -> None:
    assert BITS.findall(line) == found


def test_what_the_last_digit_leaves_open() -> None:
    assert [rounding(number) for number in ("9.90", "3.25e+02", "1.5e-1")] == pytest.approx([0.005, 0.5, 0.005])
