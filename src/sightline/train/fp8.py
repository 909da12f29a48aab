"""fp8 matrix products by torchao: what of a model is multiplied so.

torchao's own advice is followed (docs.pytorch.org/ao, `torchao.float8.convert_to_float8_training`): matrices whose
sides are multiples of 16, which the GPU's units want, and not the last projection to the vocabulary. Scales are chosen
anew for each product. Weights stay as they are, under their names, so that checkpoints and exports know nothing of it.

The project has run it as torchao 0.18 emulates it on a CPU, and on no GPU that has such units.
"""

from __future__ import annotations

from torch import nn

from sightline.errors import UserError
from sightline.models.vlm import VLM

SIDE = 16
LAST = "lm_head"  # as transformers calls it


def multiplied(module: nn.Module, name: str) -> bool:
    """Whether the linear layer `module`, called `name`, is multiplied in fp8."""
    if not isinstance(module, nn.Linear) or name.rpartition(".")[2] == LAST:
        return False
    return module.in_features % SIDE == 0 and module.out_features % SIDE == 0


def multiply_in_fp8(model: VLM) -> None:
    """Replace the linear layers of `model` that are `multiplied` by torchao's, which share their weights.

    Raises:
        UserError: torchao is not installed, or no layer is fit for it.
    """
    try:
        from torchao.float8 import convert_to_float8_training
    except ImportError as error:
        what = f"fp8 is multiplied by the package 'torchao', which is not installed or does not load ({error})"
        fix = "pip install 'sightline[fp8]', or set precision=bf16"
        raise UserError(what, where="precision", fix=fix) from error
    if not any(multiplied(module, name) for name, module in model.named_modules()):
        what = f"no linear layer of this model has sides that are multiples of {SIDE}"
        raise UserError(what, where="precision", fix="set precision=bf16")
    convert_to_float8_training(model, module_filter_fn=multiplied)
