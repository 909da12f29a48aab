from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from sightline.errors import UserError
from sightline.evaluate.captions.tokens import penn_treebank, words

COCO = Path(__file__).parents[4] / "shared" / "data" / "coco_tiny" / "annotations"

# what Stanford's tokenizer 3.4.1 makes of them, as pycocoevalcap 1.2 calls it
TREEBANK = {
    "A man's dog can't jump; it's \"nice\".": "a man 's dog ca n't jump it 's nice",
    "He cannot go (or won't) to the U.S.": "he can not go -lrb- or wo n't -rrb- to the u.s.",
    "A black/white t-shirt at 10:30 a.m.": "a black/white t-shirt at 10:30 a.m.",
    "$5.00 and 1,000 people & 50% off": "$ 5.00 and 1,000 people & 50 % off",
    "Mr. Smith's cat... sleeps - on - a bed": "mr. smith 's cat sleeps on a bed",
    "I'm gonna eat 3.5 apples!": "i 'm gon na eat 3.5 apples",
    "The dogs' bowls, 'quoted' words": "the dogs bowls quoted words",
    "A caf\u00e9 on 5th St. at noon": "a caf\u00e9 on 5th st. at noon",
    "it\u2019s 5 o'clock": "it 's 5 o'clock",
    "two-thirds of 1/2": "two-thirds of 1/2",
    "self-portrait--of a man": "self-portrait of a man",
    "the '60s": "the '60s",
    "...": "",
    "": "",
}


@pytest.mark.parametrize("caption", TREEBANK)
def test_words_are_those_of_the_treebank(caption: str) -> None:
    assert words(caption) == TREEBANK[caption].split()


def _has_the_original() -> bool:
    return importlib.util.find_spec("pycocoevalcap") is not None and shutil.which("java") is not None


@pytest.mark.skipif(not _has_the_original(), reason="needs pycocoevalcap and Java")
def test_words_are_those_of_the_original_on_real_captions() -> None:
    captions = list(TREEBANK)
    for path in sorted(COCO.glob("captions*.json")):
        captions += [each["caption"] for each in json.loads(path.read_text(encoding="utf-8"))["annotations"]]
    assert [words(caption) for caption in captions] == penn_treebank(captions)


@pytest.mark.skipif(_has_the_original(), reason="pycocoevalcap and Java are installed")
def test_the_original_is_asked_for_in_vain_where_it_is_not_installed() -> None:
    with pytest.raises(UserError, match=r"pycocoevalcap|Java"):
        penn_treebank(["a cat"])
