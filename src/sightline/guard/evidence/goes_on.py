"""What a script that makes its language model from nothing goes on to teach it."""

from __future__ import annotations

from dataclasses import dataclass

from sightline.guard.evidence.batches import IGNORE, BatchSeen, LossSeen

LEAD = 2  # tokens in front of what is taught: nothing predicts the first one
NEARLY = 0.9  # of the rows


@dataclass(frozen=True, slots=True)
class FromNothingSeen:
    """The model's word embeddings are as an initialiser drew them. It is shown before the first step.

    Attributes:
        answers_later: a model that was seen to begin with the embeddings that this one got by then is taught answers
            alone, behind prompts that are masked.
    """

    answers_later: bool = False


def answers_alone(batch: BatchSeen | None, loss: LossSeen | None) -> bool:
    """Whether rows of text are taught behind their beginnings alone, as far as the last loss shows, or a batch says."""
    pad = batch.pad_id if batch is not None else None
    if loss is not None and loss.targets is not None and loss.input_ids is not None:
        ids, labels = loss.input_ids, loss.targets
    elif batch is not None and batch.input_ids is not None and batch.labels is not None:
        ids, labels = batch.input_ids, batch.labels
    else:
        return False
    if labels.dim() != 2 or labels.shape != ids.shape or not len(labels):
        return False
    taught = labels != IGNORE
    ahead = (taught.cumsum(dim=1) == 0) & (ids != (-1 if pad is None else pad))
    return bool(((ahead.sum(dim=1) >= LEAD) & taught.any(dim=1)).float().mean() >= NEARLY)
