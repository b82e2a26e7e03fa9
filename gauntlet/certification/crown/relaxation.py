"""One relaxation of all ReLUs for each question: bounds with multipliers of splits, and their gradients by hand."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.certification.crown.affine_layers import Affine
from gauntlet.certification.crown.curves import Curve
from gauntlet.certification.crown.graph import Graph, Relu


@dataclass(frozen=True)
class Lines:
    """max(z, 0), or a curve, lies between lower z + floor and upper z + constant for every entry z of a node, all
    [Q, *shape].

    unsure: whether z has both signs.
    floor: None: zero.
    """

    lower: Tensor
    upper: Tensor
    constant: Tensor
    unsure: Tensor
    floor: Tensor | None = None

    @classmethod
    def of(cls, op: Relu | Curve, low: Tensor, high: Tensor) -> "Lines":
        """Return the lines of a node for bounds of what it reads."""
        if isinstance(op, Relu):
            return cls.between(low, high)
        (lower, floor), (upper, constant) = op.below(low, high), op.above(low, high)
        return cls(lower, upper, constant, torch.zeros_like(low, dtype=torch.bool), floor)

    @classmethod
    def between(cls, low: Tensor, high: Tensor) -> "Lines":
        """Return the lines for bounds [Q, *shape] of a node, the lower ones where CROWN has them."""
        unsure = (low < 0) & (high > 0)
        on = (low >= 0).to(low.dtype)
        upper = torch.where(unsure, high / (high - low).clamp_min(1e-30), on)
        lower = torch.where(unsure, (high > -low).to(low.dtype), on)
        return cls(lower, upper, torch.where(unsure, -upper * low, 0.0), unsure)

    def select(self, index: Tensor) -> "Lines":
        """Return the lines of some questions; index int64 [q]."""
        return Lines(self.lower[index], self.upper[index], self.constant[index], self.unsure[index])


@dataclass(frozen=True)
class Relaxed:
    """Linear lower bounds of functions of the last node, one for each question.

    Attributes:
        constant: [Q].
        image: coefficients at the pixels, [Q, C, H, W].
        above: node -> coefficients of its output, [Q, *shape], those of multipliers among them.
    """

    constant: Tensor
    image: Tensor
    above: Mapping[int, Tensor]


def relaxed(
    graph: Graph,
    rows: Tensor,
    lines: Mapping[int, Lines],
    slack: list[Tensor | None],
    multipliers: Mapping[int, Tensor] | None = None,
) -> Relaxed:
    """Pass linear functions of the last node back to the image.

    Args:
        graph: the network, in the dtype of all the rest.
        rows: the functions, [Q, *shape of the last node].
        lines: node that ReLUs read -> its lines.
        slack: of every node, as in `Ranges`, [Q or 1, *shape].
        multipliers: node -> m [Q, *shape]; what is bounded is the function plus m times the node.
    """
    pending, above = {len(graph.nodes) - 1: rows}, {}
    total = torch.zeros(len(rows), dtype=rows.dtype, device=rows.device)
    for at in range(len(graph.nodes) - 1, -1, -1):
        if at not in pending:
            continue
        a, node, allowed = pending.pop(at), graph.nodes[at], slack[at]
        if multipliers is not None and at in multipliers:
            a = a + multipliers[at]
        above[at] = a
        if allowed is not None:
            total = total - dot(a.abs(), allowed)
        if isinstance(node.op, Affine):
            if node.op.bias is not None:
                total = total + (a * node.op.bias).flatten(1).sum(1)
            a = node.op.transpose(a)
        elif isinstance(node.op, Relu):
            line = lines[node.inputs[0]]
            total = total + dot(a.clamp_max(0), line.constant)
            a = a * torch.where(a > 0, line.lower, line.upper)
        for source in node.inputs:
            pending[source] = pending[source] + a if source in pending else a
    return Relaxed(total, above[0], above)


def reached(
    graph: Graph, bounds: Relaxed, x: Tensor, lines: Mapping[int, Lines], slack: list[Tensor | None]
) -> dict[int, Tensor]:
    """Return the values of all nodes where the bounds are taken, if x [Q, C, H, W] is where their image part is least.

    They are the gradient of the bound in the coefficients of each node: of what a multiplier multiplies, and, times the
    coefficient of the output, of a slope.
    """
    values: dict[int, Tensor] = {}
    for at, node in enumerate(graph.nodes):
        if at not in bounds.above:
            continue
        a, allowed = bounds.above[at], slack[at]
        if not node.inputs:
            value = x
        elif isinstance(node.op, Affine):
            value = node.op.forward(values[node.inputs[0]]) + node.op.offset()
        elif isinstance(node.op, Relu):
            z, line = values[node.inputs[0]], lines[node.inputs[0]]
            value = torch.where(a > 0, line.lower * z, line.upper * z + line.constant)
        else:
            value = values[node.inputs[0]] + values[node.inputs[1]]
        values[at] = value if allowed is None else value - a.sign() * allowed
    return values


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the products over all but the first dimension, [Q]; b may be shared by all: [1, ...]."""
    if len(b) == 1:
        return a.flatten(1) @ b.flatten()
    return torch.einsum("qi,qi->q", a.flatten(1), b.flatten(1))
