"""L8 on bare evidence: rows as people have them, and as conversions leave them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.data.dataset_schema_mismatch import find
from sightline.guard.evidence import DataSeen, Objective

PAIR = {"prompt": "Is ice cold or warm?", "chosen": "It is cold.", "rejected": "It is warm."}
TIE = {**PAIR, "rejected": PAIR["chosen"]}
AGAIN = {"prompt": PAIR["prompt"], "chosen": PAIR["prompt"] + " Cold.", "rejected": PAIR["prompt"] + " Warm."}
TWICE = {name: text if name == "prompt" else PAIR["prompt"] + text for name, text in AGAIN.items()}
TALK = [{"role": "user", "content": "Is ice cold?"}, {"role": "assistant", "content": "Yes, it is."}]
CALL = [{"role": "user", "content": "Look."}, {"role": "assistant", "content": "", "tool_calls": [{"name": "look"}]}]
USERS = [{**turn, "role": "user"} for turn in TALK]
HUMAN = [{**TALK[0], "role": "human"}, TALK[1]]
PARTS = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is ice cold?"}]}, TALK[1]]
TAGGED = "<|user|>Is ice cold?</s><|assistant|>Yes, it is.</s>"


def data(rows: list[Mapping[str, Any]], objective: Objective | None = None, **more: Any) -> DataSeen:
    return DataSeen(0, tuple(rows[0]) if rows else ("a",), tuple(rows), objective, **more)


@pytest.mark.parametrize(
    "seen",
    [
        data([PAIR] * 4, "preference"),
        data([TIE, PAIR, PAIR], "preference"),
        data([{**PAIR, "chosen": "No.<eos>"}] * 2, "preference", marks=("<eos>",)),
        data([{k: PAIR[k] for k in ("chosen", "rejected")}], "reward"),
        data([{"prompt": TALK[:1], "chosen": TALK[1:], "rejected": CALL[1:], "score": 3}], "preference"),
        data([AGAIN], "reward", prepared=True),
        data([{"prompt": TALK[:1], "chosen": TALK, "rejected": TALK[:1] + CALL[1:]}], "reward", prepared=True),
        data([{"prompt": "Hi", "completion": "Hi there"}] * 2, "sft"),
        data([{"messages": TALK}], "sft", texts=(TAGGED,), templated=True),
        data([{"messages": TALK}], "sft", texts=("Is ice cold? Yes, it is.",), templated=False),
        data([{"text": "Is ice cold? Yes, it is."}], "sft", templated=True),
        data([{"question": "1 + 1?", "answer": "2"}, {"question": "2", "answer": ""}, {"text": "a"}], "sft"),
        data([{"prompt": "Sing!", "chosen": "no", "rejected": "yes"}], "rollout"),
        data([{"input_ids": [1], "chosen_ids": [2], "text": "a"}], "preference", prepared=True),
        data([{"text": "the key {'role': 'x'} in JSON"}], "sft"),
        data([PAIR] * 2, "preference", texts=(TAGGED, "no tag"), roles=("<|user|>",)),
        data([PAIR] * 2, "preference", texts=("no tag",), roles=()),
        data([PAIR] * 2, "preference", texts=("< |USER| > it is", "no tag"), roles=("<|user|>\n",)),
        data([{"messages": USERS}] * 2, "rollout", prepared=True),
        data([{"messages": [*USERS, {"role": "model", "content": "Yes."}]}] * 2, "sft"),
        data([{"messages": HUMAN}] * 2, "sft", texts=(TAGGED.upper(), "Is ice\ncold? Yes, it is."), templated=True),
        data([{"messages": HUMAN}] * 2, "sft", texts=("<|assistant|>Yes, it", TAGGED), templated=True),
        data([{"messages": PARTS}] * 2, "sft", texts=("<img><img>Is ice cold?\nASSISTANT: Yes, it is.",) * 2),
        data([{"messages": [{"role": "system", "content": "Be brief."}, *TALK]}], "sft", texts=(TAGGED,)),
        data([{"text": "Is ice cold?"}], "language-model", texts=("Is ice cold?",), roles=("<|user|>",)),
    ],
)
def test_silent(seen: DataSeen) -> None:
    assert find(seen) is None


@pytest.mark.parametrize(
    ("seen", "severity", "says"),
    [
        (data([TIE] * 3, "preference"), "error", "the same in 3 of 3"),
        (data([TIE, PAIR]), "warning", "the same in 1 of 2"),
        (data([{**PAIR, "chosen": " "}] * 2, "preference"), "error", "an answer is empty"),
        (data([{**PAIR, "chosen": "<eos>"}] * 2, "preference", marks=("<eos>",)), "error", "an answer is empty"),
        (data([{"prompt": TALK[:1], "completion": [{"role": "assistant", "content": ""}]}] * 2), "error", "is empty"),
        (data([PAIR] * 2, "preference", texts=("no tag",), roles=("<|user|>",)), "warning", "'<|user|>'"),
        (data([AGAIN]), "warning", "begins"),
        (data([{"prompt": TALK[:1], "chosen": TALK, "rejected": TALK[:1] + CALL[1:]}]), "warning", "begins"),
        (data([TWICE], "reward", prepared=True), "warning", "begins"),
        (data([PAIR], "sft"), "warning", "needs messages or text or prompt and completion"),
        (data([{"messages": TALK}], "preference"), "warning", "needs chosen and rejected"),
        (data([{"text": "Is it?"}], "rollout", trainer="GRPOTrainer"), "warning", "GRPOTrainer (rollout) needs prompt"),
        (data([{"messages": TALK}], texts=("Is ice cold?\nYes, it is.",), templated=True), "warning", "template"),
        (data([{"messages": HUMAN}] * 2, "sft", texts=("<|assistant|>Yes, it is.</s>",) * 2), "error", "of who asks"),
        (data([{"messages": PARTS}] * 2, "sft", texts=("<img>ASSISTANT: Yes, it is.",) * 2), "error", "of who asks"),
        (data([{"messages": USERS}] * 2, "sft"), "error", "no turn is an assistant's in 2 of 2 rows"),
        (data([{"prompt": TALK[:1], "completion": USERS[1:]}] * 2, "sft"), "error", "no turn is an assistant's"),
        (data([{"text": str(TALK)}], "sft"), "warning", "printed lists"),
        (data([{"input_ids": [3]}], "language-model", texts=(f"<s>{TALK}</s>",)), "warning", "printed lists"),
    ],
)
def test_found(seen: DataSeen, severity: str, says: str) -> None:
    verdict = find(seen)
    assert isinstance(verdict, Finding) and verdict.severity == severity and says in verdict.message


@pytest.mark.parametrize("seen", [data([]), data([{"image": 3, "label": 1}]), data([{"input_ids": [1]}], "sft")])
def test_cannot_tell(seen: DataSeen) -> None:
    assert isinstance(find(seen), CannotTell)
