"""Mixed precision: fp32 weights, with the forward pass in fp32, tf32, bf16, fp16 or fp8 (Micikevicius et al. 2018)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from sightline.errors import UserError
from sightline.recipe.schema import Numbers, PrecisionKind

Name = Literal["fp32", "bf16", "fp16"]

_DTYPES: dict[Name, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FP8_GPU = (8, 9)  # the compute capability from which matrix units multiply fp8: Ada and Hopper


@dataclass(frozen=True, slots=True)
class Precision:
    """The name and dtype of the forward pass, and the loss scaler that fp16 needs (a no-op otherwise).

    Attributes:
        kind: what the recipe asks for, where that is more than a dtype: tf32 and fp8 are ways to multiply matrices of
            fp32 and bf16.
    """

    name: Name
    device: torch.device
    scaler: torch.amp.GradScaler = field(repr=False)
    kind: PrecisionKind = "fp32"

    @property
    def dtype(self) -> torch.dtype:
        """The forward pass's dtype."""
        return _DTYPES[self.name]

    @property
    def scales(self) -> bool:
        """Whether losses are scaled, so that a step whose gradients overflow is skipped."""
        return self.scaler.is_enabled()

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Run matrix products of the block in this precision."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` (0-dim), times the loss scale, to the parameters'."""
        self.scaler.scale(loss).backward()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Inside the block fp32 matrices are multiplied as `kind` says, and as before afterwards.

        A process may have chosen tf32 for itself: a run that asks for fp32 gets fp32.
        """
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("high" if self.kind == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = self.kind == "tf32"
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]


def pick_precision(
    wanted: PrecisionKind | Literal["auto"], device: torch.device, numbers: Numbers | None = None
) -> Precision:
    """The precision a recipe asks for; "auto" is bf16 where the device multiplies it in hardware, else fp32.

    Raises:
        UserError: tf32 or fp8 on a device that has none of it.
    """
    kind: PrecisionKind = ("bf16" if _fast_bf16(device) else "fp32") if wanted == "auto" else wanted
    if kind == "tf32" and not _capable(device, (8, 0)):
        what = f"tf32 is how GPUs from Ampere on multiply fp32, and the device is {device}"
        raise UserError(what, where="precision", fix="set precision=fp32, which is more exact")
    if kind == "fp8" and not _capable(device, FP8_GPU):
        found = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        what = f"fp8 needs a GPU with units for it (compute capability 8.9: Ada, Hopper or later), and this is {found}"
        raise UserError(what, where="precision", fix="set precision=bf16")
    name: Name = "fp32" if kind == "tf32" else "bf16" if kind == "fp8" else kind
    return Precision(name, device, _scaler(device, name == "fp16", numbers or Numbers()), kind)


def _scaler(device: torch.device, enabled: bool, numbers: Numbers) -> torch.amp.GradScaler:
    scale, interval = numbers.initial_scale, numbers.growth_interval
    return torch.amp.GradScaler(device.type, enabled=enabled, init_scale=scale, growth_interval=interval)


def _capable(device: torch.device, least: tuple[int, int]) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= least


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
