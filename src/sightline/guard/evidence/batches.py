"""What a model was given, and what its loss made of it. Shapes: B sequences, T tokens, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from sightline.guard.evidence.pictures import Pixels

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = -100  # torch.nn.functional.cross_entropy's default ignore_index: "not supervised"
USER_TAGS = ("<|im_start|>user", "<|user|>", "<|start_header_id|>user", "<start_of_turn>user", "[INST]", "USER:")
NEARLY = 0.9  # of the places
LEAST, ROWS = 2, 8  # padding at the end of a row; rows that end alike, before it, where all have one length
HALF = 0.5  # of the labels are ids of the text: those of another text agree by chance
Phase = Literal["preflight", "train", "evaluation"]


@dataclass(frozen=True, slots=True, eq=False)
class BatchSeen:
    """What a model was given. All (B, T) tensors are int64 except `attention_mask` and `assistant_mask` (bool).

    Attributes:
        labels: aligned with `input_ids` as the host gave them; IGNORE where not supervised.
        assistant_mask: True on tokens that the assistant says, where the host knows.
        image_spans: images shown to the language tower (an image that is shown twice counts twice).
        image_features: feature vectors that the connector made for those spans, all images together.
        image_graph: whether these have a graph, through which a gradient could come back.
        pad_id: what the model itself takes for padding (its config's id, its embeddings', or the one that a mask it is
            given hides at the ends of rows); None where it says none.
        where: the places of the rows (file and row), where known.
        decode: token ids -> text, called only when a finding needs words.
        heads: what the script's own chat template puts ahead of a user's turn and of an answer, without blanks.
        mute: whether that template left out all that is asked, in each conversation that it was seen to write.
    """

    phase: Phase
    step: int
    input_ids: Tensor | None = None
    labels: Tensor | None = None
    attention_mask: Tensor | None = None
    position_ids: Tensor | None = None
    group_ids: Tensor | None = None
    segment_ids: Tensor | None = None
    assistant_mask: Tensor | None = None
    image_token_id: int | None = None
    image_spans: int | None = None
    image_features: int | None = None
    image_graph: bool = False
    pad_id: int | None = None
    where: tuple[str, ...] = ()
    decode: Callable[[Sequence[int]], str] | None = field(default=None, repr=False)
    heads: tuple[str, str] | None = None
    mute: bool = False

    @property
    def placeholders(self) -> tuple[int, ...] | None:
        """Image placeholder tokens per row; None when ids or the placeholder's id are unknown."""
        if self.input_ids is None or self.image_token_id is None:
            return None
        return tuple((self.input_ids == self.image_token_id).sum(dim=-1).tolist())

    def shown_to(self, tower: str) -> bool:
        """Whether a tower was surely given images: where nobody says how many there are, the connector that made
        features was given some, which may be such as were made beforehand."""
        made = self.image_features if tower == "connector" else None
        return bool(made if self.image_spans is None else self.image_spans)

    @property
    def padded_labels(self) -> int:
        """Padding among the labels at the ends of rows; 0 where these ids may be anything else, or a mask tells better.

        Padding stands at the ends alone, and rows have different numbers of it.
        """
        if self.labels is None or self.labels.dim() != 2 or self.pad_id is None:
            return 0
        if self.attention_mask is not None and self.attention_mask.shape == self.labels.shape:
            return 0
        return _at_ends(self.labels == self.pad_id, self.labels)

    @property
    def aligned(self) -> bool:
        """Whether labels are of the ids beside them, in their places or moved by one, and not of another text."""
        ids, labels = self.input_ids, self.labels
        if ids is None or labels is None or labels.shape != ids.shape:
            return False
        pairs = [(labels, ids), (labels[:, :-1], ids[:, 1:]), (labels[:, 1:], ids[:, :-1])]
        taught = [(mine == theirs)[mine != IGNORE] for mine, theirs in pairs if ids.dim() == 2]
        return not (labels != IGNORE).any() or any(len(same) and same.float().mean() > HALF for same in taught)

    @property
    def equal_halves(self) -> int:
        """Rows of the first half, where the second half is the same ones: chosen and rejected answers in one batch."""
        half = 0 if self.input_ids is None or len(self.input_ids) % 2 else len(self.input_ids) // 2
        given = [t for t in (self.input_ids, self.attention_mask) if t is not None]
        return half if half and all(bool((t[:half] == t[half:]).all()) for t in given) else 0

    def row_name(self, row: int) -> str:
        """The row's place, or its number in the batch."""
        rows = 0 if self.input_ids is None else len(self.input_ids)
        return self.where[row] if len(self.where) == rows else f"row {row} of the batch"

    def marked(self, row: int, most: int = 400) -> str:
        """A row's text with its supervised runs in double angle brackets, cut after `most` characters."""
        if self.input_ids is None or self.labels is None:
            return ""
        pairs = zip(self.input_ids[row].tolist(), self.labels[row].tolist(), strict=True)
        runs = [(taught, [i for i, _ in run]) for taught, run in groupby(pairs, key=lambda pair: pair[1] != IGNORE)]
        return " ".join(f"⟪{self.text(ids)}⟫" if taught else self.text(ids) for taught, ids in runs)[:most]

    def text(self, ids: Sequence[int]) -> str:
        """`ids` as text, or as numbers without a tokenizer. Ids below 0 stand for images and other things unsaid."""
        return self.decode([i for i in ids if i >= 0]) if self.decode else " ".join(map(str, ids))


