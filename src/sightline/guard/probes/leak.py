"""Do packed documents see each other? Change a token of one document; the logits of the others must not move."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sightline.guard.evidence import IGNORE, LeakSeen
from sightline.guard.probes.call import Call, Outcome, outcome, places
from sightline.guard.probes.refused import refusable
from sightline.guard.probes.restore import untouched

SHORTEST = 3  # tokens of a document in a flattened row: a token without a label in a text stands nearer to others


@dataclass(frozen=True, slots=True, eq=False)
class Documents:
    """`ids` (B, T) int64: the document each token is of, -1 on padding. `shared`: those that others may look at."""

    ids: Tensor
    shared: frozenset[int]


@refusable
def leak(call: Call, documents: Documents, step: int, image_token_id: int | None = None) -> LeakSeen | None:
    """Probe the first row that holds two documents, by its first token that is neither shared nor an image's.

    Returns None when no row is packed, or the model's logits cannot be placed (see `places`).
    """
    ids = call.tensor("input_ids")
    found = _target(documents, ids, image_token_id) if ids is not None else None
    if ids is None or found is None:
        return None
    if _run(call, ids.shape).logits is None:
        call = call.without_loss()
    row, place = found
    other = ids.clone()
    other[row, place] = _another(ids, row, place, image_token_id)
    before, again, after = (_run(one, ids.shape) for one in (call, call, call.changed(input_ids=other)))
    where = places(call, before)
    if where is None or before.logits is None or after.logits is None or before.logits.shape != after.logits.shape:
        return None
    change = (after.logits.float() - before.logits.float()).abs().flatten(0, -2).amax(dim=-1)
    rows, columns = where
    document = documents.ids[rows, columns]
    here = (rows == row) & (document >= 0)
    same = here & (document == documents.ids[row, place])
    line = documents.ids[row]
    return LeakSeen(
        step=step,
        documents=int(line[line >= 0].unique().numel()),
        restarts=None if documents.shared else _restarts(call.tensor("position_ids"), line, row),
        inside=_largest(change[same]),
        outside=_largest(change[here & ~same]),
        noise=_noise(call, before, again),
    )


def documents_of(call: Call) -> Documents | None:
    """The documents of a batch, from group and segment ids, else from positions that restart at 0, else from labels.

    Segment 0 of a group that has other segments is their common prefix, which they may look at.
    """
    groups, segments, positions = call.tensor("group_ids"), call.tensor("segment_ids"), call.tensor("position_ids")
    mask = call.tensor("attention_mask")
    if groups is not None and segments is not None:
        ids = (groups * (segments.max() + 1) + segments).masked_fill(groups < 0, -1)
        prefix = set(ids[(segments == 0) & (groups >= 0)].unique().tolist())
        parents = set((groups * (segments.max() + 1))[(segments > 0) & (groups >= 0)].unique().tolist())
        return Documents(ids, frozenset(prefix & parents))
    if groups is not None:
        return Documents(groups, frozenset())
    if positions is None or positions.dim() != 2:
        return _flattened(call)
    ids = (positions == 0).cumsum(dim=-1)
    lone = (positions == 0) & (positions.roll(-1, dims=-1) != 1)  # padding, whose positions are often all 0
    ids = ids.masked_fill(lone, -1)
    fits = mask is not None and mask.shape == ids.shape
    return Documents(ids.masked_fill(mask == 0, -1) if fits and mask is not None else ids, frozenset())


def _flattened(call: Call) -> Documents | None:
    """One row without padding, in which nothing but the same first token of each document has no label."""
    ids, labels, mask = (call.tensor(name) for name in ("input_ids", "labels", "attention_mask"))
    if ids is None or labels is None or ids.dim() != 2 or len(ids) != 1 or labels.shape != ids.shape:
        return None
    starts = (labels[0] == IGNORE).nonzero().flatten()
    apart = len(starts) > 1 and int(starts[0]) == 0 and int(starts.diff().min()) >= SHORTEST
    if not apart or ids[0, starts].unique().numel() > 1 or (mask is not None and not bool(mask.all())):
        return None
    return Documents((labels == IGNORE).cumsum(dim=-1), frozenset())


def _target(documents: Documents, ids: Tensor, image_token_id: int | None) -> tuple[int, int] | None:
    """The first token of its kind, of those that stand alone if there are such: in a run it may hold a place."""
    for alone in (_alone(ids), torch.ones_like(ids, dtype=torch.bool)):
        for row, line in enumerate(documents.ids.tolist()):
            if len(set(line) - {-1}) < 2:
                continue
            for place, document in enumerate(line):
                known = document >= 0 and document not in documents.shared and int(ids[row, place]) != image_token_id
                if known and alone[row, place]:
                    return row, place
    return None


def _alone(ids: Tensor) -> Tensor:
    """(B, T) whether the token beside, on either side, is another one."""
    same = ids[:, 1:] == ids[:, :-1]
    edge = torch.zeros_like(ids[:, :1], dtype=torch.bool)
    return ~(torch.cat([edge, same], dim=1) | torch.cat([same, edge], dim=1))


def _another(ids: Tensor, row: int, place: int, image_token_id: int | None) -> Tensor:
    """A token of the batch that differs from the one at (row, place): surely inside the vocabulary, no placeholder."""
    differs = (ids != ids[row, place]) & (ids != (-1 if image_token_id is None else image_token_id))
    different = torch.cat([ids[differs & _alone(ids)], ids[differs]])
    return different[0] if different.numel() else (ids[row, place] + 1) % 2


def _restarts(positions: Tensor | None, line: Tensor, row: int) -> int | None:
    if positions is None or positions.dim() != 2 or positions.shape[-1] != line.shape[-1]:
        return None
    return int(((positions[row] == 0) & (line >= 0)).sum())


def _run(call: Call, shape: torch.Size) -> Outcome:
    """In the host's own mode, for models mask differently in another; each time with the same random numbers.

    Of a model that gives nothing but its loss, the last that a part of it says of each token of `shape` stands for it.
    """
    inside: list[Tensor] = []

    def gave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        said = output if isinstance(output, Tensor) else outcome(output).logits
        if said is not None and said.is_floating_point() and said.dim() == 3 and said.shape[:2] == shape:
            inside[:] = [said]

    with untouched(call.model), torch.no_grad():
        handles = [part.register_forward_hook(gave) for part in call.model.modules() if part is not call.model]
        try:
            result = call.run()
        finally:
            for handle in handles:
                handle.remove()
    alone = result.logits is None and result.numbers is None and result.loss is not None
    return replace(result, logits=inside[0]) if alone and inside else result


def _noise(call: Call, once: Outcome, again: Outcome) -> float:
    """What logits move by without any change: kernels that are not exact, or one rounding in the coarsest dtype."""
    if once.logits is None or again.logits is None:
        return 0.0
    dtypes = {once.logits.dtype, *(p.dtype for p in call.model.parameters() if p.is_floating_point())}
    device = once.logits.device.type
    if torch.is_autocast_enabled(device):
        dtypes.add(torch.get_autocast_dtype(device))
    rounding = max(torch.finfo(dtype).eps for dtype in dtypes) * float(once.logits.float().abs().max())
    return max(rounding, float((once.logits.float() - again.logits.float()).abs().max()))


def _largest(values: Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0
