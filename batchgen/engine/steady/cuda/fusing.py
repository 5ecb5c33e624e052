"""Of compiled layers: what is added to a steady product is added within its launch.

The product's own kernel rounds it first, as it would be stored, so no bit changes by that.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable
from typing import Any

import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

from batchgen.engine.steady.cuda.product import steady_linear, steady_linear_added

__all__ = ["AddWithinProducts"]

_ADDS = (torch.ops.aten.add.Tensor, operator.add)
_PRODUCT: Any = steady_linear._opoverload
_PRODUCT_ADDED: Any = steady_linear_added._opoverload


class AddWithinProducts(CustomGraphPass):
    """A pass over a graph that torch's compiler is about to lower."""

    def __call__(self, graph: fx.Graph) -> None:
        """In place: each `x + steady_linear(...)` whose product nothing else reads."""
        for node in list(graph.nodes):
            found = _product_added(node)
            if found is not None:
                _join(graph, node, *found)

    def uuid(self) -> Hashable:
        """What a kept compilation is told apart by."""
        return "batchgen: add within products, 1"


def _product_added(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Of an addition the product, and what is added to it; None where it is no such addition."""
    if node.target not in _ADDS or node.kwargs or len(node.args) != 2:
        return None
    for product_of, added in (node.args, node.args[::-1]):
        if not isinstance(product_of, fx.Node) or not isinstance(added, fx.Node):
            return None
        if (
            product_of.target is _PRODUCT
            and len(product_of.users) == 1
            and _alike(product_of, added)
        ):
            return product_of, added
    return None


def _alike(one: fx.Node, other: fx.Node) -> bool:
    """Whether adding them broadcasts and converts nothing."""
    a, b = one.meta.get("val"), other.meta.get("val")
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return False
    return a.shape == b.shape and a.dtype == b.dtype


def _join(graph: fx.Graph, node: fx.Node, product_of: fx.Node, added: fx.Node) -> None:
    x, weight, *bias = product_of.args
    with graph.inserting_before(node):
        arguments = (x, weight, bias[0] if bias else None, added)
        joined = graph.call_function(_PRODUCT_ADDED, arguments)
    joined.meta.update(node.meta)
    node.replace_all_uses_with(joined)
    graph.erase_node(node)
    graph.erase_node(product_of)
