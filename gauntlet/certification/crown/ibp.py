"""Interval bounds of every layer (IBP; Gowal et al. 2018, arXiv 1810.12715), aware of float32 rounding."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.certification.crown.affine_layers import HALF_ULP, SLACK, TINY, Affine
from gauntlet.certification.crown.curves import Curve
from gauntlet.certification.crown.graph import Graph, Node, Relu
from gauntlet.certification.crown.input_region import Region
from gauntlet.certification.crown.joint import Joint

Tighten = Callable[["Ranges", int], tuple[Tensor, Tensor]]
"""(ranges up to and with a node, that node) -> its lower and upper bounds, no looser than given."""


@dataclass(frozen=True)
class Ranges:
    """Bounds of the outputs of all nodes that the deployed float32 network can have on a region; one entry a node.

    Attributes:
        lower, upper: [B, *shape].
        slack: how far an output may lie from the exact result of its operation on its float32 inputs; zero: None.
    """

    lower: list[Tensor]
    upper: list[Tensor]
    slack: list[Tensor | None]

    def select(self, index: Tensor) -> "Ranges":
        """Return the bounds for some of the images; index int64 [b]."""
        return Ranges(
            [v[index] for v in self.lower],
            [v[index] for v in self.upper],
            [None if v is None else v[index] for v in self.slack],
        )

    def to(self, dtype: torch.dtype) -> "Ranges":
        """Return the same numbers, rounded to that dtype."""
        return Ranges(
            [v.to(dtype) for v in self.lower],
            [v.to(dtype) for v in self.upper],
            [None if v is None else v.to(dtype) for v in self.slack],
        )


def intervals(graph: Graph, region: Region, tighten: Tighten | None = None) -> Ranges:
    """Return the bounds of all nodes on the regions.

    Linear functions of the image, before the first layer that mixes pixels and in it, are bounded on the l2 ball and on
    the box, whichever is tighter; everything later on boxes.

    Args:
        graph, region: in the same dtype.
        tighten: called for each node that a ReLU, a curve or a joint operation reads, before anything after it is
            bounded.
    """
    ranges, bent = Ranges([], [], []), {*graph.rectified(), *graph.curved()}
    balls: list[Ball | None] = []
    for at, node in enumerate(graph.nodes):
        if not node.inputs:
            lower, upper, slack, ball = region.lower, region.upper, None, _start(region)
        else:
            lower, upper, slack = _through(node, ranges)
            ball = balls[node.inputs[0]] if isinstance(node.op, Affine) else None
            if ball is not None and isinstance(node.op, Affine):
                lower, upper, ball = ball.through(node.op, lower, upper, slack)
        ranges.lower.append(lower)
        ranges.upper.append(upper)
        ranges.slack.append(slack)
        balls.append(ball)
        if tighten is not None and at in bent:
            ranges.lower[at], ranges.upper[at] = tighten(ranges, at)
    return ranges


def _through(node: Node, ranges: Ranges) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return lower and upper bound of a node from those of its inputs, and its slack."""
    lower, upper = ranges.lower[node.inputs[0]], ranges.upper[node.inputs[0]]
    if isinstance(node.op, Relu):
        return lower.clamp_min(0), upper.clamp_min(0), None
    if isinstance(node.op, Curve):
        size = lower.abs().maximum(upper.abs())
        lower, upper = node.op.range(lower, upper)
        most = node.op.rounding(lower.abs().maximum(upper.abs()), size)
        return lower - most, upper + most, most
    if isinstance(node.op, Joint):
        low, high = ([side[at] for at in node.inputs] for side in (ranges.lower, ranges.upper))
        lower, upper = node.op.interval(low, high)
        most = node.op.rounding(low, high)
        return lower - most, upper + most, most
    if isinstance(node.op, Affine):
        centre, radius = (lower + upper) / 2, (upper - lower) / 2
        middle = node.op.forward(centre) + node.op.offset()
        spread = node.op.absolute().forward(radius)
        slack = node.op.rounding(lower.abs().maximum(upper.abs())) if node.op.terms else None
        spread = spread if slack is None else spread + slack
        return middle - spread, middle + spread, slack
    lower, upper = lower + ranges.lower[node.inputs[1]], upper + ranges.upper[node.inputs[1]]
    slack = SLACK * HALF_ULP * lower.abs().maximum(upper.abs()) + TINY
    return lower - slack, upper + slack, slack


@dataclass(frozen=True)
class Ball:
    """A node whose entries are scale * (entry of the image) + shift, within error, with the image in an l2 ball.

    Attributes:
        middle: the values at the centre, error: their slack so far, both [B, *shape]; error may be a zero.
        scale: [*shape] or broadcastable against it.
        radius: of the ball, [B, 1, ...].
    """

    middle: Tensor
    error: Tensor
    scale: Tensor
    radius: Tensor

    def through(
        self, op: Affine, lower: Tensor, upper: Tensor, slack: Tensor | None
    ) -> tuple[Tensor, Tensor, "Ball | None"]:
        """Return the bounds after the layer, no looser than those given, and the ball if each entry still reads one
        pixel.
        """
        middle = op.forward(self.middle) + op.offset()
        error = op.absolute().forward(self.error) + (0.0 if slack is None else slack)
        radius = self.radius.reshape(-1, *[1] * (middle.dim() - 1))
        if op.diagonal:
            return lower, upper, Ball(middle, error, op.forward(self.scale), radius)
        spread = radius * op.squared().forward(self.scale.square()).sqrt() + error
        return lower.maximum(middle - spread), upper.minimum(middle + spread), None


def _start(region: Region) -> Ball | None:
    if region.radius is None:
        return None
    one = torch.ones_like(region.centre[:1])
    return Ball(region.centre, torch.zeros_like(region.centre), one, region.radius.reshape(-1, *[1] * 3))
