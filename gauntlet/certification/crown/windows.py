"""Linear functions that read a window of a node: what one entry behind convolutions depends on, and no more.

A window moves with its question: coefficients [Q, C, h, w] of one size, and where the upper left corner lies in the
node for each question, also outside of it. Outside the node coefficients are zero.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from gauntlet.certification.crown.affine_layers import Convolution, Scale
from gauntlet.certification.crown.curves import Curve
from gauntlet.certification.crown.graph import Graph, Input, Node, Relu, Sum

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
            size = zip(self.values.shape[2:], op.stride, op.weight.shape[2:], strict=True)
            high, wide = ((count - 1) * step + kernel for count, step, kernel in size)
            values = op.spread(self.values, (high, wide), (0, 0))
        moved = NodeWindow(values, self.top * op.stride[0] - op.padding[0], self.left * op.stride[1] - op.padding[1])
        return moved.cut(*op.inside)


def _placed(values: Tensor, down: int, right: int, height: int, width: int) -> Tensor:
    below, behind = height - down - values.shape[2], width - right - values.shape[3]
    return functional.pad(values, (right, behind, down, below))


class Reader:
    """Picks what questions see from fields of the nodes of their images.

    Args:
        owner: image of each question, int64 [Q], in order.
        place: where the windows of each lie, int64 [Q]; those of equal place and owner that are neighbors share them.
    """

    def __init__(self, owner: Tensor, place: Tensor) -> None:
        alone = bool(owner[0] == owner[-1])
        self.images = slice(int(owner[0]), int(owner[0]) + 1) if alone else slice(None)
        self.owner = torch.zeros_like(owner) if alone else owner
        fresh = torch.ones_like(owner, dtype=torch.bool)
        fresh[1:] = (owner[1:] != owner[:-1]) | (place[1:] != place[:-1])
        self.heads, self.group = fresh.nonzero().squeeze(1), fresh.cumsum(0) - 1
        self.alone = alone

    def __call__(self, field: Tensor, a: Tensor | NodeWindow | None, cut: bool = False) -> Tensor:
        """Return the values of a field [B, *shape] under coefficients: [Q, *shape], or [1, *shape] where all share
        them, or [Q, C, h, w] for windows, with zeros outside of the node where they are cut."""
        field = field[self.images]
        if not isinstance(a, NodeWindow):
            return field if self.alone else field[self.owner]
        height, width = field.shape[2:]
        some = NodeWindow(a.values[:0], a.top[self.heads], a.left[self.heads])
        place, inside = some.places(height, width)
        index = self.owner[self.heads, None, None] * (height * width) + place
        seen = field.permute(0, 2, 3, 1).flatten(0, 2)[index].permute(0, 3, 1, 2).contiguous()
        return (seen * inside[:, None] if cut else seen)[self.group]


def of_entries(shape: tuple[int, ...], entry: Tensor, value: float, dtype: torch.dtype = torch.float64) -> NodeWindow:
    """Return `value` times single entries of a node; entry: their positions in the flattened node, int64 [Q]."""
    area = shape[1] * shape[2]
    place = entry % area
    values = torch.zeros(len(entry), shape[0], 1, 1, dtype=dtype, device=entry.device)
    values.view(len(entry), -1).scatter_(1, (entry // area)[:, None], value)
    return NodeWindow(values, place // shape[2], place % shape[2])


def extents(graph: Graph, node: int) -> dict[int, Extent]:
    """Return the size of the window of each node that an entry of `node` depends on; those where no window is worth
    while, or known, are left out.
    """
    seen: dict[int, tuple[int, int, int, int]] = {node: (0, 0, 1, 1)}  # top, left, height, width, in whole strides
    kept: dict[int, Extent] = {}
    for at in range(node, -1, -1):
        here = graph.nodes[at]
        if at not in seen or len(here.shape) != 3:
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
    return isinstance(node.op, Relu | Curve | Sum | Input)
