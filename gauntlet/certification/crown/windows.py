"""Linear functions that read a window of a node: what one entry behind convolutions depends on, and no more.

A window moves with its question: coefficients [Q, C, h, w] of one size, and where the upper left corner lies in the
node for each question, also outside of it. Outside the node coefficients are zero.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from gauntlet.certification.crown.affine_layers import Convolution, Scale
from gauntlet.certification.crown.graph import Graph, Node, Relu

SHARE = 0.6
"""Of the entries of a node: a larger window is no saving."""

Extent = tuple[int, int]


@dataclass(frozen=True)
class NodeWindow:
    """Coefficients of linear functions of a node, one for each question.

    Args:
        values: [Q, C, h, w].
        top, left: of the window in the node, int64 [Q].
    """

    values: Tensor
    top: Tensor
    left: Tensor

    def places(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return the position of each cell in a node of that size, int64 [Q, h, w], and whether it is inside."""
        rows = self.top[:, None] + torch.arange(self.values.shape[2], device=self.top.device)
        columns = self.left[:, None] + torch.arange(self.values.shape[3], device=self.top.device)
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
        return rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None], inside

    def cut(self, height: int, width: int) -> "NodeWindow":
        """Return the same without what lies outside."""
        return replace(self, values=self.values * self.places(height, width)[1][:, None])

    def dense(self, shape: tuple[int, ...]) -> Tensor:
        """Return the coefficients of all entries, [Q, *shape]."""
        count, channels = self.values.shape[:2]
        index = self.places(*shape[1:])[0].reshape(count, 1, -1).expand(-1, channels, -1)
        out = self.values.new_zeros(count, channels, shape[1] * shape[2])
        return out.scatter_add_(2, index, self.values.flatten(2)).reshape(count, *shape)

    def reader(self, owner: Tensor) -> Callable[[Tensor], Tensor]:
        """Return what picks the window of each question from a field of its image, [B, C, H, W] -> [Q, C, h, w]."""
        known: dict[Extent, Tensor] = {}

        def read(field: Tensor) -> Tensor:
            height, width = field.shape[2:]
            if (height, width) not in known:
                known[height, width] = owner[:, None, None] * (height * width) + self.places(height, width)[0]
            return field.permute(0, 2, 3, 1).flatten(0, 2)[known[height, width]].permute(0, 3, 1, 2)

        return read

    def __add__(self, other: "NodeWindow") -> "NodeWindow":
        """Return the sum, in the smallest window that holds both; they lie alike for all questions."""
        if not len(self.top):
            return self
        down, right = int(other.top[0] - self.top[0]), int(other.left[0] - self.left[0])
        up, ahead = min(0, down), min(0, right)
        height = max(self.values.shape[2], down + other.values.shape[2]) - up
        width = max(self.values.shape[3], right + other.values.shape[3]) - ahead
        total = _placed(self.values, -up, -ahead, height, width)
        total = total + _placed(other.values, down - up, right - ahead, height, width)
        return NodeWindow(total, self.top + up, self.left + ahead)

    def before(self, op: Convolution | Scale) -> "NodeWindow":
        """Return the coefficients of what the layer reads."""
        if isinstance(op, Scale):
            return replace(self, values=self.values * op.weight.reshape(-1, 1, 1))
        if self.values.shape[2:] == (1, 1):  # nothing overlaps: one product for all questions
            values = (self.values.flatten(1) @ op.weight.flatten(1)).reshape(-1, *op.weight.shape[1:])
        else:
            values = functional.conv_transpose2d(self.values, op.weight, None, op.stride)
        moved = NodeWindow(values, self.top * op.stride[0] - op.padding[0], self.left * op.stride[1] - op.padding[1])
        return moved.cut(*op.inside)

    def constant(self, op: Convolution | Scale) -> Tensor | float:
        """Return what the bias of the layer adds, [Q]."""
        return 0.0 if op.bias is None else self.values.sum((2, 3)) @ op.bias.reshape(-1).expand(self.values.shape[1])


def _placed(values: Tensor, down: int, right: int, height: int, width: int) -> Tensor:
    below, behind = height - down - values.shape[2], width - right - values.shape[3]
    return functional.pad(values, (right, behind, down, below))


def of_entries(shape: tuple[int, ...], entry: Tensor, value: float) -> NodeWindow:
    """Return `value` times single entries of a node; entry: their positions in the flattened node, int64 [Q]."""
    area = shape[1] * shape[2]
    place = entry % area
    values = torch.zeros(len(entry), shape[0], 1, 1, dtype=torch.float64, device=entry.device)
    values.view(len(entry), -1).scatter_(1, (entry // area)[:, None], value)
    return NodeWindow(values, place // shape[2], place % shape[2])


def extents(graph: Graph, node: int, ball: bool) -> dict[int, Extent]:
    """Return the size of the window of each node that an entry of `node` depends on; those where no window is worth
    while, or known, are left out.

    ball: the image lies in an l2 ball, of which all pixels are wanted together.
    """
    seen: dict[int, tuple[int, int, int, int]] = {node: (0, 0, 1, 1)}  # top, left, height, width, in whole strides
    kept: dict[int, Extent] = {}
    for at in range(node, -1, -1):
        here = graph.nodes[at]
        if at not in seen or len(here.shape) != 3 or (ball and not here.inputs):
            continue
        top, left, height, width = seen[at]
        if height * width > SHARE * here.shape[1] * here.shape[2]:
            continue
        kept[at] = height, width
        if not passes(here):
            continue
        if isinstance(here.op, Convolution):
            (down, right), (high, wide) = here.op.stride, here.op.weight.shape[2:]
            top, left = top * down - here.op.padding[0], left * right - here.op.padding[1]
            height, width = (height - 1) * down + high, (width - 1) * right + wide
        for source in here.inputs:
            first = seen.get(source, (top, left, height, width))
            up, ahead = min(first[0], top), min(first[1], left)
            bottom, end = max(first[0] + first[2], top + height), max(first[1] + first[3], left + width)
            seen[source] = up, ahead, bottom - up, end - ahead
    return kept


def passes(node: Node) -> bool:
    """Return whether windows pass through what the node computes; else they are made dense before it."""
    if type(node.op) is Convolution:
        return node.op.groups == 1 and node.op.dilation == (1, 1)
    if isinstance(node.op, Scale):
        sizes = [node.op.weight, *([] if node.op.bias is None else [node.op.bias])]
        return all(each.numel() in (1, node.shape[0]) and each.dim() in (0, 3) for each in sizes) and all(
            each.numel() == 1 or each.shape[0] == each.numel() for each in sizes
        )
    return isinstance(node.op, Relu) or len(node.inputs) != 1
