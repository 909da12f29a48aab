"""Walks through graphs of gradients."""

from __future__ import annotations

import torch

from sightline.attach.graph import nodes


def names(found: list[object]) -> list[str]:
    return [type(node).__name__.removesuffix("Backward0") for node in found]


def test_each_node_once_the_nearest_first() -> None:
    x = torch.ones(3, requires_grad=True)
    once = x.exp()
    root = (once + once.sin()).sum().grad_fn
    assert names(list(nodes([root, None], most=100))) == ["Sum", "Add", "Exp", "Sin", "AccumulateGrad"]


def test_what_lies_behind_a_stop_is_left_out_unless_another_way_leads_there() -> None:
    x, y = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    root = (x.exp() + (x * y)).grad_fn
    found = list(nodes([root], most=100, stop=lambda node: type(node).__name__ == "MulBackward0"))
    assert names(found) == ["Add", "Exp", "Mul", "AccumulateGrad"]
    assert [node.variable is x for node in found[-1:]] == [True]


def test_a_graph_of_more_nodes_ends_with_none() -> None:
    x = torch.ones(3, requires_grad=True)
    value = x
    for _ in range(10):
        value = value.sin()
    whole = list(nodes([value.grad_fn], most=11))
    assert len(whole) == 11 and None not in whole
    cut = list(nodes([value.grad_fn], most=10))
    assert cut == [*whole[:10], None]


def test_a_result_without_a_graph_has_no_nodes() -> None:
    assert list(nodes([torch.ones(3).grad_fn], most=10)) == []
