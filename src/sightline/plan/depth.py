"""Rehearsals of deep models by shallow ones: all blocks of a tower are alike, so what they add is measured once.

A tower of L blocks costs what one of 2 costs and L - 2 times what a third adds. `tests/plan` holds this against whole
models. It is exact for all but `peak`: where gradients grow as activations go, the highest point may lie elsewhere in a
deep model than in a shallow one. Who needs `peak` to the byte rehearses the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from sightline.models.composed import ComposedVLM
from sightline.models.seq2seq import Seq2SeqVLM
from sightline.models.vlm import VLM
from sightline.plan.trace import Rehearsal, rehearse
from sightline.recipe.schema import Tower

LEAST = 2  # blocks: with one, the first is also the last
CUT: tuple[Tower, ...] = ("vision", "language")


def rehearse_by_depth(
    make: Callable[[], VLM],
    forward: Callable[[VLM], Tensor],
    dtype: torch.dtype | None = None,
    *,
    whole: Iterable[Tower] = (),
) -> Rehearsal:
    """What `rehearse` says of the model that `make` gives, from models of few blocks.

    Args:
        make: a new model on the meta device, frozen and in training mode.
        whole: towers whose blocks differ (only some of them learn).
    """
    first = make()  # to make one takes longer than to rehearse it
    depths = {tower: len(first.blocks(tower)) for tower in cuttable(first) if tower not in set(whole)}
    depths = {tower: depth for tower, depth in depths.items() if depth > LEAST + 1}
    least = dict.fromkeys(depths, LEAST)
    base = told = rehearse(_cut(first, least), forward, dtype)
    for tower, depth in depths.items():
        more = rehearse(_cut(make(), least | {tower: LEAST + 1}), forward, dtype)
        told = told.plus(more.plus(base, -1), depth - LEAST)
    return replace(told, peak=max(told.peak, told.bare))


def cuttable(model: VLM) -> tuple[Tower, ...]:
    """Towers of which blocks can be left out without a word to the others."""
    return CUT if type(model) in (ComposedVLM, Seq2SeqVLM) else ()


def _cut(model: VLM, depths: dict[Tower, int]) -> VLM:
    for tower, keep in depths.items():
        blocks = model.blocks(tower)
        for _, top in model.tower_modules(tower):
            for module in top.modules():
                if isinstance(module, nn.ModuleList) and list(module) == blocks:
                    del module[keep:]
            for config in {id(c): c for m in top.modules() if (c := getattr(m, "config", None)) is not None}.values():
                if getattr(config, "num_hidden_layers", None) == len(blocks):
                    config.num_hidden_layers = keep
    return model
