"""Which layout a recipe asks for. An engine's file is imported when it is chosen."""

from __future__ import annotations

import os

from sightline.errors import UserError
from sightline.recipe.parallel import Sizes
from sightline.recipe.schema import Parallel
from sightline.train.parallel.layout import Layout
from sightline.train.parallel.ranks import Ranks


def layout_of(settings: Parallel, everyone: Ranks) -> Layout:
    """The layout `settings` over all processes of the run; one process alone needs none.

    Raises:
        UserError: sizes that do not multiply to the number of processes, an engine that is not installed.
    """
    if everyone.world == 1:
        settings.sizes(1, 1)
        if settings.offload != "none":
            what = "offload is done by DeepSpeed's engine, which is run by several processes, and this is one"
            raise UserError(what, where="parallel.offload", fix="leave it out, or start several processes")
        return Layout(Parallel(), everyone)
    sizes = settings.sizes(everyone.world, int(os.environ.get("LOCAL_WORLD_SIZE", everyone.world)))
    if settings.pipeline > 1:
        from sightline.train.parallel.pipeline import Pipeline

        return Pipeline(settings, everyone, sizes)
    if settings.tensor > 1:
        from sightline.train.parallel.grid import Grid

        return Grid(settings, everyone, sizes)
    if settings.kind in ("fsdp", "hybrid"):
        from sightline.train.parallel.fsdp import Fsdp

        return Fsdp(settings, everyone, sizes)
    if settings.kind.startswith("zero"):
        return _zero(settings, everyone, sizes)
    return Layout(settings, everyone)


def _zero(settings: Parallel, everyone: Ranks, sizes: Sizes) -> Layout:
    try:
        from sightline.train.parallel.deepspeed import Zero
    except ImportError as error:
        what = f"{settings.kind} is run by the package 'deepspeed', which is not installed or does not load ({error})"
        fix = "pip install 'sightline[deepspeed]', or set parallel: fsdp, which shares out as zero3 does"
        raise UserError(what, where="parallel", fix=fix) from error
    return Zero(settings, everyone, sizes)
