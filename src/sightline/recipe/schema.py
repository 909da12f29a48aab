"""What a recipe says: one run as a frozen, validated value.

A recipe holds facts only. Reading and writing it is `read.py`; changing it from the command line is `override.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Tower = Literal["vision", "connector", "language"]
TOWERS: tuple[Tower, ...] = ("vision", "connector", "language")
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Part(BaseModel):
    """Base of every part of a recipe: frozen, and no unknown key gets past it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- the model ---------------------------------------------------------------------------------------------------


class Source(Part):
    """Where a tower comes from: weights (`source`: hub id or folder) or a small `config` built from scratch."""

    source: str | None = None
    config: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        if (self.source is None) == (self.config is None):
            raise ValueError("give exactly one of 'source' (hub id or folder) and 'config' (transformers fields)")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("'config' needs 'model_type', e.g. siglip_vision_model or llama")
        return self


class VisionSpec(Source):
    """The vision tower. `layer` is the hidden state that feeds the connector.

    -1 is the tower's own output, after its final norm; any other is what a block left (LLaVA: -2).
    """

    layer: int = -2
    image_size: Positive | None = None  # convolutional towers only: the others' configurations say it
    tokens: Literal["patch", "all"] = "patch"  # "patch" drops the class token where the tower has one
    resize: Literal["squash", "crop", "pad"] = "squash"
    mean: tuple[float, float, float] | None = None  # None: the tower's own image processor says
    std: tuple[float, float, float] | None = None


class ConnectorSpec(Part):
    """The connector: `kind` is a file's name in `models/connectors/`."""

    kind: str = "mlp"
    factor: Positive = 2  # pixel-shuffle only: factor x factor neighbouring patches become one token
    hidden: Positive | None = None  # mlp width; None: the language tower's


class LanguageSpec(Source):
    """The language tower: any causal language model."""

    gguf_file: str | None = None  # a file inside `source`, read by transformers' GGUF loader


class TokenizerSpec(Part):
    """The tokenizer: from the language tower (default), from `source`, or a word-level one made from the data."""

    source: str | None = None
    build: Literal["words"] | None = None


class Compose(Part):
    """A VLM joined from a vision model, a connector and a causal language model."""

    vision: VisionSpec
    connector: ConnectorSpec = ConnectorSpec()
    language: LanguageSpec
    tokenizer: TokenizerSpec = TokenizerSpec()
    image_token: str = "<image>"
    template: str = "vicuna"  # a name in data/templates.py


class Adopt(Part):
    """An existing VLM. `towers` is needed only for a model type that `models/adopt.py` does not know."""

    source: str | None = None
    config: dict[str, Any] | None = None
    towers: dict[Tower, list[str]] | None = None


class Lora(Part):
    """Low-rank adapters (Hu et al. 2021) by PEFT, on the named towers only."""

    rank: Positive = 16
    alpha: Positive = 32
    dropout: Fraction = 0.05
    towers: tuple[Tower, ...] = ("language",)
    targets: Literal["all-linear"] | list[str] = "all-linear"


class ModelSpec(Part):
    """Exactly one of `compose` and `adopt`, and how its weights are held."""

    compose: Compose | None = None
    adopt: Adopt | None = None
    lora: Lora | None = None
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"

    @model_validator(mode="after")
    def _one_way(self) -> ModelSpec:
        if (self.compose is None) == (self.adopt is None):
            raise ValueError("give exactly one of 'compose' (join towers) and 'adopt' (take an existing VLM)")
        return self


# --- the data ----------------------------------------------------------------------------------------------------


class DataSpec(Part):
    """One data set. `reader` is a file's name in `data/readers/` (dashes for underscores)."""

    reader: str
    path: str | None = None  # file, folder, glob or hub id
    images: str | None = None  # folder that relative image paths start from; None: the data file's own folder
    split: str = "train"
    columns: dict[str, str] = {}  # our name -> the file's column name, where they differ
    where: dict[str, list[str]] = {}  # keep the rows whose field has one of these values, e.g. {type: [color]}
    limit: Positive | None = None
    broken: Literal["error", "skip"] = "error"  # a broken row stops the run, or is skipped and counted


# --- the stages --------------------------------------------------------------------------------------------------


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


