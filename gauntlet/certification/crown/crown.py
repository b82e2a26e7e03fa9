"""Linear bounds passed back from a node to the image (CROWN; Zhang et al. 2018, arXiv 1811.00866)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gauntlet.certification.crown.affine_layers import Affine, Convolution, Scale
from gauntlet.certification.crown.graph import Graph, Node, Relu
from gauntlet.certification.crown.ibp import Ranges
from gauntlet.certification.crown.input_region import Region
from gauntlet.certification.crown.relaxation import Lines
from gauntlet.certification.crown.windows import Extent, NodeWindow, extents, passes

COPIES = 6
"""Tensors of the size of the widest node that are alive for each question at once."""

Slopes = Mapping[int, Tensor]
"""ReLU node -> slopes in [0, 1] of the lower lines of its undecided entries, [Q, *shape]."""


@dataclass(frozen=True)
class Questions:
    """Linear functions of a node whose lower bounds are wanted.

    Args:
        node: position in the graph.
        owner: image that each question is about, int64 [Q].
        rows: the functions, [Q, *shape of the node], or windows of it.
    """

    node: int
    owner: Tensor
    rows: Tensor | NodeWindow


def lower_bounds(
    graph: Graph,
    region: Region,
    ranges: Ranges,
    questions: Questions,
    slopes: Slopes | None = None,
    boxed: bool = False,
) -> Tensor:
    """Return a lower bound of each function on its region, [Q]; differentiable in the slopes.

    A ReLU with bounds l < 0 < u lies between the lines a z, a in [0, 1], and u (z - l) / (u - l). Where the slopes a
    are not given, a is 1 if u > -l and 0 otherwise. Every operation adds its float32 rounding, so what is bounded is
    the output that the deployed network computes.

    Args:
        graph, region, ranges: of all nodes up to the one asked about, in one dtype.
        questions: what is asked.
        slopes: lower slopes for each question.
        boxed: stop at the first ReLU on each way and take the bounds of its output: the last layers of IBP as one.
    """
    pending: dict[int, Tensor | NodeWindow] = {questions.node: questions.rows}
    owner, sized = questions.owner, {}
    if isinstance(questions.rows, NodeWindow):
        sized = extents(graph, questions.node, region.radius is not None)
    like = questions.rows.values if isinstance(questions.rows, NodeWindow) else questions.rows
    total = torch.zeros(len(owner), dtype=like.dtype, device=like.device)
    for at in range(questions.node, -1, -1):
        if at not in pending:
            continue
        a, node, slack = pending.pop(at), graph.nodes[at], ranges.slack[at]
        if isinstance(a, NodeWindow):
            if at in sized and passes(node):
                added, window = _window(a, owner, region, ranges, at, node)
                total = total + added
                _hand_on(pending, node, window, graph)
                continue
            a = a.dense(node.shape)
        if slack is not None:
            total = total - _dot(a.abs(), slack[owner])
        if not node.inputs:
            total = total + region.least(a, owner)
            continue
        if isinstance(node.op, Affine):
            if node.op.bias is not None:
                total = total + (a * node.op.bias).flatten(1).sum(1)
            a = node.op.transpose(a)
        elif isinstance(node.op, Relu):
            if boxed:
                total = total + _dot(a, torch.where(a > 0, ranges.lower[at][owner], ranges.upper[at][owner]))
                continue
            source = node.inputs[0]
            slope = None if slopes is None else slopes[at]
            a, constant = _relax(a, Lines.between(ranges.lower[source], ranges.upper[source]), owner, slope)
            total = total + constant
        _hand_on(pending, node, a, graph)
    return total


def _hand_on(pending: dict[int, Tensor | NodeWindow], node: Node, a: Tensor | NodeWindow, graph: Graph) -> None:
    """Add the coefficients of what the node reads to those that are there."""
    for source in node.inputs:
        there = pending.get(source)
        if there is None:
            pending[source] = a
        elif isinstance(there, NodeWindow) and isinstance(a, NodeWindow):
            pending[source] = there + a
        else:
            shape = graph.nodes[source].shape
            first, second = (each.dense(shape) if isinstance(each, NodeWindow) else each for each in (there, a))
            pending[source] = first + second


def _window(
    a: NodeWindow, owner: Tensor, region: Region, ranges: Ranges, at: int, node: Node
) -> tuple[Tensor, NodeWindow]:
    """Return what a node adds to the bounds of questions that see a window of it, and the window of what it reads."""
    read, slack = a.reader(owner), ranges.slack[at]
    total = torch.zeros(len(owner), dtype=a.values.dtype, device=a.values.device)
    if slack is not None:
        total = total - _dot(a.values.abs(), read(slack))
    if not node.inputs:
        values = a.values
        return total + _dot(values, torch.where(values > 0, read(region.lower), read(region.upper))), a
    if isinstance(node.op, Convolution | Scale):
        return total + a.constant(node.op), a.before(node.op)
    if isinstance(node.op, Relu):
        source = node.inputs[0]
        lines = Lines.between(ranges.lower[source], ranges.upper[source])
        negative = a.values.clamp_max(0)
        total = total + _dot(negative, read(lines.constant))
        slope = torch.where(a.values > 0, read(lines.lower), read(lines.upper))
        return total, replace(a, values=a.values * slope)
    return total, a


def _relax(a: Tensor, lines: Lines, owner: Tensor, slope: Tensor | None) -> tuple[Tensor, Tensor]:
    """Coefficients and constant of the lower bound below a ReLU from those above it."""
    lower = lines.lower[owner]
    if slope is not None:
        lower = torch.where(lines.unsure[owner], slope, lower)
    below = a * torch.where(a > 0, lower, lines.upper[owner])
    return below, _dot(a.clamp_max(0), lines.constant[owner])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(tuple(range(1, a.dim())))


def pieces(count: int, graph: Graph, memory: float, sized: Mapping[int, Extent] | None = None) -> Iterator[slice]:
    """Slices of `count` questions that need at most `memory` MiB at a time; sized: windows of their nodes."""
    widest = graph.widest
    if sized:
        entries = [torch.Size(node.shape).numel() for node in graph.nodes[: max(sized) + 1]]
        for at, (height, width) in sized.items():
            entries[at] = graph.nodes[at].shape[0] * height * width
        widest = max(entries)
    each = 8 * COPIES * widest
    step = max(1, int(memory * 2**20 / each))
    return (slice(first, first + step) for first in range(0, count, step))
