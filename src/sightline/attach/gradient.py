"""What a loss really supervised, read off its gradient with respect to the logits (see `LossSeen`)."""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.guard.evidence import IGNORE, LossSeen

ROWS = 256  # positions whose softmax is computed: enough for a median, few enough for a vocabulary of 250,000
SUM_TOLERANCE = 0.05  # softmax gradients sum to 0, those of -log p to -1 (relative); bf16 rounding stays below 0.05
ONE_TOLERANCE = 1e-3  # probabilities sum to one within float16 rounding
ALL = 0.99  # of the positions: a few may be rounded
FEW = 32  # positions for which softmax is taken twice: two more temporaries, so fewer rows
SAME = 1e-3  # relative: of a class's own weight, float32 leaves 1e-5, and other losses (Brier's) come near within 1e-2
EVEN = 0.02  # relative: one micro-batch weighs its tokens alike, up to the rounding of bf16 gradients (2^-8)


def read_gradient(logits: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Statistics (9,) float32 and targets (...) int64.

    The statistics: supervised, weight, softmax, probability, doubled rows, mean log Z, largest |logit|, mean loss,
    sum of the weights.

    They stay on the device. No device-to-host wait, and no temporary of the size of the logits. Of square maps
    (B, C, H, H) the classes are C.
    """
    vectors, gradients = (t.detach().movedim(class_dim(t), -1) for t in (logits, grad))
    every, choice = gradients.min(dim=-1)
    targets, least, at = choice.masked_fill(every >= 0, IGNORE), every.flatten(), choice.flatten()
    rows = least.topk(min(ROWS, len(least)), largest=False).indices
    places = torch.unravel_index(rows, every.shape)
    z, pull = vectors[places].float(), least[rows].float()
    seen = pull < 0
    chosen = z.log_softmax(dim=-1).gather(-1, at[rows, None]).squeeze(-1)
    weights = (pull / torch.expm1(chosen)).masked_fill(~seen, float("nan"))
    weight, total = weights.nanmedian(), seen.sum().clamp(min=1)
    kinds = at[rows, None] == at[None, rows]
    by_class = (_even(weights, seen, kinds, EVEN) >= ALL) & (seen.sum() == (least < 0).sum())
    summed = weights.nansum().masked_fill(~by_class, float("nan"))
    pulls = gradients[places].float()
    balanced = (pulls.sum(dim=-1).abs() <= SUM_TOLERANCE * pull.abs()) & seen
    # towards the target, it alone is pulled up; away from it (a rejected answer's), it alone is pushed down, harder
    towards = ((pulls.amax(dim=-1) <= (1 + SUM_TOLERANCE) * pull.abs()) & seen).sum() / total
    likely = (z.min(dim=-1).values >= 0) & ((z.sum(dim=-1) - 1).abs() <= ONE_TOLERANCE) & seen
    shares = [part.sum() / total for part in (balanced, likely)]
    log_z = z.logsumexp(dim=-1).masked_fill(~seen, 0.0).sum() / total
    largest = z.abs().masked_fill(z.isinf() | ~seen[:, None], 0.0).max()  # -inf only shuts a token out
    loss = (-chosen.masked_fill(~seen, 0.0).sum() / total).masked_fill(towards < ALL, float("nan"))
    sizes = [log_z, largest, loss]
    doubled = _doubled(z, at[rows], pull).masked_fill(towards < 0.5, 0.0)
    statistics = torch.stack([(least < 0).sum().float(), weight, *shares, doubled, *sizes, summed])
    return statistics, targets


def class_dim(logits: Tensor) -> int:
    """Where the classes are: of (B, C, H, H) maps in front of the places, else behind (of several codebooks, too)."""
    return 1 if logits.dim() == 4 and logits.shape[2] == logits.shape[3] else -1


def _doubled(z: Tensor, at: Tensor, pull: Tensor) -> Tensor:
    """Fraction of positions that softmax(softmax(z)) explains with one common weight; 0 where softmax(z) does so too.

    With p = softmax(z) and q = softmax(p), the target's gradient is w * p_t * (q_t - 1 + p_t - sum(p * q)).
    """
    z, at, pull = (part[:: max(1, len(z) // FEW)] for part in (z, at, pull))
    p = z.softmax(dim=-1)
    q = p.softmax(dim=-1)
    p_t, q_t = (part.gather(-1, at[:, None]).squeeze(-1) for part in (p, q))
    once, twice = pull / (p_t - 1), pull / (p_t * (q_t - 1 + p_t - (p * q).sum(dim=-1)))
    mates = at[:, None] == at[None, :]
    alike = torch.ones_like(mates)
    mates = torch.where(mates.sum(dim=-1, keepdim=True) > 1, mates, alike)  # one alone fits its own weight
    found = torch.zeros_like(pull[0])
    for among, close in ((mates, SAME), (alike, EVEN)):  # classes may have weights of their own
        fits_once, fits_twice = _even(once, pull < 0, among, EVEN), _even(twice, pull < 0, among, close)
        found = torch.where(fits_once > 0.5, 0.0, fits_twice.maximum(found))
    return found


def _even(weights: Tensor, seen: Tensor, among: Tensor, close: float) -> Tensor:
    """Fraction of seen weights that are `close` to the median of those in their row of `among` (N, N), 0-dim."""
    medians = weights.expand(len(weights), -1).masked_fill(~(seen & among), float("nan")).nanmedian(dim=-1).values
    same = ((weights / medians - 1).abs() <= close) & seen
    return same.sum() / seen.sum().clamp(min=1)


def loss_seen(
    step: int, micro: int, tensors: list[Tensor], classes: int | None = None, dtype: str | None = None
) -> LossSeen:
    """The evidence from `read_gradient`'s tensors on the CPU, followed by input ids where known."""
    statistics, targets = tensors[:2]
    ids = tensors[2] if len(tensors) > 2 else None
    supervised, weight, balanced, likely, doubled, log_z, largest, loss, summed = statistics.tolist()
    placed = ids is not None and ids.shape == targets.shape
    return LossSeen(
        step=step,
        micro=micro,
        supervised=int(supervised),
        weight=weight if weight == weight else None,
        softmax_rows=balanced,
        probability_rows=likely,
        input_ids=ids,
        targets=targets if placed else None,
        doubled_rows=doubled,
        log_z=log_z if supervised else None,
        largest_logit=largest if supervised else None,
        loss=loss if supervised and loss == loss else None,
        classes=classes,
        dtype=dtype,
        summed=summed if summed == summed else None,
    )
