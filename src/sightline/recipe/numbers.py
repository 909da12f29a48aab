"""What a recipe says of number formats: `precision` is that of matrix products, `numbers` all else."""

from __future__ import annotations

from typing import Literal

from sightline.recipe.part import Above0, Part, Positive

PrecisionKind = Literal["fp32", "tf32", "bf16", "fp16", "fp8"]


class Numbers(Part):
    """Number formats beside that of the forward pass."""

    weights: Literal["fp32", "bf16"] = "fp32"  # bf16: no fp32 copies; AdamW's 16 bytes of a learning weight become 12
    initial_scale: Above0 = 65536.0  # fp16: by which the loss is multiplied at first
    growth_interval: Positive = 2000  # fp16: steps without an overflow after which the scale doubles

    def unread(self, precision: str) -> str | None:
        """What is wrong with these for a run of `precision`; None: nothing."""
        usual = Numbers()
        for key in ("initial_scale", "growth_interval"):
            if precision != "fp16" and getattr(self, key) != getattr(usual, key):
                return f"'numbers.{key}' is of the loss scale of fp16, and 'precision' is {precision}"
        if self.weights == "bf16" and precision != "bf16":
            return f"'numbers.weights' bf16 goes with precision bf16, and 'precision' is {precision}"
        return None
