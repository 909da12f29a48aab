"""A convolutional vision tower: every cell of the last feature map is a token, as every patch of a ViT is.

A ViT learns from pictures what a convolution knows from the start, that a shape is the same wherever it stands; so a
small tower that is trained from nothing on a few thousand pictures is better a convolutional one (Dosovitskiy et al.
2021, section 4.3). It needs `image_size` in its configuration, which a network without position embeddings lacks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from sightline.errors import UserError
from sightline.models.vision import WHERE, VisionTower, family

CONVOLUTIONAL = ("resnet",)
STEM_STRIDE = 4  # a strided convolution and a strided pooling before the first stage (He et al. 2016, table 1)


class ConvTower(VisionTower):
    """Images to features: `forward((N, 3, H, W)) -> (N, P, D)`, the last feature map row by row."""

    def __init__(self, model: PreTrainedModel, *, layer: int = -1) -> None:
        nn.Module.__init__(self)
        if layer != -1:
            raise UserError(
                f"a {model.config.model_type} has no hidden state {layer}", where=f"{WHERE}.layer", fix="set it to -1"
            )
        self.config, self.origin = model.config, model.config.to_dict()
        self.kind, self.normed = family(model.config), False
        self.width = int(model.config.hidden_sizes[-1])
        # Channels last is the layout that CPU and tensor-core convolutions work in; anything else is converted to it.
        self.model = model.to(memory_format=torch.channels_last)

    @property
    def count(self) -> int:
        return (self.image_size // stride(self.config)) ** 2

    @property
    def blocks(self) -> nn.ModuleList:
        """The residual blocks, first to last."""
        return nn.ModuleList(layer for stage in self.model.encoder.stages for layer in stage.layers)

    def forward(self, pixel_values: Tensor) -> Tensor:
        pixels = pixel_values.to(self.model.dtype, memory_format=torch.channels_last)
        return self.model(pixel_values=pixels).last_hidden_state.flatten(2).transpose(1, 2)


def stride(config: PretrainedConfig) -> int:
    """Pixels of the image that one cell of the last feature map stands for, in each direction."""
    halved = len(config.depths) - (0 if config.downsample_in_first_stage else 1)
    return STEM_STRIDE * 2**halved


def with_image_size(config: PretrainedConfig, size: int | None) -> PretrainedConfig:
    """`config` with the side of its images.

    Raises:
        UserError: nobody says it, or the feature map's cells do not cover the image evenly.
    """
    size = size or getattr(config, "image_size", None)
    if size is None:
        fix = f"set {WHERE}.image_size, e.g. 224"
        raise UserError(f"a {config.model_type} does not say how large its images are", where=WHERE, fix=fix)
    if size % stride(config):
        fix = f"set {WHERE}.image_size to a multiple of {stride(config)}"
        what = f"an image of {size} pixels is no whole number of {stride(config)}-pixel cells"
        raise UserError(what, where=WHERE, fix=fix)
    config.image_size = size
    return config
