"""What a recipe says of robustness: how a trained run is attacked, and attacks that a stage trains with."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sightline.recipe.part import Above0, Fraction, Part, Positive

Severity = Annotated[int, Field(ge=1, le=5)]


def _level(told: Any) -> Any:
    """A number, or a fraction as the field writes it: 8/255."""
    if not isinstance(told, str):
        return told
    top, slash, bottom = told.partition("/")
    try:
        return float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"'{told}' is no number; write e.g. 0.03 or 8/255") from None


Level = Annotated[float, Field(gt=0), BeforeValidator(_level)]  # of pixels from 0 to 1; 8/255 may be written so

Corruption = Literal[
    "gaussian-noise",
    "shot-noise",
    "impulse-noise",
    "speckle-noise",
    "defocus-blur",
    "gaussian-blur",
    "glass-blur",
    "motion-blur",
    "zoom-blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic",
    "pixelate",
    "jpeg",
    "saturate",
]
Words = Literal["typos", "case", "paraphrase"]
Contradiction = Literal["asserted", "printed"]


class Attack(Part):
    """An attack, at each of the bounds in `epsilon`: on every pixel (linf) or on the whole difference (l2) of pixels
    from 0 to 1; for `patch`, the share of the picture that it covers.

    `fgsm`: one step (Goodfellow et al. 2015). `pgd`: several, projected (Madry et al. 2018). `patch`: a square at a
    random place whose pixels may take any value (after Brown et al. 2017, for each picture by itself).
    """

    kind: Literal["fgsm", "pgd", "patch"] = "pgd"
    norm: Literal["linf", "l2"] = "linf"
    epsilon: tuple[Level, ...]
    steps: Positive = 10  # pgd and patch
    step_size: Level | None = None  # None: 2.5 x epsilon / steps (patch: 2 / steps)
    random_start: bool = True  # pgd: begin at a random point within the bound
    restarts: Positive = 1  # pgd and patch: from other random points; the worst for the model counts

    @model_validator(mode="after")
    def _bounded(self) -> Attack:
        if not self.epsilon:
            raise ValueError("'epsilon' needs at least one bound, e.g. [4/255, 8/255]")
        if self.kind == "patch" and max(self.epsilon) > 1:
            raise ValueError(f"a patch covers a share of the picture, and {max(self.epsilon)} is more than all of it")
        if self.kind == "patch" and self.norm != "linf":
            raise ValueError("'norm' bounds fgsm and pgd; a patch is bounded by its place")
        return self

    @property
    def name(self) -> str:
        """What the results call it: fgsm-linf, pgd-l2, patch."""
        return self.kind if self.kind == "patch" else f"{self.kind}-{self.norm}"


LINF = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
STANDARD = (
    Attack(kind="fgsm", epsilon=LINF),
    Attack(kind="pgd", epsilon=LINF),
    Attack(kind="pgd", norm="l2", epsilon=(0.25, 0.5, 1.0, 2.0)),
    Attack(kind="patch", epsilon=(0.01, 0.04, 0.09), steps=20),
)


class Robust(Part):
    """What `sightline robust` does to a trained run. Questions are those of `evaluate.data`, drawn by the seed."""

    questions: Positive | None = 200  # None: all
    batch: Positive = 32  # pictures attacked together
    attacks: tuple[Attack, ...] = STANDARD
    transfer: str | None = None  # another run, whose attacked pictures are tried; None: this run's first checkpoint
    corruptions: Literal["all"] | tuple[Corruption, ...] = "all"
    severities: tuple[Severity, ...] = (1, 2, 3, 4, 5)
    words: tuple[Words, ...] = ("typos", "case", "paraphrase")
    contradiction: tuple[Contradiction, ...] = ("asserted", "printed")
    pictures: Annotated[int, Field(ge=0)] = 6  # attacked ones, shown in the report

    @model_validator(mode="after")
    def _once(self) -> Robust:
        names = [attack.name for attack in self.attacks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"'attacks' names {twice[0]} twice: give its bounds in one list")
        return self


class Adversarial(Part):
    """Training on attacked pictures; the attack is made anew in each step, against the model as it is then.

    `pgd`: the loss of attacked pictures (Madry et al. 2018). `trades`: the loss of clean ones, plus `beta` times how
    far the answer's distribution moves when they are attacked (Zhang et al. 2019).
    """

    kind: Literal["pgd", "trades"] = "pgd"
    norm: Literal["linf", "l2"] = "linf"
    epsilon: Level
    steps: Positive = 7
    step_size: Level | None = None  # None: 2.5 x epsilon / steps
    beta: Above0 = 6.0  # trades alone
    share: Annotated[Fraction, Field(gt=0)] = 1.0  # of the sequences; the others are learned from as they are

    @model_validator(mode="after")
    def _read(self) -> Adversarial:
        if self.kind != "trades" and "beta" in self.model_fields_set and self.beta != 6.0:
            raise ValueError("'beta' is read by kind trades, not by pgd")
        return self
