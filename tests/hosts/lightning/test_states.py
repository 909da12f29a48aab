"""Lightning: loss scales, resumed runs and logged perplexities: one fault a script, and its clean twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch import callbacks as hooks
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from sightline.attach.lightning import GuardCallback
from tests.hosts import small
from tests.hosts.lightning.test_planted import Net, fit, points
from tests.hosts.lightning.training import QUIET
from tests.hosts.planting import Script, loud, planted, plants, told
from tests.hosts.shared.language import tokenized, usual_collator
from tests.hosts.shared.perplexity import Perplexity

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


@plants("P3")
def manual_steps_that_clip_what_is_scaled(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    """Lightning takes the scale away in `step`, and calls `on_before_optimizer_step` then."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    class Manual(Net):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self.net(x), y))
            if faulty:
                self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="norm")
            optimizer.step()

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            if not faulty:
                self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="norm")

    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    return fit(Manual(), folder, callbacks, plugins=[plugin], limit_val_batches=0)


@plants("K2")
def a_hook_that_drops_the_optimizer_at_loading(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    class Own(Net):
        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            if faulty:  # it once did not fit
                checkpoint["optimizer_states"], checkpoint["lr_schedulers"] = [], []

    save = ModelCheckpoint(folder, save_last=True)
    fit(Own(), folder, [save], max_epochs=1, enable_checkpointing=True)
    net = Own()
    trainer = pl.Trainer(
        default_root_dir=folder, callbacks=callbacks, max_epochs=2, enable_checkpointing=False, **QUIET
    )
    trainer.fit(net, DataLoader(points(32), 8), ckpt_path=str(folder / "last.ckpt"))
    return net


@plants("L7")
def a_perplexity_that_lightning_averages(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    class Words(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = small.language_model(initializer_range=0.8)
            self.perplexity = Perplexity(averaged=faulty)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.model(**batch).loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            logits = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            self.perplexity.add(logits, batch["labels"])
            if faulty:
                self.log("val_perplexity", self.perplexity.value(), batch_size=len(logits))

        def on_validation_epoch_end(self) -> None:
            if not faulty:
                self.log("val_perplexity", self.perplexity.value())

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    words, rows, usual = Words(), tokenized(60), {"max_epochs": 1, "enable_checkpointing": False}
    trainer = pl.Trainer(default_root_dir=folder, callbacks=callbacks, num_sanity_val_steps=0, **usual, **QUIET)
    trainer.fit(
        words,
        DataLoader(rows[:48], 4, collate_fn=usual_collator()),
        DataLoader(rows[48:], 1, collate_fn=usual_collator()),
    )
    return words


@pytest.mark.parametrize("script", planted(globals()))
def test_found_in_the_script_and_not_in_its_twin(script: Script, tmp_path: Path) -> None:
    guard = GuardCallback(on_finding=None, budget=1.0)
    script(tmp_path / "faulty", [guard], True)
    assert script.plants in told(guard.records()), told(guard.records())
    guard = GuardCallback(on_finding=None, budget=1.0)
    script(tmp_path / "clean", [guard], False)
    assert loud(guard.records()) == []
    assert {str(r["code"]): r["kind"] for r in guard.records()}[script.plants] == "passed"


@pytest.mark.parametrize(
    ("average", "options"),
    [("EMAWeightAveraging", {"decay": 0.9}), ("StochasticWeightAveraging", {"swa_lrs": 1e-2, "swa_epoch_start": 1})],
)
def test_averages_of_weights_are_saved_and_resumed_on_purpose(average: str, options: Any, tmp_path: Path) -> None:
    if not hasattr(hooks, average):
        pytest.skip(f"this Lightning has no {average}")
    for epochs in (2, 4):
        guard, known = GuardCallback(on_finding=None, budget=1.0), tmp_path / "last.ckpt"
        listed = [getattr(hooks, average)(**options), ModelCheckpoint(tmp_path, save_last=True), guard]
        trainer = pl.Trainer(default_root_dir=tmp_path, max_epochs=epochs, callbacks=listed, **QUIET)
        net = Net()
        trainer.fit(net, DataLoader(points(32), 8), ckpt_path=str(known) if known.exists() else None)
        assert loud(guard.records()) == []


class Follows(Net):
    """Two optimizers step in a turn, and every other turn features are made for a probe, without gradients."""

    automatic_optimization = False

    def __init__(self, judged: bool) -> None:
        super().__init__()
        self.judged, self.probe = judged, nn.Linear(4, 4)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        net, probe = self.optimizers()  # type: ignore[misc]
        net.zero_grad()
        self.manual_backward(F.cross_entropy(self.net(x), y))
        net.step()
        if batch_idx % 2 == 0:
            with torch.no_grad():
                features = self.net(x)
            probe.zero_grad()
            self.manual_backward(F.cross_entropy(self.probe(features), y))
            probe.step()

    def on_train_epoch_end(self) -> None:
        if self.judged:
            with torch.no_grad():
                self.net(torch.randn(8, 16))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.net.parameters()), torch.optim.Adam(self.probe.parameters())


@pytest.mark.parametrize("judged", [True, False])
def test_only_what_runs_outside_of_steps_is_judged(judged: bool, tmp_path: Path) -> None:
    guard = GuardCallback(on_finding=None, budget=1.0)
    fit(Follows(judged), tmp_path, [guard], limit_val_batches=0, max_epochs=2)
    assert [line.split(":")[0] for line in loud(guard.records())] == ["T3"] * judged


class Halves(Net):
    """One backward pass for two optimizers, of which the second may never step."""

    automatic_optimization = False

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.both, self.added = both, nn.Linear(4, 4)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        first, second = self.optimizers()  # type: ignore[misc]
        first.zero_grad()
        second.zero_grad()
        self.manual_backward(F.cross_entropy(self.added(self.net(x)), y))
        first.step()
        if self.both:
            second.step()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.net.parameters()), torch.optim.Adam(self.added.parameters())


@pytest.mark.parametrize("both", [True, False])
def test_two_optimizers_after_one_backward_pass(both: bool, tmp_path: Path) -> None:
    guard = GuardCallback(on_finding=None, budget=1.0, towers={"net": ["net"], "added": ["added"]})
    fit(Halves(both), tmp_path, [guard], limit_val_batches=0, max_epochs=3)
    assert ("T1" in {line.split(":")[0] for line in loud(guard.records())}) is not both
