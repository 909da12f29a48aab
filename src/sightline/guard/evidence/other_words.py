"""Losses that teach other words than they should: the token given, the one after the next, or those not hidden."""

from __future__ import annotations

from math import sqrt

from sightline.guard.evidence.batches import IGNORE, LossSeen
from sightline.guard.evidence.beginnings import Misplaced

MOST = 0.9  # of the supervised positions: far above chance for any text that is not one token repeated
HIDES = 0.5  # of them given as one token: hidden words, which in text that repeats itself stand two places on as well
SHOWN, EACH = (
    0.75,
    0.4,
)  # of the supervised words shown, at least; hidden of a row, at most: a diffusion hides any share
ROWS, HIDDEN, KINDS = 8, 64, 4  # rows, and words not shown; different words among those put in their place
MASKS, SPREAD = 8 / 9, 3  # BERT: of ten words chosen, eight are masked, one is exchanged; standard deviations


def shifted(loss: LossSeen | None) -> Misplaced | None:
    """Position t should be trained on token t + 1; it is trained on its own token, or on the one after the next.

    A loss that leads away from its targets (of rejected answers) shows by its gradient what the model likes best.
    """
    if loss is None or loss.softmax_rows < MOST or (loss.loss is None and loss.log_z is not None):
        return None
    rates = {shift: loss.agreement(shift) or 0.0 for shift in (0, 1, 2)}
    wrong = 0 if rates[0] > MOST > rates[1] else 2
    if not rates[wrong] > MOST > rates[1] or (wrong and loss.masked > HIDES):
        return None
    message = f"each position is trained on {'its own token' if wrong == 0 else 'the token after the next'}"
    fix = f"shift labels once, in the loss or in the collator: they are shifted {wrong} times"
    return Misplaced(message, fix, {f"targets that are token t+{s}": rate for s, rate in rates.items()})


def shown_words(loss: LossSeen | None) -> Misplaced | None:
    """Words are hidden as for BERT, and those that are shown are taught as well.

    One mark alone in place of what is to be found may be a puzzle or a picture with holes, which is taught whole. Who
    leaves some of the chosen words as they are, and exchanges others, means to teach the chosen ones.
    """
    if loss is None or loss.loss is None or loss.log_z is None or loss.softmax_rows < MOST:
        return None  # without logits, the ids may be an encoder's
    ids, targets = loss.input_ids, loss.targets
    if ids is None or targets is None or targets.dim() != 2 or len(targets) < ROWS:
        return None
    taught, hidden = targets != IGNORE, (targets != IGNORE) & (targets != ids)
    count, every = int(hidden.sum()), int(taught.sum())
    if count < HIDDEN or count > (1 - SHOWN) * every or bool((hidden.sum(1) > EACH * taught.sum(1)).any()):
        return None
    mask = ids[hidden].mode().values
    share = float((ids[hidden] == mask).float().mean())
    if abs(share - MASKS) > SPREAD * sqrt(MASKS * (1 - MASKS) / count) or bool((targets == mask).any()):
        return None
    if len(ids[hidden & (ids != mask)].unique()) < KINDS:
        return None
    return Misplaced(
        f"{every - count} of {every} supervised words stand in the input as they are, and are not hidden",
        "labels = -100 on all words that were not chosen to be hidden",
        {"supervised": every, "masked": round(share * count), "exchanged": count - round(share * count)},
        proved=False,
    )
