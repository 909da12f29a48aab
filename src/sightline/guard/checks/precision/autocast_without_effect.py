"""P7 · Autocast is on, and the model's matrix products run in float32 all the same.

Symptom: none in the loss. The run is as slow and as large as in float32, or does not fit; a result that is reported for
bfloat16 was made in float32, and cannot be repeated where autocast works.
Root cause: the model's forward pass turns autocast off, or casts its inputs, in a region that has grown over all of it;
a rewritten graph or a custom kernel does not ask for autocast; autocast is on for another device type than the model's;
the block holds the loss, and the model is called before it; or accelerate (HF Trainer) put it around `model.forward`,
and the loop calls another method of the model, such as `model.encode(batch)`.
Fix: narrow `torch.autocast(..., enabled=False)` to what needs float32 (norms, softmax, the loss); give autocast the
device type of the model; call the model inside the block, and by `model(...)`; decorate custom functions with
`torch.amp.custom_fwd`.
Stays silent when: some matrix products, however few, run in 16 bits; nothing of the loss was made under autocast (a
frozen encoder's features are), and none is around the model's forward; the format asked for is float32; the graph shows
no matrix products (custom kernels alone).
Sources:
- https://github.com/Lightning-AI/lightning-thunder/issues/725 (2024-07-08): a rewritten graph that autocast did not
  reach any more (Lightning-Thunder-725 of the TrainCheck paper)
- https://docs.pytorch.org/docs/stable/amp.html (2026-11-01): linear maps, convolutions and matrix products run in the
  lower format under autocast, and a region with enabled=False does not
- https://github.com/Lightning-AI/lightning-thunder/issues/709 (2024-07-04): autocast for one device type leaves another
  alone
"""

from __future__ import annotations

from sightline.guard.check import Finding, Verdict
from sightline.guard.evidence import AutocastSeen
from sightline.guard.specimen import Run

DOMAINS = ("any",)
MOST = 0.9  # of the products and of the elements they make: a router, a head or a loss in float32 is well below
FEWEST = 2  # products: one alone may be the one that its author wants in float32


def find(casts: AutocastSeen) -> Verdict:
    """Did nearly all matrix products of a forward pass under autocast make float32?"""
    products, elements = sum(casts.products.values()), sum(casts.elements.values())
    full = casts.products.get("float32", 0)
    if products < FEWEST or full < MOST * products or casts.elements.get("float32", 0) < MOST * elements:
        return None
    if casts.beside is not None:
        return _passed_by(casts, full)
    other = casts.asked_on != casts.device
    fix = f"give autocast the model's device type: '{casts.device}'" if other else "let autocast reach the whole model:"
    return Finding(
        severity="warning",
        message=f"autocast to {casts.dtype} is on, but {full} of {products} matrix products ran in float32",
        fix=fix if other else f"{fix} keep enabled=False (and casts to float32) to norms, softmax and the loss",
        seen={"products": dict(casts.products), "autocast for": casts.asked_on, "model on": casts.device},
    )


def _passed_by(casts: AutocastSeen, full: int) -> Finding:
    return Finding(
        severity="warning",
        message=f"autocast to {casts.dtype} is around {casts.beside}: all {full} matrix products ran in float32",
        fix="call the model itself, by model(...), inside the autocast block",
        seen={"products": dict(casts.products), "model on": casts.device},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """A model that works under autocast, or turns it off for all of itself."""
    import torch
    from torch import nn

    class Net(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", enabled=on, dtype=torch.bfloat16):
                y: torch.Tensor = super().forward(x)
            return y

    on = True
    if faulty:
        on = False
    model = Net(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.attach(model, optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(torch.randn(8, 4)).float().square().mean()
        loss.backward()
        optimizer.step()
