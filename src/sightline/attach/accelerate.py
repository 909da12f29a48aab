"""The door for loops with Hugging Face's `accelerate`: what `prepare` gave back, as it is.

    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    with sightline.attach.accelerate.attach(accelerator, model, optimizer, loader) as guard:
        for batch in loader:
            with accelerator.accumulate(model):
                ...

The wrappers of `prepare` are looked through, and the accelerator says how many batches make a step. Its loop logs to
trackers; what it logs is shown to the guard by ``guard.log(...)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from sightline.attach.data_set import data_seen
from sightline.attach.torch_loop import Attachment
from sightline.attach.torch_loop import attach as attach_loop
from sightline.errors import UserError

BLIND = {  # evidence, or a check's code -> why a loop with accelerate does not show it
    "L10": "models are fetched before the loop begins; `sightline run` tells what the hub refused",
    "I3": "a prepared loader sets the epoch of its sampler itself",
}


def attach(
    accelerator: Any,
    model: nn.Module,
    optimizer: Any = None,
    dataloader: Iterable[Any] | None = None,
    **options: Any,
) -> Attachment:
    """Watch a loop of `accelerate` until `close()`, or the end of the ``with`` block.

    Args:
        accelerator: the `accelerate.Accelerator` of the loop.
        model, optimizer, dataloader: as `accelerator.prepare` gave them back.
        options: what `sightline.attach` takes besides.

    Raises:
        UserError: `accelerator` is none; or as `sightline.attach`.
    """
    if not callable(getattr(accelerator, "unwrap_model", None)):
        raise UserError(
            f"a {type(accelerator).__name__} is no Accelerator",
            where="sightline.attach.accelerate.attach",
            fix="attach(accelerator, model, optimizer, loader)",
        )
    inner = accelerator.unwrap_model(model, keep_fp32_wrapper=True, keep_torch_compile=True)
    stepped = getattr(optimizer, "optimizer", optimizer)  # the wrapper steps the one inside
    facts = {"accumulation": accelerator.gradient_accumulation_steps, **options}
    guard = attach_loop(inner, stepped, dataloader, **facts)
    seen = data_seen(getattr(dataloader, "dataset", None), tokenizer=options.get("tokenizer"))
    if seen is not None:
        guard.show(seen)
    return guard
