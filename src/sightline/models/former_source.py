"""A Q-Former's start from one that has been trained: the second stage of BLIP-2 goes on with the first one's.

The map to the language tower starts fresh where that tower is of another width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from sightline.errors import UserError
from sightline.models.connectors.q_former import WHERE, QFormer
from sightline.models.export import PAIRS, WEIGHTS

PREFIX, OUTWARD = "connector.", "to_language."


def is_former(source: str) -> bool:
    """Whether `source` is a model that Sightline wrote with a Q-Former in it: the folder `model` of a run."""
    return (Path(source) / PAIRS).is_dir() and (Path(source) / WEIGHTS).is_file()


@torch.no_grad()
def start_from_former(former: QFormer, source: str) -> None:
    """Load the Q-Former of the model in folder `source`. Raises UserError where it is of another size."""
    own, loaded = dict(former.named_parameters()), set()
    with safe_open(Path(source) / WEIGHTS, framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118  (a safetensors file, not a dict)
            ours = name.removeprefix(PREFIX)
            if ours == name:
                continue
            shape = tuple(weights.get_slice(name).get_shape())
            if ours in own and tuple(own[ours].shape) == shape:
                own[ours].copy_(weights.get_tensor(name))
            elif not ours.startswith(OUTWARD):
                raise UserError(
                    f"its {name} {shape} does not fit this recipe's Q-Former",
                    where=f"{WHERE}.source: {source}",
                    fix=f"give the vision tower and {WHERE}.{{queries, embed, config}} that it was trained with",
                )
            loaded.add(ours)
    if missing := sorted(set(own) - loaded):
        raise UserError(f"it has no {missing[0]}", where=f"{WHERE}.source: {source}", fix="give a model that it is in")
