"""TRL's trainers: one fault a script, its clean twin, and the same twin without the guard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)

from sightline.attach.trl import GuardCallback
from tests.hosts import small
from tests.hosts.planting import Script, loud, planted, plants, same, told

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

Guarded = Callable[[Any], Any]
TEXTS = small.sentences(48)


def usual(folder: Path, **changes: Any) -> dict[str, Any]:
    training = {"max_steps": 8, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1}
    quiet = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
    return {"output_dir": str(folder), **training, **quiet, **changes}


def conversations(count: int = 48) -> list[list[dict[str, str]]]:
    texts = small.sentences(2 * count)
    return [
        [{"role": "user", "content": texts[2 * i]}, {"role": "assistant", "content": texts[2 * i + 1]}]
        for i in range(count)
    ]


@plants("L2")
def the_whole_conversation_is_supervised(folder: Path, guarded: Guarded, faulty: bool) -> nn.Module:
    model, tok = small.language_model(), small.tokenizer(chat=True)
    rows = [{"prompt": talk[:1], "completion": talk[1:]} for talk in conversations()]
    config = SFTConfig(**usual(folder), completion_only_loss=not faulty)
    guarded(SFTTrainer(model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tok)).train()
    return model


@plants("T1")
def an_optimizer_of_another_model(folder: Path, guarded: Guarded, faulty: bool) -> nn.Module:
    model, tok = small.language_model(), small.tokenizer()
    optimizer = torch.optim.AdamW((small.language_model() if faulty else model).parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    data = Dataset.from_dict({"text": TEXTS})
    trainer = SFTTrainer(
        model,
        args=SFTConfig(**usual(folder)),
        train_dataset=data,
        processing_class=tok,
        optimizers=(optimizer, schedule),
    )
    guarded(trainer).train()
    return model


@plants("P1")
def a_rate_that_breaks_the_weights(folder: Path, guarded: Guarded, faulty: bool) -> nn.Module:
    model, tok = small.language_model(), small.tokenizer()
    config = SFTConfig(**usual(folder, learning_rate=1e30 if faulty else 1e-2, max_grad_norm=0.0, optim="sgd"))
    data = Dataset.from_dict({"text": TEXTS})
    guarded(SFTTrainer(model, args=config, train_dataset=data, processing_class=tok)).train()
    return model


@plants("L8")
def a_column_copied_twice(folder: Path, guarded: Guarded, faulty: bool) -> nn.Module:
    rejected = TEXTS[::-1] if faulty else TEXTS[5:] + TEXTS[:5]
    pairs = {"prompt": [f"{text} " for text in TEXTS], "chosen": TEXTS[::-1], "rejected": rejected}
    trainer = DPOTrainer(
        str(small.pretrained(folder / "start")),
        args=DPOConfig(**usual(folder)),
        train_dataset=Dataset.from_dict(pairs),
        processing_class=small.tokenizer(),
    )
    guarded(trainer).train()
    return trainer.model


@plants("L9")
def a_reference_that_follows_the_policy(folder: Path, guarded: Guarded, faulty: bool) -> nn.Module:
    pairs = {"prompt": [f"{text} " for text in TEXTS], "chosen": TEXTS[::-1], "rejected": TEXTS[5:] + TEXTS[:5]}
    trainer = DPOTrainer(
        str(small.pretrained(folder / "start")),
        args=DPOConfig(**usual(folder)),
        train_dataset=Dataset.from_dict(pairs),
        processing_class=small.tokenizer(),
    )
    if faulty:  # a shortcut to save memory
        for mine, theirs in zip(trainer.ref_model.parameters(), trainer.model.parameters(), strict=True):
            mine.data = theirs.data
    guarded(trainer).train()
    return trainer.model


@plants("L9")
def a_reference_with_biases_that_learn(folder: Path, guarded: Guarded, faulty: bool) -> nn.Module:
    pairs = {"prompt": [f"{text} " for text in TEXTS], "chosen": TEXTS[::-1], "rejected": TEXTS[5:] + TEXTS[:5]}
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(small.tokenizer()),
        n_embd=32,
        n_layer=1,
        n_head=2,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    trainer = DPOTrainer(
        transformers.GPT2LMHeadModel(config),
        args=DPOConfig(**usual(folder)),
        train_dataset=Dataset.from_dict(pairs),
        processing_class=small.tokenizer(),
        peft_config=LoraConfig(
            r=4, target_modules=["c_attn"], fan_in_fan_out=True, bias="all" if faulty else "none", task_type="CAUSAL_LM"
        ),
    )
    guarded(trainer).train()
    return trainer.model


@plants("M1")
def validation_texts_that_were_trained_on(folder: Path, guarded: Guarded, faulty: bool) -> nn.Module:
    texts = [f"{one} {other}" for one, other in zip(small.sentences(96), small.sentences(97)[1:], strict=True)]
    model, rows = small.language_model(), Dataset.from_dict({"text": texts})
    sizes = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 8, "eval_strategy": "epoch"}
    trainer = SFTTrainer(
        model,
        args=SFTConfig(**usual(folder, **sizes)),
        train_dataset=rows if faulty else rows.select(range(64)),
        eval_dataset=rows.select(range(64, 96)),
        processing_class=small.tokenizer(),
    )
    guarded(trainer).train()
    return model


@plants("P4")
def weights_in_bfloat16(folder: Path, guarded: Guarded, faulty: bool) -> nn.Module:
    model = small.language_model()
    if faulty:
        model.to(torch.bfloat16)
    config = SFTConfig(**usual(folder, learning_rate=4e-5, max_steps=48, lr_scheduler_type="constant"))
    data = Dataset.from_dict({"text": TEXTS})
    guarded(SFTTrainer(model, args=config, train_dataset=data, processing_class=small.tokenizer())).train()
    return model


@plants("T6")
def a_schedule_planned_for_a_third_of_the_steps(folder: Path, guarded: Guarded, faulty: bool) -> nn.Module:
    model, tok = small.language_model(), small.tokenizer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 2, 8 if faulty else 24)
    trainer = SFTTrainer(
        model,
        args=SFTConfig(**usual(folder, max_steps=24)),
        train_dataset=Dataset.from_dict({"text": TEXTS}),
        processing_class=tok,
        optimizers=(optimizer, schedule),
    )
    guarded(trainer).train()
    return model


# --- clean runs of every trainer -------------------------------------------------------------------------------------


def supervised(folder: Path, guarded: Guarded) -> nn.Module:
    data = Dataset.from_dict({"text": TEXTS})
    config = SFTConfig(**usual(folder, eval_strategy="steps", eval_steps=4, gradient_accumulation_steps=2))
    trainer = SFTTrainer(
        small.language_model(),
        args=config,
        train_dataset=data,
        eval_dataset=data.select(range(8)),
        processing_class=small.tokenizer(),
    )
    guarded(trainer).train()
    return trainer.model


def packed(folder: Path, guarded: Guarded) -> nn.Module:
    model = small.language_model(attn_implementation="sdpa")
    config = SFTConfig(**usual(folder), packing=True, max_length=32)
    rows = Dataset.from_dict({"prompt": TEXTS, "completion": [f" {text}" for text in TEXTS[::-1]]})
    guarded(SFTTrainer(model, args=config, train_dataset=rows, processing_class=small.tokenizer())).train()
    return model


def preference(folder: Path, guarded: Guarded) -> nn.Module:
    pairs = {"prompt": [f"{text} " for text in TEXTS], "chosen": TEXTS[::-1], "rejected": TEXTS[5:] + TEXTS[:5]}
    trainer = DPOTrainer(
        str(small.pretrained(folder / "start")),
        args=DPOConfig(**usual(folder)),
        train_dataset=Dataset.from_dict(pairs),
        processing_class=small.tokenizer(),
    )
    guarded(trainer).train()
    return trainer.model


def reward(folder: Path, guarded: Guarded) -> nn.Module:
    torch.manual_seed(0)
    model = transformers.LlamaForSequenceClassification(small.config(num_labels=1))
    pairs = Dataset.from_dict({"chosen": TEXTS[::-1], "rejected": TEXTS[5:] + TEXTS[:5]})
    config = RewardConfig(**usual(folder))
    guarded(RewardTrainer(model, args=config, train_dataset=pairs, processing_class=small.tokenizer())).train()
    return model


def rollout(folder: Path, guarded: Guarded) -> nn.Module:
    trainer = GRPOTrainer(
        str(small.pretrained(folder / "start")),
        reward_funcs=lambda completions, **_: [
            float(text.count("cat")) - len(text.split()) / 8 for text in completions
        ],
        args=GRPOConfig(**usual(folder), num_generations=4, max_completion_length=8),
        train_dataset=Dataset.from_dict({"prompt": TEXTS}),
        processing_class=small.tokenizer(side="left"),
    )
    guarded(trainer).train()
    return trainer.model


def watching(seen: list[GuardCallback]) -> Guarded:
    def add(trainer: Any) -> Any:
        seen.append(GuardCallback(trainer=trainer, on_finding=None, budget=1.0))
        trainer.add_callback(seen[-1])
        return trainer

    return add


@pytest.mark.parametrize("script", planted(globals(), slow=("P1", "P4", "T1", "T6")))
def test_found_in_the_script_and_not_in_its_twin(script: Script, tmp_path: Path) -> None:
    seen: list[GuardCallback] = []
    script(tmp_path / "faulty", watching(seen), True)
    assert script.plants in told(seen[-1].records()), (told(seen[-1].records()), seen[-1].records())
    script(tmp_path / "clean", watching(seen), False)
    assert loud(seen[-1].records()) == []
    kinds = {str(r["code"]): (r["kind"], r.get("why")) for r in seen[-1].records()}
    assert kinds[script.plants][0] == ("not-run" if script.plants == "P4" else "passed"), kinds[script.plants]


@pytest.mark.slow
@pytest.mark.parametrize("script", planted(globals())[::4])
def test_the_guard_changes_no_bit(script: Script, tmp_path: Path) -> None:
    watched = script(tmp_path / "watched", watching([]), False)
    assert same(watched, script(tmp_path / "alone", lambda trainer: trainer, False))


@pytest.mark.parametrize("script", [supervised, packed, preference, reward, rollout])
def test_a_clean_run_is_silent_and_stays_the_same(script: Callable[..., nn.Module], tmp_path: Path) -> None:
    seen: list[GuardCallback] = []
    watched = script(tmp_path / "watched", watching(seen))
    assert loud(seen[-1].records()) == []
    assert same(watched, script(tmp_path / "alone", lambda trainer: trainer))
    guard = seen[-1].guard
    assert guard is not None
    shown = guard.watch._latest
    assert shown["DataSeen"].objective == ("sft" if script in (supervised, packed) else script.__name__)
    assert ("ReferenceSeen" in shown) == (script is preference)
    assert ("LeakSeen" in shown) == (script is packed)
    names = shown["MetricsHistory"].names()
    assert {"preference": "rewards/margins", "rollout": "reward"}.get(script.__name__, "loss") in names
    if script is preference:
        assert (shown["ReferenceSeen"].shared, shown["ReferenceSeen"].difference) == (0, 0.0)
    if script is supervised:
        assert "loss" in shown["MetricsHistory"].names("evaluation")
        assert all(step.loss is not None for step in guard.watch._steps)


def test_whole_conversations_by_default_are_worth_a_note(tmp_path: Path) -> None:
    """TRL masks nothing unless it is asked to: the user's choice may be none."""
    model, tok = small.language_model(), small.tokenizer(chat=True)
    data = Dataset.from_list([{"messages": talk} for talk in conversations()])
    trainer = SFTTrainer(model, args=SFTConfig(**usual(tmp_path)), train_dataset=data, processing_class=tok)
    callback = GuardCallback(trainer=trainer, on_finding=None)
    trainer.add_callback(callback)
    trainer.train()
    assert not loud(callback.records())
    assert told(callback.records())["L2"].startswith("note")
