"""Attention and MLP of a tower's blocks cut over tensor ranks by torch's DTensor (Shoeybi et al. 2019, section 3).

A matrix that widens is cut by columns and the one behind it by rows, so each rank works on its own attention heads and
its own part of the MLP, and one sum over ranks follows each pair. Which matrix is which, `transformers` says of most
language models (`base_model_tp_plan` of their configurations); for the others it is told here. Norms, embeddings, the
output matrix and the connector stay whole on every rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from sightline.errors import UserError
from sightline.models.vlm import VLM
from sightline.recipe.schema import Tower

COLUMNS, ROWS, SUMMED = "colwise", "rowwise", "replicated_with_grad_allreduce"  # as `transformers` calls them
GATHERED, SPLIT = "colwise_gather_output", "rowwise_split_input"  # what is between them is done by every rank alike
WORDS = {COLUMNS, ROWS, SUMMED, GATHERED, SPLIT}
OLD_WORDS = {"colwise_rep": GATHERED, "rowwise_rep": SPLIT}

# Pairs of matrices, the first ones cut by columns and the last by rows, in blocks whose configuration tells nothing.
ATTENTION = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),  # CLIP, SigLIP, OPT
    ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),  # ViT, DINOv2
    ("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense"),
)
MLP = (
    ("mlp.fc1", "mlp.fc2"),
    ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    ("fc1", "fc2"),  # OPT
    ("intermediate.dense", "output.dense"),
)
# Towers whose attention and MLP read what comes in through their matrices alone, as tests have seen.
PLAIN = {"clip_vision_model", "siglip_vision_model", "siglip2_vision_model", "dinov2", "dinov2_with_registers", "vit"}
PLAIN |= {"llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "phi", "opt"}


@dataclass(frozen=True, slots=True)
class Cut:
    """How the blocks of a tower are cut: words by the names of modules within a block.

    `plain`: what comes into an attention or an MLP is read by its matrices alone.
    """

    tower: Tower
    blocks: list[nn.Module]
    words: Mapping[str, str]
    plain: bool = False


def cuts(model: VLM, ranks: int) -> list[Cut]:
    """How `model` is cut over `ranks` tensor ranks. A vision tower without attention stays whole, as do empty blocks.

    Raises:
        UserError: blocks of an unknown build; heads or widths that `ranks` does not divide.
    """
    found = []
    for tower in ("vision", "language"):
        config: Any = getattr(getattr(model, tower), "config", None)
        blocks = [block for block in model.blocks(tower) if any(True for _ in block.parameters())]
        if not blocks or not hasattr(config, "num_attention_heads"):
            continue
        words = _words(tower, blocks, config)
        _divide(tower, blocks[0], words, config, ranks)
        found.append(Cut(tower, blocks, words, config.model_type in PLAIN))
    return found


def split(model: VLM, mesh: DeviceMesh, device: torch.device) -> list[nn.Module]:
    """Cut the blocks of `model` over the ranks of `mesh`, in place, block by block on `device`.

    Returns the modules that every rank has whole and uses on its own heads alone: the gradients of their parameters are
    sums over ranks of what each finds.
    """
    summed: list[nn.Module] = []
    for cut in cuts(model, mesh.size()):
        for block in cut.blocks:
            block.to(device)
            for name, word in cut.words.items():
                if word == SUMMED:
                    summed.append(block.get_submodule(name))
                else:
                    _cut(block.get_submodule(name), word, mesh)
            if cut.plain:
                _read_once(block, cut.words, mesh)
            parts: list[Any] = list(block.modules())
            for module in parts:
                if hasattr(module, "q_proj") and hasattr(module, "num_heads"):  # OPT shapes its heads by their number
                    module.num_heads //= mesh.size()
    return summed


def _cut(module: Any, word: str, mesh: DeviceMesh) -> None:
    """Cut a linear map, or one with adapters: the small matrix on the uncut side of an adapter stays whole."""
    adapters: list[Any] = []
    if hasattr(module, "base_layer"):
        side = module.lora_B if word in (COLUMNS, GATHERED) else module.lora_A
        adapters, module = list(side.values()), module.base_layer
    for linear in [module, *adapters]:
        parallelize_module(linear, mesh, _style(word), src_data_rank=None)
        for name, parameter in list(linear.named_parameters(recurse=False)):
            # What was cut is a view of the whole matrix, which would stay in memory.
            own = DTensor.from_local(parameter.to_local().clone(), mesh, parameter.placements, run_check=False)
            linear.register_parameter(name, nn.Parameter(own, parameter.requires_grad))


def _read_once(block: nn.Module, words: Mapping[str, str], mesh: DeviceMesh) -> None:
    """Where several matrices read the same input, let its gradients be summed over ranks once and not for each."""
    readers = Counter(name.rpartition(".")[0] for name, word in words.items() if word == COLUMNS)

    def spread(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if "hidden_states" in named:
            return inputs, named | {"hidden_states": whole(named["hidden_states"])}
        return (whole(inputs[0]), *inputs[1:]), named

    def whole(tensor: Tensor) -> Tensor:
        return DTensor.from_local(tensor, mesh, (Replicate(),), run_check=False)

    for parent, count in readers.items():
        # The adapters' small matrices are ordinary ones, which take no input that lies on ranks.
        adapted = any(hasattr(module, "base_layer") for module in block.get_submodule(parent).modules())
        if parent and count > 1 and not adapted:
            block.get_submodule(parent).register_forward_pre_hook(spread, with_kwargs=True)


def _style(word: str) -> ParallelStyle:
    if word in (COLUMNS, GATHERED):
        return ColwiseParallel(output_layouts=Replicate() if word == GATHERED else None)
    return RowwiseParallel(input_layouts=Replicate() if word == SPLIT else None)


def _words(tower: Tower, blocks: list[nn.Module], config: Any) -> dict[str, str]:
    """The words of a block's modules: from the configuration where it tells them."""
    table = getattr(config, "base_model_tp_plan", None) or {}
    words = {name.split(".*.", 1)[1]: OLD_WORDS.get(word, word) for name, word in table.items() if ".*." in name}
    here = {name for name, _ in blocks[0].named_modules()}
    words = {name: word for name, word in words.items() if name in here}
    if not words:
        for forms in (ATTENTION, MLP):
            form = next((form for form in forms if here.issuperset(form)), None)
            if form is None:
                raise _unknown(tower, config, "is not built of matrices that can be told apart")
            words |= dict.fromkeys(form[:-1], COLUMNS) | {form[-1]: ROWS}
    if strange := set(words.values()) - WORDS:
        raise _unknown(tower, config, f"wants {', '.join(sorted(strange))}")
    for name, module in blocks[0].named_modules():
        word = words.get(name)
        linear = getattr(module, "base_layer", module)
        if word in WORDS - {SUMMED} and not isinstance(linear, nn.Linear):
            raise _unknown(tower, config, f"has a {type(linear).__name__} for '{name}'")
    return words


