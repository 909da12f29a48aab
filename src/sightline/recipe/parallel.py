"""What a recipe says of the ranks: how model, gradients and optimizer state lie on the processes of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import model_validator

from sightline.errors import UserError
from sightline.recipe.part import Above0, Part, Positive

Kind = Literal["ddp", "fsdp", "hybrid", "zero1", "zero2", "zero3", "zero++"]
Offload = Literal["none", "optimizer", "all"]
SPLIT = ("ddp", "fsdp", "hybrid")  # what may run beside tensor and pipeline ranks


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many ranks there are in each direction; neighbours in rank are tensor ranks, then those of one copy."""

    pipeline: int
    replicate: int  # copies of what is shared out
    shard: int  # ranks that share out one copy
    tensor: int

    @property
    def data(self) -> int:
        """Ranks that are fed different rows."""
        return self.replicate * self.shard


class Parallel(Part):
    """How a run spreads over its processes. A word alone is its `kind`; one process ignores all of it."""

    kind: Kind = "ddp"  # what the data-parallel ranks do with weights, gradients and optimizer state
    tensor: Positive = 1  # ranks that share each matrix of a tower
    pipeline: Positive = 1  # ranks that hold one part of the depth each
    data: Positive | None = None  # ranks that are fed different rows; None: what tensor and pipeline leave
    shard: Positive | None = None  # hybrid, zero++: ranks that share out one copy; None: those of one machine
    frozen: Literal["replicate", "shard"] = "replicate"  # fsdp, hybrid: weights that do not learn in a stage
    gather: Literal["fp32", "bf16"] = "fp32"  # fsdp, hybrid: in what weights are sent; gradients add up in fp32
    offload: Offload = "none"  # zero: what waits in the host's memory
    timeout: Above0 = 600.0  # seconds that a rank waits for the others before the run is stopped

    @model_validator(mode="after")
    def _keys_act(self) -> Parallel:
        zero = self.kind.startswith("zero")
        if self.offload != "none" and not zero:
            raise ValueError(f"'offload' is read by the zero kinds alone, and 'kind' is {self.kind}")
        if self.offload == "all" and self.kind not in ("zero3", "zero++"):
            raise ValueError(f"'offload' all moves weights, too, which {self.kind} does not share out: use zero3")
        if self.shard is not None and self.kind not in ("hybrid", "zero++"):
            raise ValueError(f"'shard' is read by hybrid and zero++ alone, and 'kind' is {self.kind}")
        if self.frozen != "replicate" and self.kind not in ("fsdp", "hybrid"):
            raise ValueError(f"'frozen' is read by fsdp and hybrid alone, and 'kind' is {self.kind}")
        if self.gather != "fp32" and self.kind not in ("fsdp", "hybrid"):
            raise ValueError(f"'gather' is read by fsdp and hybrid alone, and 'kind' is {self.kind}")
        if self.tensor * self.pipeline > 1 and self.kind not in SPLIT:
            raise ValueError(f"'tensor' and 'pipeline' go with {', '.join(SPLIT)}, and 'kind' is {self.kind}")
        return self

    def sizes(self, world: int, local: int) -> Sizes:
        """How `world` processes, `local` of them on each machine, are laid out.

        Raises:
            UserError: they do not multiply to `world`.
        """
        apart = self.tensor * self.pipeline
        data = self.data or max(1, world // apart)
        if apart * data != world:
            told = f"tensor {self.tensor} x pipeline {self.pipeline} x data {self.data or 'the rest'}"
            near = apart * max(1, round(world / apart))
            fix = f"start {apart * data} processes" if self.data else f"start a multiple of {apart}, e.g. {near}"
            raise UserError(f"{told} does not make the {world} processes of this run", where="parallel", fix=fix)
        if self.kind in ("ddp", "zero1", "zero2"):
            shard = data if self.kind != "ddp" else 1
        elif self.kind in ("hybrid", "zero++"):
            shard = self.shard or math.gcd(data, max(1, local // self.tensor))
        else:
            shard = data
        if data % shard:
            fix = "set it to a divisor, e.g. the GPUs of one machine"
            raise UserError(f"{data} data ranks are not groups of {shard}", where="parallel.shard", fix=fix)
        return Sizes(self.pipeline, data // shard, shard, self.tensor)
