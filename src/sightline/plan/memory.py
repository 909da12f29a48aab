"""State memory of a stage: the bytes of weights, gradients and optimizer, by tower. Arithmetic on parameter shapes.

Weights are held as the model holds them (fp32, also where the forward pass runs in bf16 or fp16 autocast; bf16 where
the recipe says so); activations and autocast's passing copies are no state and are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from torch import Tensor

from sightline.models.vlm import VLM
from sightline.recipe.schema import Tower

STEP_BYTES = 4  # torch's AdamW counts the steps of each parameter in a 0-dim float32


@dataclass(frozen=True, slots=True)
class Adam:
    """What AdamW takes of each weight, in bytes: `state` stays, `moved` is read and written in a step.

    `passing`: of the largest weight, what a step makes of it and gives back. Averages are fp32 in any case. Held
    against real steps by `tests/plan/test_bf16_weights.py`.
    """

    state: int = 8
    moved: int = 28  # gradient, weight and two averages read, the last three written: one kernel, all fp32
    passing: int = 0


FUSED = Adam()
ROUNDED = {  # bf16 weights, moved by one fp32 operation after the other (`train/rounding.py`)
    "nearest": Adam(moved=104, passing=12),
    "stochastic": Adam(moved=170, passing=27),
    "kahan": Adam(state=10, moved=140, passing=20),
}


@dataclass(frozen=True, slots=True)
class StateBytes:
    """Bytes that stay on the device (the host counts AdamW's step tensors too) for the whole stage.

    Attributes:
        weights: all parameters, learning or not.
        buffers: the modules' other tensors.
        gradients: of the parameters that learn, in their own dtype.
        optimizer: AdamW's two moments and step count of each parameter that learns, and what Kahan's sums keep.
        masters: fp32 copies of 16-bit parameters that learn, where the optimizer steps on copies.
        average: the exponential moving average of the parameters that learn.
    """

    weights: int = 0
    buffers: int = 0
    gradients: int = 0
    optimizer: int = 0
    masters: int = 0
    average: int = 0

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return sum(asdict(self).values())

    def __add__(self, other: StateBytes) -> StateBytes:
        mine, theirs = asdict(self), asdict(other)
        return StateBytes(**{kind: mine[kind] + theirs[kind] for kind in mine})


def adam_of(rounding: str, weights: str) -> Adam:
    """How the trainer moves weights of that format, where a recipe says so of rounding."""
    return FUSED if weights == "fp32" else ROUNDED[rounding]


def state_bytes(model: VLM, *, masters: bool = False, ema: bool = False, adam: Adam = FUSED) -> dict[Tower, StateBytes]:
    """State bytes of each tower of `model` on one device, trained by AdamW.

    Reads shapes, dtypes and `requires_grad` alone, so a model on the meta device does, frozen by the stage's plan.

    Args:
        masters: whether 16-bit parameters that learn have fp32 copies, which then carry the moments too (Micikevicius
            et al. 2018, section 3.1).
        ema: whether the stage keeps a moving average of what learns.
        adam: how it is moved.
    """
    planned = {}
    for tower in model.towers:
        buffers = (buffer for _, module in model.tower_modules(tower) for buffer in module.buffers())
        parameters = (parameter for _, parameter in model.tower_parameters(tower))
        planned[tower] = tensor_bytes(parameters, buffers, masters=masters, ema=ema, adam=adam)
    return planned


def tensor_bytes(
    parameters: Iterable[Tensor],
    buffers: Iterable[Tensor],
    *,
    masters: bool = False,
    ema: bool = False,
    adam: Adam = FUSED,
) -> StateBytes:
    """State bytes of `parameters` and `buffers`; a tensor that comes twice is counted once."""
    every = distinct(parameters)
    learning = [parameter for parameter in every if parameter.requires_grad]
    copied = [4 * parameter.numel() for parameter in learning if masters and parameter.element_size() < 4]
    return StateBytes(
        weights=sum(map(size_of, every)),
        buffers=sum(map(size_of, distinct(buffers))),
        gradients=sum(map(size_of, learning)),
        optimizer=sum(adam.state * parameter.numel() + STEP_BYTES for parameter in learning),
        masters=sum(copied),
        average=sum(map(size_of, learning)) if ema else 0,
    )


def human(count: int) -> str:
    """`count` bytes in the largest binary unit that leaves at least 1: 512 B, 3.4 MiB, 12.6 GiB."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def size_of(tensor: Tensor) -> int:
    """Bytes of its elements."""
    return tensor.numel() * tensor.element_size()


def distinct(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Each of them once."""
    return list({id(tensor): tensor for tensor in tensors}.values())
