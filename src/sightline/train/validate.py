"""Validation loss: the mean over supervised tokens of a held-out data set, always the same tokens in the same order."""

from __future__ import annotations

import torch

from sightline.data.encode import Encoder
from sightline.losses.next_token import next_token
from sightline.models.vlm import VLM
from sightline.train.feed import Supply
from sightline.train.parallel.ranks import Ranks
from sightline.train.precision import Precision


@torch.no_grad()
def validation_loss(
    model: VLM, supply: Supply, encoder: Encoder, micro: int, precision: Precision, ranks: Ranks
) -> tuple[float, int]:
    """Mean loss in nats per supervised token, and how many there were. Ranks share the work.

    The model is in evaluation mode meanwhile, and each module in its own mode afterwards.
    """
    total = torch.zeros((), dtype=torch.float64, device=ranks.device)
    count = 0
    with model.evaluating():
        for start in range(ranks.rank * micro, len(supply), ranks.world * micro):
            sequences = [supply[i] for i in range(start, min(start + micro, len(supply)))]
            batch = encoder.collate(sequences).to(ranks.device)
            with precision.autocast():
                loss, tokens = next_token(*model(batch))
            total += loss
            count += tokens
    loss_sum, tokens_sum = ranks.sum([float(total), float(count)])
    return loss_sum / max(1.0, tokens_sum), int(tokens_sum)
