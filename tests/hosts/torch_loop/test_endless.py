"""L3 through the door and on bare evidence: answers that nothing ends, and texts that need no end or have their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sightline
from sightline.guard.evidence import DataSeen
from sightline.guard.evidence.endings import endless_answers

EOS, WIDE = 1, 14


class Tokenizer:
    pad_token_id, eos_token_id = 0, EOS

    def __len__(self) -> int:
        return 40


Answer = Callable[[], list[int]]


def words(low: int = 2, high: int = 7) -> list[int]:
    return torch.randint(5, 40, (int(torch.randint(low, high, ())),)).tolist()


def codes(answer: Answer, *, prompts: bool = True, cut: bool = False) -> list[str]:
    """Fine-tune on prompts of four words and their answers; the loss is the loop's own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(40, 16), nn.Linear(16, 40))
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    with sightline.attach(model, opt, tokenizer=Tokenizer(), on_finding=None) as guard:
        for _ in range(6):
            rows = [[*words(4, 5), *answer()] for _ in range(12)]
            rows = [row[:6] for row in rows] if cut else rows
            ids = torch.tensor([row + [0] * (WIDE - len(row)) for row in rows])
            labels = ids.masked_fill(ids == 0, -100)
            if prompts:
                labels[:, :4] = -100
            logits = model(ids)
            opt.zero_grad()
            F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).backward()
            opt.step()
    return [f.code for f in guard.findings if f.severity != "note"]


def test_answers_without_an_end() -> None:
    assert codes(words) == ["L3"]


@pytest.mark.parametrize(
    "given",
    [
        {"answer": lambda: [*words(), EOS]},
        {"answer": lambda: [*words(), 4]},
        {"answer": lambda: words(2, 3)},
        {"answer": words, "prompts": False},
        {"answer": words, "cut": True},
    ],
    ids=["with EOS", "an end of their own", "all of one length", "texts without prompts", "cut off"],
)
def test_answers_that_end_or_need_not(given: dict[str, Any]) -> None:
    assert not codes(**given)


def conversations(end: str, ids: list[int], content: str = "a cat", objective: Any = "sft") -> DataSeen:
    row = {"messages": [{"role": "user", "content": "what"}, {"role": "assistant", "content": content}]}
    shown = {"columns": ("messages", "input_ids"), "rows": ({**row, "input_ids": ids},) * 4, "marks": ("</s>", "<end>")}
    return DataSeen(0, **shown, objective=objective, texts=(f"<user> what <assistant> {content}{end}",) * 4)


def test_a_template_that_closes_without_an_end() -> None:
    assert endless_answers(conversations("", [3, 4, 5]), {EOS}) == 4


@pytest.mark.parametrize(
    "data",
    [
        conversations(" </s>", [3, 4, 5, EOS]),
        conversations(" <end>", [3, 4, 5, 9]),
        conversations("", [3, 4, 5], content="a cat <end>"),
        conversations("", [3, 4, 5], objective="preference"),
        DataSeen(0, ("text",), rows=({"text": "a cat"},) * 4, objective="sft", texts=("a cat",) * 4),
        None,
    ],
    ids=["EOS", "an end of its own", "written by the author", "pairs", "plain text", "no data set"],
)
def test_templates_that_are_well(data: DataSeen | None) -> None:
    assert endless_answers(data, {EOS}) == 0


def test_nobody_says_what_an_end_is() -> None:
    assert endless_answers(conversations("", [3, 4, 5]), set()) == 0
