"""`sightline run` of scripts whose loop a library owns: its callback is there while it trains, and nobody notices."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.forked import HF, LIGHTNING, Forks

Told = Callable[..., tuple[str, str, dict[str, Any]]]


@pytest.fixture
def watched(tmp_path: Path, forks: Forks) -> Told:
    """A script -> its plain output, its output under us, and the file of findings.

    `knows`: what is imported beforehand; with `own` nothing is, and the import of a library is noticed.
    """

    def run(
        text: str, *arguments: str, plainly: bool = True, own: bool = False, knows: Sequence[str] = HF
    ) -> tuple[str, str, dict[str, Any]]:
        (tmp_path / "train.py").write_text(text, encoding="utf-8")
        ours, script = ("run", "--findings", str(tmp_path / "told.json")), ("train.py", *arguments)
        plain = forks.run(*script, cwd=tmp_path, knows=knows).stdout if plainly else ""
        if own:  # a process as its user begins it
            command = [sys.executable, "-m", "sightline", *ours, *script]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        else:
            done = forks.run("sightline", *ours, *script, cwd=tmp_path, knows=knows)
        return plain, done.stdout, json.loads((tmp_path / "told.json").read_text())

    return run


TRAINERS = """
import dataclasses, gc, sys, torch, weakref
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

def rows(count, seed):
    made = torch.Generator().manual_seed(seed)
    ids = [torch.randint(3, 60, (12,), generator=made).tolist() for _ in range(count)]
    return [{"input_ids": row, "labels": row} for row in ids]

def small():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                                        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=64))

@dataclasses.dataclass(eq=True)  # so that it has no hash, as some of TRL's Trainers
class Mine(Trainer):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)

    def _save(self, output_dir=None, state_dict=None):
        if sys.argv[1:]:
            state_dict = {name: torch.zeros_like(value) for name, value in self.model.state_dict().items()}
        super()._save(output_dir, state_dict)

def train(kind, **more):
    args = TrainingArguments("out", max_steps=6, per_device_train_batch_size=4, logging_steps=1, report_to=[],
                             use_cpu=True, disable_tqdm=True, gradient_accumulation_steps=2, **more)
    trainer = kind(small(), args, train_dataset=rows(64, 0), eval_dataset=rows(8, 1))
    names = [type(one).__name__ for one in trainer.callback_handler.callbacks]
    trainer.train()
    assert names == [type(one).__name__ for one in trainer.callback_handler.callbacks]
    print("SEEN", names, [entry["loss"].hex() if isinstance(entry["loss"], float) else entry["loss"]
                  for entry in trainer.state.log_history if "loss" in entry], trainer.evaluate()["eval_loss"].hex())
    return trainer

def asked():  # no Trainer is kept, and the model is asked when it is gone
    model = small()
    args = TrainingArguments("out", max_steps=6, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    gone = [weakref.ref(model), weakref.ref(optimizer)]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    Trainer(model, args, train_dataset=rows(64, 2), optimizers=(optimizer, schedule)).train()
    del optimizer, schedule
    gc.collect()
    print("SEEN", gone[1]() is None)
    mask = torch.ones(3, 8, dtype=torch.long)
    mask[0, slice(-3, None) if sys.argv[1:] else slice(3)] = 0
    ids = torch.full((3, 8), 7).masked_fill(mask == 0, 0)
    print("SEEN", model.eval().generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False).tolist())
    return gone[0]

def main():
    gone = asked()
    kept = train(Mine, save_steps=3)
    if sys.argv[1:]:
        return
    gc.collect()  # a dropped model that was asked is held until another one is trained
    print("SEEN", gone() is None)
    train(Trainer, save_strategy="no")
    gc.collect()
    trainer = kept
    if "sightline" in sys.modules:
        from sightline.attach.hf_trainer import GuardCallback
        trainer.add_callback(GuardCallback(on_finding=None))
    trainer.train()
    model, optimizer = torch.nn.Linear(4, 3), None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(torch.randn(8, 4)), torch.arange(8) % 3).backward()
        optimizer.step()

