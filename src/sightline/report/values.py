"""What a run directory says, as frozen values. A value that the files do not hold is None or empty, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sightline.report.looking import Leaks, Looking
from sightline.report.retrieval import Interval, Retrieval
from sightline.report.robustness import Robustness
from sightline.report.sureness import Calibration, Perplexity

TOWERS = ("vision", "connector", "language")


@dataclass(frozen=True, slots=True)
class Tower:
    """A tower as the run built it: its parameters and the bytes they take."""

    name: str
    parameters: float | None
    bytes: float | None
    description: str


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage: what was planned (`steps`, `learn`, `lr`), what learned, what it cost and how it ended."""

    name: str
    steps: int | None
    learn: Mapping[str, str]
    lr: Mapping[str, float]
    trainable: Mapping[str, float]
    frozen: Mapping[str, float]
    estimated_memory: Mapping[str, float]
    peak_memory: float | None
    seconds: float | None
    best_validation: float | None
    ended: str
    augment: Mapping[str, float]  # rows with images, and how many are exempt from each change to them


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A row of the data that the run left out, and why."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class Facts:
    """`run.json`: what ran, when, where, with what, and how it ended."""

    name: str
    status: str
    started: str
    finished: str
    error: str
    versions: Mapping[str, str]
    machine: Mapping[str, str]
    settings: Mapping[str, str]  # seed, precision, device, processes
    towers: tuple[Tower, ...]
    stages: tuple[Stage, ...]
    skipped: tuple[SkippedRow, ...]
    skipped_count: int
    time: Mapping[str, float]  # phase -> seconds
    export: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TrainPoint:
    """One logged training step. `clock` is seconds since the start, running on over resumes."""

    stage: str
    step: int
    clock: float | None
    loss: float | None
    tokens: float | None
    lr: Mapping[str, float]
    grad_norm: Mapping[str, float]
    grad_norm_total: float | None
    update_ratio: Mapping[str, float]
    images_per_s: float | None
    tokens_per_s: float | None
    loss_scale: float | None
    terms: Mapping[str, float] = field(default_factory=dict)  # the losses that add up to `loss`, by name
    weights: Mapping[str, float] = field(default_factory=dict)  # of those losses in the gradient, where they move
    own: int | None = None  # the step of its stage
    planned: int | None = None  # how many steps the stage is to have
    skipped: int | None = None  # steps since the last logged one that an overflow made the scaler skip


@dataclass(frozen=True, slots=True)
class ValidationPoint:
    """One validation's loss, and its accuracy where it took one."""

    stage: str
    step: int
    loss: float | None
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class StepPoint:
    """One step, logged or not: its own loss and total gradient norm before clipping."""

    stage: str
    step: int  # of the whole run
    own: int  # of its stage
    loss: float | None
    grad_norm: float | None


@dataclass(frozen=True, slots=True)
class LayerPoint:
    """What was written down of the layers at one step, by layer. A layer without a gradient has None for its norm."""

    stage: str
    step: int
    grad_norm: Mapping[str, float | None]
    weight_norm: Mapping[str, float]
    update_ratio: Mapping[str, float]
    attention_entropy: Mapping[str, float]  # over its largest possible, by block
    dead_units: Mapping[str, float]  # share of units that say nothing, by block


@dataclass(frozen=True, slots=True)
class History:
    """`metrics.jsonl`, with what was trained again after a resume counted once."""

    train: tuple[TrainPoint, ...] = ()
    validation: tuple[ValidationPoint, ...] = ()
    resumed_at: tuple[int, ...] = ()
    repeated: int = 0  # logged steps that a resume trained again
    last_step: int = 0  # the last optimizer step that any line speaks of
    steps: tuple[StepPoint, ...] = ()
    layers: tuple[LayerPoint, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckSeen:
    """One line of `findings.jsonl`: `text` is its claim, message, or why it could not see."""

    kind: str  # finding, passed, not-run, allowed
    check: str
    code: str
    text: str
    severity: str = ""
    fix: str = ""
    reason: str = ""
    step: int | None = None
    times: int | None = None
    evidence: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Guard:
    """The guard's word. `recorded` is false when the run holds no `findings.jsonl`: silence is then not soundness."""

    recorded: bool = False
    found: tuple[tuple[CheckSeen, ...], ...] = ()  # one group per check, worst first
    passed: tuple[CheckSeen, ...] = ()
    unseen: tuple[CheckSeen, ...] = ()
    allowed: tuple[CheckSeen, ...] = ()

    def count(self, severity: str) -> int:
        """How many checks found a fault of this severity."""
        return sum(group[0].severity == severity for group in self.found)


@dataclass(frozen=True, slots=True)
class Baseline:
    """What can be scored without looking at the right picture. Accuracy is a fraction."""

    kind: str  # text_only, shuffled_images, chance, majority
    accuracy: float
    description: str
    answer: str = ""
    ceiling: float | None = None  # the most that any model could score from the same input
    ceiling_description: str = ""

    @property
    def bar(self) -> float:
        """What a model must pass to have done better than this."""
        return max(self.accuracy, self.ceiling or 0.0)


@dataclass(frozen=True, slots=True)
class Group:
    """Accuracy on one type of question, as fractions. `says`: whether the model looks there."""

    name: str
    questions: int | None
    accuracy: float
    shuffled: float | None
    text_only: float | None
    interval: Interval = None
    says: str = ""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`evaluation.json`. Fractions, not percent. `rule`: of VQA accuracy. `tables`: groups by each field."""

    data: str
    metric: str
    questions: int | None
    accuracy: float
    interval: tuple[float, float] | None
    groups: tuple[Group, ...]
    baselines: Mapping[str, Baseline]
    partial: bool
    rule: str = ""
    tables: tuple[tuple[str, tuple[Group, ...]], ...] = ()
    looking: Looking | None = None


@dataclass(frozen=True, slots=True)
class Mistake:
    """A wrong answer and how often it was given in place of the same truth."""

    truth: str
    answer: str
    count: int


@dataclass(frozen=True, slots=True)
class Mistakes:
    """The wrong answers of `predictions.jsonl`, most frequent pairs first."""

    answers: int = 0
    wrong: int = 0
    pairs: tuple[Mistake, ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """A test picture with the question asked of it. `thumbnail` is a data URI or empty, `correct` None if unscored."""

    thumbnail: str
    question: str
    answer: str
    truth: str
    correct: bool | None


@dataclass(frozen=True, slots=True)
class RunSeen:
    """A whole run directory. `notes` says what could not be read, file by file."""

    facts: Facts
    history: History
    guard: Guard
    evaluation: Evaluation | None
    mistakes: Mistakes
    pictures: tuple[Picture, ...]
    recipe: str
    notes: tuple[str, ...]
    retrievals: tuple[Retrieval, ...] = ()
    leaks: Leaks | None = None
    robustness: Robustness | None = None
    calibration: Calibration | None = None
    perplexity: Perplexity | None = None

    @property
    def retrieval(self) -> Retrieval | None:
        """Where the run's own evaluation is retrieval."""
        return next((one for one in self.retrievals if not one.after), None)
