"""What a data set is known to be, once a run is over."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sightline import attach
from sightline.attach.data_set import spoken_since
from sightline.attach.templates import TEMPLATES
from sightline.guard.evidence import DataSeen

TEXTS = ("Is ice cold?\nYes, it is.",) * 2
ROWS = tuple({"input_ids": [1, 2], "text": text} for text in TEXTS)


class Speaker:
    """A tokenizer with a template of its own."""

    def __init__(self, name: str) -> None:
        self.chat_template = name

    def __len__(self) -> int:
        return 4

    def asks(self) -> None:
        """The script speaks with its model."""
        TEMPLATES.applied(self, [{"role": "user", "content": "Is ice cold?"}], _written)


def _written(tokenizer: Any, talk: list[dict[str, str]], **asked: bool) -> str:
    return f"<|user|>{talk[0]['content']}" + "<|bot|>" * bool(asked.get("add_generation_prompt"))


def told(texts: tuple[str, ...], *, asks: bool) -> list[str]:
    """The findings of a run whose script applies the template, if it `asks`, behind its training."""
    tokenizer, model = Speaker(f"{texts}{asks}"), nn.Linear(2, 2)
    guard = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), tokenizer=tokenizer, on_finding=None)
    guard.show(DataSeen(0, ("text",), ROWS, "sft", texts=texts, prepared=True, templated=True))
    if asks:
        tokenizer.asks()
    guard.close()
    return [finding.message for finding in guard.findings if finding.code == "L8"]


def test_a_template_that_is_applied_behind_the_training() -> None:
    assert any("no chat template was applied" in message for message in told(TEXTS, asks=True))
    assert not told(TEXTS, asks=False)
    assert not told(("<|user|>Is ice cold?<|bot|>Yes, it is.",) * 2, asks=True)


def test_what_was_known_is_not_shown_again() -> None:
    tokenizer = Speaker("known")
    tokenizer.asks()
    assert spoken_since(DataSeen(0, ("text",), roles=("<|user|>",)), tokenizer) is None
    assert spoken_since(None, tokenizer) is None