@dataclass(frozen=True, slots=True, eq=False)
class SignalsSeen:
    """The connector's output beside the text embeddings it is mixed with (root mean squares over all elements).

    `pixels`: what the vision tower's first layer was given, in the last of the first passes.
    """

    step: int
    connector_rms: float | None
    connector_width: int | None
    embedding_rms: float | None
    embedding_width: int | None
    pixels: Pixels | None = None

    @property
    def various(self) -> bool:
        """Whether the tower was given pictures that are not blank."""
        return self.pixels is not None and self.pixels.range > 0


@dataclass(frozen=True, slots=True)
class JoinedSeen:
    """Features of images and embeddings of words were joined, and cut to one `length` in several batches.

    Or they were written over words, and the last ones found no place: `batches` of so many.

    Attributes:
        left: of an image's `features`, in the last of them; or of all images of a batch, where `batches` are told.
    """

    step: int
    left: int
    features: int
    length: int = 0
    batches: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LossSeen:
    """What the loss of one micro-batch really supervised, read off its gradient with respect to the logits.

    Softmax cross-entropy has the gradient w * (softmax(logits) - onehot(target)), so each position's target is where
    the gradient is negative, its weight w follows from the logits, and unsupervised positions have none.

    Attributes:
        supervised: positions with a gradient.
        weight: the median w: how much one token's negative log-likelihood counts (times the loss scale, if any).
        targets: (B, T) what position t was trained to predict, IGNORE where nothing; None unless logits are (B, T, V).
        softmax_rows: fraction of supervised positions whose gradient has softmax's form (sums to zero over V).
        probability_rows: fraction of supervised positions whose "logits" are probabilities (>= 0, sum to one).
        doubled_rows: fraction of supervised positions whose gradient is that of cross-entropy after softmax(softmax(.))
            and not after softmax(.): their weights agree under the one, and not under the other.
        log_z, largest_logit, loss: mean logarithm of softmax's denominator, largest absolute logit and mean negative
            log-likelihood (nats), over the (at most 256) supervised positions with the largest gradients; no loss
            where gradients lead away from their targets (the rejected answers of a preference loss).
        classes, dtype: the V of the logits, and their dtype, e.g. ``bfloat16``.
        summed: the sum of all w, where all positions of one target have the same; None of many, or of other weights.
    """

    step: int
    micro: int
    supervised: int
    weight: float | None
    softmax_rows: float
    probability_rows: float
    input_ids: Tensor | None = None
    targets: Tensor | None = None
    doubled_rows: float = 0.0
    log_z: float | None = None
    largest_logit: float | None = None
    loss: float | None = None
    classes: int | None = None
    dtype: str | None = None
    summed: float | None = None

    @property
    def shares(self) -> float:
        """The sum of all w: where it is not known, as if all were the median."""
        return self.supervised * (self.weight or 0.0) if self.summed is None else self.summed

    @property
    def masked(self) -> float:
        """Largest share of the supervised positions at which the model is given one and the same token (a mask's)."""
        if self.targets is None or self.input_ids is None or not (taught := self.targets != IGNORE).any():
            return 0.0
        counts = self.input_ids[taught].unique(return_counts=True)[1]
        return float(counts.max() / counts.sum())

    def padding(self, pad_id: int | None, real: Tensor | None = None) -> int:
        """Positions that were trained to predict padding, which stands at the ends of rows alone.

        Time may come first, unless the next tokens of rows are what is taught: then a column is one place of all rows,
        and padding on the left makes all rows end there. `real`: (B, T) True on tokens, which the pad id may be too.
        """
        if self.targets is None or self.targets.dim() != 2 or pad_id is None:
            return 0
        pads, written = self.targets == pad_id, (self.agreement(1) or 0.0) > HALF
        if written and real is not None and real.shape == pads.shape:
            pads[:, :-1] &= ~real[:, 1:]
            pads[:, -1] &= ~real[:, -1]
        if self.labels_real(pads):
            return 0
        return _at_ends(pads, self.targets) or (0 if written else _at_ends(pads.T, self.targets.T))

    def labels_real(self, pads: Tensor) -> bool:
        """Whether what looks like padding are labels of different tokens: their first class has the number of it.

        There are fewer classes than words: where a text is taught beside another one, any word may stand at padding.
        """
        ids = self.input_ids
        if (self.agreement(1) or 0.0) > HALF or self.goes_on(0):
            return False
        if ids is None or ids.shape != pads.shape or self.classes is None or self.classes > int(ids.max()):
            return False
        return len(ids[pads].unique()) > 1

    def agreement(self, shift: int) -> float | None:
        """Fraction of supervised positions t whose target is input token t + `shift` (1 for next-token training)."""
        if self.targets is None or self.input_ids is None or self.targets.dim() != 2 or self.targets.shape[1] <= shift:
            return None
        near, far = self.targets[:, : self.targets.shape[1] - shift], self.input_ids[:, shift:]
        taught = near != IGNORE
        return float((near == far)[taught].float().mean()) if taught.any() else None

    def labels_of(self, ids: Tensor) -> Tensor | None:
        """(B, T) the tokens of `ids` that were taught, IGNORE elsewhere; None where the loss is of other ids.

        They may stand behind images (-1 in `input_ids`), and without their last column.
        """
        import torch

        if self.input_ids is None or self.targets is None or self.input_ids.dim() != 2 or len(ids) != len(self.targets):
            return None
        known = (self.input_ids >= 0).any(dim=0)
        first, width = int(known.int().argmax()), self.targets.shape[1]
        there, text = self.input_ids[:, first:], ids[:, : width - first]
        if not known.any() or there.shape != text.shape or text.shape[1] < ids.shape[1] - 1:
            return None
        if not bool(((there == text) | (there < 0)).all()):
            return None
        labels = torch.full_like(ids, IGNORE)
        labels[:, 0] = self.targets[:, first - 1] if first else IGNORE
        after = self.targets[:, first : first + ids.shape[1] - 1]
        labels[:, 1 : after.shape[1] + 1] = after
        return labels

    def goes_on(self, dim: int) -> bool:
        """Whether places are taught the id behind them along dimension `dim`."""
        if self.input_ids is None or self.targets is None or self.input_ids.shape != self.targets.shape:
            return False
        if self.input_ids.dim() <= dim:
            return False
        ids, targets = (one.movedim(dim, 0) for one in (self.input_ids, self.targets))
        right = (targets[:-1] == ids[1:])[targets[:-1] >= 0].float()
        return bool(len(right)) and float(right.mean()) >= NEARLY


