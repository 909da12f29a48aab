"""Which module is which tower: as the host says, else inferred from what the modules are.

A VLM is known by what its parts do, and names are a hint only where that leaves a choice: a part that cuts images into
patches (a convolution of at least 2-D, or it was seen to be given pictures; no token embedding) is `vision`; the part
that embeds token ids is `language`; what is named as a connector, or is neither, sits between them. A model without a
vision part is one tower, `model`.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from sightline.errors import UserError, nearest

CONNECTOR_NAMES = ("project", "connect", "adapter", "resampler", "aligner", "merger", "bridge", "qformer", "mlp")
LANGUAGE_HEADS = ("lm_head", "language_model", "embed_tokens", "text_model")


@dataclass(frozen=True, slots=True)
class Towers:
    """Tower name -> its outermost modules by dotted name; parameter name -> tower. `told`: by the host."""

    modules: Mapping[str, Mapping[str, nn.Module]]
    of: Mapping[str, str]
    told: bool = False

    def lively(self, tower: str) -> tuple[str, ...]:
        """Modules of a tower that are in train mode and behave differently in it."""
        return tuple(
            f"{prefix}.{name}".strip(".")
            for prefix, module in self.modules[tower].items()
            for name, part in module.named_modules()
            if part.training and changes_with_mode(part)
        )

    def readers(self, tower: str) -> tuple[str, ...]:
        """Modules of a tower that embed tokens and have matrices beside, where others of its modules embed none.

        Of a model that is one tower: those side by side in it that go over images, or embed tokens, if several do.
        """
        own = self.modules[tower]
        if tower == "model" and not self.told:
            sides = [path for path, child in _sides(own[""], "") if sees(child) or (reads(child) and _computes(child))]
            return tuple(sides) if len(sides) > 1 else ()
        found = [name for name, module in own.items() if reads(module)]
        return tuple(name for name in found if _computes(own[name])) if len(found) < len(own) else ()

    def drifting(self, tower: str) -> tuple[str, ...]:
        """Batch norms in train mode of a frozen body that cuts a tower's pictures, where the rest of it learns."""
        return tuple(
            f"{prefix}.{path}.{name}".strip(".")
            for prefix, module in self.modules[tower].items()
            for path, body in _resting(module)
            for name, part in body.named_modules()
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training and changes_with_mode(part)
        )


def resolve(model: nn.Module, given: Mapping[str, Sequence[str]] | None, seeing: Collection[str] = ()) -> Towers:
    """The towers of `model`. `given`: tower -> dotted names of its modules; None infers them.

    `seeing`: modules that are known to be given pictures (see `attach/sighted.py`).

    A parameter belongs to the tower with the longest name that contains it; what no tower claims is `other`.
    Raises UserError for a name that is no module of the model.
    """
    named = dict(model.named_modules())
    prefixes = {prefix: tower for tower, names in (given or _infer(model, seeing)).items() for prefix in names}
    for prefix in prefixes:
        if prefix not in named:
            hint = nearest(prefix, [name for name in named if name.count(".") <= prefix.count(".")])
            raise UserError(f"the model has no module '{prefix}'", where="towers", fix=hint)
    return replace(_towers(model, prefixes), told=given is not None)


def renewed(model: nn.Module, towers: Towers) -> Towers:
    """The same towers of a model that has got other parameters, or other modules of the same names."""
    now = dict(model.named_modules())
    known = {prefix: name for name, parts in towers.modules.items() for prefix in parts if prefix in now}
    return replace(_towers(model, known), told=towers.told)


def _towers(model: nn.Module, prefixes: Mapping[str, str]) -> Towers:
    named = dict(model.named_modules())
    of = {name: _owner(name, prefixes) for name, _ in model.named_parameters()}
    modules: dict[str, dict[str, nn.Module]] = {}
    for prefix, tower in prefixes.items():
        modules.setdefault(tower, {})[prefix] = named[prefix]
    if "other" in of.values():
        modules.setdefault("other", {})
    return Towers(modules, of)


def _owner(name: str, prefixes: Mapping[str, str]) -> str:
    owners = [p for p in prefixes if not p or name == p or name.startswith(p + ".")]
    return prefixes[max(owners, key=len)] if owners else "other"


