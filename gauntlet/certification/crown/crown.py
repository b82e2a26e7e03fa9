"""Linear bounds passed back from a node to the image (CROWN; Zhang et al. 2018, arXiv 1811.00866)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.certification.crown.affine_layers import Affine
from gauntlet.certification.crown.curves import Curve
from gauntlet.certification.crown.graph import Graph, Relu
from gauntlet.certification.crown.ibp import Ranges
from gauntlet.certification.crown.input_region import Region
from gauntlet.certification.crown.joint import Joint
from gauntlet.certification.crown.relaxation import Lines

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
        rows: the functions, [Q, *shape of the node].
    """

    node: int
    owner: Tensor
    rows: Tensor


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
    owner, pending = questions.owner, {questions.node: questions.rows}
    total = torch.zeros(len(owner), dtype=questions.rows.dtype, device=owner.device)
    for at in range(questions.node, -1, -1):
        if at not in pending:
            continue
        a, node, slack = pending.pop(at), graph.nodes[at], ranges.slack[at]
        if slack is not None:
            total = total - _dot(a.abs(), slack[owner])
        if not node.inputs:
            total = total + region.least(a, owner)
            continue
        if isinstance(node.op, Affine):
            if node.op.bias is not None:
                total = total + (a * node.op.bias).flatten(1).sum(1)
            a = node.op.transpose(a)
        elif isinstance(node.op, Relu | Curve | Joint):
            if boxed:
                total = total + _dot(a, torch.where(a > 0, ranges.lower[at][owner], ranges.upper[at][owner]))
                continue
            if isinstance(node.op, Joint):
                total = total + _joint(a, node.op, node.inputs, ranges, owner, pending)
                continue
            source = node.inputs[0]
            slope = None if slopes is None else slopes.get(at)
            a, constant = _relax(a, Lines.of(node.op, ranges.lower[source], ranges.upper[source]), owner, slope)
            total = total + constant
        for source in node.inputs:
            pending[source] = pending[source] + a if source in pending else a
    return total


def _joint(
    a: Tensor, op: Joint, inputs: tuple[int, ...], ranges: Ranges, owner: Tensor, pending: dict[int, Tensor]
) -> Tensor:
    """Add the coefficients below a joint operation to the pending ones; return the constant of the lower bound."""
    planes = op.planes([ranges.lower[at] for at in inputs], [ranges.upper[at] for at in inputs])
    for source, below in zip(inputs, planes.back(a, lambda field: field[owner]), strict=True):
        pending[source] = pending[source] + below if source in pending else below
    return _dot(a.clamp_min(0), planes.floor[owner]) + _dot(a.clamp_max(0), planes.ceiling[owner])


def _relax(a: Tensor, lines: Lines, owner: Tensor, slope: Tensor | None) -> tuple[Tensor, Tensor]:
    """Coefficients and constant of the lower bound below a ReLU from those above it."""
    lower = lines.lower[owner]
    if slope is not None:
        lower = torch.where(lines.unsure[owner], slope, lower)
    below = a * torch.where(a > 0, lower, lines.upper[owner])
    constant = _dot(a.clamp_max(0), lines.constant[owner])
    return below, constant if lines.floor is None else constant + _dot(a.clamp_min(0), lines.floor[owner])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(tuple(range(1, a.dim())))


def pieces(count: int, graph: Graph, memory: float) -> Iterator[slice]:
    """Slices of `count` questions that need at most `memory` MiB at a time."""
    each = 8 * COPIES * graph.widest
    step = max(1, int(memory * 2**20 / each))
    return (slice(first, first + step) for first in range(0, count, step))
