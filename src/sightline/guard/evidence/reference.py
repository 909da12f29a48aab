"""The frozen copy that a policy is compared with (DPO, KTO, GRPO), seen again and again on the same tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReferenceSeen:
    """A look at the reference model.

    Attributes:
        shared: elements of the policy's trainable parameters that live in the reference's memory.
        since: the step at which the same tokens were seen first.
        difference: largest absolute change, since then, of the log probability of a token of one fixed batch, in nats;
            None at the first look, or where the reference gives no logits.
        noise: the same, of two looks at the same moment.
        synced: whether the host says that it updates the reference on purpose (TR-DPO, an exponential average).
        by_adapter: the reference is the policy with its adapters switched off.
        loss: of each of so many `steps`, whatever their batches, where the reference was told by that alone.
        margin: of any pair of so many `steps`, at most, while the policy moved, where it was told by that.
        renewed: how many times it was made the policy's equal again, on pairs of which it was asked before.
    """

    step: int
    shared: int
    since: int
    difference: float | None = None
    noise: float = 0.0
    synced: bool = False
    by_adapter: bool = False
    loss: float | None = None
    steps: int = 0
    margin: float | None = None
    renewed: int = 0

    @property
    def words(self) -> str:
        """By what it is told to be the policy itself, or to move with it."""
        if self.renewed:
            return f"was made the policy's equal again, {self.renewed} times, on pairs that it had judged before"
        if self.margin is not None:
            return (
                f"answers as it does, or both answers are one: no margin in {self.steps} steps while the policy moves"
            )
        if self.loss is not None:
            return f"answers as the policy does, and the loss is {self.loss:.4f} in all of {self.steps} steps"
        return f"shares {self.shared} trainable elements with the policy" if self.shared else "is not where it was"
