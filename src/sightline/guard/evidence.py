"""Evidence: the frozen facts that a run shows. Checks are pure functions of these and of nothing else.

Every host (a raw PyTorch loop, our trainer, a library's trainer) fills in the same types, so a check never knows who
is training. Tensors are small and on the CPU; everything else is numbers and names. None means "this host could not
show it": a check that needs such a field answers `CannotTell`, never silence.

Which evidence is shown when (raw PyTorch door, `sightline.attach`):

    Setup         before the first training forward, and again when trainability, modes or groups changed
    BatchSeen     after every sampled forward pass (training and evaluation), and for each batch of `preflight`
    SignalsSeen   after a sampled forward pass through a connector
    LossSeen      in the backward pass of a sampled step, once per micro-batch: what the loss really supervised
    StepSeen      after every optimizer step; its `parameters` are measured on sampled steps only
    History       after every StepSeen: the recent ones, oldest first, since the last change of Setup
    Progress      after 8, 16, 32, ... training forwards, and at the end: were steps taken at all?
    LeakSeen, ImagePairsSeen, EvaluationSeen, RoundTripSeen    answers of probes (`guard/probes/`)

Shapes: B sequences, T tokens, n rows. This module imports nothing but the standard library at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = -100  # torch.nn.functional.cross_entropy's default ignore_index: "not supervised"
Plan = Literal["all", "none", "part"]
Phase = Literal["preflight", "train", "evaluation"]


# --- the set-up --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TowerSetup:
    """One tower as the model and the optimizer really have it.

    Attributes:
        parameters, trainable, optimized: numbers of elements: all; with requires_grad; held by the optimizer.
        planned: what the host's plan says of it; None without a plan.
        learning_rates: the distinct rates of the optimizer groups that hold its parameters, ascending.
        training: True when its outermost modules are all in train mode.
        lively: modules whose output differs in train mode and that are in it (dropout with p > 0, batch norm).
        adapters: trainable elements of low-rank adapters (parameter names with ``lora_``).
        dtypes: parameter dtype, e.g. ``bfloat16``, -> elements.
    """

    name: str
    parameters: int
    trainable: int
    optimized: int
    planned: Plan | None = None
    learning_rates: tuple[float, ...] = ()
    training: bool = True
    lively: tuple[str, ...] = ()
    adapters: int = 0
    dtypes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenizerSetup:
    """What a tokenizer and the model's config say of the special tokens. `size` counts added tokens too."""

    size: int
    pad_id: int | None
    eos_id: int | None
    padding_side: str | None = None
    model_pad_id: int | None = None
    model_eos_id: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Setup:
    """How the run is set up. `orphans`: elements the optimizer holds that belong to no parameter of the model."""

    towers: Mapping[str, TowerSetup]
    tokenizer: TokenizerSetup | None = None
    embedding_rows: int | None = None
    embedding_width: int | None = None
    image_token_id: int | None = None
    tokens_per_image: int | None = None
    accumulation: int | None = None
    optimizer: str | None = None
    orphans: int = 0
    step: int = 0


# --- batches and losses ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class BatchSeen:
    """What a model was given. All (B, T) tensors are int64 except `attention_mask` and `assistant_mask` (bool).

    Attributes:
        labels: aligned with `input_ids` as the host gave them; IGNORE where not supervised.
        assistant_mask: True on tokens that the assistant says, where the host knows.
        image_spans: images shown to the language tower (an image that is shown twice counts twice).
        image_features: feature vectors that the connector made for those spans, all images together.
        where: the places of the rows (file and row), where known.
        decode: token ids -> text, called only when a finding needs words.
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
    where: tuple[str, ...] = ()
    decode: Callable[[Sequence[int]], str] | None = field(default=None, repr=False)

    @property
    def placeholders(self) -> tuple[int, ...] | None:
        """Image placeholder tokens per row; None when ids or the placeholder's id are unknown."""
        if self.input_ids is None or self.image_token_id is None:
            return None
        return tuple((self.input_ids == self.image_token_id).sum(dim=-1).tolist())

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
        """`ids` as text, or as numbers without a tokenizer."""
        return self.decode(ids) if self.decode else " ".join(map(str, ids))


