"""Rows that a model was trained on, and rows by which it is judged: which of them are the same, nearly, or overlap?"""

from __future__ import annotations

from dataclasses import dataclass


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
class RepeatsSeen:
    """How often each row is there: in training's first batches, up to an epoch, and in the first evaluation's pass.

    Attributes:
        drawn, judged: rows of either, repetitions included.
        sizes: how many different rows are there 1, 2, 3, ... times in both together.
        judged_of: how many of the `judged` rows belong to each of these.
        drawn_twins, judged_twins: pairs of equal rows within either; `twins`: one of either.
    """

    drawn: int
    judged: int
    sizes: tuple[int, ...]
    judged_of: tuple[int, ...]
    drawn_twins: int
    judged_twins: int
    twins: int


@dataclass(frozen=True, slots=True)
class ViewsSeen:
    """Pictures in groups: each group of views of one (moved a little, mirrored, noisy, brighter), in a sample. Or rows
    of numbers in groups, each of copies with noise.

    Attributes:
        evaluated: distinct pictures evaluated.
        near: those of them that were not trained on, in a group with one that was.
        known: those that were trained on themselves.
        alike: pairs of views; `doubtful`: pairs neither as alike as views are nor as other pictures.
        groups: how often each group is there, in training and, of pictures not trained on, in evaluation.
        classes: numbers that the model gives for each row.
    """

    evaluated: int
    near: int
    known: int
    alike: int
    doubtful: int
    groups: RepeatsSeen
    classes: int


@dataclass(frozen=True, slots=True)
class SharedPicturesSeen:
    """Pictures beside texts, where every text is another one: how many rows has each picture?

    Attributes:
        evaluated: distinct rows evaluated that were not trained on; `shared`: those whose picture was.
        alone: how many pictures have 1, 2, 3, ... rows, of those with no such row in an evaluation.
        both: the same of pictures that have rows on both sides, all of which are counted; `left`: of their rows those
            trained on.
        keys: of four parts of a picture those that are another in each picture.
    """

    evaluated: int
    shared: int
    alone: tuple[int, ...]
    both: tuple[int, ...]
    left: tuple[int, ...] = ()
    keys: int = 0


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
        repeats: how often each of them is there; None until both were passed through; of the batches hashed.
        abroad: where ranks train one model, rows that one evaluates and another had trained on before, a mean over the
            other ranks; `own`: rows that it had trained on itself. None of a single rank.
        drawn: pairs of rows of training's first pass, in whatever batches, and those of them that are equal.
        classes: of batches of that pass, the rows of each class and how many different ones; () where it is not known.
        one_side: the loss compares what the model gives for its only input with what it, or another, gives for others,
            all with all or pair by pair: such an input is a part of a sample.
        worst: of the evaluation with the largest share of rows trained on, how many these are, and how many it has in
            all, repetitions included; () where it is not known.
        extracted: once, behind the last step, the model passed over every row that it was trained on, and over others.
        views: which pictures are views of one; None before the end, and where training does not repeat its rows.
        clumps: the same of pictures as they are and of rows of numbers, which are far nearer to each other than others.
        settled: as many training rows as there are came again, and none was new: hardly any other was trained on.
        pictures: of rows with a picture and a text; None before the end, and for other rows.
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
    views: ViewsSeen | None = None
    clumps: ViewsSeen | None = None
    settled: bool = False
    pictures: SharedPicturesSeen | None = None
    repeats: RepeatsSeen | None = None
    abroad: float | None = None
    own: int = 0
    worst: tuple[int, ...] = ()
    extracted: bool = False
    drawn: tuple[int, int] = (0, 0)
    classes: tuple[tuple[int, int], ...] = ()
    one_side: bool = False


@dataclass(frozen=True, slots=True)
class HeldRowsSeen(SharedRowsSeen):
    """The same of samples by what their data sets hold, before they are augmented.

    Attributes:
        rounds: steps between which they were evaluated.
        spare: samples of a loader that nobody read, none of which was trained on; 0 before the end, and of none.
    """

    rounds: int = 0
    spare: int = 0


@dataclass(frozen=True, slots=True)
class RedrawnSeen:
    """A part of a data set that is judged, and what the same weights were taught of it so far.

    Attributes:
        size: samples of the data set; `judged`: of the part; `taught`: in all parts that were taught.
        shared: samples of both.
        now: samples of the part that is taught now; `both`: those that are judged, too; `again`: those that another
            part before it had.
        shown_twice: one data set gives what is taught now, and another of the same data what is judged.
    """

    step: int
    size: int
    judged: int
    taught: int
    shared: int
    now: int
    both: int
    again: int
    shown_twice: bool = False


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
