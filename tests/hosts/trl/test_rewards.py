"""TRL's RewardTrainer and the checkpoints of SFTTrainer: one fault a script, and its clean twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaForSequenceClassification
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from tests.hosts import small
from tests.hosts.hf_trainer.training import Stop
from tests.hosts.planting import Script, loud, planted, plants, told
from tests.hosts.shared.perplexity import Perplexity
from tests.hosts.trl.test_planted import TEXTS, Guarded, usual, watching

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def reward(model: nn.Module, folder: Path, guarded: Guarded, **changes: Any) -> nn.Module:
    pairs = Dataset.from_dict({"chosen": TEXTS[::-1], "rejected": TEXTS[5:] + TEXTS[:5]})
    config = RewardConfig(**usual(folder, **changes))
    guarded(RewardTrainer(model, args=config, train_dataset=pairs, processing_class=small.tokenizer())).train()
    return model


def judge(**changes: Any) -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    return LlamaForSequenceClassification(small.config(num_labels=1, **changes))


@plants("M2")
def a_judge_that_reads_the_last_token_alone(folder: Path, guarded: Guarded, faulty: bool) -> nn.Module:
    """Which is EOS in every row."""
    return reward(judge(num_hidden_layers=0 if faulty else 2), folder, guarded, max_steps=20)


def supervised(folder: Path, kind: type[SFTTrainer] = SFTTrainer, **changes: Any) -> SFTTrainer:
    return kind(
        small.language_model(),
        args=SFTConfig(**usual(folder, save_strategy="steps", save_steps=4, **changes)),
        train_dataset=Dataset.from_dict({"text": TEXTS}),
        processing_class=small.tokenizer(),
    )


@plants("K1")
def all_but_the_norms_are_saved(folder: Path, guarded: Guarded, faulty: bool) -> nn.Module:
    class Own(SFTTrainer):
        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            target = Path(output_dir or self.args.output_dir)
            target.mkdir(parents=True, exist_ok=True)
            state = {n: t.contiguous() for n, t in self.model.state_dict().items() if not (faulty and "norm" in n)}
            save_file(state, target / "model.safetensors")

    trainer = supervised(folder, Own)
    guarded(trainer).train()
    return trainer.model


@plants("L7")
def a_perplexity_averaged_over_batches(folder: Path, guarded: Guarded, faulty: bool) -> nn.Module:
    model, rows = small.language_model(initializer_range=0.8), Dataset.from_dict({"text": small.sentences(60)})
    sizes = {"eval_strategy": "steps", "eval_steps": 4, "per_device_eval_batch_size": 1, "batch_eval_metrics": True}
    trainer = SFTTrainer(
        model,
        args=SFTConfig(**usual(folder, **sizes)),
        train_dataset=rows.select(range(48)),
        eval_dataset=rows.select(range(48, 60)),
        processing_class=small.tokenizer(),
        compute_metrics=Perplexity(averaged=faulty),
    )
    guarded(trainer).train()
    return model


@plants("K2")
def resumed_from_the_weights_alone(folder: Path, guarded: Guarded, faulty: bool) -> nn.Module:
    first = supervised(folder, save_only_model=faulty)
    first.add_callback(Stop())
    first.train()
    trainer = supervised(folder, save_only_model=faulty)
    guarded(trainer).train(resume_from_checkpoint=True)
    return trainer.model


@pytest.mark.parametrize("script", planted(globals(), slow=("K1", "K2", "L7")))
def test_found_in_the_script_and_not_in_its_twin(script: Script, tmp_path: Path) -> None:
    seen: list[Any] = []
    script(tmp_path / "faulty", watching(seen), True)
    assert script.plants in told(seen[-1].records()), (told(seen[-1].records()), seen[-1].records())
    script(tmp_path / "clean", watching(seen), False)
    assert loud(seen[-1].records()) == []
    looked = {str(r["code"]): r["kind"] for r in seen[-1].records()}[script.plants]
    assert looked in ("passed", "finding")  # the trainer's own loss is a mean over batches, which is worth a note
