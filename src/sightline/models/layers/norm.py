"""Norms by name, and the norm of a head's queries and keys."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

EPS = 1e-5  # torch's own for LayerNorm
RMS_EPS = 1e-6  # Llama's; a Q-Former's 1e-12 is nothing in fp32 beside a mean square of 1e-4


def make_norm(kind: str, width: int, eps: float = EPS) -> nn.LayerNorm | nn.RMSNorm:
    """A `layernorm` with `eps`, or an `rmsnorm` (Zhang & Sennrich 2019, arXiv 1910.07467), over the last dimension."""
    return RMSNorm(width, eps=max(eps, RMS_EPS)) if kind == "rmsnorm" else nn.LayerNorm(width, eps=eps)


class RMSNorm(nn.RMSNorm):
    """torch's, in its gain's precision and back: queries that autocast made half-precise are squared in fp32."""

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """x / sqrt(mean(x^2) + eps) * gain."""
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class HeadNorm(nn.Module):
    """Queries and keys of each head at root mean square 1, times a gain, so that logits cannot grow with the weights.

    With gains of 1 a logit is within +-sqrt(head width). As in Dehghani et al. 2023 (arXiv 2302.05442, section 2), with
    a root mean square in place of their LayerNorm.
    """

    def __init__(self, head_width: int) -> None:
        super().__init__()
        self.query_norm, self.key_norm = (RMSNorm(head_width, eps=RMS_EPS) for _ in range(2))

    def forward(
        self, query: Float[Tensor, "B H T D"], key: Float[Tensor, "B H S D"]
    ) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H S D"]]:
        """The two, normed."""
        return self.query_norm(query), self.key_norm(key)
