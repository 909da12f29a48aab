"""Where a script reads the rows of a padded batch that it evaluates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.attach.phases.state import State
from sightline.attach.script.last_read import LastRead

ROWS = torch.tensor([[3, 4, 5, 6, 7], [5, 6, 0, 0, 0], [7, 3, 4, 0, 0], [6, 7, 3, 4, 0]])
LEFT = torch.stack([row.roll(int((row == 0).sum())) for row in ROWS])


class Decoder(nn.Module):
    """Attention over the words before; without places, so that padding at the left changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(9, 16), nn.Linear(16, 48), nn.Linear(16, 9)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        causal = torch.ones(input_ids.shape[1], input_ids.shape[1], dtype=torch.bool).tril()
        may = causal & attention_mask[:, None, :].bool() | torch.eye(len(causal), dtype=torch.bool)
        q, k, v = self.mix(self.embed(input_ids) * 3).chunk(3, dim=-1)
        return {"logits": self.head(nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=may)) * 3}


Read = Callable[[Tensor, Tensor], Any]
WRONG: dict[str, Read] = {
    "the last": lambda logits, mask: logits[:, -1].argmax(-1),
    "the last, of two words": lambda logits, mask: logits[:, -1, [3, 4]].argmax(-1),
    "the last, by its number": lambda logits, mask: logits[:, logits.shape[1] - 1],
}
RIGHT: dict[str, Read] = {
    "the last real": lambda logits, mask: logits[torch.arange(len(mask)), mask.sum(1) - 1],
    "all but the last": lambda logits, mask: logits[:, :-1].argmax(-1),
    "all": lambda logits, mask: logits.argmax(-1),
    "the last and others": lambda logits, mask: (logits[:, -1], logits[:, :-1]),
    "each row's": lambda logits, mask: [row[int(real.sum()) - 1] for row, real in zip(logits, mask, strict=True)],
    "the first": lambda logits, mask: logits[:, 0],
}


@pytest.fixture
def faults() -> Iterator[list[str]]:
    told: list[str] = []
    one, before = LastRead(told.append), State.audience
    one.install()
    yield told
    one.close()
    assert State.audience is before and not torch._C._len_torch_function_stack() and not told


def found(ids: Tensor, read: Read, batches: int = 2) -> list[str]:
    torch.manual_seed(0)
    model = Decoder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        whole = ids[:1]
        nn.functional.cross_entropy(model(whole, torch.ones_like(whole))["logits"][0, :-1], whole[0, 1:]).backward()
        optimizer.step()
        with torch.no_grad():
            for _ in range(batches):
                mask = (ids > 0).long()
                read(model(input_ids=ids, attention_mask=mask)["logits"], mask)
        guard._recorder.evaluation.end()
    return [f"{one.code} {one.severity}" for one in guard.findings if one.code == "L1"]


@pytest.mark.parametrize("name", WRONG)
def test_rows_that_are_read_in_their_padding(name: str, faults: list[str]) -> None:
    assert found(ROWS, WRONG[name]) == ["L1 warning"]
    assert found(LEFT, WRONG[name]) == [] == found(ROWS[:1], WRONG[name])


@pytest.mark.parametrize("name", RIGHT)
def test_rows_that_are_read_elsewhere(name: str, faults: list[str]) -> None:
    assert found(ROWS, RIGHT[name]) == []


def test_torch_is_left_as_it_was(faults: list[str]) -> None:
    """Also between two batches: what is listened to is what one call gave."""
    seen: list[int] = []

    def read(logits: Tensor, mask: Tensor) -> None:
        seen.append(torch._C._len_torch_function_stack())
        assert torch.equal(logits[1:, ..., :2], torch.from_numpy(logits.numpy()[1:, ..., :2]))

    assert found(ROWS, read, batches=24) == [] and seen[0] == 1 and seen[-1] == 0
    assert not isinstance(torch.zeros(()), Sequence) and torch.tensor([torch.ones(()), 2.0]).shape == (2,)


def test_modes_of_the_script_come_and_go(faults: list[str]) -> None:
    """One that is on while the model is run, and one that is still on when it is run again."""
    with torch.device("cpu"):
        assert found(ROWS, WRONG["the last"]) == []  # ours would be above it
    mode = torch.device("cpu")

    def read(logits: Tensor, mask: Tensor) -> None:
        logits[:, -1].argmax(-1)
        mode.__enter__()  # type: ignore[no-untyped-call]

    assert found(ROWS, read, batches=1) == ["L1 warning"]
    assert torch._C._len_torch_function_stack() == 2
    mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
