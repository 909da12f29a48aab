"""Packing: several examples in one sequence, without any of them seeing another.

Two ways, and they combine. Examples of one image share its prefix, so the language model reads the image once for all
its questions; and whole groups stand side by side in one sequence up to the length limit. A block mask and restarted
positions keep the loss and its gradient those of separate sequences (Krell et al. 2021, arXiv 2107.02027, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from typing import Literal

from jaxtyping import Bool, Int
from torch import Tensor

from sightline.data.batch import IGNORE, PREFIX, Example, Sequence
from sightline.data.encode import RowError
from sightline.data.row import ImageRef, Skipped, Where
from sightline.errors import UserError

Mode = Literal["none", "image", "length"]
Group = list[Example]  # one example, or several that share the prefix of the first


def within(
    examples: Seq[Example], max_length: int, over_length: Literal["error", "skip"]
) -> tuple[list[Example], tuple[Skipped, ...]]:
    """The examples that fit into `max_length` tokens, and those that do not.

    Nothing is ever cut: a cut loses image tokens or answers (LLaMA-Factory issues 6559 and 7160).

    Raises:
        RowError: `over_length` is "error" and an example is longer.
        UserError: none fits.
    """
    kept, skipped = [], []
    for example in examples:
        if reason := too_long(example, max_length, over_length):
            skipped.append(reason)
        else:
            kept.append(example)
    if examples and not kept:
        shortest = min(map(len, examples))
        raise UserError(
            f"every one of {len(examples)} rows is longer than max_length {max_length} (the shortest: {shortest})",
            where=examples[0].where.file,
            fix=f"raise the stage's max_length to at least {shortest}",
        )
    return kept, tuple(skipped)


def too_long(example: Example, max_length: int, over_length: Literal["error", "skip"]) -> Skipped | None:
    """Why `example` does not fit into `max_length` tokens, or None. Raises RowError where `over_length` is "error"."""
    if len(example) <= max_length:
        return None
    reason = f"{len(example)} tokens, more than max_length {max_length}"
    if over_length == "error":
        raise RowError(
            reason,
            example.where,
            fix=f"raise the stage's max_length to {len(example)} or more, or set over_length to skip",
        )
    return Skipped(example.where, reason)


def pack(examples: Seq[Example], mode: Mode, max_length: int) -> list[Sequence]:
    """`examples`, each in exactly one sequence of at most `max_length` tokens.

    Args:
        mode: "none": a sequence each. "image": examples of one image with equal prefixes share it, as many as fit.
            "length": the same, and then groups fill sequences first-fit.

    Raises:
        RowError: an example is longer than `max_length` by itself (see `within`).
    """
    within(examples, max_length, "error")
    if mode == "none":
        return [_sequence([[example]]) for example in examples]
    groups = list(_by_image(examples, max_length))
    if mode == "image":
        return [_sequence([group]) for group in groups]
    return [_sequence(bin_) for bin_ in _first_fit(groups, max_length)]


def block_mask(group_ids: Int[Tensor, "B T"], segment_ids: Int[Tensor, "B T"]) -> Bool[Tensor, "B 1 T T"]:
    """Which token may look at which: True at [b, 0, i, j] where j <= i, in i's group, and in i's segment or PREFIX.

    Every token may look at itself, padding too, so no row of the attention is empty.
    """
    same_group = group_ids[:, :, None] == group_ids[:, None, :]
    seen = (segment_ids[:, :, None] == segment_ids[:, None, :]) | (segment_ids[:, None, :] == PREFIX)
    return (same_group & seen).tril()[:, None]


def _can_share(example: Example) -> bool:
    # Where the first token after the prefix is supervised, it is predicted from the prefix's last token. Shared, that
    # one place would have to predict a different token for each example, so such examples keep their own prefix.
    own = example.labels[example.prefix :]
    return example.prefix > 0 and bool(example.images) and bool(own) and own[0] == IGNORE


def _by_image(examples: Iterable[Example], max_length: int) -> Iterable[Group]:
    """Groups in the order of their first examples; a group that would grow over `max_length` is followed by another."""
    groups: list[Group] = []
    lengths: list[int] = []
    open_groups: dict[tuple[tuple[str, ...], tuple[int, ...]], int] = {}
    for example in examples:
        if not _can_share(example):
            groups.append([example])
            lengths.append(len(example))
            continue
        key = (tuple(image.key for image in example.images), example.input_ids[: example.prefix])
        at = open_groups.get(key)
        own = len(example) - example.prefix
        if at is not None and lengths[at] + own <= max_length:
            groups[at].append(example)
            lengths[at] += own
            continue
        open_groups[key] = len(groups)
        groups.append([example])
        lengths.append(len(example))
    return groups


def _length(group: Group) -> int:
    return len(group[0]) + sum(len(example) - example.prefix for example in group[1:])


def _first_fit(groups: list[Group], max_length: int) -> list[list[Group]]:
    """Each group into the first sequence with room for it, in O(log n) a group by a tree of the largest rooms."""
    leaves = 1 << max(0, (len(groups) - 1).bit_length())
    room = [max_length] * (2 * leaves)  # room[k] = max(room[2k], room[2k + 1]); leaf i is sequence i
    bins: list[list[Group]] = []
    for group in groups:
        need, node = _length(group), 1
        while node < leaves:
            node = 2 * node if room[2 * node] >= need else 2 * node + 1
        if node - leaves == len(bins):
            bins.append([])
        bins[node - leaves].append(group)
        room[node] -= need
        while node > 1:
            node //= 2
            room[node] = max(room[2 * node], room[2 * node + 1])
    return bins


def _sequence(groups: list[Group]) -> Sequence:
    ids: list[int] = []
    labels: list[int] = []
    positions: list[int] = []
    group_ids: list[int] = []
    segment_ids: list[int] = []
    images: list[ImageRef] = []
    places: list[Where] = []
    ends: list[int] = []
    for number, group in enumerate(groups):
        images += group[0].images
        for segment, example in enumerate(group):
            start = 0 if segment == 0 else example.prefix
            shared = example.prefix if len(group) > 1 else len(example)
            ids += example.input_ids[start:]
            own_labels = example.labels[start:]
            # A group's first token would otherwise be predicted from the last token of the group before it.
            labels += (IGNORE, *own_labels[1:]) if segment == 0 else own_labels
            positions += range(start, len(example))
            group_ids += [number] * (len(example) - start)
            segment_ids += [PREFIX] * max(0, shared - start) + [segment + 1] * (len(example) - max(shared, start))
            places.append(example.where)
            ends.append(len(ids) - 1)
    return Sequence(
        tuple(ids),
        tuple(labels),
        tuple(positions),
        tuple(group_ids),
        tuple(segment_ids),
        tuple(images),
        tuple(places),
        tuple(ends),
        tuple(example.marks for group in groups for example in group),
    )
