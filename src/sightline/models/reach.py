"""Which parameters an output depends on, and how to make it depend on the others with weight zero.

DistributedDataParallel waits for a gradient of every parameter that learns. A rank whose batch holds no image, or a
block behind the hidden state that is read, gives none, and the run hangs (ms-swift issue 9104, LLaVA issue 759).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def unreached(output: Tensor, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Those of `parameters` that learn but are not in the graph of `output`.

    One that is in pieces on the ranks has been whole for as long as its block ran: it is in the graph, as another.
    """
    leaves: set[int] = set()
    seen: set[torch.autograd.graph.Node] = set()
    waiting = [output.grad_fn] if output.grad_fn is not None else []
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            leaves.add(id(variable))
        waiting += [following for following, _ in node.next_functions if following is not None]
    return [p for p in parameters if p.requires_grad and id(p) not in leaves and not isinstance(p, DTensor)]


def touch(output: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """`output`, unchanged in value, with a gradient of zero for each of `parameters`."""
    for parameter in parameters:
        # The sum of an empty slice: no value is read, so not even an infinite weight could spoil the output.
        output = output + parameter.flatten()[:0].sum().to(output.dtype)
    return output
