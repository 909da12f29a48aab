"""Mixed precision: fp32 weights, with the forward pass in fp32, bf16 or fp16 (Micikevicius et al. 2018)."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Name = Literal["fp32", "bf16", "fp16"]

_DTYPES: dict[Name, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Precision:
    """The name and dtype of the forward pass, and the loss scaler that fp16 needs (a no-op otherwise)."""

    name: Name
    device: torch.device
    scaler: torch.amp.GradScaler = field(repr=False)

    @property
    def dtype(self) -> torch.dtype:
        """The forward pass's dtype."""
        return _DTYPES[self.name]

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Run matrix products of the block in this precision."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` (0-dim), times the loss scale, to the parameters'."""
        self.scaler.scale(loss).backward()


def pick_precision(wanted: Name | Literal["auto"], device: torch.device) -> Precision:
    """The precision a recipe asks for; "auto" is bf16 where the device multiplies it in hardware, else fp32."""
    name: Name = ("bf16" if _fast_bf16(device) else "fp32") if wanted == "auto" else wanted
    return Precision(name, device, torch.amp.GradScaler(device.type, enabled=name == "fp16"))


def _fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # oneDNN emulates bf16 on older CPUs, slower than fp32: ask the kernel for the instructions.
        try:
            with open("/proc/cpuinfo", encoding="utf-8") as cpu:
                return "avx512_bf16" in (flags := cpu.read()) or "amx_bf16" in flags
        except OSError:
            return False
    return False
