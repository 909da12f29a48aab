"""What language models show: how far positions reach, what padding does, what text scores, which hub is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ContextSeen:
    """How far a model's rotary positions reach.

    Attributes:
        trained: positions its config says it was made for (``max_position_embeddings``).
        original: those before its context was stretched, where the config says so.
        kind, factor: how the config stretches positions (``default``, ``linear``, ``yarn``, ...), and how far.
        running: least and largest stretch over the frequencies the model really runs with: 1 for none, both alike for
            linear interpolation; None where they could not be read.
        reloaded: the same of a rotary embedding made anew from the config: what the saved model will do.
        copied: the same of a model that was given these weights, and answers in the place of this one.
        longest: of the first batch, the longest row with the features that the host's module puts beside its tokens.
        source: positions that the weights were trained for, without a stretch, where a config was changed to hold more.
    """

    step: int
    trained: int
    original: int | None = None
    kind: str = "default"
    factor: float | None = None
    running: tuple[float, float] | None = None
    reloaded: tuple[float, float] | None = None
    copied: tuple[float, float] | None = None
    longest: int | None = None
    source: int | None = None


@dataclass(frozen=True, slots=True)
class PaddingSeen:
    """A padded batch was repeated, and some of its rows given alone and unpadded.

    All figures are total variation distances (0 to 1) between distributions over the next token; where `pooled`, they
    are distances between states over the length of the one of the row alone.

    Attributes:
        side: where the row is padded.
        generating: whether the host went on from this batch token by token; else it only scored it.
        gap: between what the host can have read (its last position when it generates from padding at the right, else
            the row's last real token) and the row alone.
        noise: what the row beside a copy of itself differs by, and one rounding of the largest logit.
        followed: how much more likely (nats, summed over padded rows) the tokens that the host went on with are at the
            last position than at the rows' last real tokens; inf where they can only come from there, -inf where only
            from the others, 0 where it makes no difference; None if not generating.
        pooled: of a training batch, whose rows are read at one position each, the last one, padding or not.
        ends: where `pooled`: by how much the rows' last real tokens differ from the same rows alone.
        turned: states at words move with padding (by `gap` of their size), and with no other word (`noise`).
    """

    step: int
    side: Literal["left", "right"]
    generating: bool
    rows: int
    gap: float
    noise: float
    followed: float | None = None
    pooled: bool = False
    ends: float = 0.0
    turned: bool = False


@dataclass(frozen=True, slots=True)
class BatchScore:
    """Negative log-likelihoods (nats, summed) of one evaluation batch and how many tokens they are of.

    `told`: where the host's labels are; without labels, every token but the first of a row. `fair`: those of them that
    are neither padding nor were scored before in an overlapping window. `every`: all positions, padding included.
    `smoothed`: as `told`, of a loss against smoothed labels, which is no likelihood. `real`: places but the first of a
    row that are no padding, labelled or not; 0 where nobody said.
    """

    rows: int
    told: tuple[float, int]
    fair: tuple[float, int]
    every: tuple[float, int]
    repeated: int = 0
    padding: int = 0
    smoothed: tuple[float, int] | None = None
    real: int = 0


@dataclass(frozen=True, slots=True)
class ScoreSeen:
    """The likelihoods of an evaluation, recomputed from its own logits. `labelled`: the model was given labels."""

    step: int
    batches: tuple[BatchScore, ...]
    labelled: bool

    @property
    def unmarked(self) -> bool:
        """Whether nothing said which of its tokens count: what pads is among them, and a last target is not."""
        return not self.labelled and not any(one.padding or one.repeated for one in self.batches)


@dataclass(frozen=True, slots=True)
class JudgedLossesSeen:
    """The cross-entropies that a script computed in an evaluation: in each, `told` and `fair` are of what it did not
    ignore, and `every` has the same sum over all targets. `whole`: they are those of a loader's batches, up to its end.
    """

    step: int
    batches: tuple[BatchScore, ...]
    whole: bool = False


@dataclass(frozen=True, slots=True)
class BatchMeansSeen:
    """A number of an evaluation that is the plain mean of what its batches gave, which differ in size.

    Attributes:
        name: the number's, and where it is made.
        value: as it was made. whole: the same code's batches, each weighted by its rows (or labels).
        error: standard error of `whole`, as a mean over as many rows.
        share: it is a share of hits: each batch's times its size is a whole number.
        last: no batch but the last has another size.
    """

    step: int
    name: str
    value: float
    whole: float
    error: float
    batches: int
    share: bool
    last: bool


@dataclass(frozen=True, slots=True)
class AccessSeen:
    """What a run needs of a model hub, and whether it can prove who it is. Never holds the token itself.

    Attributes:
        token: whether a token is visible (an argument, the environment, or the file that a login writes).
        repos: repositories that the run reads from the hub: not folders, and not in the local cache.
        push: the repository that the run will write to; None if it writes none. ``""``: named by the hub.
        offline: whether the hub is switched off (``HF_HUB_OFFLINE``).
        refused: the repository over which the hub turned the run away, so that it ended; None if it did not.
        unread: repositories that could not be read, though models were trained all the same.
    """

    step: int
    token: bool
    repos: tuple[str, ...] = ()
    push: str | None = None
    offline: bool = False
    refused: str | None = None
    unread: tuple[str, ...] = ()
