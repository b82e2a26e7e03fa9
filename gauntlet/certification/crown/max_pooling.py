"""Max pooling as sums and ReLUs: max(a, b) = b + max(a - b, 0), exactly."""

import torch
from torch import Tensor

from gauntlet.certification.crown.affine_layers import Affine, Pool, Scale
from gauntlet.certification.crown.graph import Node, Relu, Sum
from gauntlet.certification.crown.layer_parsing import Call, Unsupported, pair

MAX_POOL = {"max_pool2d", "adaptive_max_pool2d"}


def max_pool(call: Call, source: int, first: int, label: str) -> list[Node]:
    """Return the nodes that a call of max pooling amounts to; the last is its result.

    The largest of a window is found in rounds of pairs. Picking and comparing do not round in the deployed network; the
    one rounding that each of these layers is given covers that of the bounds themselves.

    Args:
        call: of a function in `MAX_POOL`.
        source: node that it reads.
        first: position of the first new node.
        label: of the layer, for messages.

    Raises:
        Unsupported: an option that is not known.
    """
    kernel, stride = _window(call)
    inside = pair(call.before[2:])
    nodes: list[Node] = []

    def add(op: Affine | Relu | Sum, *inputs: int) -> int:
        nodes.append(Node(op, inputs, call.after, label))
        return first + len(nodes) - 1

    def pick(weight: Tensor) -> int:
        return add(Pool(weight=weight.reshape(1, 1, *kernel), inside=inside, stride=stride, terms=1), source)

    cells = list(torch.eye(kernel[0] * kernel[1], dtype=torch.float64))
    if len(cells) == 1:
        pick(cells[0])
        return nodes
    best = [pick(cells[-1])] if len(cells) % 2 else []
    for a, b in zip(cells[0::2], cells[1::2], strict=False):
        best.append(add(Sum(), add(Relu(), pick(a - b)), pick(b)))
    minus = torch.full((), -1.0, dtype=torch.float64)
    while len(best) > 1:
        a, b = best.pop(0), best.pop(0)
        above = add(Relu(), add(Sum(), a, add(Scale(weight=minus, terms=1), b)))
        best.append(add(Sum(), above, b))
    return nodes


def _window(call: Call) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the size of a window, and the stride."""
    if call.name == "adaptive_max_pool2d":
        size, parts = call.before[2:], call.after[1:]
        if any(s % p for s, p in zip(size, parts, strict=True)):
            raise Unsupported(f"adaptive max pooling of {size[0]}x{size[1]} to {parts[0]}x{parts[1]}")
        kernel = pair([s // p for s, p in zip(size, parts, strict=True)])
        return kernel, kernel
    if any(pair(call.get("padding", 0))) or pair(call.get("dilation", 1)) != (1, 1) or call.get("ceil_mode"):
        raise Unsupported("max pooling with padding, dilation or ceil_mode")
    kernel = pair(call.get("kernel_size"))
    return kernel, pair(call.get("stride") or kernel)
