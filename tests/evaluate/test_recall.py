from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sightline.errors import UserError
from sightline.evaluate import retrieval
from sightline.evaluate.recall import KS, score_retrieval


def _matrix(images: int, texts: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 40, (images, texts)).astype(np.float32)  # with ties


def test_figures_are_those_of_an_evaluation() -> None:
    values = _matrix(30, 90)
    found = score_retrieval(values)
    right = torch.eye(30, dtype=torch.bool).repeat_interleave(3, dim=1)
    for name, similarity, answers in (
        ("image_to_text", torch.tensor(values), right),
        ("text_to_image", torch.tensor(values).T, right.T),
    ):
        theirs = retrieval.ranks(similarity, answers).facts(KS)
        for key in ("queries", "candidates", "recall", "median_rank"):
            assert found[name][key] == theirs[key]
        assert found[name]["chance"] == pytest.approx(theirs["chance"])
        for k, (low, high) in found[name]["interval"].items():
            assert low <= found[name]["recall"][k] <= high
    recalls = [found[way]["recall"][str(k)] for way in ("image_to_text", "text_to_image") for k in KS]
    assert found["rsum"] == pytest.approx(100 * sum(recalls))


def test_matches_in_any_order_and_number() -> None:
    values = np.array([[9.0, 0, 1], [0, 8, 7]])
    for matches in ([[0], [2, 1]], {"1": [1, 2], "0": [0]}):
        found = score_retrieval(values, matches)
        assert [found[way]["recall"]["1"] for way in ("image_to_text", "text_to_image")] == [1, 1]
    assert score_retrieval(values, [[1], [0, 2]])["image_to_text"]["recall"]["1"] == 0


def test_one_score_for_all_has_found_nothing() -> None:
    assert score_retrieval(np.zeros((20, 20)))["image_to_text"]["recall"] == {"1": 0, "5": 0, "10": 0}


BAD: dict[str, tuple[Any, Any, str]] = {
    "NaN": (np.full((2, 2), np.nan), None, "no numbers"),
    "one axis": (np.zeros(3), None, "not numbers .images, texts."),
    "texts": (np.array([["a"]]), None, "not numbers"),
    "uneven": (np.zeros((2, 3)), None, "not the same number"),
    "no text": (np.zeros((2, 2)), [[0], []], "image 1 of 2 has no list"),
    "too high": (np.zeros((2, 2)), [[0], [2]], "has text 2, and there are 2"),
    "too many images": (np.zeros((1, 2)), [[0], [1]], "image 1 of 1"),
    "image left out": (np.zeros((2, 2)), [[0, 1]], "image 1 is matched with nothing"),
    "text left out": (np.zeros((2, 2)), [[0], [0]], "text 1 is matched with nothing"),
    "names": (np.zeros((1, 1)), {"cat.jpg": [0]}, "'cat.jpg' is no number"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told(name: str) -> None:
    values, matches, told = BAD[name]
    with pytest.raises(UserError, match=told):
        score_retrieval(values, matches)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("1,2")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name, told in (("gone.npy", "No such file"), ("text.npy", "no .npy file"), ("objects.npy", "no .npy file")):
        with pytest.raises(UserError, match=told):
            score_retrieval(tmp_path / name)
