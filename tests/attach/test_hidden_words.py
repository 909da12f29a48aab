"""A vocabulary that begins with a word, while rows are filled up with that id: the word is never taught."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sightline import attach


def lines(*, first: int, twice: bool = False, seed: int = 0) -> Tensor:
    """(8, T) ids: words of one to five letters with a blank (0 + `first`) between them, filled up with 0."""
    g = torch.Generator().manual_seed(seed)

    def drawn(low: int, high: int, size: int = 1) -> list[int]:
        return torch.randint(low, high, (size,), generator=g).tolist()

    rows = []
    for _ in range(8):
        words = [[one + first for one in drawn(1, 20, drawn(1, 6)[0])] for _ in range(drawn(3, 8)[0])]
        row = words[0] + [first] * twice
        for word in words[1:]:
            row += [first, *word]
        rows.append(torch.tensor(row))
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def told(*, first: int = 0, twice: bool = False, ignored: int = 0, taught: bool = True) -> list[str]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(30, 16), nn.Linear(16, 30))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, optimizer, on_finding=None) as guard:
        for step in range(6):
            ids = lines(first=first, twice=twice, seed=step)
            labels = ids[:, 1:] if taught else ids[:, 1:].masked_fill(ids[:, 1:] % 3 == 0, ignored)
            optimizer.zero_grad()
            logits = model(ids[:, :-1])
            nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=ignored).backward()
            optimizer.step()
    return [finding.message for finding in guard.findings if finding.code == "L3"]


def test_the_first_word_is_the_padding() -> None:
    assert any("an ordinary token of the text" in message for message in told())


@pytest.mark.parametrize(
    "given",
    [
        {"first": 1},  # ids begin behind the padding's
        {"twice": True},  # an unknown word, which stands for several
        {"ignored": -100},  # all is taught
        {"taught": False},  # other words are not taught either
    ],
)
def test_silent(given: dict[str, int]) -> None:
    assert not told(**given)
