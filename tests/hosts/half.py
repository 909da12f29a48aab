"""A loss scale without a GPU: accelerate refuses fp16 on a CPU when it is made, though its scaling runs anywhere."""

from __future__ import annotations

from typing import Any

import torch


def halve(accelerator: Any) -> None:
    """Give an accelerator what it would have made for itself on a GPU; call it before `prepare`."""
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    accelerator.native_amp = True
    accelerator.state._mixed_precision = "fp16"
