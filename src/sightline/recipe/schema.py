"""What a recipe says: one run as a frozen, validated value.

A recipe holds facts only. Its data's part is `data.py`, its model's `model.py`, its stages' `stage.py`; reading and
writing it is `read.py`; changing it from the command line is `override.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sightline.recipe.data import DataSpec, Streamed
from sightline.recipe.model import (
    Adopt,
    Caption,
    Compose,
    ConnectorSpec,
    Fusion,
    HeadSpec,
    LanguageSpec,
    Layers,
    Lora,
    ModelSpec,
    Pair,
    Source,
    Start,
    TextSpec,
    TokenizerSpec,
    VisionSpec,
)
from sightline.recipe.numbers import Numbers, PrecisionKind
from sightline.recipe.parallel import Parallel
from sightline.recipe.part import TOWERS, Fraction, Part, Positive, Tower
from sightline.recipe.robust import Adversarial, Attack, Robust
from sightline.recipe.stage import (
    AdaptiveClip,
    Clip,
    EarlyStop,
    LayerWarmup,
    Learn,
    LearnPart,
    Optimizer,
    PairLoss,
    PairSettings,
    Schedule,
    Stage,
    Weighting,
)

__all__ = [
    "TOWERS",
    "AdaptiveClip",
    "Adopt",
    "Adversarial",
    "Attack",
    "Caption",
    "Checkpoints",
    "Clip",
    "Compose",
    "ConnectorSpec",
    "DataSpec",
    "EarlyStop",
    "Evaluate",
    "Fraction",
    "Fusion",
    "Guard",
    "HeadSpec",
    "LanguageSpec",
    "LayerWarmup",
    "Layers",
    "Learn",
    "LearnPart",
    "Lora",
    "ModelSpec",
    "Numbers",
    "Optimizer",
    "Pair",
    "PairLoss",
    "PairSettings",
    "Parallel",
    "Part",
    "Positive",
    "PrecisionKind",
    "Recipe",
    "Robust",
    "Schedule",
    "Source",
    "Stage",
    "Start",
    "Streamed",
    "TextSpec",
    "TokenizerSpec",
    "Tower",
    "VisionSpec",
    "Weighting",
]


class Evaluate(Part):
    """The questions a trained run is judged by. `validation` is used during training, `data` once at the end."""

    data: str | None = None
    validation: str | None = None
    metric: Literal["exact-match", "vqa", "retrieval", "zero-shot", "perplexity", "none"] = "exact-match"
    rule: Literal["official", "lavis", "lmms-eval"] = "official"  # vqa: whose cleaning of answers
    classes: list[str] | dict[str, str] | None = None  # zero-shot: names, or the data's name: words; None: all answers
    templates: tuple[str, ...] = ("a photo of a {}.",)  # zero-shot: prompts of a class, whose embeddings are averaged
    rerank: Positive | None = None  # retrieval: the first so many candidates are judged again by the matching head
    window: Positive | None = None  # perplexity of documents: tokens read at once; None: what the model can, up to 2048
    stride: Positive | None = None  # ...and how far the next window starts behind; None: half a window
    max_new_tokens: Positive = 32
    batch: Positive = 64
    looking: tuple[Literal["blind", "shuffled", "blurred", "noise"], ...] = (
        "blind",
        "shuffled",
        "blurred",
        "noise",
    )  # conditions in which the questions are asked again: what the model can do without looking
    looking_questions: Positive = 5_000  # asked again at most, drawn by the seed as whole images
    shuffled_images: bool = True  # false: as 'looking' without shuffled
    text_only: bool = True  # the majority answer of each question in the training data
    leaks: bool = True  # look for evaluation images that were also trained on
    group_by: str | tuple[str, ...] | None = None  # the row fields by which accuracy is broken down
    gallery: Positive = 24  # pictures in the report
    robust: Robust = Robust()  # how `sightline robust` breaks a trained run

    @property
    def grouped_by(self) -> tuple[str, ...]:
        """The fields of `group_by`."""
        return (self.group_by,) if isinstance(self.group_by, str) else self.group_by or ()

    @model_validator(mode="after")
    def _keys_act(self) -> Evaluate:
        for key in ("window", "stride"):
            if self.metric != "perplexity" and getattr(self, key) is not None:
                raise ValueError(f"'{key}' is read by metric perplexity alone, and 'metric' is {self.metric}")
        if self.metric != "vqa" and self.rule != type(self).model_fields["rule"].default:
            raise ValueError(f"'rule' is read by metric vqa alone, and 'metric' is {self.metric}")
        return self

    @model_validator(mode="after")
    def _prompts(self) -> Evaluate:
        if bare := [template for template in self.templates if template.count("{}") != 1]:
            raise ValueError(f"the template '{bare[0]}' does not hold one {{}}, where the class's name goes")
        if not self.templates:
            raise ValueError("'templates' needs at least one prompt, e.g. 'a photo of a {}.'")
        if self.metric != "zero-shot":
            for key in ("classes", "templates"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"'{key}' is read by metric zero-shot alone, and 'metric' is {self.metric}")
        return self


class Guard(Part):
    """`allow` suppresses findings by the check's name, each with a reason."""

    on: bool = True
    allow: dict[str, str] = {}