def _at_ends(pads: Tensor, ids: Tensor) -> int:
    """How many there are of what (rows, T) marks at the ends of rows: 0 where it is elsewhere too, or in all alike.

    Unless all rows of one length end in the same mark before it, as texts do that are written to an end.
    """
    ends = run_at_end(pads)
    most, every = int(ends.max()), int(ends.sum())
    if most < LEAST or every != int(pads.sum()):
        return 0
    if every < most * len(ends):
        return every
    ended = len(ids) >= ROWS and most < ids.shape[1] - 1 and len(ids[:, -most - 1].unique()) == 1
    return every if ended and len(ids[:, -most - 2].unique()) > 1 else 0


def run_at_end(marked: Tensor) -> Tensor:
    """(rows,) how many marked places each row of (rows, T) ends in."""
    return marked.flip(1).cumprod(dim=1).sum(dim=1)


def users_taught(batch: BatchSeen, taught: Tensor) -> list[int]:
    """Rows that supervise what a user says: by the assistant mask where there is one, else by a user's tag.

    `taught` is (B, T) bool, of the shape of the batch's ids.
    """
    if batch.assistant_mask is not None and batch.assistant_mask.shape == taught.shape:
        return (taught & ~batch.assistant_mask).any(dim=1).nonzero().flatten().tolist()
    assert batch.input_ids is not None
    texts = [batch.text(line[marked].tolist()) for line, marked in zip(batch.input_ids, taught, strict=True)]
    return [row for row, text in enumerate(texts) if any(tag in text for tag in USER_TAGS)]


def as_taught(batch: BatchSeen, loss: LossSeen | None) -> BatchSeen:
    """A batch without labels gets those that the gradient shows. A mask that starts at token 1 is taken to at 0."""
    if batch.labels is not None or loss is None or loss.targets is None or loss.input_ids is None:
        return batch
    if loss.targets.dim() != 2 or loss.targets.shape[1] < 2:  # one token a row: nothing to shift
        return batch
    labels = loss.targets.roll(1, dims=1)
    labels[:, 0] = loss.input_ids[:, 0].where(labels[:, 1] != IGNORE, IGNORE)
    return replace(batch, input_ids=loss.input_ids, labels=labels, attention_mask=None)
