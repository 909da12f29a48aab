"""Perplexities among what a script says."""

from __future__ import annotations

import pytest

from sightline.attach.script.words import NAMED


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
