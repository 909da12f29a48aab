"""The door for `transformers.Trainer`: a callback that watches from the start of training to its end.

    from sightline.attach.hf_trainer import GuardCallback

    trainer = Trainer(model, args, train_dataset=rows, callbacks=[GuardCallback()])
    trainer.train()

The callback is given the model, the optimizer and the tokenizer by the Trainer itself; it takes the number of
micro-batches a step from the arguments, the logged numbers from the log, and reads the first checkpoint back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sightline.atomic import write_text
from sightline.attach.access import access_seen
from sightline.attach.data_set import data_seen, objective_of, whole_by_default
from sightline.attach.dropped import dropped
from sightline.attach.hf_checkpoint import ADAPTER, FULL, LARGEST, left_off, resumed_from, saved_state, weights_in
from sightline.attach.options import checked
from sightline.attach.torch_loop import Attachment, attach
from sightline.guard.check import Finding
from sightline.guard.report import as_lines

EVALUATION = "eval_"  # how the Trainer marks what it logs in an evaluation
BLIND = {  # evidence, or a check's code -> why the Trainer does not show it
    "T2": "the trainer clears the gradients itself after each step",
    "I3": "the trainer sets the epoch of its samplers itself",
    "L10": "the hub is asked when the trainer is made, before it calls anyone; `sightline run` tells what it refused",
    "P3": "the trainer unscales the gradients itself before it clips them",
}


class GuardCallback(TrainerCallback):
    """Watches a Trainer. After training, `findings` and `records()` hold the verdicts.

    Args:
        trainer: the Trainer itself, where the callback is added to one that exists (``trainer.add_callback(
            GuardCallback(trainer=trainer))``): its data sets are then seen with all their columns.
        write: write ``findings.jsonl`` into the Trainer's output directory at the end.
        options: what `sightline.attach` takes beside the model and its optimizer, e.g. ``allow``, ``plan``,
            ``raise_on="error"``, ``on_finding=None``. What is not given is asked of the Trainer.

    Raises:
        UserError: an option is not one of `sightline.attach`.
    """

    def __init__(self, *, trainer: Any = None, write: bool = False, **options: Any) -> None:
        self.guard: Attachment | None = None
        self._trainer, self._write, self._options, self._read_back = trainer, write, checked(options), False

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found so far and is not allowed; () before training began."""
        return self.guard.findings if self.guard else ()

    def records(self) -> list[dict[str, object]]:
        """Every check's verdict, as `findings.jsonl` holds it; [] before training began."""
        return self.guard.records() if self.guard else []

    # --- what the Trainer calls ----------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Attach. A second call of ``train()`` is a run of its own."""
        self.close()
        self._read_back = False
        known = {
            "dataloader": given.get("train_dataloader"),
            "tokenizer": given.get("processing_class"),
            "accumulation": args.gradient_accumulation_steps,
        }
        optimizer = given.get("optimizer")
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper steps the one inside
        self.guard = attach(given["model"], inner, **{**known, **self._options})
        self.guard.planned(state.max_steps)
        self._show_data(args, given)
        self._show_resume(args, state)
        if args.push_to_hub:
            self.guard.show(access_seen(push=args.hub_model_id or "", token=args.hub_token is not None))

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **given: Any) -> None:
        """Numbers as logged; the loss of a single step is also that step's."""
        if self.guard is None or not logs:
            return
        numbers = {name: _number(value) for name, value in logs.items()}
        if args.logging_steps == 1 and isinstance(loss := numbers.get("loss"), float) and not self.guard.saw_loss:
            self.guard.step(loss=loss)  # TRL makes it outside of the model
        judged = {name.removeprefix(EVALUATION): v for name, v in numbers.items() if name.startswith(EVALUATION)}
        self.guard.log({n: v for n, v in numbers.items() if not n.startswith(EVALUATION)})
        self.guard.log(judged, phase="evaluation")

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Read the first checkpoint back, if that takes seconds."""
        if self.guard is None or self._read_back or not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        found = weights_in(folder)
        if found is None or found.stat().st_size > LARGEST:
            why = "its file is too large to read back" if found else f"it holds neither {FULL} nor {ADAPTER}"
            self.guard.watch.absent("RoundTripSeen", f"a checkpoint was saved, and {why}")
            return
        self._read_back = True
        saved = saved_state(found, self.guard.model)
        if not saved.keys() <= self.guard.model.state_dict().keys():  # transformers may save under a hub's older names
            self.guard.watch.absent("RoundTripSeen", "the checkpoint names its tensors otherwise than the model does")
            return
        self.guard.checkpoint(found, load=lambda _: saved)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Judge the last evidence, and write the findings when asked."""
        self.close()
        if self._write and state.is_world_process_zero:
            write_text(Path(args.output_dir) / "findings.jsonl", as_lines(self.records()))

    def close(self) -> None:
        """Stop watching; `on_train_end` does so. A run that was broken off by an error may be closed by hand."""
        if self.guard is not None:
            self.guard.close()

    # --- inside --------------------------------------------------------------------------------------------------

    def _show_resume(self, args: Any, state: Any) -> None:
        """Training goes on from a checkpoint of this output directory: is everything as it was saved there?"""
        if self.guard is None:
            return
        model, output = self.guard.model, Path(args.output_dir)
        if state.global_step:
            folder: Path | None = output / f"checkpoint-{state.global_step}"
        else:
            folder = left_off(output, state.max_steps, state.train_batch_size, model)
        if folder is not None and folder.is_dir() and (content := resumed_from(folder, model)) is not None:
            self.guard.resumed(folder, load=lambda _: content)

    def _show_data(self, args: Any, given: Mapping[str, Any]) -> None:
        """The trainer's own data set has all columns; that of its loader only those that the model takes."""
        assert self.guard is not None
        loader = given.get("train_dataloader")
        rows = getattr(self._trainer, "train_dataset", None)
        rows = getattr(loader, "dataset", None) if rows is None else rows
        name = self._trainer.__class__.__name__ if self._trainer is not None else None  # it may be a proxy
        tokenizer = given.get("processing_class")
        whole = self._trainer is not None and whole_by_default(self._trainer)
        seen = data_seen(rows, objective=objective_of(args), trainer=name, tokenizer=tokenizer, whole=whole)
        if seen is not None:
            self.guard.show(replace(seen, dropped=dropped(self._trainer, seen.columns)))


def _number(value: Any) -> Any:
    """Some entries are numbers formatted as text."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value
