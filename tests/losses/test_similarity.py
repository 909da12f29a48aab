"""No loss over pairs makes a tensor that grows with the square of the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sightline.losses import similarity as chunking
from sightline.losses.contrastive import info_nce
from sightline.losses.sigmoid import pairwise_sigmoid
from tests.losses import brute

SCALE, BIAS = torch.tensor(10.0), torch.tensor(-10.0)


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor holds that is made while it is open."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return out


@pytest.mark.parametrize("loss", ["one matrix", "two matrices", "captions of one image", "queries", "sigmoid"])
def test_memory_does_not_grow_with_the_square_of_the_batch(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "CHUNK", 2048)
    image, text = (x.requires_grad_() for x in brute.embeddings(300, 3, 2 if loss == "queries" else None))
    with Largest() as largest:
        if loss == "sigmoid":
            total, _ = pairwise_sigmoid(image, text, SCALE, BIAS)
        else:
            columns = (image.view_as(image), text.view_as(text)) if loss == "two matrices" else (image, text)
            ids = torch.arange(300) // 2 if loss == "captions of one image" else None
            total, _ = info_nce(image, text, *columns, SCALE, image_ids=ids, smoothing=0.1 if ids is not None else 0.0)
        total.backward()
    assert largest.numbers <= 2048 < 300 * 300
