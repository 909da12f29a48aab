"""How learning itself goes: the learning rate step by step, and what the model gives out beside what it is given."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScheduleSeen:
    """The learning rate that each optimizer step really used, and the schedule object that sets it.

    Attributes:
        rates: the largest rate of the optimizer's groups at each step so far, oldest first.
        forwards: training forwards so far.
        scheduler: class of the one schedule of this optimizer; None where there is none, or more than one.
        ticks: how often that schedule has advanced (its ``last_epoch``); `first_tick`: the same at the first step.
        horizon: after how many ticks the schedule is meant to be over, where it says so.
        periodic: whether beyond its horizon the schedule goes up again (a cosine).
        first_forwards: training forwards up to the first step.
        inside: steps within which the schedule advanced between two micro-batches.
        early: steps before which it advanced between the forward pass and the optimizer's step.
        watched: steps whose forwards were heard, so that `inside` and `early` could be told; None: all.
        replaced: indices into `rates` at which a new schedule object took over from the first one's start.
        anew: steps of the run at which an optimizer of the same kind took over all parameters of the one before it, at
            the same rate as the first.
        restored: whether the optimizer had state before its first step here.
        planned: optimizer steps that the host says it will take.
        base: the largest rate of the groups as their schedules found it (``initial_lr``), which a factor multiplies.
        closed: whether the run is over, and not by an error.
    """

    step: int
    rates: tuple[float, ...]
    forwards: int = 0
    scheduler: str | None = None
    ticks: int | None = None
    first_tick: int | None = None
    horizon: int | None = None
    periodic: bool = False
    first_forwards: int = 0
    inside: int = 0
    early: int = 0
    replaced: tuple[int, ...] = ()
    anew: tuple[int, ...] = ()
    restored: bool = False
    planned: int | None = None
    base: float | None = None
    closed: bool = False
    watched: int | None = None

    @property
    def heard(self) -> int:
        """Of how many steps `inside` and `early` tell."""
        return len(self.rates) if self.watched is None else self.watched


@dataclass(frozen=True, slots=True)
class PlateauSeen:
    """The numbers that a schedule was given, of which it waits for better ones.

    Attributes:
        mode: "min" where less is better, "max" where more is.
        values: oldest first; `cuts`: places in them, after which it lowered the rate.
    """

    step: int
    mode: str
    values: tuple[float, ...]
    cuts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BinaryLossSeen:
    """The run's first loss, or one of its first, if its gradient is that of binary cross-entropy.

    Attributes:
        classes: outputs a sample; `outputs`: of all samples.
        graded: share of the outputs with a gradient (0: masked, or right beyond rounding).
        fits: share of those whose gradient has the form of binary cross-entropy with one weight for all.
        loss: mean negative log-likelihood of an output (nats, unweighted), 0 where there is no gradient.
        ones: share of the answers that are 1, where there is a gradient.
        probabilities: share of outputs that are probabilities and no logits.
        doubled: share of the answers whose gradient is that of a loss with a sigmoid of its own behind another sigmoid.
        squashed: whether the other sigmoid is the model's own last operation.
    """

    step: int
    classes: int
    outputs: int
    graded: float
    fits: float
    loss: float
    ones: float
    probabilities: float = 0.0
    doubled: float = 0.0
    squashed: bool = False


@dataclass(frozen=True, slots=True)
class OutputsSeen:
    """How much a model's outputs differ from sample to sample, beside its inputs, in one forward pass.

    Spreads are relative: the root mean square of the deviations from the mean sample over that of the samples
    themselves (0: all samples are one; a mean pairwise cosine c goes with a spread of about sqrt(1 - c)).

    Attributes:
        rows: samples compared (rows of the batch, or positions of its logits).
        outputs: spread of the outputs in the last measured passes, oldest first; 0 for outputs that are all 0.
        inputs: spread of the inputs, or 1.0 for token ids that are not all the same.
        pulls: spread of the loss's gradients with respect to the outputs in the same passes: large where the samples
            are wanted to differ, small where all are wanted to be alike.
    """

    step: int
    rows: int
    outputs: tuple[float, ...]
    inputs: float
    pulls: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class HeadSeen:
    """The first training forward's output layer, before any step.

    Attributes:
        inputs, classes: its numbers of inputs and outputs.
        rms: root mean square of its weights; `kurtosis` of their distribution (uniform 1.8, normal 3.0, trained more).
        bias_rms: of its bias; None without one.
        embeds: whether it is an embedding's table too (tied weights).
        learns: whether anything that could be the output layer requires a gradient.
        only_norms: whether all that requires a gradient scales or shifts a normalisation.
        trained_body: whether the model's other weights were trained before: counted batches of its normalisations, or
            matrices with heavier tails than an init draws.
    """

    step: int
    name: str
    inputs: int
    classes: int
    rms: float
    kurtosis: float
    bias_rms: float | None = None
    embeds: bool = False
    learns: bool = True
    only_norms: bool = False
    trained_body: bool = False


@dataclass(frozen=True, slots=True)
class NearRowsSeen:
    """A sample of the rows trained on and of those evaluated, compared by prints that survive scaling, JPEG or a word.

    Attributes:
        kind: "images" or "texts".
        trained, evaluated: distinct rows compared.
        near: rows of `evaluated` that are near to a row of `trained` and equal to none that was trained on.
        mixed: those of them in a batch with rows that are neither.
        pairs: pairs of different rows within `trained` and within `evaluated`; `twins`: those that are near.
        sizes: how many groups of 1, 2, 3, ... rows near to each other there are in all; () where rows were left out.
        classes: numbers that the model gives for each row.
    """

    kind: str
    trained: int
    evaluated: int
    near: int
    mixed: int
    pairs: int
    twins: int
    sizes: tuple[int, ...] = ()
    classes: int = 1


@dataclass(frozen=True, slots=True)
class TailsSeen:
    """Evaluated windows of a stream, beside windows of training.

    Attributes:
        width: numbers of a window; `length`: of them at its end that are looked for.
        judged: different ends of evaluated windows that were not trained on themselves.
        found: those that stand inside of a window trained on before, which goes on behind them.
        parted: of the spans of training windows that came again, the share that went on otherwise.
        free: the same of two tokens in a row: 0 where a rule makes the rows; 1 for a series.
    """

    width: int
    length: int
    judged: int
    found: int
    parted: float
    free: float = 1.0


@dataclass(frozen=True, slots=True)
class SharedRowsSeen:
    """Rows that were trained on and, later, evaluated on, by the bytes of their inputs (labels left out).

    Attributes:
        trained, evaluated: distinct rows hashed.
        shared: distinct rows of `evaluated` that had been trained on before.
        mixed: batches (of either kind) in which some rows are shared and others are not.
        complete: whether every training batch was hashed.
        apart: in the last evaluation, some batches were of rows trained on and some of new ones, and none of both.
        pairs: pairs of rows that were compared within one batch; `twins`: those that were equal. Together they say how
            often two rows of this data are alike by chance.
        again: share of the training rows hashed that had been hashed before: a later epoch gives them again to the last
            byte, unless they are augmented.
        parts: distinct training rows that were cut into four, and `keys`: of the four parts those that are another in
            each of these rows. Where there are some, two rows do not come to be equal by chance, but by copying.
        near: what nearly equals, though its bytes differ; None before the end, and for rows that are neither an image
            nor a text, or both.
        tails: whether training goes on where evaluated windows end; None before the end, and without such windows.
    """

    step: int
    trained: int
    evaluated: int
    shared: int
    mixed: int
    complete: bool
    pairs: int
    twins: int
    again: float = 0.0
    parts: int = 0
    keys: int = 0
    near: NearRowsSeen | None = None
    apart: bool = False
    tails: TailsSeen | None = None


@dataclass(frozen=True, slots=True)
class SharedSpansSeen:
    """Windows of a stream of tokens that were evaluated, by the spans that they have in common with trained ones.

    Attributes:
        length: tokens of a span. trained: distinct spans in the sample of training's.
        batches: evaluated; `rates`: of those which come from a smaller part of the text than training batches do: the
            share of their spans that was trained on, over the share of a training batch's that had been trained on.
        distinct: spans in all these together.
        parted: of the spans that training met again, the share that went on otherwise: of a text without end.
    """

    step: int
    length: int
    trained: int
    batches: int
    rates: tuple[float, ...]
    distinct: int
    parted: float


@dataclass(frozen=True, slots=True)
class DivergenceSeen:
    """A loss t (log t - p), summed, where p came from a softmax and log p was to be given.

    `whole`: the share of rows of t that are probabilities; `soft`: of those that are so over more than one class.
    """

    step: int
    classes: int
    whole: float
    soft: float


@dataclass(frozen=True, slots=True)
class StillSeen:
    """Optimizer steps in a row in which nothing wrote to any parameter that learns, and none of its values changed.

    Attributes:
        since: the last step that wrote; `steps`: how many have not, since then; `heard`: of how many of these
            the backward passes were counted.
        parameters: tensors looked at; `held`: those that the stepping optimizer holds.
        graded: those with a gradient now, and `grad_norm` the L2 norm of all these.
        backwards: backward passes through the model's outputs in the steps that were heard.
        learning_rate: the largest of the optimizer's groups.
        frozen: none of the model's parameters requires a gradient any more.
    """

    step: int
    since: int
    steps: int
    heard: int
    parameters: int
    held: int
    graded: int
    grad_norm: float
    backwards: int
    learning_rate: float
    frozen: bool = False
