"""The vision tower of a composed VLM: a `transformers` vision model cut at the hidden state that feeds the connector.

Blocks, norms and pooling heads that come after that hidden state are left out, so that no parameter of the tower is
without a gradient (DistributedDataParallel waits for every one), none is counted that never acts, and no time is spent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from sightline.errors import UserError, nearest

WHERE = "model.compose.vision"
FINAL_NORMS = ("post_layernorm", "layernorm", "norm")
POOLERS = ("head", "pooler")
Channels = tuple[float, float, float]
HALF: Channels = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True)
class Family:
    """What has to be known of a kind of vision model.

    `normed`: its `last_hidden_state` has passed the final norm (CLIP norms only the pooled token). `mean` and `std` are
    those its image processor uses by default.
    """

    class_token: bool
    normed: bool
    mean: Channels = HALF
    std: Channels = HALF


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

FAMILIES = {
    "clip_vision_model": Family(class_token=True, normed=False, mean=CLIP_MEAN, std=CLIP_STD),
    "siglip_vision_model": Family(class_token=False, normed=True),
    "siglip2_vision_model": Family(class_token=False, normed=True),
    "dinov2": Family(class_token=True, normed=True, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "dinov2_with_registers": Family(class_token=True, normed=True, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "vit": Family(class_token=True, normed=True),
    "resnet": Family(class_token=False, normed=False, mean=IMAGENET_MEAN, std=IMAGENET_STD),
}


def family(config: PretrainedConfig) -> Family:
    """The family of a vision model. Raises UserError for one that Sightline has not been taught."""
    if config.model_type not in FAMILIES:
        raise UserError(
            f"'{config.model_type}' is no vision model that Sightline knows ({nearest(config.model_type, FAMILIES)})",
            where=WHERE,
            fix=f"use one of {', '.join(FAMILIES)}, or a dual encoder (CLIP, SigLIP) that contains one",
        )
    return FAMILIES[config.model_type]


def default_pixels(config: PretrainedConfig) -> tuple[Channels, Channels]:
    """Mean and standard deviation of the family's image processor."""
    kind = family(config)
    return kind.mean, kind.std


def image_size(config: PretrainedConfig) -> int:
    """Side of the square image that the tower takes, in pixels."""
    if config.model_type == "siglip2_vision_model":
        return math.isqrt(config.num_patches) * config.patch_size
    size = config.image_size
    if isinstance(size, (list, tuple)):
        if len(set(size)) != 1:
            raise UserError(f"the vision tower wants images of {size} pixels, which is no square", where=WHERE)
        size = size[0]
    return int(size)


def patch_count(config: PretrainedConfig) -> int:
    """Patches of one image."""
    return (image_size(config) // config.patch_size) ** 2


def special_tokens(config: PretrainedConfig) -> int:
    """Leading tokens that show no patch: the class token and the registers."""
    return int(family(config).class_token) + int(getattr(config, "num_register_tokens", 0))


def blocks_to_keep(depth: int, layer: int) -> int:
    """Blocks that hidden state `layer` has passed, as `transformers` counts (0: the embeddings; -1: the last)."""
    kept = layer if layer >= 0 else depth + 1 + layer
    if not 1 <= kept <= depth:
        raise UserError(
            f"hidden state {layer} does not exist or has passed no block: the vision tower has {depth} blocks",
            where=f"{WHERE}.layer",
            fix=f"set {WHERE}.layer between {-depth} and -1, or between 1 and {depth}",
        )
    return kept


class VisionTower(nn.Module):
    """Images to features: `forward((N, 3, H, W)) -> (N, P, D)`, the hidden state `layer`.

    Layer -1 is the model's own output, after its final norm where it has one. Any other is the hidden state as a block
    left it: layer k after block k, -2 after the last but one (LLaVA's choice). `tokens` "patch" leaves out class and
    register tokens.
    """

    def __init__(self, model: PreTrainedModel, *, layer: int = -1, tokens: str = "patch") -> None:
        super().__init__()
        self.config, self.origin = model.config, model.config.to_dict()  # as it will be cut, and as it was
        self.kind = family(model.config)
        self.naflex = model.config.model_type == "siglip2_vision_model"
        self.skip = special_tokens(model.config) if tokens == "patch" else 0
        self.width = int(model.config.hidden_size)
        self.model = model
        self.normed = self.kind.normed and layer == -1
        self._cut(blocks_to_keep(model.config.num_hidden_layers, layer))

    @property
    def count(self) -> int:
        """P: tokens of one image."""
        return patch_count(self.config) + special_tokens(self.config) - self.skip

    @property
    def image_size(self) -> int:
        """Side of the square images it takes, in pixels."""
        return image_size(self.config)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, first to last."""
        depth = self.config.num_hidden_layers
        found = [m for m in self.model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
        if not found:
            raise UserError(f"no list of {depth} blocks in {type(self.model).__name__}", where=WHERE)
        return found[0]

    def _cut(self, keep: int) -> None:
        """Leave out what comes after `keep` blocks and is not read."""
        del self.blocks[keep:]
        self.config.num_hidden_layers = keep
        for parent, name in list(self._outside_blocks()):
            if name in FINAL_NORMS and not self.normed:
                setattr(parent, name, nn.Identity())
            elif name in POOLERS:
                setattr(parent, name, None)
            elif name == "mask_token":  # masked-image pretraining's: a parameter that no image reaches
                parent.register_parameter(name, None)
        for module in self.model.modules():
            if hasattr(module, "use_head"):
                module.use_head = False
        if hasattr(self.config, "vision_use_head"):
            self.config.vision_use_head = False

    def _outside_blocks(self) -> Iterator[tuple[nn.Module, str]]:
        """(parent, name) of every module and bare parameter that is not inside a block."""
        inside = {id(module) for module in self.blocks.modules()}
        for parent in [m for m in self.model.modules() if id(m) not in inside]:
            for name, child in parent.named_children():
                if id(child) not in inside:
                    yield parent, name
            for name, _ in parent.named_parameters(recurse=False):
                yield parent, name

    def forward(self, pixel_values: Tensor) -> Tensor:
        pixel_values = pixel_values.to(self.model.dtype)
        inputs = self._patchify(pixel_values) if self.naflex else {"pixel_values": pixel_values}
        hidden = self.model(**inputs).last_hidden_state
        return hidden[:, self.skip :] if self.skip else hidden

    def _patchify(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """SigLIP 2 NaFlex takes flattened patches (row by row, pixels before channels) and the grid's shape."""
        images, channels, height, width = pixel_values.shape
        side = self.config.patch_size
        rows, columns = height // side, width // side
        cut = pixel_values.reshape(images, channels, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
        patches = cut.reshape(images, rows * columns, side * side * channels)
        shapes = torch.tensor([[rows, columns]] * images, device=pixel_values.device)
        seen = torch.ones(images, rows * columns, dtype=torch.bool, device=pixel_values.device)
        return {"pixel_values": patches, "pixel_attention_mask": seen, "spatial_shapes": shapes}
