"""Lightning: one fault a script, its clean twin, and the same twin without the guard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from sightline.attach.lightning import GuardCallback
from sightline.errors import UserError
from sightline.guard.watch import GuardError
from tests.hosts.planting import Script, loud, planted, plants, same, told

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


def points(count: int = 64, seed: int = 0) -> TensorDataset:
    x = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x[:, :4].argmax(1))


def fit(module: pl.LightningModule, folder: Path, callbacks: list[Any], **changes: Any) -> pl.LightningModule:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 2}
    usual = {"max_epochs": 2, "accelerator": "cpu", "enable_checkpointing": False, "num_sanity_val_steps": 0}
    torch.manual_seed(1)
    loaders = DataLoader(points(), 8, shuffle=True), DataLoader(points(16, seed=1), 16)
    pl.Trainer(default_root_dir=folder, callbacks=callbacks, **{**quiet, **usual, **changes}).fit(module, *loaders)
    return module


class Net(pl.LightningModule):
    """A classifier whose `training_step` calls its network, not itself, as most do."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU, depth: int = 2, lr: float = 1e-3) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [part for _ in range(depth) for part in (nn.Linear(16, 16), activation())]
        self.net = nn.Sequential(*layers, nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 4))
        self.lr = lr

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_accuracy", (self.net(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


@plants("T1")
def a_network_made_anew_after_the_optimizer(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    class Late(Net):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
            if faulty:
                self.net = Net().net
            return optimizer

    return fit(Late(), folder, callbacks)


@plants("T2")
def manual_steps_that_never_clear_gradients(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    class Manual(Net):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            optimizer = self.optimizers()
            if not faulty:
                optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self.net(x), y))
            optimizer.step()

    return fit(Manual(), folder, callbacks)


@plants("T3")
def a_test_loop_in_a_callback(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    class Probe(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if not faulty:
                pl_module.eval()
            with torch.no_grad():
                for x, _ in DataLoader(points(16, seed=1), 8):
                    pl_module.net(x)
            pl_module.train()

    return fit(Net(), folder, [Probe(), *callbacks], limit_val_batches=0)


@plants("T4")
def softmax_before_cross_entropy(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    net = Net()
    if faulty:
        net.net.append(nn.Softmax(dim=-1))
    return fit(net, folder, callbacks)


class Words(pl.LightningModule):
    """A language model; this one calls itself."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model, self.faulty = nn.Sequential(nn.Embedding(12, 16), nn.Linear(16, 12)), faulty

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (ids,) = batch
        mask = ids != 0
        labels = ids if self.faulty else ids.masked_fill(~mask, -100)
        logits = self(input_ids=ids, attention_mask=mask)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@plants("T5")
def a_mean_of_each_accumulated_batch(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    lengths = torch.randint(3, 12, (32,), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [torch.randint(1, 12, (n,), generator=torch.Generator().manual_seed(n)) for n in lengths]
    rows = rows if faulty else [row[:3] for row in rows]
    loader = DataLoader([(row,) for row in rows], 1, shuffle=True)
    torch.manual_seed(1)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    usual = {"max_epochs": 2, "accelerator": "cpu", "enable_checkpointing": False, "accumulate_grad_batches": 4}
    words = Words(False)
    pl.Trainer(default_root_dir=folder, callbacks=callbacks, **quiet, **usual).fit(words, loader)
    return words


@plants("P1")
def a_rate_that_breaks_the_weights(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    class Plain(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    return fit(Plain(lr=1e30 if faulty else 1e-2), folder, callbacks, limit_val_batches=0)


@plants("P6")
def twelve_sigmoids(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    class Plain(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    return fit(Plain(activation=nn.Sigmoid if faulty else nn.ReLU, depth=12), folder, callbacks)


@plants("P4")
def weights_in_bfloat16(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    precision = "bf16-true" if faulty else "bf16-mixed"
    return fit(Net(lr=4e-5), folder, callbacks, precision=precision, max_epochs=6)


@plants("T6")
def one_cycle_counted_in_epochs(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    class Cycle(Net):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
            total = self.trainer.estimated_stepping_batches
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=self.lr, total_steps=total)
            return [optimizer], [{"scheduler": schedule, "interval": "epoch" if faulty else "step"}]

    return fit(Cycle(), folder, callbacks, max_epochs=3)


@plants("M1")
def validation_rows_that_were_trained_on(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    everything = points(320)
    train = everything if faulty else torch.utils.data.Subset(everything, range(256))
    torch.manual_seed(1)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    usual = {"max_epochs": 3, "accelerator": "cpu", "enable_checkpointing": False, "num_sanity_val_steps": 0}
    net = Net()
    loaders = DataLoader(train, 32), DataLoader(torch.utils.data.Subset(everything, range(256, 320)), 32)
    pl.Trainer(default_root_dir=folder, callbacks=callbacks, **quiet, **usual).fit(net, *loaders)
    return net


@plants("K1")
def a_hook_that_keeps_parameters_only(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    class Slim(Net):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            if faulty:
                learnt = dict(self.named_parameters())
                checkpoint["state_dict"] = {n: v for n, v in checkpoint["state_dict"].items() if n in learnt}

    return fit(Slim(), folder, callbacks, enable_checkpointing=True)


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


def test_the_same_callback_under_the_other_name_of_the_library(tmp_path: Path) -> None:
    import pytorch_lightning as other

    class Own(other.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(16, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]).softmax(-1), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    guard = GuardCallback(on_finding=None)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = other.Trainer(default_root_dir=tmp_path, max_epochs=1, callbacks=[guard], **quiet)
    trainer.fit(Own(), DataLoader(points(), 8))
    assert [finding.code for finding in guard.findings] == ["T4"]
    assert issubclass(GuardCallback, pl.Callback)


def test_a_run_that_breaks_off_keeps_its_findings_and_leaves_no_hook(tmp_path: Path) -> None:
    class Broken(Net):
        def on_train_epoch_end(self) -> None:
            raise RuntimeError("out of luck")

    guard, net = GuardCallback(on_finding=None, raise_on="error"), Broken()
    net.net.append(nn.Softmax(dim=-1))
    with pytest.raises(GuardError, match="T4"):
        fit(net, tmp_path, [guard])
    assert [finding.code for finding in guard.findings] == ["T4"]
    guard, net = GuardCallback(on_finding=None), Broken()
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(net, tmp_path, [guard])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(UserError, match="'tokeniser' is no option of the guard"):
        GuardCallback(tokeniser=None)
