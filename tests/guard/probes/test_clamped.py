"""Tables of positions that are shorter than the rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sightline.guard.probes.call import Call
from sightline.guard.probes.clamped import clamped

TOKENS, WIDTH = 9, 48


class Text(nn.Module):
    """Tokens and where they stand, by a table of `rows`: learnt, or of angles; `places` says which row is whose."""

    def __init__(self, rows: int, places: str, *, learnt: bool) -> None:
        super().__init__()
        self.rows, self.places = rows, places
        self.words, self.table = nn.Embedding(TOKENS, 8), nn.Embedding(rows, 8)
        self.register_buffer("angles", torch.randn(rows, 8))
        self.learnt = learnt

    def forward(self, ids: Tensor) -> Tensor:
        at = torch.arange(ids.shape[1])
        far = at[None] - at[:, None] + self.rows // 2
        where = {
            "clamped": at.clamp(max=self.rows - 1),
            "of each row": at.expand_as(ids).clamp(max=self.rows - 1),
            "in turns": at % self.rows,
            "apart": far.clamp(0, self.rows - 1),
            "whole": at,
        }[self.places]
        table = self.table(where) if self.learnt else self.angles[where]
        return self.words(ids) + (table.mean(0) if self.places == "apart" else table)


def reach(rows: int, places: str, *, learnt: bool = True) -> tuple[int, int | None] | None:
    model = Text(rows, places, learnt=learnt)
    seen = clamped(Call(model, (torch.randint(0, TOKENS, (4, WIDTH)),), {}), 3)
    return None if seen is None else (seen.trained, seen.longest)


@pytest.mark.parametrize("learnt", [True, False])
@pytest.mark.parametrize("places", ["clamped", "of each row"])
def test_the_last_row_for_all_that_is_behind_it(places: str, learnt: bool) -> None:
    assert reach(32, places, learnt=learnt) == (32, WIDTH)


@pytest.mark.parametrize(("rows", "places"), [(WIDTH, "clamped"), (46, "clamped"), (20, "in turns"), (31, "apart")])
def test_tables_that_are_long_enough_or_of_something_else(rows: int, places: str) -> None:
    assert reach(rows, places) is None
    assert reach(64, "whole") is None
