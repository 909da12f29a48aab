"""The slow copy's targets are its softmax, and its share of them rises in a line."""

from __future__ import annotations

import pytest
import torch

from sightline.losses.distil import ramp, soft_targets
from tests.losses import brute


@pytest.mark.parametrize("queries", [None, 3])
def test_targets_are_the_teachers_softmax(queries: int | None) -> None:
    image, text = brute.embeddings(5, queries=queries)
    scale = torch.tensor(4.0, dtype=torch.float64)
    to_text, to_image = soft_targets(image[:2], text[:2], image, text, scale)
    torch.testing.assert_close(to_text, (4 * brute.similarities(image[:2], text)).softmax(1))
    torch.testing.assert_close(to_image, (4 * brute.similarities(text[:2], image)).softmax(1))


def test_the_ramp_is_a_line_over_the_first_epoch() -> None:
    assert [ramp(step, 4) for step in (0, 1, 4, 9)] == pytest.approx([0, 0.1, 0.4, 0.4])
    assert ramp(0, 0) == 0.4