main()
"""


def test_trainers_of_a_script(watched: Told) -> None:
    plain, ours, told = watched(TRAINERS)
    seen, same = ([line for line in text.splitlines() if line.startswith("SEEN")] for text in (plain, ours))
    assert seen == same and len(seen) == 5
    assert told["findings"] == [] and told["run"]["problems"] == []
    models = [(model["name"], model["steps"]) for model in told["run"]["models"]]
    # The first model's watch ends where the script adds a callback of its own: no step is heard twice.
    assert models == [*((f"LlamaForCausalLM {n}", 6) for n in (1, 2, 3, 4)), ("Linear", 4)]
    passed = {verdict["check"] for verdict in told["passed"]}
    assert {"checkpoint-does-not-round-trip", "evaluation-in-train-mode", "miscounted-perplexity"} <= passed


def test_what_only_the_trainer_knows(watched: Told) -> None:
    told = watched(TRAINERS, "faulty", plainly=False)[2]
    assert [finding["code"] for finding in told["findings"] if finding["severity"] == "error"] == ["L1", "K1"]


SCRIPT = """
import sys, lightning, torch
from torch.utils.data import DataLoader, TensorDataset

class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 3))
    def training_step(self, batch, place):
        loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        print(loss.item().hex())
        return loss
    def validation_step(self, batch, place):
        self.log("right", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())
    def test_step(self, batch, place):
        self.log("at last", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)

def main():
    lightning.seed_everything(0, verbose=False)
    data = TensorDataset(torch.randn(64, 8), torch.randint(0, 3, (64,)))
    other = TensorDataset(torch.randn(32, 8), torch.randint(0, 3, (32,)))
    trainer = lightning.Trainer(max_epochs=2, logger=False, enable_progress_bar=False, accelerator="cpu",
                                enable_model_summary=False)
    names = [type(one).__name__ for one in trainer.callbacks]
    net, every = Net(), torch.utils.data.ConcatDataset([data, other])
    part = torch.utils.data.Subset(every, [row * 37 % 96 for row in range(40)])
    trainer.fit(net, DataLoader(data, 8, shuffle=True), DataLoader(other, 8))
    trainer.test(net, DataLoader(part if "leak" in sys.argv else other, 8), verbose=False)
    net.train("by hand" in sys.argv)
    with torch.no_grad():
        print(sum((net.net(x).argmax(1) == y).sum().item() for x, y in DataLoader(other, 8)) / 32)
    print(names == [type(one).__name__ for one in trainer.callbacks])

main()
"""


def test_lightning_in_a_script(watched: Told) -> None:
    plain, ours, told = watched(SCRIPT, knows=LIGHTNING)
    assert ours == plain
    assert told["findings"] == [] and told["run"]["problems"] == []
    assert [(model["name"], model["steps"]) for model in told["run"]["models"]] == [("Net", 16)]
    passed = {verdict["check"] for verdict in told["passed"]}
    assert {"checkpoint-does-not-round-trip", "evaluation-in-train-mode", "initial-loss-off"} <= passed


@pytest.mark.slow  # two more processes of a watched script
@pytest.mark.parametrize(("fault", "code"), [("leak", "M1"), ("by hand", "T3")])
def test_what_is_judged_after_a_lightning_fit(watched: Told, fault: str, code: str) -> None:
    told = watched(SCRIPT, fault, plainly=False, knows=LIGHTNING)[2]
    assert [finding["code"] for finding in told["findings"] if finding["severity"] != "note"] == [code]


ACCELERATE = """
import torch
from accelerate import Accelerator
accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True)
torch.manual_seed(0)
model = torch.nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model, optimizer = accelerator.prepare(model, optimizer)
for step in range(16):
    with accelerator.accumulate(model):
        loss = torch.nn.functional.cross_entropy(model(torch.randn(8, 8)), torch.randint(0, 3, (8,)))
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    # a DPO loop's words: both answers become less likely, their margin stays
    accelerator.log({"rewards/margins": 0.0, "logps/chosen": -10.0, "logps/rejected": -10.0}, step=step)
print(loss.item().hex())
"""


@pytest.mark.slow
def test_what_an_accelerator_logs(watched: Told) -> None:
    plain, ours, told = watched(ACCELERATE, own=True)
    assert ours == plain and told["run"]["problems"] == []
    assert [(model["name"], model["steps"]) for model in told["run"]["models"]] == [("Linear", 8)]
    unseen = {verdict["check"]: verdict["why"] for verdict in told["not_run"]}
    assert "nothing was logged" not in unseen.get("preference-collapse", "")
