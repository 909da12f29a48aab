from __future__ import annotations

import pytest

from sightline.data.clean import CONTRACTIONS, clean, clean_lmms, in_plain_words, tidy, without_punctuation


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("t-shirt", "t shirt"),  # between letters a sign becomes a space
        ("black - white", "black  white"),  # beside a space it goes
        ("t-shirt - red", "tshirt  red"),  # and then it goes everywhere
        ("black/white, grey", "black white grey"),  # each sign by itself
        ("1,000", "1000"),
        ("1,000-2,000", "10002000"),  # a comma between digits takes all signs out
        ("1, 000", "1 000"),
        ("a,b", "a b"),
        ("it's", "it's"),  # an apostrophe is no sign, nor is a colon
        ("10:30", "10:30"),
        ("Mr. T.", "Mr T"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("5.", "5"),  # the look-behind that was meant to spare this one is misspelt
        ("5. 6", "5 6"),
        ("...5", ".5"),
        ("`quoted`", " quoted "),
        ("\\n", " n"),
        ("", ""),
        ("?", " "),
        ("caf\u00e9\u2019s \u2013 \u00bfque", "caf\u00e9\u2019s \u2013 \u00bfque"),  # signs beyond ASCII stay
    ],
)
def test_punctuation(text: str, cleaned: str) -> None:
    assert without_punctuation(text) == cleaned


def test_only_32_full_stops_are_removed() -> None:
    assert without_punctuation("." * 32) == ""
    assert without_punctuation("." * 40) == "." * 8


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("None", "0"),
        ("Ten apples", "10 apples"),
        ("eleven", "eleven"),
        ("twenty one", "twenty 1"),
        ("The cat and A dog", "cat and dog"),
        ("the", ""),
        ("Dont know", "don't know"),
        ("well", "well"),  # not we'll
        ("somebody'd", "somebodyd"),
        ("couldntve", "couldntve"),  # two apostrophes missing
        ("  much \u00a0 space ", "much space"),
        ("\u00c9COLE", "\u00e9cole"),
    ],
)
def test_words(text: str, cleaned: str) -> None:
    assert in_plain_words(text) == cleaned


def test_contractions() -> None:
    assert len(CONTRACTIONS) == 114
    one_of_each = {"oclock": "o'clock", "y'alld've": "y'all'd've", "ow's'at": "'ow's'at", "twas": "'twas"}
    assert {key: CONTRACTIONS.get(key) for key in one_of_each} == one_of_each
    for ambiguous in ("hell", "shell", "well", "were", "wed", "shed", "ill", "id", "im", "lets"):
        assert ambiguous not in CONTRACTIONS


def test_line_feeds_and_tabs_are_spaces_before_anything_is_looked_at() -> None:
    assert tidy("\n red,\tblue \n") == "red, blue"
    assert clean("red,\tblue") == "red blue"
    assert without_punctuation("red,\tblue") == "red \tblue"  # a tab is no space to this step


def test_two_commas_in_a_number_count_for_lmms_eval_alone() -> None:
    assert clean("1,,000-2") == "1 000 2"
    assert clean_lmms("1,,000-2") == "10002"
