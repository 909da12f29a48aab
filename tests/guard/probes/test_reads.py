"""Whose ids does a model read: its own alone, or a decoder's beside them?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sightline.guard.probes.call import Call
from sightline.guard.probes.reads import reads_alone

IDS = torch.tensor([[5, 6, 1, 8], [5, 1, 7, 6]])
LABELS = torch.tensor([[5, 6, 7, 8], [5, 9, 7, 6]])


class Restoring(nn.Module):
    """Finds what is hidden in a text; `decodes`: with the labels moved on by a place as a decoder's ids."""

    def __init__(self, *, decodes: bool) -> None:
        super().__init__()
        self.words, self.head, self.decodes = nn.Embedding(12, 4), nn.Linear(4, 12), decodes

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        read = self.words(input_ids).mean(dim=1, keepdim=True) * attention_mask[..., None]
        return self.head(read + self.words(labels.roll(1, 1))) if self.decodes else self.head(read)


def test_labels_that_a_decoder_reads() -> None:
    given = {"input_ids": IDS, "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]), "labels": LABELS}
    for decodes in (False, True):
        torch.manual_seed(0)
        assert reads_alone(Call(Restoring(decodes=decodes), (), given), IDS) is not decodes
