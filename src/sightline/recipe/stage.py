"""What a recipe says of a stage: what learns, on which data, by which objective, at what rate, for how long."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from sightline.recipe.augment import Augment
from sightline.recipe.part import Above0, Fraction, Part, Positive, Tower
from sightline.recipe.robust import Adversarial


class LearnPart(Part):
    """A part of a tower: exactly one of its last `last` blocks, its `norms`, or a `pattern` of parameter names."""

    last: Positive | None = None
    norms: Literal[True] | None = None
    pattern: str | None = None  # regular expression, searched in the parameter's name within its tower

    @model_validator(mode="after")
    def _one_rule(self) -> LearnPart:
        if sum(v is not None for v in (self.last, self.norms, self.pattern)) != 1:
            raise ValueError("give exactly one of 'last', 'norms' and 'pattern'")
        return self


Learn = Literal["all", "none", "lora"] | LearnPart


class LayerWarmup(Part):
    """Layers warm up one after the other: each one's warm-up lasts `steps` longer than that of the layer before it."""

    steps: Positive
    first: Literal["top", "bottom"] = "top"  # which end of a tower is ready first


class Schedule(Part):
    """Learning rate over a stage: linear warm-up (a fraction of the steps, or a count), then `kind`."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Fraction | Positive = 0.03
    floor: Fraction = 0.0  # the last learning rate as a fraction of the peak
    layers: LayerWarmup | None = None  # None: all layers of a tower warm up together


class AdaptiveClip(Part):
    """Adaptive clipping (Brock et al. 2021, arXiv 2102.06171): each unit's gradient against its own weights."""

    adaptive: Above0  # lambda: a unit's gradient norm is at most so many times the norm of its weights
    floor: Above0 = 1e-3  # epsilon: of weights with a smaller norm than this


Clip = float | dict[Tower, float | None] | AdaptiveClip


class Optimizer(Part):
    """AdamW (Loshchilov & Hutter 2019), LAMB (You et al. 2020) or Lion (Chen et al. 2023).

    1-D parameters (norms, biases) and those whose name matches `no_decay` are never decayed.
    """

    kind: Literal["adamw", "lamb", "lion"] = "adamw"
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float | dict[Tower, float] = 0.0
    no_decay: str | None = None  # regular expression, searched in the parameter's name within its tower
    layer_decay: Fraction = 1.0  # each block learns at this fraction of the rate of the block above it
    rounding: Literal["nearest", "stochastic", "kahan"] = "stochastic"  # bf16 weights: of updates below their spacing
    clip: Clip | None = 1.0  # gradient norm: of all, of each tower by itself (null: not), or {adaptive: lambda}

    @field_validator("clip", mode="before")
    @classmethod
    def _one_clip(cls, told: Any) -> Any:
        if _is_clip(told):
            return told
        raise ValueError(
            "give a number above 0 (norm of all gradients), {tower: number} (null: not clipped), {adaptive: number} "
            f"(unit by unit), or null; got {told!r}"
        )


def _is_clip(told: Any) -> bool:
    if not isinstance(told, dict):
        return told is None or isinstance(told, AdaptiveClip) or _above_0(told)
    if "adaptive" in told:
        return told.keys() <= set(AdaptiveClip.model_fields) and all(map(_above_0, told.values()))
    return bool(told) and told.keys() <= set(get_args(Tower)) and all(v is None or _above_0(v) for v in told.values())