def _unknown(tower: Tower, config: Any, why: str) -> UserError:
    what = f"the {tower} tower, a {config.model_type}, cannot be cut over tensor ranks: a block {why}"
    return UserError(what, where="parallel.tensor", fix="set tensor to 1, and kind to fsdp to share out its weights")


def _divide(tower: Tower, block: nn.Module, words: Mapping[str, str], config: Any, ranks: int) -> None:
    """Raise UserError where `ranks` does not divide the heads or the widths of a block."""
    heads = [config.num_attention_heads, getattr(config, "num_key_value_heads", None) or config.num_attention_heads]
    by_head = any(word == COLUMNS and "attention" in name.replace("attn", "attention") for name, word in words.items())
    names = ("attention heads", "key and value heads")
    sizes = dict(zip(names, heads, strict=True)) if by_head else {}
    for name, linear in _linears(block, words):
        if words[name] in (COLUMNS, GATHERED):
            sizes[f"outputs of '{name}'"] = linear.out_features
        else:
            sizes[f"inputs of '{name}'"] = linear.in_features
    for what, size in sizes.items():
        if size % ranks:
            common = [n for n in range(1, max(sizes.values()) + 1) if not any(each % n for each in sizes.values())]
            raise UserError(
                f"the {tower} tower has {size} {what}, which {ranks} tensor ranks do not divide",
                where="parallel.tensor",
                fix=f"set tensor to {' or '.join(map(str, common))}, which divide the tower's heads and widths",
            )


def _linears(block: nn.Module, words: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    for name, word in words.items():
        if word != SUMMED:
            module = block.get_submodule(name)
            yield name, getattr(module, "base_layer", module)
