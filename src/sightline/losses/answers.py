"""Answers as independent yes-or-no questions: binary cross-entropy against soft targets.

Several answers can be right, each as far as people gave it, so probabilities do not compete (Teney et al. 2017, arXiv
1708.02711). Summed over the vocabulary, as in the code that made this head common
(github.com/hengyuan-hu/bottom-up-attention-vqa, `train.py`), which multiplies the mean by the number of answers.

Shapes: E examples, A answers.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def choice(logits: Float[Tensor, "E A"], targets: Float[Tensor, "E A"]) -> tuple[Float[Tensor, ""], int]:
    """The sum over examples and answers (fp32, nats), and the count of examples. An example without an answer counts.

    Args:
        targets: what each answer is worth, in [0, 1].
    """
    return binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="sum"), len(logits)