class Checkpoints(Part):
    """When the run is saved, and how many saves are kept beside the best."""

    every: Positive | None = None  # steps; None: at the end of each stage
    keep: Positive = 2


class Recipe(Part):
    """One run as a value."""

    name: str
    summary: str
    sources: tuple[str, ...] = ()  # papers and code the figures come from
    model: ModelSpec
    data: dict[str, DataSpec]
    stages: tuple[Stage, ...]
    evaluate: Evaluate = Evaluate()
    evaluate_after: dict[str, Evaluate] = {}  # stage -> what the model is asked when that stage ends
    guard: Guard = Guard()
    checkpoints: Checkpoints = Checkpoints()
    seed: int = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16", "fp8"] = "auto"  # auto: bf16 where it is fast
    numbers: Numbers = Numbers()  # formats beside that of the forward pass
    parallel: Parallel = Parallel()  # how the run spreads over several processes
    workers: Annotated[int, Field(ge=0)] = 0  # data loading processes
    log_every: Positive = 10  # steps
    log_layers: Positive | None = 50  # steps between looks into the layers, for `sightline doctor`; None: none
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()

    @field_validator("parallel", mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names_meet(self) -> Recipe:
        if not self.stages:
            raise ValueError("a recipe needs at least one stage")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"two stages share a name: {', '.join(names)}")
        named = {name for stage in self.stages for name in stage.data}
        named |= {stage.validation for stage in self.stages if stage.validation}
        asked = (self.evaluate, *self.evaluate_after.values())
        named |= {name for each in asked for name in (each.data, each.validation) if name}
        if unknown := sorted(named - set(self.data)):
            raise ValueError(f"no data set is called {', '.join(unknown)} (known: {', '.join(sorted(self.data))})")
        if unknown := sorted(set(self.evaluate_after) - set(names)):
            raise ValueError(f"'evaluate_after' names no stage: {', '.join(unknown)} (known: {', '.join(names)})")
        if unnamed := [stage for stage, each in self.evaluate_after.items() if each.data is None]:
            raise ValueError(f"'evaluate_after.{unnamed[0]}' names no data set in 'data'")
        if self.model.pair and any(each.data and each.metric in ("exact-match", "vqa", "perplexity") for each in asked):
            raise ValueError(
                "a model of two towers answers no questions: set 'evaluate.metric' to retrieval, zero-shot or none"
            )
        for stage in self.stages:
            if self.model.lora is None and "lora" in stage.learn.values():
                raise ValueError(f"stage '{stage.name}' trains LoRA but the recipe has no 'model.lora'")
            stage.check_head(self.model.compose is not None and self.model.compose.head is not None)
            if stage.early_stop and not (stage.validation or self.evaluate.validation):
                raise ValueError(f"stage '{stage.name}' stops early, and no data set is named to validate on")
            stage.check_streams([name for name in stage.data if self.data[name].stream])
        return self

    @model_validator(mode="after")
    def _numbers_act(self) -> Recipe:
        if wrong := self.numbers.unread(self.precision):
            raise ValueError(wrong)
        rounded = self.numbers.weights == "bf16"
        if rounded and self.parallel.kind.startswith("zero"):
            raise ValueError(f"'numbers.weights' are the engine's own with {self.parallel.kind}: leave it out")
        for stage in self.stages:
            if rounded and stage.ema:
                raise ValueError(f"stage '{stage.name}' averages bf16 weights, to which most of an average is lost")
            if rounded and stage.optimizer.kind != "adamw":
                raise ValueError(f"stage '{stage.name}': bf16 weights are moved by adamw alone")
            if stage.optimizer.rounding != "stochastic" and not rounded:
                raise ValueError(f"stage '{stage.name}': 'optimizer.rounding' is of bf16 weights (numbers.weights)")
        return self

    @model_validator(mode="after")
    def _head_knows(self) -> Recipe:
        if self.model.compose is None or self.model.compose.head is None:
            return self
        learnt = False
        for stage in self.stages:
            learnt = learnt or stage.objective == "answers"
            after = self.evaluate_after.get(stage.name)
            if after and after.metric in ("exact-match", "vqa") and not learnt:
                raise ValueError(f"'evaluate_after.{stage.name}' asks the head, which has not learned anything by then")
        if not learnt:
            raise ValueError("no stage has the objective answers, by which 'model.compose.head' learns")
        return self

    @model_validator(mode="after")
    def _slow_copy_acts(self) -> Recipe:
        fusion = self.model.pair.fusion if self.model.pair else None
        slow = fusion is not None and fusion.momentum is not None
        losses = {loss for stage in self.stages if isinstance(stage.objective, dict) for loss in stage.objective}
        for stage in self.stages:
            if stage.pairs.distil and not slow:
                raise ValueError(f"stage '{stage.name}' distils, and 'model.pair.fusion.momentum' is not given")
        if slow and "sigmoid" in losses:
            raise ValueError("'model.pair.fusion.momentum' takes part in 'itc', not in 'sigmoid'")
        if slow and self.model.lora:
            raise ValueError(
                "'model.pair.fusion.momentum' follows weights and no adapters: leave it or 'model.lora' out"
            )
        if fusion and fusion.queue and "itc" not in losses:
            raise ValueError("'model.pair.fusion.queue' holds negatives for 'itc', which no stage learns by")
        return self
