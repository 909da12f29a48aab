"""Every shape of preference data that TRL takes, as its trainers leave it: none of it is the user's mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import LlamaForSequenceClassification
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer

from sightline.attach.data_set import data_seen, objective_of
from sightline.guard.check import Finding
from sightline.guard.checks.data.dataset_schema_mismatch import find
from tests.hosts import small
from tests.hosts.trl.test_planted import usual

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

ASKED = "did the dog sat under the tree ?"
ANSWERS = {"chosen": " yes it did .", "rejected": " no ."}
TALK = [{"role": "user", "content": ASKED}]


def rows(*, talk: bool, explicit: bool, again: bool = False) -> dict[str, Any]:
    """One row. `again`: the prompt stands in its own column and, by mistake, in the answers."""
    prompt: Any = TALK if talk else ASKED
    said: dict[str, Any] = {n: [{"role": "assistant", "content": t}] if talk else t for n, t in ANSWERS.items()}
    before = prompt if again or not explicit else prompt[:0]
    return {**({"prompt": prompt} if explicit else {}), **{name: before + one for name, one in said.items()}}


def judged(kind: Any, config: Any, folder: Path, row: dict[str, Any]) -> Finding | None:
    reward = kind is RewardTrainer
    trainer = kind(
        LlamaForSequenceClassification(small.config(num_labels=1)) if reward else str(small.pretrained(folder / "m")),
        args=config(**usual(folder)),
        train_dataset=Dataset.from_list([row] * 4),
        processing_class=small.tokenizer(chat=True),
    )
    seen = data_seen(
        trainer.train_dataset,
        objective=objective_of(trainer.args),
        trainer=kind.__name__,
        tokenizer=trainer.processing_class,
    )
    assert seen is not None and seen.rows and seen.prepared
    verdict = find(seen)
    assert verdict is None or isinstance(verdict, Finding)
    return verdict


@pytest.mark.parametrize("talk", [False, True])
@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize(("kind", "config"), [(RewardTrainer, RewardConfig), (DPOTrainer, DPOConfig)])
def test_pairs(kind: Any, config: Any, explicit: bool, talk: bool, tmp_path: Path) -> None:
    assert judged(kind, config, tmp_path, rows(talk=talk, explicit=explicit)) is None
    if explicit:
        finding = judged(kind, config, tmp_path, rows(talk=talk, explicit=True, again=True))
        assert finding is not None and "begins with the prompt" in finding.message


@pytest.mark.parametrize("talk", [False, True])
def test_single_answers(talk: bool, tmp_path: Path) -> None:
    row = rows(talk=talk, explicit=True)
    single = {"prompt": row["prompt"], "completion": row["chosen"], "label": True}
    assert judged(KTOTrainer, KTOConfig, tmp_path, single) is None