def _infer(model: nn.Module, seeing: Collection[str]) -> dict[str, list[str]]:
    """Walk down from the root until the parts that see and the part that reads are different modules."""
    found: dict[str, list[str]] = {"vision": [], "connector": [], "language": []}
    _sort(model, "", found, seeing)
    if not found["vision"] or not found["language"]:
        return {"model": [""]}
    return {tower: names for tower, names in found.items() if names}


def _sort(module: nn.Module, prefix: str, found: dict[str, list[str]], seeing: Collection[str]) -> None:
    for name, child in module.named_children():
        path = f"{prefix}.{name}".strip(".")
        looks, text = sees(child) or any(f"{name}.".startswith(f"{path}.") for name in seeing), reads(child)
        if any(word in name.lower() for word in CONNECTOR_NAMES):
            found["connector"].append(path)
        elif looks and text and any(True for _ in child.children()):
            _sort(child, path, found, seeing)
        elif looks:
            found["vision"].append(path)
            found["connector"] += _inside(child, path)
        elif text or any(word in name.lower() for word in LANGUAGE_HEADS) or _repeats(child):
            found["language"].append(path)
        elif any(True for _ in child.parameters()):
            found["language" if found["language"] else "connector"].append(path)  # a head comes after its body


def _inside(vision: nn.Module, prefix: str) -> list[str]:
    """Connectors that a vision tower keeps inside itself (Qwen-VL's merger)."""
    return [f"{prefix}.{n}" for n, _ in vision.named_children() if any(word in n.lower() for word in CONNECTOR_NAMES)]


def sees(module: nn.Module) -> bool:
    """Cuts images into patches, or goes over them: holds a convolution of at least 2-D."""
    return any(isinstance(part, nn.Conv2d | nn.Conv3d) for part in module.modules())


def reads(module: nn.Module) -> bool:
    """Embeds tokens: holds an embedding that is not of positions (named so) and not inside what sees."""
    return any(
        isinstance(part, nn.Embedding) and "position" not in name.lower() and not name.lower().endswith("pos")
        for name, part in module.named_modules()
    )


def _sides(module: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """The children with parameters of the outermost module that has several of them."""
    found = [(f"{prefix}.{n}".strip("."), c) for n, c in module.named_children() if any(True for _ in c.parameters())]
    return _sides(found[0][1], found[0][0]) if len(found) == 1 else found


def _computes(module: nn.Module) -> bool:
    """Whether it holds a matrix that is no table."""
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    return any(p.dim() > 1 and id(p) not in tables for p in module.parameters())


def _resting(tower: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The one part of a tower that sees, by its name, if that is frozen and other parts learn."""
    path, body = "", tower
    while any(p.requires_grad for p in body.parameters()):
        seeing = [(name, child) for name, child in body.named_children() if sees(child)]
        if len(seeing) != 1 or sum(isinstance(child, nn.Conv2d | nn.Conv3d) for child in body.children()):
            return
        path, body = f"{path}.{seeing[0][0]}".strip("."), seeing[0][1]
    if path and any(True for _ in body.parameters()):
        yield path, body


def _repeats(module: nn.Module) -> bool:
    """A stack of like layers without a patch convolution: a transformer body."""
    return isinstance(module, nn.ModuleList) and len(module) > 1


def changes_with_mode(part: nn.Module) -> bool:
    """Whether a module gives something else in train mode than in evaluation mode."""
    if isinstance(part, nn.modules.batchnorm._BatchNorm):
        return part.running_mean is not None  # without running statistics it is the same in both modes
    if isinstance(part, nn.MultiheadAttention):
        return part.dropout > 0
    if isinstance(part, nn.RNNBase):
        return part.dropout > 0 and part.num_layers > 1
    return isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0


def asking(model: nn.Module) -> dict[str, nn.Module]:
    """Modules in train mode of classes that are not torch's, whose forward reads the mode. By name."""
    return {name: part for name, part in model.named_modules() if part.training and _asks(type(part))}


def _asks(kind: type[nn.Module]) -> bool:
    code = getattr(inspect.unwrap(kind.forward), "__code__", None)
    return code is not None and "training" in code.co_names and not kind.__module__.startswith("torch.")
