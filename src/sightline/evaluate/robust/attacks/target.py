"""What is attacked: pictures, whose they are, a loss of pixels to be raised, and where random numbers come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BOOST = 1024.0  # of the loss whose gradient is taken, a power of two: in fp16 the gradients of pixels would underflow
Loss = Callable[[Tensor], Tensor]  # (N, 3, H, W) pixels -> (B,) the loss of each row


@dataclass(frozen=True, slots=True)
class Target:
    """Pictures under attack.

    Attributes:
        pixels: (N, 3, H, W) fp32 from 0 to 1, without graph.
        owner: (N,) int64: the row that each picture belongs to; a row's loss depends on its own pictures alone.
        loss: see `Loss`.
        seeds: of each picture, so that random numbers do not depend on the pictures beside it.
    """

    pixels: Tensor
    owner: Tensor
    loss: Loss
    seeds: Sequence[int]

    def raised(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) losses at `pixels`, and the gradient of their sum: of each picture, that of its row's loss."""
        at = pixels.detach().requires_grad_()
        with torch.enable_grad():
            losses = self.loss(at)
            (gradient,) = torch.autograd.grad(losses.sum() * BOOST, at)
        return losses.detach().float(), gradient.detach() / BOOST

    @torch.no_grad()
    def losses(self, pixels: Tensor) -> Tensor:
        """(B,) losses at `pixels`."""
        return self.loss(pixels).float()

    def drawn(self, draw: Callable[[torch.Generator], Tensor], purpose: str) -> Tensor:
        """What `draw` makes for each picture from a generator of its own, on the pictures' device."""
        made = [draw(generator(seed, purpose)) for seed in self.seeds]
        return torch.stack(made).to(self.pixels.device)


def generator(seed: int, purpose: str) -> torch.Generator:
    """Random numbers that depend on `seed` and `purpose` alone; on the host, so that devices agree."""
    digest = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def worst(target: Target, tries: Sequence[Tensor]) -> Tensor:
    """For each row the pictures of that try whose loss is highest."""
    if len(tries) == 1:
        return tries[0]
    losses = torch.stack([target.losses(pixels) for pixels in tries])
    chosen = losses.argmax(0)[target.owner]  # (N,)
    return torch.stack(list(tries))[chosen, torch.arange(len(chosen), device=chosen.device)]
