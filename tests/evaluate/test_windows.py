"""Strided windows, over all small sizes: each token once, where most stands before it."""

from __future__ import annotations

import pytest

from sightline.errors import UserError
from sightline.evaluate.windows import windows


def test_every_token_is_scored_once_with_the_longest_context_of_any_window() -> None:
    for length in range(1, 25):
        for window in range(2, 11):
            for stride in range(1, window):
                starts: dict[int, int] = {}
                for each in windows(length, window, stride):
                    assert each.end - each.start <= window and each.end <= length
                    for token in range(each.first, each.end):
                        assert starts.setdefault(token, each.start) == each.start
                every = range(0, length, stride)
                assert starts == {t: min(s for s in every if s < t < s + window) for t in range(1, length)}


def test_a_stride_of_a_window_would_leave_tokens_out() -> None:
    with pytest.raises(UserError, match="a stride of 4 over windows of 4 tokens"):
        list(windows(10, 4, 4))