class Schedule(Part):
    """Learning rate over a stage: linear warm-up (a fraction of the steps, or a count), then `kind`."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Fraction | Positive = 0.03
    floor: Fraction = 0.0  # the last learning rate as a fraction of the peak


class Optimizer(Part):
    """AdamW (Loshchilov & Hutter 2019). 1-D parameters (norms, biases) are never decayed."""

    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float | None = 1.0  # global gradient norm


class EarlyStop(Part):
    """Stop when the validation loss has not improved by `min_delta` for `patience` evaluations."""

    patience: Positive = 3
    min_delta: float = 0.0


class Stage(Part):
    """A part of a run: which towers learn and at what rate, on which data, for how long."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    data: dict[str, float]  # data set name -> sampling weight
    learn: dict[Tower, Learn]  # a tower that is not named is frozen
    lr: float | dict[Tower, float]
    objective: Literal["next-token"] = "next-token"
    steps: Positive | None = None
    epochs: Annotated[float, Field(gt=0)] | None = None
    batch: Positive  # sequences in one optimizer step, over all ranks and micro-batches
    micro_batch: Positive | None = None  # sequences in one forward pass of one rank; None: batch / ranks
    max_length: Positive = 2048
    over_length: Literal["error", "skip"] = "error"  # never truncated: truncation loses image tokens or answers
    pack: Literal["none", "image", "length"] = "none"
    group_by_length: bool = False  # a step's sequences are of about one length: less padding
    schedule: Schedule = Schedule()
    optimizer: Optimizer = Optimizer()
    ema: Fraction | None = None  # decay of an exponential moving average of the weights
    gradient_checkpointing: bool = False
    cache_features: bool = False  # frozen vision towers only: each image is encoded once for the whole stage
    flip: bool = False  # random horizontal flips of training images; wrong where left and right matter
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
        if self.cache_features and self.learn.get("vision", "none") != "none":
            raise ValueError("'cache_features' needs a frozen vision tower: set learn.vision to 'none'")
        if self.cache_features and self.flip:
            raise ValueError("'cache_features' keeps one view of each image: 'flip' must be off")
        if not self.data or any(weight <= 0 for weight in self.data.values()):
            raise ValueError("'data' needs at least one data set, each with a weight above 0")
        if self.early_stop and not self.validate_every:
            raise ValueError("'early_stop' needs 'validate_every'")
        return self

    def rule_for(self, tower: Tower) -> Learn:
        """What of `tower` learns in this stage."""
        return self.learn.get(tower, "none")

    def rate_for(self, tower: Tower) -> float:
        """Peak learning rate of `tower`."""
        return self.lr[tower] if isinstance(self.lr, dict) else self.lr


# --- evaluation, guard and the rest ------------------------------------------------------------------------------


class Evaluate(Part):
    """The questions a trained run is judged by. `validation` is used during training, `data` once at the end."""

    data: str | None = None
    validation: str | None = None
    metric: Literal["exact-match", "none"] = "exact-match"
    max_new_tokens: Positive = 32
    batch: Positive = 64
    shuffled_images: bool = True  # the same questions with other images: what the model can do without looking
    text_only: bool = True  # the majority answer of each question in the training data
    group_by: str | None = None  # the row field by which accuracy is broken down
    gallery: Positive = 24  # pictures in the report


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
    guard: Guard = Guard()
    checkpoints: Checkpoints = Checkpoints()
    seed: int = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: bf16 where the device is fast at it
    workers: Annotated[int, Field(ge=0)] = 0  # data loading processes
    log_every: Positive = 10
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()

    @model_validator(mode="after")
    def _names_meet(self) -> Recipe:
        if not self.stages:
            raise ValueError("a recipe needs at least one stage")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"two stages share a name: {', '.join(names)}")
        named = {name for stage in self.stages for name in stage.data}
        named |= {stage.validation for stage in self.stages if stage.validation}
        named |= {name for name in (self.evaluate.data, self.evaluate.validation) if name}
        if unknown := sorted(named - set(self.data)):
            raise ValueError(f"no data set is called {', '.join(unknown)} (known: {', '.join(sorted(self.data))})")
        for stage in self.stages:
            if self.model.lora is None and "lora" in stage.learn.values():
                raise ValueError(f"stage '{stage.name}' trains LoRA but the recipe has no 'model.lora'")
        return self
