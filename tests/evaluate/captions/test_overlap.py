from __future__ import annotations

import numpy as np
import pytest

from sightline.evaluate.captions.overlap import bleu, bleu_counts, cider_d, rouge_l

SAID = [
    *("a cat sits on a red mat", "two dogs run"),
    *("a man a man a man riding a wave on a surf board in the sea", "", "the plate holds food"),
]
KNOWN = [
    ["a cat is sitting on the mat", "a red mat with a cat on it", "the cat sits on a mat"],
    ["two brown dogs run across a green field", "dogs running"],
    ["a man riding a wave on a surf board"],
    ["a bus on a street", "a red bus"],
    ["a plate of food", "food on a white plate on a table", "the plate holds food", "dinner"],
]
GIVEN = [said.split() for said in SAID]
REFERENCES = [[each.split() for each in known] for known in KNOWN]

# pycocoevalcap 1.2 on these captions
BLEU = [0.766666666641, 0.728539107208, 0.661537957239, 0.598922248505]
ROUGE = [0.780051150895, 0.628865979381, 0.758287292818, 0.0, 1.0]
CIDER = [3.368814769909, 1.317608693486, 3.028670051395, 0.0, 3.167723678189]


def test_bleu_is_that_of_pycocoevalcap() -> None:
    sums = bleu_counts(GIVEN, REFERENCES).sum(0, keepdims=True)
    assert bleu(sums)[0] == pytest.approx(BLEU, abs=1e-12)


def test_rouge_l_is_that_of_pycocoevalcap() -> None:
    assert rouge_l(GIVEN, REFERENCES) == pytest.approx(ROUGE, abs=1e-12)


def test_cider_is_that_of_pycocoevalcap() -> None:
    assert cider_d(GIVEN, REFERENCES) == pytest.approx(CIDER, abs=1e-12)


def test_a_caption_that_is_a_reference_is_perfect() -> None:
    given = [known[0] for known in REFERENCES]
    assert bleu(bleu_counts(given, REFERENCES).sum(0, keepdims=True))[0] == pytest.approx([1] * 4, abs=1e-9)
    assert rouge_l(given, REFERENCES) == pytest.approx([1] * 5)
    alone = [[known[0]] for known in REFERENCES]
    assert cider_d(given, alone) == pytest.approx([10] * 5)  # all have four words or more


def test_nothing_said_is_worth_nothing() -> None:
    silent: list[list[str]] = [[] for _ in REFERENCES]
    assert bleu(bleu_counts(silent, REFERENCES).sum(0, keepdims=True))[0] == pytest.approx([0] * 4, abs=1e-9)
    assert rouge_l(silent, REFERENCES) == cider_d(silent, REFERENCES) == [0] * 5


def test_words_of_every_image_weigh_nothing_in_cider() -> None:
    given = [["a", "x"], ["a", "y"]]
    assert cider_d(given, [[["a", "z"]], [["a", "w"]]]) == [0, 0]


def test_bleu_of_a_resample_is_that_of_its_images() -> None:
    counts = bleu_counts(GIVEN, REFERENCES)
    drawn = [0, 0, 2, 4, 4]
    again = bleu_counts([GIVEN[i] for i in drawn], [REFERENCES[i] for i in drawn])
    assert np.array_equal(bleu(counts[drawn].sum(0, keepdims=True)), bleu(again.sum(0, keepdims=True)))
