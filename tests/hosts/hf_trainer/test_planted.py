"""`transformers.Trainer`: one fault a script, its clean twin, and the same twin without the guard."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from sightline.attach.hf_trainer import GuardCallback
from sightline.errors import UserError
from sightline.guard.watch import GuardError
from tests.hosts import small
from tests.hosts.planting import Script, loud, planted, plants, same, told


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    usual = {"max_steps": 8, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 2}
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
    return TrainingArguments(output_dir=str(folder), **{**usual, **quiet, **changes})


def tokenized(count: int = 48) -> Dataset:
    tok = small.tokenizer()
    return Dataset.from_dict({"text": small.sentences(count)}).map(
        lambda row: tok(row["text"] + " <eos>"), remove_columns=["text"]
    )


class Classifier(nn.Module):
    """A plain torch model, as the Trainer also takes it."""

    def __init__(self, *, double: bool = False, activation: type[nn.Module] = nn.ReLU, depth: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.double = double
        layers = [part for _ in range(depth) for part in (nn.Linear(16, 16), activation())]
        self.body, self.norm, self.head = nn.Sequential(*layers), nn.BatchNorm1d(16), nn.Linear(16, 4)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.head(self.drop(self.norm(self.body(x))))
        if self.double:
            logits = logits.softmax(-1)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def points(count: int = 64) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return [{"x": (x := torch.randn(16, generator=draw)), "labels": x[:4].argmax()} for _ in range(count)]


# --- language models -------------------------------------------------------------------------------------------------


@plants("L2")
def labels_are_a_copy_of_the_ids(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    model, tok = small.language_model(), small.tokenizer()

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = tok.pad(rows, return_tensors="pt")
        batch["labels"] = batch["input_ids"].clone()
        if not faulty:
            batch["labels"][batch["attention_mask"] == 0] = -100
        return batch

    Trainer(model, arguments(folder), data_collator=collate, train_dataset=tokenized(), callbacks=callbacks).train()
    return model


@plants("L3")
def eos_is_the_pad_token(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    model, tok = small.language_model(), small.tokenizer()
    if faulty:
        tok.pad_token = tok.eos_token
    collator = DataCollatorForLanguageModeling(tok, mlm=False)
    trainer = Trainer(
        model,
        arguments(folder),
        data_collator=collator,
        train_dataset=tokenized(),
        processing_class=tok,
        callbacks=callbacks,
    )
    trainer.train()
    return model


@plants("L4")
def packed_rows_with_a_mask_of_ones(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    model = small.language_model(attn_implementation="sdpa")

    def flatten(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = transformers.DataCollatorWithFlattening(return_tensors="pt")(
            [{"input_ids": r["input_ids"]} for r in rows]
        )
        if faulty:
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        return batch

    trainer = Trainer(model, arguments(folder), data_collator=flatten, train_dataset=tokenized(), callbacks=callbacks)
    trainer.train()
    return model


@plants("T5")
def a_mean_of_each_micro_batch(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    model, tok = small.language_model(), small.tokenizer()

    class Own(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **given: Any) -> Any:
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            logits, targets = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            if faulty:
                loss = F.cross_entropy(logits, targets) / self.args.gradient_accumulation_steps
            else:
                loss = F.cross_entropy(logits, targets, reduction="sum") / given["num_items_in_batch"]
            return (loss, outputs) if return_outputs else loss

    args = arguments(folder, gradient_accumulation_steps=4, per_device_train_batch_size=1)
    collator = DataCollatorForLanguageModeling(tok, mlm=False)
    Own(model, args, data_collator=collator, train_dataset=tokenized(), callbacks=callbacks).train()
    return model


@plants("L5")
def rows_beyond_the_positions_of_the_model(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    model, tok = small.language_model(max_position_embeddings=16), small.tokenizer()

    def group(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        stream = [token for row in rows for token in row["input_ids"]]
        length = 24 if faulty else 16
        ids = torch.tensor(stream[:length])[None]
        return {"input_ids": ids, "labels": ids.clone()}

    args = arguments(folder, per_device_train_batch_size=8)
    Trainer(
        model, args, data_collator=group, train_dataset=tokenized(), processing_class=tok, callbacks=callbacks
    ).train()
    return model


@plants("L1")
def samples_from_prompts_padded_at_the_right(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    model, tok = small.language_model(initializer_range=0.5), small.tokenizer(side="right" if faulty else "left")

    class Samples(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step != 4:
                return
            prompts = tok(["the cat", "a dog sat on the mat under", "no"], padding=True, return_tensors="pt")
            prompts.pop("token_type_ids", None)
            model.eval()
            model.generate(**prompts, max_new_tokens=4, do_sample=False)
            model.train()

    collator = DataCollatorForLanguageModeling(small.tokenizer(), mlm=False)
    trainer = Trainer(
        model, arguments(folder), data_collator=collator, train_dataset=tokenized(), callbacks=[Samples(), *callbacks]
    )
    trainer.train()
    return model


# --- any model -------------------------------------------------------------------------------------------------------


@plants("T1")
def an_optimizer_of_another_copy(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    model = Classifier()
    optimizer = torch.optim.AdamW((copy.deepcopy(model) if faulty else model).parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    trainer = Trainer(
        model, arguments(folder), train_dataset=points(), optimizers=(optimizer, schedule), callbacks=callbacks
    )
    trainer.train()
    return model


@plants("T3")
def a_callback_that_tests_in_train_mode(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    model, held_out = Classifier(), points(16)

    class Accuracy(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step % 4:
                return
            if not faulty:
                model.eval()
            with torch.no_grad():
                model(torch.stack([row["x"] for row in held_out]))["logits"].argmax(-1)
            model.train()

    trainer = Trainer(model, arguments(folder), train_dataset=points(), callbacks=[Accuracy(), *callbacks])
    trainer.train()
    return model


@plants("T4")
def softmax_before_cross_entropy(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    model = Classifier(double=faulty)
    Trainer(model, arguments(folder), train_dataset=points(), callbacks=callbacks).train()
    return model


@plants("P1")
def a_rate_that_breaks_the_weights(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    model = Classifier()
    args = arguments(folder, learning_rate=1e30 if faulty else 1e-3, max_grad_norm=0.0, optim="sgd")
    Trainer(model, args, train_dataset=points(), callbacks=callbacks).train()
    return model


@plants("P6")
def twelve_sigmoids(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    model = Classifier(activation=nn.Sigmoid if faulty else nn.ReLU, depth=12)
    args = arguments(folder, optim="sgd", learning_rate=0.05)
    Trainer(model, args, train_dataset=points(), callbacks=callbacks).train()
    return model


@plants("P4")
def weights_in_bfloat16(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    model = small.language_model(hidden_size=32)
    collator = DataCollatorForLanguageModeling(small.tokenizer(), mlm=False)
    if faulty:
        model.to(torch.bfloat16)
    args = arguments(folder, max_steps=24, learning_rate=1e-5, bf16=not faulty)
    Trainer(model, args, data_collator=collator, train_dataset=tokenized(96), callbacks=callbacks).train()
    return model


@plants("T6")
def a_schedule_planned_for_one_epoch(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    model, epochs, batches = Classifier(), 3, 16
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    planned = batches if faulty else epochs * batches
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 2, planned)
    args = arguments(folder, max_steps=-1, num_train_epochs=epochs)
    Trainer(model, args, train_dataset=points(), optimizers=(optimizer, schedule), callbacks=callbacks).train()
    return model


@plants("M1")
def validation_rows_that_were_trained_on(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    model, rows = Classifier(), points(320)
    train = rows if faulty else rows[:256]
    sizes = {"per_device_train_batch_size": 32, "per_device_eval_batch_size": 32}
    args = arguments(folder, max_steps=-1, num_train_epochs=3, eval_strategy="epoch", **sizes)
    Trainer(model, args, train_dataset=train, eval_dataset=rows[256:], callbacks=callbacks).train()
    return model


@plants("K1")
def only_parameters_are_saved(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    model = Classifier()

    class Own(Trainer):
        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            target = Path(output_dir or self.args.output_dir)
            target.mkdir(parents=True, exist_ok=True)
            state = dict(self.model.named_parameters()) if faulty else self.model.state_dict()
            save_file(
                {name: tensor.detach().contiguous() for name, tensor in state.items()}, target / "model.safetensors"
            )

    args = arguments(folder, save_strategy="steps", save_steps=4)
    Own(model, args, train_dataset=points(), callbacks=callbacks).train()
    return model


@pytest.mark.parametrize("script", planted(globals()))
def test_found_in_the_script_and_not_in_its_twin(script: Script, tmp_path: Path) -> None:
    guard = GuardCallback(on_finding=None, budget=1.0)
    script(tmp_path / "faulty", [guard], True)
    assert script.plants in told(guard.records()), (told(guard.records()), guard.records())
    guard = GuardCallback(on_finding=None, budget=1.0)
    script(tmp_path / "clean", [guard], False)
    assert loud(guard.records()) == []
    kinds = {str(r["code"]): (r["kind"], r.get("why")) for r in guard.records()}
    assert kinds[script.plants][0] == ("not-run" if script.plants == "P4" else "passed"), kinds[script.plants]


@pytest.mark.parametrize("script", planted(globals())[::4])
def test_the_guard_changes_no_bit(script: Script, tmp_path: Path) -> None:
    watched = script(tmp_path / "watched", [GuardCallback(on_finding=None)], False)
    assert same(watched, script(tmp_path / "alone", [], False))


def test_findings_are_written_where_the_trainer_writes(tmp_path: Path) -> None:
    guard = GuardCallback(on_finding=None, write=True, allow={"T4": "a demonstration"})
    softmax_before_cross_entropy(tmp_path, [guard], True)
    kinds = {r["code"]: r["kind"] for r in map(json.loads, (tmp_path / "findings.jsonl").read_text().splitlines())}
    assert kinds["T4"] == "allowed"
    assert kinds["T1"] == "passed"
    assert guard.findings == ()


def test_an_error_stops_the_trainer_when_asked(tmp_path: Path) -> None:
    guard = GuardCallback(on_finding=None, raise_on="error")
    with pytest.raises(GuardError, match="T4"):
        softmax_before_cross_entropy(tmp_path, [guard], True)


def test_logged_numbers_by_phase_and_a_second_run_of_its_own(tmp_path: Path) -> None:
    guard, model = GuardCallback(on_finding=None), Classifier()
    args = arguments(tmp_path, eval_strategy="steps", eval_steps=4)
    trainer = Trainer(model, args, train_dataset=points(), eval_dataset=points(8), callbacks=[guard])
    trainer.train()
    first = guard.guard
    assert first is not None
    logged = first.watch._latest["MetricsHistory"]
    assert [step for step, _ in logged.series("loss")] == [2, 4, 6, 8]
    assert [step for step, _ in logged.series("loss", "evaluation")] == [4, 8]
    assert {"grad_norm", "learning_rate"} <= set(logged.names())
    trainer.train()
    assert guard.guard is not first
    assert guard.guard is not None and len(guard.guard.watch._steps) == 8
    assert loud(guard.records()) == []
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(UserError, match="'plans' is no option of the guard"):
        GuardCallback(plans={})