@dataclass(frozen=True, slots=True, eq=False)
class SignalsSeen:
    """The connector's output beside the text embeddings it is mixed with (root mean squares over all elements)."""

    step: int
    connector_rms: float | None
    connector_width: int | None
    embedding_rms: float | None
    embedding_width: int | None


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
    """

    step: int
    micro: int
    supervised: int
    weight: float | None
    softmax_rows: float
    probability_rows: float
    input_ids: Tensor | None = None
    targets: Tensor | None = None

    def agreement(self, shift: int) -> float | None:
        """Fraction of supervised positions t whose target is input token t + `shift` (1 for next-token training)."""
        if self.targets is None or self.input_ids is None or self.targets.shape[1] <= shift:
            return None
        near, far = self.targets[:, : self.targets.shape[1] - shift], self.input_ids[:, shift:]
        taught = near != IGNORE
        return float((near == far)[taught].float().mean()) if taught.any() else None


# --- steps -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ParameterSeen:
    """One parameter in one optimizer step. Norms are L2.

    `moved`: whether any watched element changed (a strided sample of 4096, and the one with the largest gradient);
    `update_norm` is scaled up from the same sample. `grad_norm` is None without a gradient, and is taken as the
    optimizer got it (after clipping, and after unscaling where the host unscales).
    """

    name: str
    tower: str
    numel: int
    dtype: str
    trainable: bool
    optimized: bool
    learning_rate: float | None
    grad_norm: float | None
    weight_norm: float
    update_norm: float
    moved: bool


@dataclass(frozen=True, slots=True, eq=False)
class StepSeen:
    """One optimizer step.

    Attributes:
        loss: mean of the micro-batches' losses as the host computed them; None when the door could not see one.
        tokens: supervised tokens of the step, where known.
        micro: what the loss supervised, per micro-batch (sampled steps only).
        carried: L2 norm of the gradients that were still there when the step's first backward pass began: 0 after a
            zero_grad, `previous_grad_norm` when the last step's gradients were left. None when not sampled.
        parameters: one entry per parameter; empty on steps that were not sampled.
        first_non_finite: the first module whose output was not finite, told once a loss or gradient was not.
    """

    step: int
    loss: float | None = None
    tokens: int | None = None
    micro: tuple[LossSeen, ...] = ()
    carried: float | None = None
    previous_grad_norm: float | None = None
    parameters: tuple[ParameterSeen, ...] = ()
    first_non_finite: str | None = None

    def tower(self, name: str) -> tuple[ParameterSeen, ...]:
        """The parameters of one tower."""
        return tuple(p for p in self.parameters if p.tower == name)

    @property
    def towers(self) -> tuple[str, ...]:
        """The towers measured in this step, in model order."""
        return tuple(dict.fromkeys(p.tower for p in self.parameters))

    def grad_norm(self, tower: str | None = None) -> float | None:
        """Gradient norm of a tower or of the whole model; None where there is no gradient."""
        return _norm(p.grad_norm for p in self.parameters if tower in (None, p.tower))

    def update_ratio(self, tower: str) -> float | None:
        """Norm of the update over norm of the weights of a tower's optimized parameters (healthy: about 1e-3)."""
        held = [p for p in self.tower(tower) if p.optimized]
        weight = _norm(p.weight_norm for p in held)
        update = _norm(p.update_norm for p in held)
        return update / weight if weight and update is not None else None


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """The recent steps, oldest first, since the set-up last changed (at most 512)."""

    steps: tuple[StepSeen, ...]

    @property
    def step(self) -> int:
        """The last step's number."""
        return self.steps[-1].step

    @property
    def measured(self) -> tuple[StepSeen, ...]:
        """The steps whose parameters were measured."""
        return tuple(s for s in self.steps if s.parameters)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the run got. `closed`: the host says it is over. Counts are since attaching."""

    forwards: int
    backwards: int
    steps: int
    closed: bool
    accumulation: int | None = None

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.steps


# --- answers of probes -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LeakSeen:
    """A token of one packed document was changed. Largest absolute changes of logits, in and outside that document.

    `inside` is the probe's own control (0: the change did nothing, so nothing is proved). `restarts`: the number of
    documents whose positions start at 0; `documents`: documents in the row.
    """

    step: int
    documents: int
    restarts: int | None
    inside: float
    outside: float


@dataclass(frozen=True, slots=True, eq=False)
class ImagePairsSeen:
    """Mean loss per supervised token, (n,) float32 a row: with its own image, and with another row's on the same text.

    `changed`: whether the other image changed the logits at all.
    """

    step: int
    own: Tensor
    other: Tensor
    changed: bool


@dataclass(frozen=True, slots=True)
class EvaluationSeen:
    """An evaluation forward. `declared`: the host said so; else it was a forward pass without gradients.

    `lively`: modules in train mode that make a difference (dropout with p > 0, batch norm). `difference`: largest
    absolute difference of the outputs of one batch seen twice; None when not probed.
    """

    step: int
    declared: bool
    lively: tuple[str, ...]
    difference: float | None = None


@dataclass(frozen=True, slots=True)
class RoundTripSeen:
    """A checkpoint was read back. `changed`: name -> largest absolute difference of values; `dtypes`: name -> (live,
    saved) where they differ; `missing` is live but not saved, `unexpected` the reverse."""

    step: int
    path: str
    compared: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    changed: Mapping[str, float] = field(default_factory=dict)
    dtypes: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def _norm(parts: Iterable[float | None]) -> float | None:
    """The L2 norm of a whole from those of its parts; None when every part is None."""
    seen = [part for part in parts if part is not None]
    return sum(part * part for part in seen) ** 0.5 if seen else None


Evidence = (
    Setup | BatchSeen | SignalsSeen | LossSeen | StepSeen | History | Progress
    | LeakSeen | ImagePairsSeen | EvaluationSeen | RoundTripSeen
)  # fmt: skip
