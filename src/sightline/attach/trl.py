"""The door for TRL's trainers (SFT, DPO, KTO, reward, GRPO, RLOO): `hf_trainer`'s callback, and what only TRL knows.

    from sightline.attach.trl import GuardCallback

    trainer = SFTTrainer(model, args=config, train_dataset=rows, processing_class=tokenizer)
    trainer.add_callback(GuardCallback(trainer=trainer))
    trainer.train()

Given the trainer, the callback sees the data set with the columns of text that the loader leaves out, and the reference
model beside the policy. Rewards, margins and log probabilities are evidence as TRL logs them.
"""

from __future__ import annotations

from typing import Any

from sightline.attach.data_set import objective_of
from sightline.attach.hf_trainer import GuardCallback as HostCallback

BLIND = {  # evidence, or a check's code -> why TRL's trainers do not show it
    "T2": "the trainer clears the gradients itself after each step",
    "T4": "the trainer makes the loss itself, from log probabilities",
    "T5": "the trainer divides by the tokens of the whole step itself",
    "T7": "the model gives log probabilities without logits",
    "L6": "the model gives log probabilities without logits",
    "I2": "its data sets are those of `datasets`, which split a stream between workers themselves",
    "I5": "the labels are made of the inputs' own tokens, or there are none",
    "L10": "the hub is asked when the trainer is made, before it calls anyone; `sightline run` tells what it refused",
    "I3": "the trainer sets the epoch of its samplers itself",
    "P3": "the trainer unscales the gradients itself before it clips them",
}


class GuardCallback(HostCallback):
    """Watches a TRL trainer; arguments as for `sightline.attach.hf_trainer.GuardCallback`."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Attach, and show the reference model, where the trainer keeps one of its own."""
        super().on_train_begin(args, state, control, **given)
        reference = getattr(self._trainer, "ref_model", None)
        if self.guard is not None and reference is not None:
            self.guard.reference(reference, synced=bool(getattr(args, "sync_ref_model", False)))
        elif self.guard is not None and hasattr(self._trainer, "ref_model") and _by_adapter(self.guard.model, args):
            self.guard.reference_by_adapter()


def _by_adapter(model: Any, args: Any) -> bool:
    """Whether each preference is told beside the model without its adapters: there is no other reference."""
    kept = getattr(args, "precompute_ref_log_probs", False) or getattr(args, "reference_free", False)
    adapters = getattr(model, "peft_config", None)
    asked = objective_of(args) in ("preference", "unpaired-preference") and not kept
    return asked and hasattr(model, "disable_adapter") and isinstance(adapters, dict) and "ref" not in adapters
