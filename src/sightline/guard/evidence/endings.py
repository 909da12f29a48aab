"""How texts end: answers behind which nothing tells to stop, and the end that a mask by id hides."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sightline.guard.evidence.batches import IGNORE, BatchSeen, LossSeen, run_at_end
from sightline.guard.evidence.data import DataSeen

if TYPE_CHECKING:
    from torch import Tensor

ROUND = (8, 10)  # widths that are multiples of these may be padded beyond the longest row
STOP = "EOS, so that no row teaches the model to stop"
WORD = "an ordinary token of the text"
ROWS = 2  # with a masked token: a single one may be chance
KINDS = 3  # different lengths, and different last tokens, of answers: an end of one's own would be one token


@dataclass(frozen=True, slots=True)
class Ended:
    """Batches that are as wide as their longest row, whose padding ends that row as well: once, and untaught.

    Attributes:
        id: what fills rows up, and stands nowhere else. batches, rows: how many were looked at; all are alike.
        widths: how many different widths they have.
        within: how often the id stands inside the text as well, between words that are taught; then it is a word.
    """

    step: int
    id: int
    batches: int
    rows: int
    widths: int
    within: int = 0


def ended_untaught(ids: Tensor, targets: Tensor) -> tuple[int | None, bool]:
    """(the id by which each row ends and is filled up, which is never taught; whether that is refuted for good).

    `ids` (B, W) are rows of a text, `targets` (B, T) what a loss taught after each of their first T tokens. The id ends
    the longest row once and stands nowhere else; each row is taught up to its last token, and then nothing.
    (None, False): this batch tells nothing.
    """
    import torch

    pad, width = int(ids[0, -1]), ids.shape[1]
    run = run_at_end(ids == pad)
    labels = torch.full_like(ids, IGNORE)
    labels[:, 1:] = targets[:, : width - 1]
    taught = labels != IGNORE
    if bool((labels == pad).any()):
        return None, True
    if not taught.any() or int(run.max()) < 2:
        return None, False
    last = width - 1 - run
    alone = int(run.min()) == 1 and int((ids == pad).sum()) == int(run.sum()) and bool((last >= 1).all())
    if not alone or not bool(taught.gather(1, last[:, None]).all()) or not bool((labels == ids)[taught].all()):
        return None, True
    return pad, False


def skipped_within(ids: Tensor, targets: Tensor) -> tuple[int, int, int, bool]:
    """(the id that fills rows up; how often it stands inside their text, where it alone is not taught; the words of the
    text; whether it is refuted that it is a word of the text). `ids` and `targets` as above.

    It never stands twice in a row there: what stands for unknown words would, and so would padding within rows.
    """
    import torch

    pad, width = int(ids[int(run_at_end(ids == ids[:, -1:]).argmax()), -1]), ids.shape[1]
    run = run_at_end(ids == pad)
    labels = torch.full_like(ids, IGNORE)
    labels[:, 1:] = targets[:, : width - 1]
    text = torch.arange(width) < (width - run)[:, None]
    inside, taught = text & (ids == pad), labels != IGNORE
    words = text & ~inside
    if int(run.max()) < 2 or not inside.any():
        return pad, 0, int(words.sum()), bool((labels == pad).any())
    twice = bool((inside[:, 1:] & inside[:, :-1]).any()) or int(inside.sum(dim=1).max()) < 2
    wrong = twice or bool((labels == pad).any()) or not torch.equal(taught[:, 1:], words[:, 1:])
    return pad, int(inside.sum()), int(words.sum()), wrong or not bool((labels == ids)[taught].all())


def endless_answers(data: DataSeen | None, ends: Collection[int]) -> int:
    """Of conversations that a host rendered: how many close with the assistant's very words, and no end of text.

    0 unless all of the first rows do: what a template puts behind an answer stands behind every one.
    """
    if data is None or data.objective != "sft" or len(data.texts) != len(data.rows) or not ends:
        return 0
    for row, text in zip(data.rows, data.texts, strict=True):
        words = _last_words(row)
        if words is None or not text.rstrip().endswith(words) or any(words.endswith(mark) for mark in data.marks):
            return 0
        if set(ends) & set(row.get("input_ids", ends)):
            return 0
    return len(data.rows)


def _last_words(row: Mapping[str, Any]) -> str | None:
    """What the assistant says last, in a row of messages; None for other rows."""
    turns = next((row[name] for name in ("completion", "messages", "conversations") if name in row), None)
    if not isinstance(turns, list) or not turns or not isinstance(turns[-1], Mapping):
        return None
    words = turns[-1].get("content")
    return words.strip() or None if isinstance(words, str) and turns[-1].get("role") == "assistant" else None


def endless_rows(ids: Tensor, mask: Tensor, labels: Tensor, ends: Collection[int]) -> int:
    """Of a batch of (B, T) answers to masked prompts: how many that nothing cut off have no end of text; else 0.

    Rows with padding at their right are not cut off. There are answers of several lengths and with several last tokens,
    so that neither is an end of the author's own; and no row of the batch has an end of text.
    """
    taught = (labels != IGNORE) & mask
    if not ends or not (labels == ids)[taught].all():
        return 0
    if any(bool(((ids == end) & mask).any() | (labels == end).any()) for end in ends):
        return 0
    rows = [row for row in range(len(ids)) if not mask[row, -1] and taught[row].any() and mask[row, 0]]
    lasts, lengths = set(), set()
    for row in rows:
        last, first = int(mask[row].nonzero()[-1]), int(taught[row].nonzero()[0])
        if not taught[row, last] or first < 2 or not taught[row, first : last + 1].all():
            return 0
        lasts.add(int(ids[row, last]))
        lengths.add(last - first)
    return len(rows) if min(len(lasts), len(lengths)) >= KINDS else 0


def masked_for_a_decoder(batch: BatchSeen, pad: int | None, ends: Collection[int]) -> int:
    """Rows of labels from which a model makes its decoder's ids itself, where the end was masked with the padding.

    All are masked at their ends, the longest too, though they have several lengths; and no end is among them. Else 0.
    """
    ids, labels = batch.input_ids, batch.labels
    if labels is None or labels.dim() != 2 or pad is None or pad not in ends:
        return 0
    if (ids is not None and ids.shape == labels.shape) or any(bool((labels == end).any()) for end in ends):
        return 0
    run = run_at_end(labels == IGNORE)
    return len(labels) if len(set(run.tolist())) > 1 and int(run.min()) > 0 else 0


def without_tokenizer(
    batch: BatchSeen, loss: LossSeen | None, ends: Collection[int], end: Ended | None
) -> tuple[int, str, int, dict[str, object]] | None:
    """(the id that fills rows up, what it also is and hides; in how many rows; what was seen), if that is so.

    Told by many batches (`end`), or by a mask and the model's own config, which says what `ends` a text.
    """
    if end is not None and end.within:
        return end.id, WORD, end.rows, {"inside the text": end.within}
    if end is not None:
        return end.id, STOP, end.rows, {"batches": end.batches, "widths": end.widths}
    ids, mask, labels = batch.input_ids, batch.attention_mask, batch.labels
    labels = loss.labels_of(ids) if labels is None and loss is not None and ids is not None else labels
    if batch.phase == "evaluation" or ids is None or mask is None or labels is None:
        return None
    if not mask.shape == labels.shape == ids.shape:
        return None
    fillers, taught = ids[~mask.bool()].unique().tolist(), labels != IGNORE
    if len(fillers) != 1 or fillers[0] not in ends or bool((taught & (ids == fillers[0])).any()):
        return None
    rows = int(hidden(ids, mask.bool(), taught, fillers[0], ends=True).any(dim=1).sum())
    return (fillers[0], STOP, rows, {"ends of text": sorted(ends)}) if rows >= ROWS else None


def attended(ids: Tensor, mask: Tensor, pad: int) -> Tensor:
    """The mask, and the first of the pads that end each row where even the longest row ends in one: that is its EOS."""
    import torch

    run = run_at_end(ids == pad)
    if int(run.min()) != 1 or any(ids.shape[1] % size == 0 for size in ROUND):
        return mask
    return mask.index_put((torch.arange(len(ids)), ids.shape[1] - run), torch.tensor(True))


def hidden(ids: Tensor, mask: Tensor, taught: Tensor, pad: int, ends: bool) -> Tensor:
    """(B, T) content tokens with the pad's id, right after a supervised token.

    An ordinary token is inside the text, whatever the mask says, where tokens on both sides are supervised.
    """
    same, before, behind = ids == pad, taught.roll(1, dims=1), taught.roll(-1, dims=1)
    before[:, 0] = behind[:, -1] = False
    return same & before & (attended(ids, mask, pad) if ends else behind)
