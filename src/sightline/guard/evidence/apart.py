"""Parts of a sample that went ways of their own before any batch was made of them, in words."""

from __future__ import annotations

from sightline.guard.evidence.extracted import ExtractedSeen
from sightline.guard.evidence.filed import FiledSeen
from sightline.guard.evidence.matches import PairedSeen
from sightline.guard.evidence.pull import AxisSeen
from sightline.guard.evidence.strays import Stray


def apart(paired: PairedSeen | None, filed: FiledSeen | None, kept: ExtractedSeen | None) -> Stray | None:
    """The first of these that the run shows."""
    if paired is not None and paired.parted:
        return _augmented(paired)
    if filed is not None and filed.misfiled:
        remedy = "pair files and labels by name; sort numbered ones by number: key=lambda p: int(p.stem.split('_')[-1])"
        if filed.order in ("shifted", "drawn"):
            remedy = "shuffle, filter and shift inputs and labels with one index (x[i], y[i]), before they are parted"
        return Stray(filed.says, remedy, True, {"with their labels": filed.given, "with the others": filed.other})
    if kept is not None and kept.in_another_order:
        what = f"{kept.conflicts} of {len(kept.taught)} kept features were taught the label of another sample: the"
        what += (
            " labels have the order of the data set, or of another pass, and the features that of the pass they are of"
        )
        remedy = "keep each batch's labels with its features, or make them with shuffle=False"
        return Stray(what, remedy, True, {"features": len(kept.taught)})
    return None


def _augmented(seen: PairedSeen) -> Stray:
    what = f"in {seen.apart} of {seen.moved} readings an image was mirrored or moved, its {seen.kind} otherwise"
    remedy = f"draw each random transform once for image and {seen.kind}: one `flip = random.random() < 0.5` for both"
    if seen.kind == "rows":
        what = f"{seen.apart} of {seen.moved} rows that collate_fn makes hold parts of different samples"
        remedy = "sort or shuffle the samples before they are taken apart, never one of their parts alone"
    return Stray(what, remedy, True, {"looked at": seen.moved, "apart": seen.apart})


def misread(axis: AxisSeen | None) -> Stray | None:
    """Outputs whose numbers a `view` deals to other places, each of which has a label of its own."""
    if axis is None or axis.samples:
        return None
    what = f"the loss reads outputs of shape {axis.made} as {axis.taken}: a softmax along dimension {axis.dim} takes"
    what += " numbers of several places for the classes of one"
    remedy = "move the dimension of the classes, never view it: logits.permute(0, 2, 3, 1).reshape(-1, classes), or"
    remedy += " logits.transpose(1, 2)"
    return Stray(what, remedy, True, {"outputs": list(axis.made), "taken as": list(axis.taken)})
