from __future__ import annotations

from typing import Any

import pytest

from sightline.errors import UserError
from sightline.evaluate.captions import score_captions
from tests.evaluate.captions.test_overlap import BLEU, CIDER, KNOWN, ROUGE, SAID


def files() -> dict[str, Any]:
    records = [{"image_id": n, "id": 9, "caption": each} for n, known in enumerate(KNOWN) for each in known]
    return {
        "annotations": {"info": {}, "images": [{"id": 0}], "annotations": records},
        "predictions": [{"image_id": n, "caption": said} for n, said in enumerate(SAID)],
    }


def test_figures_and_intervals() -> None:
    score = score_captions(**files())
    for n, value in enumerate(BLEU, start=1):
        assert score.figures[f"BLEU-{n}"] == pytest.approx(value)
    assert score.figures["CIDEr"] == pytest.approx(sum(CIDER) / 5)
    assert score.figures["ROUGE-L"] == pytest.approx(sum(ROUGE) / 5)
    for name, value in score.figures.items():
        low, high = score.intervals[name]
        assert low < value < high
    facts = score.facts()
    assert (facts["tokenizer"], facts["images"], facts["partial"]) == ("words", 5, False)


def test_captions_by_image() -> None:
    given = {
        "annotations": {str(n): known for n, known in enumerate(KNOWN)},
        "predictions": {str(n): said for n, said in enumerate(SAID)},
    }
    assert score_captions(**given).figures == score_captions(**files()).figures


def test_a_part_says_so() -> None:
    given = files()
    given["predictions"] = [*given["predictions"][:3], {"image_id": 77, "caption": "x"}]
    facts = score_captions(**given, partial=True).facts()
    assert (facts["partial"], facts["images"], facts["unanswered"], facts["unknown_predictions"]) == (True, 3, 2, 1)


BAD: dict[str, tuple[Any, str]] = {
    "too few": ([{"image_id": 0, "caption": "a"}], "4 images have no caption .the first: 1"),
    "too many": ([{"image_id": n, "caption": "a"} for n in range(6)], "1 captions are of images without references"),
    "twice": ([{"image_id": 0, "caption": "a"}] * 2, "image 0 has more than one caption"),
    "no text": ([{"image_id": 0, "caption": None}], "has 'None' for its caption"),
    "no image": ([{"caption": "a"}], "without image_id"),
    "no captions": ([], "has no captions"),
    "odd id": ([{"image_id": 1.5, "caption": "a"}], "has 1.5 for an image_id"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_predictions_are_told(name: str) -> None:
    given = files()
    given["predictions"], told = BAD[name]
    with pytest.raises(UserError, match=told):
        score_captions(**given)


def test_nothing_in_common_is_no_part() -> None:
    with pytest.raises(UserError, match="5 images have no caption"):
        score_captions(files()["annotations"], {"99": "a cat"}, partial=True)


def test_an_unknown_tokenizer_is_refused() -> None:
    with pytest.raises(UserError, match="no tokenizer 'word'"):
        score_captions(**files(), tokenizer="word")