def _above_0(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


PairLoss = Literal["itc", "sigmoid", "itm", "itg", "mlm"]


class PairSettings(Part):
    """How the losses over image-text pairs are computed.

    `itc`: each image finds its text among all and back (InfoNCE). `sigmoid`: each pair is judged by itself (SigLIP).
    `itm`: does this text belong to this image? `itg`: write the text given the image. `mlm`: fill in masked words.
    """

    smoothing: Fraction = 0.0  # label smoothing of itc
    caption_smoothing: Fraction = 0.0  # label smoothing of itg
    mask: Fraction = 0.15  # share of the text's tokens that mlm masks
    distil: Fraction = 0.0  # weight of the momentum towers' opinion in itc and mlm (ALBEF's alpha), reached after...
    distil_ramp: Fraction = 0.0  # ...this fraction of the stage


class Weighting(Part):
    """How the losses of a stage are weighed against each other, from the weights in `objective` on.

    `schedule`: in straight lines between points. `uncertainty`: by each loss's noise (Kendall et al. 2018).
    `gradnorm`: so that all losses pull about as hard (Chen et al. 2018). A kind may be given by its name alone.
    """

    kind: Literal["fixed", "schedule", "uncertainty", "gradnorm"] = "fixed"
    points: dict[PairLoss, list[tuple[Fraction, Annotated[float, Field(ge=0)]]]] = {}  # (share of the stage, weight)
    lr: Annotated[float, Field(gt=0)] | None = None  # of learned weights; None: 0.01 (uncertainty), 0.025 (gradnorm)
    alpha: Annotated[float, Field(ge=0)] = 1.5  # gradnorm: how much more a loss that lags behind may pull; 0: none
    shared: str | None = None  # gradnorm: regular expression of the weights whose gradients are compared;
    # None: those of the last layer that all losses reach

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _read(self) -> Weighting:
        for key, kinds in (
            ("points", ("schedule",)),
            ("lr", ("uncertainty", "gradnorm")),
            ("alpha", ("gradnorm",)),
            ("shared", ("gradnorm",)),
        ):
            if key in self.model_fields_set and self.kind not in kinds and getattr(self, key) != _default(key):
                raise ValueError(f"'{key}' is read by kind {' and '.join(kinds)}, not by {self.kind}")
        if self.kind == "schedule" and not self.points:
            raise ValueError("a schedule needs 'points', e.g. {itm: [[0, 0], [0.1, 1]]}")
        for loss, line in self.points.items():
            places = [place for place, _ in line]
            if not line or places != sorted(set(places)):
                raise ValueError(f"'points.{loss}': the shares of the stage {places} are not a rising list")
        return self


def _default(key: str) -> Any:
    return Weighting.model_fields[key].default


class EarlyStop(Part):
    """Stop when the validation's `metric` has not improved by `min_delta` for `patience` evaluations.

    The best is kept, and the next stage starts from it.
    """

    metric: Literal["loss", "accuracy"] = "loss"  # accuracy: of answers to the validation data, marked as in `evaluate`
    patience: Positive = 3
    min_delta: float = 0.0


class Stage(Part):
    """A part of a run: which towers learn and at what rate, on which data, for how long."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    data: dict[str, float]  # data set name -> sampling weight
    learn: dict[Tower, Learn]  # a tower that is not named is frozen
    lr: float | dict[Tower, float]
    objective: Literal["next-token", "answers"] | dict[PairLoss, float] = "next-token"  # or {loss over pairs: weight}
    pairs: PairSettings = PairSettings()
    weighting: Weighting = Weighting()  # of several losses among each other
    steps: Positive | None = None
    epochs: Annotated[float, Field(gt=0)] | None = None
    batch: Positive  # sequences in one optimizer step, over all ranks and micro-batches
    micro_batch: Positive | None = None  # sequences in one forward pass of one rank; None: batch / ranks
    max_length: Positive = 2048
    over_length: Literal["error", "skip"] = "error"  # never truncated: truncation loses image tokens or answers
    lanes: Positive | None = None  # streams: read at so many places at once; None: what divides the batch, at most 16
    pack: Literal["none", "image", "length"] = "none"
    group_by_length: bool = False  # a step's sequences are of about one length: less padding
    schedule: Schedule = Schedule()
    optimizer: Optimizer = Optimizer()
    dropout_warmup: Fraction | Positive = 0.0  # the connector's dropout rises from 0 over so many steps
    ema: Fraction | None = None  # decay of an exponential moving average of the weights
    gradient_checkpointing: bool = False
    cache_features: bool = False  # frozen vision towers only: each image is encoded once for the whole stage
    flip: bool = False  # random horizontal flips of all training images; wrong where left and right matter
    adversarial: Adversarial | None = None  # learn from attacked pictures
    augment: Augment | None = None  # changes to training images, each of those rows alone whose answers stay true
    validate_every: Positive | None = None  # steps between validation losses
    validation: str | None = None  # their data set, where it is not the recipe's evaluate.validation
    early_stop: EarlyStop | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of 'steps' and 'epochs'")
        if all(rule == "none" for rule in self.learn.values()):
            raise ValueError("this stage trains nothing: set 'learn' of at least one tower to other than 'none'")
        learning = [tower for tower, rule in self.learn.items() if rule != "none"]
        if isinstance(self.lr, dict) and (missing := [t for t in learning if t not in self.lr]):
            raise ValueError(f"'lr' names no rate for {', '.join(missing)}, which learns in this stage")
        if isinstance(clip := self.optimizer.clip, dict) and set(clip) != set(learning):
            told, learns = ", ".join(clip), ", ".join(learning)
            raise ValueError(f"'optimizer.clip' must name the towers that learn ({learns}), and names {told}")
        if self.dropout_warmup and "connector" not in learning:
            raise ValueError("'dropout_warmup' is of the connector's dropout, and the connector does not learn")
        if self.cache_features and self.learn.get("vision", "none") != "none":
            raise ValueError("'cache_features' needs a frozen vision tower: set learn.vision to 'none'")
        if self.cache_features and (self.flip or self.augment):
            raise ValueError("'cache_features' keeps one view of each image: 'flip' and 'augment' must be off")
        if self.cache_features and self.adversarial:
            raise ValueError("'cache_features' keeps what is seen in clean images: 'adversarial' must be off")
        if self.adversarial and isinstance(self.objective, dict):
            raise ValueError("'adversarial' attacks answers: set 'objective' to next-token or answers")
        if self.flip and self.augment:
            raise ValueError("'flip' flips every image: give 'augment.flip', a probability, in its place")
        if isinstance(self.objective, dict):
            self._pairs_consistent(self.objective)
        elif self.pairs != PairSettings():
            raise ValueError(f"'pairs' tells how losses over pairs are computed, and 'objective' is {self.objective}")
        self._weighable()
        if not self.data or any(weight <= 0 for weight in self.data.values()):
            raise ValueError("'data' needs at least one data set, each with a weight above 0")
        if self.early_stop and not self.validate_every:
            raise ValueError("'early_stop' needs 'validate_every'")
        if self.early_stop and self.early_stop.metric == "accuracy" and isinstance(self.objective, dict):
            raise ValueError("'early_stop.metric' is accuracy, and a stage over pairs answers no questions")
        return self

    def _pairs_consistent(self, losses: dict[PairLoss, float]) -> None:
        if not losses or any(weight <= 0 for weight in losses.values()):
            raise ValueError("'objective' needs at least one loss, each with a weight above 0")
        if {"itc", "sigmoid"} <= losses.keys():
            raise ValueError("'objective' compares pairs by either 'itc' or 'sigmoid', not by both")
        if "itm" in losses and not {"itc", "sigmoid"} & losses.keys():
            raise ValueError("'itm' draws its hard negatives from 'itc' (or 'sigmoid'): add it to 'objective'")
        unread = {"smoothing": "itc", "caption_smoothing": "itg", "mask": "mlm"}
        for key, loss in unread.items():
            if loss not in losses and getattr(self.pairs, key) != getattr(PairSettings(), key):
                raise ValueError(f"'pairs.{key}' is read by '{loss}' alone, which is not in 'objective'")
        if self.pairs.distil and not {"itc", "mlm"} & losses.keys():
            raise ValueError(
                "'pairs.distil' is a share of the targets of 'itc' and 'mlm', and neither is in 'objective'"
            )
        if self.pairs.distil_ramp and not self.pairs.distil:
            raise ValueError("'pairs.distil_ramp' leads to 'distil', which is 0")
        if self.pack != "none":
            raise ValueError("pairs are compared with each other: set 'pack' to none")

    def check_head(self, there: bool) -> None:
        """Raise ValueError where this stage does not go with the model's answer head, or its absence."""
        if self.objective == "answers" and not there:
            raise ValueError(f"stage '{self.name}' learns answers by a head: give 'model.compose.head', e.g. {{}}")
        if self.rule_for("head") != "none" and self.objective != "answers":
            raise ValueError(f"stage '{self.name}': 'learn.head' is for objective answers, which alone reaches it")
        if there and self.objective != "answers" and self.early_stop and self.early_stop.metric == "accuracy":
            raise ValueError(f"stage '{self.name}' stops by its answers, which are the head's, and trains no head")

    def _weighable(self) -> None:
        losses = list(self.objective) if isinstance(self.objective, dict) else [self.objective]
        if self.weighting.kind != "fixed" and len(losses) < 2:
            raise ValueError(f"'weighting' weighs losses against each other, and {losses[0]} is the only one")
        if unknown := sorted(set(self.weighting.points) - set(losses)):
            raise ValueError(f"'weighting.points' names {', '.join(unknown)}, which is not in 'objective'")

    def check_streams(self, streams: list[str]) -> None:
        """Raise ValueError where this stage asks of data sets `streams` what needs them whole."""
        if not streams:
            if self.lanes:
                raise ValueError(f"'lanes' of stage '{self.name}' are those of streams, and it reads none")
            return
        asked = [key for key in ("group_by_length", "cache_features") if getattr(self, key)]
        if asked or self.pack != "none":
            key = (asked or ["pack"])[0]
            raise ValueError(f"stage '{self.name}' streams {', '.join(streams)}, and '{key}' needs all rows at hand")
        if self.lanes and self.batch % self.lanes:
            raise ValueError(f"stage '{self.name}': {self.lanes} lanes do not divide batch {self.batch}")

    def rule_for(self, tower: Tower) -> Learn:
        """What of `tower` learns in this stage."""
        return self.learn.get(tower, "none")

    def rate_for(self, tower: Tower) -> float:
        """Peak learning rate of `tower`."""
        return self.lr[tower] if isinstance(self.lr, dict) else self.lr
