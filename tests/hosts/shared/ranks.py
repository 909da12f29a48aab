"""Two ranks of each host that can have several, with faults between them or none.

Run as ``torchrun --nproc-per-node 2 ranks.py HOST FOLDER FAULT...``: each rank writes the code of each finding to
FOLDER/found at once, for a run may hang, and rank 0 the merged records of both to FOLDER/records.json at the end.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import LlamaForCausalLM, LlamaModel

from sightline.attach.ranks import gathered, merged
from sightline.attach.torch_loop import Attachment
from sightline.guard.check import Finding
from tests.hosts import small
from tests.hosts.planting import plants
from tests.hosts.shared.language import tokenized, usual_collator

HOSTS = ("hf_trainer", "trl", "lightning", "accelerate")
RANK = int(os.environ.get("RANK", "0"))
STEPS, BATCH = 10, 4


@plants("D1", "hf_trainer", "trl", "lightning", "accelerate")
def clipped_on_one_rank(model: nn.Module, faulty: bool) -> None:
    """Before each step, after the gradients were averaged."""
    if faulty and RANK == 0:
        nn.utils.clip_grad_norm_(model.parameters(), 1e-2)


@plants("D2", "hf_trainer", "trl", "lightning", "accelerate")
def not_handed_to_the_host(faulty: bool) -> DataLoader[Any] | None:
    """A loader that its author made and no host splits between ranks; None to let the host do so."""
    return loader() if faulty else None


class Sometimes(LlamaModel):
    """With a layer for batches of one rank alone."""

    rare = False

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.rest = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:
        given = super().forward(input_ids, **kwargs)
        if not self.rare or RANK == 0:
            given.last_hidden_state = given.last_hidden_state + self.rest(given.last_hidden_state)
        return given


@plants("D3", "hf_trainer", "trl", "lightning", "accelerate")
def a_layer_that_one_rank_leaves_out(faulty: bool) -> LlamaForCausalLM:
    model = small.language_model()
    model.model = Sometimes(model.config)
    model.model.rare = faulty
    return model


def loader() -> DataLoader[Any]:
    return DataLoader(tokenized(2 * BATCH * STEPS), BATCH, collate_fn=usual_collator())


def transformers_trainer(model: Any, faults: set[str], folder: Path, *, trl: bool) -> Attachment:
    from datasets import Dataset
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from trl import SFTConfig, SFTTrainer

    from sightline.attach.trl import GuardCallback

    usual = {"max_steps": STEPS, "per_device_train_batch_size": BATCH, "use_cpu": True, "report_to": "none"}
    quiet = {"disable_tqdm": True, "save_strategy": "no", "ddp_find_unused_parameters": False, "bf16": False}
    base, config = (SFTTrainer, SFTConfig) if trl else (Trainer, TrainingArguments)

    class Own(base):  # type: ignore[misc, valid-type]
        def get_train_dataloader(self) -> Any:
            return not_handed_to_the_host("D2" in faults) or super().get_train_dataloader()

    class Clips(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            clipped_on_one_rank(model, "D1" in faults)

    rows = Dataset.from_list(tokenized(2 * BATCH * STEPS))
    more = {"dataset_kwargs": {"skip_prepare_dataset": True}} if trl else {}
    trainer = Own(
        model,
        args=config(output_dir=str(folder), **usual, **quiet, **more),
        data_collator=usual_collator(),
        train_dataset=rows,
        processing_class=small.tokenizer(),
    )
    guard = GuardCallback(trainer=trainer, on_finding=noting(folder))
    trainer.add_callback(guard)
    trainer.add_callback(Clips())
    run(trainer.train, guard)
    assert guard.guard is not None
    return guard.guard


def lightning(model: Any, faults: set[str], folder: Path) -> Attachment:
    import lightning.pytorch as pl

    from sightline.attach.lightning import GuardCallback

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.model(**batch).loss

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            clipped_on_one_rank(self, "D1" in faults)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    guard = GuardCallback(on_finding=noting(folder))
    trainer = pl.Trainer(
        default_root_dir=folder,
        callbacks=[guard],
        max_steps=STEPS,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        use_distributed_sampler="D2" not in faults,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    run(lambda: trainer.fit(Module(), loader()), guard)
    assert guard.guard is not None
    return guard.guard


def accelerate(model: Any, faults: set[str], folder: Path) -> Attachment:
    from accelerate import Accelerator

    from sightline.attach.accelerate import attach

    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    batches = not_handed_to_the_host("D2" in faults) or accelerator.prepare(loader())
    guard = attach(accelerator, model, optimizer, batches, on_finding=noting(folder))

    def train() -> None:
        for batch, _ in zip(batches, range(STEPS), strict=False):
            accelerator.backward(model(**batch).loss)
            clipped_on_one_rank(model, "D1" in faults)
            optimizer.step()
            optimizer.zero_grad()

    run(train, guard)
    return guard


def noting(folder: Path) -> Callable[[Finding], None]:
    def note(finding: Finding) -> None:
        with (folder / "found").open("a", encoding="utf-8") as file:
            file.write(f"{finding.code} {finding.severity} {finding.message}\n")

    return note


def run(train: Any, guard: Any) -> None:
    """Train to the end, or until DDP finds out."""
    try:
        train()
    except RuntimeError as error:
        print(RANK, error, file=sys.stderr)
        getattr(guard, "guard", guard).broken_off()
    guard.close()


def main(host: str, folder: str, *faults: str) -> None:
    torch.set_num_threads(1)
    Path(folder, f"pid{RANK}").write_text(str(os.getpid()), encoding="utf-8")
    model, planted = a_layer_that_one_rank_leaves_out("D3" in faults), set(faults)
    if host in ("hf_trainer", "trl"):
        guard = transformers_trainer(model, planted, Path(folder), trl=host == "trl")
    else:
        guard = {"lightning": lightning, "accelerate": accelerate}[host](model, planted, Path(folder))
    everyone = gathered(guard.records(), guard.replicas.ranks)
    if everyone is not None:
        Path(folder, "records.json").write_text(json.dumps(merged(everyone)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
