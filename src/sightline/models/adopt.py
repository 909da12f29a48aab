"""Which modules of an existing VLM are its towers: one table, read top to bottom.

A parameter belongs to the longest path that begins its name, so `model.visual.merger` can be connector inside a
`model.visual` that is vision. Module names are those of transformers' `modeling_<type>.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from sightline.errors import UserError
from sightline.recipe.schema import TOWERS, Tower

Paths = Mapping[Tower, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Adopted:
    """What has to be known of a type of VLM.

    Attributes:
        towers: the paths of each tower's modules and bare parameters.
        image_type: the argument that tells image tokens (1) from text (0), where the model wants one.
        prefix_type: the argument that tells the bidirectional prefix (0) from the answer (1), where it wants one.
        causal: every token sees only what is before it, at the positions it is given, so rows can be packed.
    """

    towers: Paths
    image_type: str | None = None
    prefix_type: str | None = None
    causal: bool = False


def _towers(vision: Sequence[str], connector: Sequence[str], language: Sequence[str]) -> Paths:
    return {"vision": vision, "connector": connector, "language": language}


PROJECTOR = ["model.multi_modal_projector"]
LLAVA = _towers(["model.vision_tower"], PROJECTOR, ["model.language_model", "lm_head"])
TILED = _towers(["model.vision_tower"], [*PROJECTOR, "model.image_newline"], ["model.language_model", "lm_head"])
QWEN = _towers(["model.visual"], ["model.visual.merger"], ["model.language_model", "lm_head"])
DEEPSTACK = ["model.visual.merger", "model.visual.deepstack_merger_list"]
IDEFICS = _towers(["model.vision_model"], ["model.connector"], ["model.text_model", "lm_head"])
QFORMER = ["query_tokens", "qformer", "language_projection"]

TYPES: dict[str, Adopted] = {
    "llava": Adopted(LLAVA, causal=True),
    "llava_next": Adopted(TILED),
    "llava_onevision": Adopted(TILED),
    "qwen2_vl": Adopted(QWEN, image_type="mm_token_type_ids"),
    "qwen2_5_vl": Adopted(QWEN, image_type="mm_token_type_ids"),
    "qwen3_vl": Adopted(
        _towers(["model.visual"], DEEPSTACK, ["model.language_model", "lm_head"]), image_type="mm_token_type_ids"
    ),
    "idefics3": Adopted(IDEFICS),
    "smolvlm": Adopted(IDEFICS),
    "internvl": Adopted(LLAVA),
    "paligemma": Adopted(LLAVA, prefix_type="token_type_ids"),
    "gemma3": Adopted(LLAVA, image_type="token_type_ids"),
    "blip-2": Adopted(_towers(["vision_model"], QFORMER, ["language_model"])),
}


def adopted_type(config: PretrainedConfig, towers: Mapping[Tower, list[str]] | None, model: PreTrainedModel) -> Adopted:
    """What is known of `model`'s type, with the recipe's `towers` in place of the table's where given.

    Raises:
        UserError: the type is unknown and the recipe names no towers, or the model is no decoder-only VLM.
    """
    if getattr(config.get_text_config(), "is_encoder_decoder", False):
        raise UserError(
            f"the language tower of this {config.model_type} is an encoder-decoder, which Sightline does not train",
            where="model.adopt.source",
            fix="choose a checkpoint with a decoder-only language model, e.g. the OPT variants of BLIP-2",
        )
    known = TYPES.get(config.model_type)
    if towers:
        return Adopted(towers, *((known.image_type, known.prefix_type) if known else ()))
    if known is None:
        raise UserError(
            f"no towers are known for model type '{config.model_type}' (known: {', '.join(TYPES)}).\n"
            f"  its modules: {', '.join(_upper_modules(model))}",
            where="model.adopt",
            fix="write in the recipe which of them make up each tower, e.g.\n"
            "    adopt:\n      towers:\n        vision: [model.vision_tower]\n"
            "        connector: [model.multi_modal_projector]\n        language: [model.language_model, lm_head]",
        )
    return known


def _upper_modules(model: nn.Module) -> Iterator[str]:
    """The modules of the first level, and of the second below those that only wrap."""
    for name, child in model.named_children():
        inner = [f"{name}.{below}" for below, _ in child.named_children()]
        yield from inner if len(inner) > 1 else [name]


def assign(model: nn.Module, paths: Paths) -> dict[str, Tower]:
    """Parameter name -> tower, for every parameter of `model`.

    Raises:
        UserError: a parameter belongs to no tower, or a path names nothing.
    """
    towers: dict[str, Tower] = {}
    used: set[str] = set()
    for name, _ in model.named_parameters():
        fits = [(len(path), path, tower) for tower in TOWERS for path in paths.get(tower, ()) if _under(name, path)]
        if not fits:
            raise UserError(
                f"parameter '{name}' belongs to no tower",
                where="model.adopt.towers",
                fix="add its module to vision, connector or language there",
            )
        _, path, towers[name] = max(fits)
        used.add(path)
    shared = {name for name, _ in model.named_parameters(remove_duplicate=False)} - set(towers)
    written = [path for tower in TOWERS for path in paths.get(tower, ())]
    idle = [p for p in written if p not in used and not any(_under(name, p) for name in shared)]
    if idle:
        raise UserError(
            f"no parameter is under '{idle[0]}'",
            where="model.adopt.towers",
            fix=f"its modules are {', '.join(_upper_modules(model))}",
        )
    return towers


def _under(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


@dataclass(slots=True)
class TowerMap:
    """The towers of one model: `parameters` by name, and the names of the largest `modules` within one tower."""

    parameters: dict[str, Tower]
    modules: dict[Tower, list[str]]

    @classmethod
    def of(cls, model: nn.Module, paths: Paths) -> TowerMap:
        """The towers of `model`. Raises UserError as `assign` does."""
        made = cls(assign(model, paths), {tower: [] for tower in TOWERS})
        made._collect("", model, paths)
        return made

    def _collect(self, name: str, module: nn.Module, paths: Paths) -> None:
        for child_name, child in module.named_children():
            full = f"{name}.{child_name}" if name else child_name
            inside = {tower for tower in TOWERS for path in paths.get(tower, ()) if path.startswith(f"{full}.")}
            fits = [(len(path), tower) for tower in TOWERS for path in paths.get(tower, ()) if _under(full, path)]
            if fits and inside <= {max(fits)[1]}:
                self.modules[max(fits)[1]].append(full)
            else:
                self._collect(full, child, paths)

    def tower_of(self, parameter: str) -> Tower:
        """The tower of a parameter; an adapter's, which came later, is that of the layer it sits on."""
        if parameter not in self.parameters:
            holders = [
                (len(path), tower) for tower in TOWERS for path in self.modules[tower] if _under(parameter, path)
            ]
            self.parameters[parameter] = max(holders)[1]
        return self.parameters[parameter]
