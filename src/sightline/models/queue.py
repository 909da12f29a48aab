"""A queue of past embeddings: more columns for a contrastive loss than one batch holds.

Pushed with a momentum teacher's embeddings it is the queue of MoCo and ALBEF (arXiv 1911.05722; 2107.07651, section
3.2); pushed with the student's own it is cross-batch memory (XBM, arXiv 1912.06798), which asks for slowly drifting
embeddings: start it after the warm-up.

It is state of a model, saved and loaded with it; a loss only receives what it holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sightline.errors import UserError


class Queue(nn.Module):
    """The last `size` pairs that were pushed, oldest overwritten first, with the ids of their images.

    Everything is in buffers, so a saved and loaded queue goes on exactly. A push may have any length, also one that
    wraps around or is longer than the queue; what was never written is never given out. All ranks push the same
    gathered pairs, so all hold the same queue. Ids must mean the same image for as long as a pair stays in the queue.
    """

    image: Tensor
    text: Tensor
    image_ids: Tensor
    pushed: Tensor

    def __init__(self, size: int, width: int, queries: int | None = None, ids: int | None = None) -> None:
        """Args: size: pairs. width: of an embedding. queries: embeddings an image. ids: numbers that name a pair."""
        super().__init__()
        if size < 1:
            raise UserError(f"a queue cannot hold {size} pairs", where="queue")
        shape = (size, width) if queries is None else (size, queries, width)
        self.register_buffer("image", torch.zeros(shape))
        self.register_buffer("text", torch.zeros(size, width))
        self.register_buffer("image_ids", torch.zeros((size,) if ids is None else (size, ids), dtype=torch.long))
        self.register_buffer(
            "pushed", torch.zeros((), dtype=torch.long)
        )  # since the beginning; the next place mod size

    def __len__(self) -> int:
        return min(int(self.pushed), len(self.text))

    @torch.no_grad()
    def push(self, image: Float[Tensor, "n *Q E"], text: Float[Tensor, "n E"], image_ids: Int[Tensor, " n *K"]) -> None:
        """Write n pairs over the oldest ones; of more than `size` the last `size` are kept.

        Raises:
            UserError: shapes that are not the queue's, or unlike in length.
        """
        held = (self.image, self.text, self.image_ids)
        shapes = [(len(text), *one.shape[1:]) for one in held]
        if [tuple(one.shape) for one in (image, text, image_ids)] != shapes:
            raise UserError(
                f"cannot push images {tuple(image.shape)}, texts {tuple(text.shape)}, ids {tuple(image_ids.shape)} "
                f"into a queue of images {tuple(self.image.shape)} and texts {tuple(self.text.shape)}",
                where="queue",
            )
        size, count = len(self.text), len(text)
        fresh = min(size, count)
        places = (self.pushed + torch.arange(count - fresh, count, device=self.pushed.device)) % size
        for old, new in zip(held, (image, text, image_ids), strict=True):
            old[places] = new[count - fresh :].to(old.dtype)
        self.pushed += count

    def behind(
        self, image: Float[Tensor, "M *Q E"], text: Float[Tensor, "M E"], image_ids: Int[Tensor, " M *K"]
    ) -> tuple[Float[Tensor, "N *Q E"], Float[Tensor, "N E"], Int[Tensor, " N *K"]]:
        """The given pairs and, behind them, those of the queue (N = M + len): all pairs of a contrastive loss.

        Call it before the same pairs are pushed. The queue's part has no gradient.
        """
        held = slice(0, len(self))
        pairs: Sequence[tuple[Tensor, Tensor]] = (
            (image, self.image), (text, self.text), (image_ids, self.image_ids)
        )  # fmt: skip
        together = [torch.cat([new, old[held].to(new.dtype)]) for new, old in pairs]
        return together[0], together[1], together[2]
