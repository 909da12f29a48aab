"""How learning itself goes: the learning rate step by step, and what the model gives out beside what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

NATS, ABOVE = 3.0, 2.0  # above chance, and times that: careless inits of small models come to twice ln C, and train
APART = 0.02  # relative spread of lengths: vectors that were brought to one length have none, in any precision
NEAR = 0.1  # relative: sampling error of a norm
SHARP = 1.0  # a factor of scores that makes them sharper; less is meant to temper products of long vectors


@dataclass(frozen=True, slots=True)
class ScheduleSeen:
    """The learning rate that each optimizer step really used, and the schedule object that sets it.

    Attributes:
        rates: the largest rate of the optimizer's groups at each step so far, oldest first.
        forwards: training forwards so far.
        scheduler: class of the one schedule of this optimizer; None where there is none, or more than one.
        ticks: how often that schedule has advanced (its ``last_epoch``); `first_tick`: the same at the first step.
        called: how often its `step()` was called since it was made; None where torch does not count that.
        horizon: after how many ticks the schedule is meant to be over, where it says so.
        rise: after how many ticks a cyclic schedule is at its highest first; `cycle`: after how many one of cosines
            begins again.
        foreseen: after how many ticks a rule of the script's own has come down, by what it says when it is asked.
        periodic: whether beyond its horizon the schedule goes up again (a cosine).
        first_forwards: training forwards up to the first step.
        inside: steps within which the schedule advanced between two micro-batches.
        early: steps before which it advanced between the forward pass and the optimizer's step.
        watched: steps whose forwards were heard, so that `inside` and `early` could be told; None: all.
        joined: whether one backward pass went through several of a step's forwards: these are no micro-batches.
        elsewhere: how often a schedule advanced that sets the rates of another optimizer, which took no step meanwhile
            and holds some of the same parameters; 0 where the rate of this one ever changed.
        replaced: indices into `rates` at which a new schedule object took over from the first one's start.
        anew: steps of the run at which an optimizer of the same kind took over all parameters of the one before it, at
            the same rate as the first.
        restored: whether the optimizer had state before its first step here.
        planned: optimizer steps that the host says it will take.
        base: the largest rate of the groups as their schedules found it (``initial_lr``), which a factor multiplies.
        closed: whether the run is over, and not by an error.
        given: the rates that the groups which learn were made with, where no step so far used different ones.
        bases: the rates of these groups as their schedules found or made them (``initial_lr``); 0 without a schedule.
        empty: the rates of groups that hold nothing.
        travelled: how far the connector's matrices got from where they were drawn, and the language tower's from where
            they were loaded, over their norms there, once the run is over; None where any of the one was not new at
            the first step, or any of the other was.
        aligned: the connector had been taught alone before this optimizer's first step; `travelled` is from there.
    """

    step: int
    rates: tuple[float, ...]
    forwards: int = 0
    scheduler: str | None = None
    ticks: int | None = None
    first_tick: int | None = None
    called: int | None = None
    horizon: int | None = None
    rise: int | None = None
    cycle: int | None = None
    foreseen: int | None = None
    periodic: bool = False
    first_forwards: int = 0
    inside: int = 0
    early: int = 0
    joined: bool = False
    elsewhere: int = 0
    replaced: tuple[int, ...] = ()
    anew: tuple[int, ...] = ()
    restored: bool = False
    planned: int | None = None
    base: float | None = None
    closed: bool = False
    watched: int | None = None
    given: tuple[float, ...] = ()
    bases: tuple[float, ...] = ()
    empty: tuple[float, ...] = ()
    travelled: tuple[float, float] | None = None
    aligned: bool = False

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
        inputs: spread of the inputs, of a table's with columns of one size; 1.0 for token ids that are not all one.
        pulls: spread of the loss's gradients with respect to the outputs in the same passes: large where the samples
            are wanted to differ, small where all are wanted to be alike.
        over: whether the run is over, and the last of these passes was in its second half.
        mode: "eval" where the outputs are those of the last evaluations, and the pulls those of training.
    """

    step: int
    rows: int
    outputs: tuple[float, ...]
    inputs: float
    pulls: tuple[float, ...]
    over: bool = False
    mode: str = "train"


@dataclass(frozen=True, slots=True)
class PairLossSeen:
    """A cross-entropy over (B, B) scores, of which each row's own partner is the answer, in the first backward pass.

    Attributes:
        loss: its mean, in nats; the larger one where both sides have theirs. pairs: B.
        lengths: relative spread of the lengths of either side's vectors. factor: by which their products are scaled.
    """

    step: int
    pairs: int
    loss: float
    lengths: tuple[float, float]
    factor: float

    @property
    def sure(self) -> bool:
        """Whether it is far above that of a guess, since a temperature sharpens vectors of whatever length."""
        chance = log(self.pairs)
        return self.loss > chance + max(NATS, ABOVE * chance) and max(self.lengths) > APART and self.factor > SHARP


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
        fresh: whether an initialiser of torch's drew these very numbers; None where nobody listened to any.
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
    fresh: bool | None = None

    @property
    def inits(self) -> tuple[float, ...]:
        """What its weights have by torch's linear layer, transformers, LeCun, He, Glorot."""
        n, c = self.inputs, self.classes
        return ((3 * n) ** -0.5, 0.02, n**-0.5, (2 / n) ** 0.5, (2 / (n + c)) ** 0.5)

    @property
    def usual(self) -> bool:
        """Whether weights and bias have one of the sizes that inits in use give, and nobody wrote to them since."""
        unmoved = self.bias_rms is None or self.bias_rms == 0 or self.bias_rms <= (1 + NEAR) * self.inputs**-0.5
        return unmoved and self.fresh is not False and any(abs(self.rms - init) <= NEAR * init for init in self.inits)


@dataclass(frozen=True, slots=True)
class DivergenceSeen:
    """A loss t (log t - p), summed, where p came from a softmax and log p was to be given.

    `whole`: the share of rows of t that are probabilities; `soft`: of those that are so over more than one class.
    `aligned`: it is a loss over alignments (`ctc_loss`), whose targets need not be looked at.
    """

    step: int
    classes: int
    whole: float
    soft: float
    aligned: bool = False


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
