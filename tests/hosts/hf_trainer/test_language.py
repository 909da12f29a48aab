"""`transformers.Trainer`: what only its own data sets, metrics and checkpoints can get wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from torch import nn
from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback

from sightline.attach.hf_trainer import GuardCallback
from tests.hosts import small
from tests.hosts.hf_trainer.test_planted import Classifier, arguments, points, tokenized
from tests.hosts.hf_trainer.training import Stop
from tests.hosts.planting import Script, loud, planted, plants, told
from tests.hosts.shared.perplexity import Perplexity


@plants("K2")
def resumed_from_the_weights_alone(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    args = arguments(folder, save_strategy="steps", save_steps=4, save_only_model=faulty)
    Trainer(Classifier(), args, train_dataset=points(), callbacks=[Stop()]).train()
    trainer = Trainer(Classifier(), args, train_dataset=points(), callbacks=callbacks)
    trainer.train(resume_from_checkpoint=True)
    return trainer.model


def test_a_checkpoint_of_another_run_in_the_same_folder_is_not_what_was_resumed(tmp_path: Path) -> None:
    args = arguments(tmp_path / "one", save_strategy="steps", save_steps=4)
    Trainer(Classifier(), args, train_dataset=points(), callbacks=[Stop()]).train()
    other = arguments(tmp_path / "two", save_strategy="steps", save_steps=4, learning_rate=1e-2)
    Trainer(Classifier(), other, train_dataset=points(), callbacks=[Stop()]).train()
    guard = GuardCallback(on_finding=None)
    trainer = Trainer(Classifier(), other, train_dataset=points(), callbacks=[guard])
    trainer.train(resume_from_checkpoint=str(tmp_path / "one" / "checkpoint-4"))
    assert loud(guard.records()) == []
    assert {str(r["code"]): r["kind"] for r in guard.records()}["K2"] == "not-run"


@plants("L7")
def a_perplexity_averaged_over_batches(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    model = small.language_model(initializer_range=0.3)
    args = arguments(folder, eval_strategy="steps", eval_steps=4, per_device_eval_batch_size=1, batch_eval_metrics=True)
    trainer = Trainer(
        model,
        args,
        data_collator=DataCollatorForLanguageModeling(small.tokenizer(), mlm=False),
        train_dataset=tokenized(),
        eval_dataset=tokenized(72).select(range(48, 60)),
        compute_metrics=Perplexity(averaged=faulty),
        callbacks=callbacks,
    )
    trainer.train()
    return model


@plants("L8")
def conversations_printed_as_lists(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    model, tok, texts = small.language_model(), small.tokenizer(chat=True), small.sentences(64)
    talks = [
        [{"role": "user", "content": one}, {"role": "assistant", "content": other}]
        for one, other in zip(texts[:32], texts[32:], strict=True)
    ]
    written = [str(talk) if faulty else tok.apply_chat_template(talk, tokenize=False) for talk in talks]
    rows = Dataset.from_dict({"text": written})

    def collate(rows: list[dict[str, Any]]) -> Any:
        batch = tok([row["text"] for row in rows], padding=True, return_tensors="pt", return_token_type_ids=False)
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}

    args = arguments(folder, remove_unused_columns=False)
    Trainer(model, args, data_collator=collate, train_dataset=rows, callbacks=callbacks).train()
    return model


@pytest.mark.parametrize("script", planted(globals()))
def test_found_in_the_script_and_not_in_its_twin(script: Script, tmp_path: Path) -> None:
    guard = GuardCallback(on_finding=None, budget=1.0)
    script(tmp_path / "faulty", [guard], True)
    assert script.plants in told(guard.records()), (told(guard.records()), guard.records())
    guard = GuardCallback(on_finding=None, budget=1.0)
    script(tmp_path / "clean", [guard], False)
    assert loud(guard.records()) == []
    looked = {str(r["code"]): r["kind"] for r in guard.records()}[script.plants]
    assert looked in ("passed", "finding")  # the Trainer's own loss is a mean over batches, which is worth a note


@pytest.mark.parametrize(
    ("stops", "length", "found"),
    [(Stop(), 8, ["K2"]), (Stop(), 6, []), (TrainerCallback(), 8, [])],
    ids=["cut off", "a stage of another length", "came to its end"],
)
def test_a_run_that_begins_with_the_weights_of_one(
    stops: TrainerCallback, length: int, found: list[str], tmp_path: Path
) -> None:
    """Its checkpoint is given as a model, so that the Trainer begins at step 0, without moments and schedule."""
    first = Classifier()
    args = arguments(tmp_path, save_strategy="steps", save_steps=4, max_steps=8)
    Trainer(first, args, train_dataset=points(), callbacks=[stops]).train()
    model, guard = Classifier(), GuardCallback(on_finding=None, budget=1.0)
    model.load_state_dict(first.state_dict())
    args = arguments(tmp_path, max_steps=length)
    Trainer(model, args, train_dataset=points(), callbacks=[guard]).train()
    assert [one[:2] for one in loud(guard.records())] == found


class Asking(Classifier):
    """May be given a second input among its keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(2, 16)

    def forward(self, x: Any, labels: Any = None, **more: Any) -> Any:
        if more.get("image") is not None:
            x = x + self.second(more["image"])
        return super().forward(x, labels)


class Plain(Classifier):
    def forward(self, x: Any, labels: Any = None, **more: Any) -> Any:
        return super().forward(x, labels)


@pytest.mark.parametrize(
    ("kind", "changes", "found"),
    [(Asking, {}, ["L8"]), (Asking, {"remove_unused_columns": False}, []), (Plain, {}, [])],
    ids=["dropped", "kept", "left over"],
)
def test_a_column_that_the_trainer_drops(
    kind: type[nn.Module], changes: dict[str, Any], found: list[str], tmp_path: Path
) -> None:
    rows = [{"x": row["x"].tolist(), "labels": int(row["labels"]), "image": [1.0, 0.0]} for row in points()]
    data = Dataset.from_list(rows)
    trainer = Trainer(kind(), arguments(tmp_path, **changes), train_dataset=data.with_format("torch"))
    trainer.add_callback(guard := GuardCallback(trainer=trainer, on_finding=None, budget=1.0))
    trainer.train()
    assert [one[:2] for one in loud(guard.records())] == found
