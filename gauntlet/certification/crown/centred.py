"""The nodes of a network around their values at the centre of a region: what bounds lose there, and how far nodes go.

Counted from there every term of a linear bound has one sign: relaxation, rounding and the region only take away from
it. What float32 loses when it passes coefficients back is then a multiple of how far the nodes go, not of their size.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.certification.crown.affine_layers import HALF_ULP, SLACK, TINY, Affine
from gauntlet.certification.crown.curves import Curve
from gauntlet.certification.crown.graph import Graph, Relu, Sum
from gauntlet.certification.crown.ibp import Ranges
from gauntlet.certification.crown.input_region import Region
from gauntlet.certification.crown.joint import Joint, Link, Planes
from gauntlet.certification.crown.relaxation import Lines

LEAST = 2.0**-126
"""What one float32 operation can lose to underflow."""


@dataclass(frozen=True)
class Bend:
    """What a ReLU or a curve f does: f(z) - f(z0) lies between lower d - below and upper d + above; d = z - z0, and z0
    is at the centre.

    Attributes:
        lower, upper: slopes, [B, *shape].
        below, above: constants >= 0, the rounding of z and of the coefficients among them.
    """

    lower: Tensor
    upper: Tensor
    below: Tensor
    above: Tensor


@dataclass(frozen=True)
class JointBend:
    """The same for a joint operation f of several nodes, with the maps of `planes` in place of slopes."""

    planes: Planes
    below: Tensor
    above: Tensor


class Centred:
    """Fields of all nodes so far, [B, *shape], by position in the graph; the linear bounds are passed back in `dtype`.

    Attributes:
        values: at the centre, in exact arithmetic, float64.
        reach: how far a node can go from there, in the dtype.
        error: how far an output may lie from the exact result of its operation, that of sums and of coefficients
            included, float64; None: zero.
        charge: the same in the dtype; None also where it is part of what the only reader of the node has.
        bends, joints: of ReLU nodes and of curves; of joint operations.
        unit: the unit roundoff that is charged: that of float32 in float64 too, for the same margins on every device.
        lost: what underflow takes from a bound at most, float64 [B].
        ground: the node at which bounds end: it reads one pixel an entry, and all others read it.
    """

    def __init__(self, exact: Graph, region: Region, dtype: torch.dtype) -> None:
        self.exact, self.region, self.dtype = exact, region, dtype
        self.unit = max(float(torch.finfo(dtype).eps) / 2, HALF_ULP)
        self.values: list[Tensor] = []
        self.reach: list[Tensor] = []
        self.error: list[Tensor | None] = []
        self.charge: list[Tensor | None] = []
        self.bends: dict[int, Bend] = {}
        self.joints: dict[int, JointBend] = {}
        self.lost = torch.zeros(len(region.centre), dtype=torch.float64, device=region.centre.device)
        self.readers: list[list[int]] = [[] for _ in exact.nodes]
        for at, node in enumerate(exact.nodes):
            for source in node.inputs:
                self.readers[source].append(at)
        self.ground = 0
        while region.radius is None and len(after := self.readers[self.ground]) == 1:
            op = exact.nodes[after[0]].op
            if not (isinstance(op, Affine) and op.diagonal):
                break
            self.ground = after[0]

    def extend(self, ranges: Ranges) -> None:
        """Add the nodes that ranges have more; bounds of those that are there must be final."""
        for at in range(len(self.values), len(ranges.lower)):
            self._add(at, ranges)

    def _add(self, at: int, ranges: Ranges) -> None:
        node, error = self.exact.nodes[at], ranges.slack[at]
        sources = [self.values[source] for source in node.inputs]
        if not node.inputs:
            region = self.region
            value = (region.lower + region.upper) / 2 if region.radius is None else region.centre
        elif isinstance(node.op, Affine):
            value = node.op.forward(sources[0]) + node.op.offset()
            reach = _reach(self.values, ranges, node.inputs[0])
            terms = node.op.back_terms()
            back = SLACK * gamma(terms, self.unit) * node.op.absolute().forward(reach) + TINY
            error = error if not terms else back if error is None else error + back
            self.lost += 2 * (terms + 1) * LEAST * reach.flatten(1).sum(1)
        elif isinstance(node.op, Relu):
            value = sources[0].clamp_min(0)
            self.bends[at] = self._bend(node.op, node.inputs[0], value, ranges)
        elif isinstance(node.op, Curve):
            value = node.op.at(sources[0])
            self.bends[at] = self._bend(node.op, node.inputs[0], value, ranges)
        elif isinstance(node.op, Joint):
            value = node.op.at(*sources)
            self.joints[at] = self._joint(node.op, node.inputs, value, ranges)
        else:
            value = sources[0] + sources[1]
            for source in node.inputs:
                handed = self.error[source]
                if handed is not None and self._handed(source):
                    error = handed if error is None else error + handed
        self.values.append(value)
        self.error.append(error)
        self.charge.append(None if error is None or self._handed(at) else error.to(self.dtype))
        self.reach.append(_reach(self.values, ranges, at).to(self.dtype))

    def _handed(self, at: int) -> bool:
        """Return whether the error of a node is part of what its only reader has."""
        after = self.readers[at]
        return len(after) == 1 and isinstance(self.exact.nodes[after[0]].op, Relu | Curve | Sum)

    def _bend(self, op: Relu | Curve, source: int, output: Tensor, ranges: Ranges) -> Bend:
        low, high, value = ranges.lower[source], ranges.upper[source], self.values[source]
        lines, reach, size = Lines.of(op, low, high), _reach(self.values, ranges, source), low.abs().maximum(high.abs())
        lower, upper = (slope.to(self.dtype).double() for slope in (lines.lower, lines.upper))
        under, over = ((new - old).abs() * size for new, old in ((lower, lines.lower), (upper, lines.upper)))
        floor = 0.0 if lines.floor is None else lines.floor
        below, above = output - lower * value - floor + under, upper * value + lines.constant + over - output
        below, above = (  # products with slopes round, unless these are 0 or 1
            gap.clamp_min(0) + self.unit * slope.abs() * reach * ((slope != 0) & (slope != 1))
            for gap, slope in ((below, lower), (above, upper))
        )
        error = self.error[source]
        if error is not None and self._handed(source):
            below, above = below + lower.abs() * error, above + upper.abs() * error
        self.lost += LEAST * reach.flatten(1).sum(1)
        return Bend(*(each.to(self.dtype) for each in (lower, upper, below + TINY, above + TINY)))

    def _joint(self, op: Joint, inputs: tuple[int, ...], output: Tensor, ranges: Ranges) -> JointBend:
        planes = op.planes([ranges.lower[at] for at in inputs], [ranges.upper[at] for at in inputs])
        reach = [_reach(self.values, ranges, at) for at in inputs]
        sides = []
        for links, constant, sign in ((planes.lower, planes.floor, 1), (planes.upper, planes.ceiling, -1)):
            held, gap = [], sign * (output - constant)
            for link, at in zip(links, inputs, strict=True):
                gap = gap - sign * link.forward(self.values[at])
                held.append(link.to(self.dtype))
            gap = gap.clamp_min(0)
            for link, quick, far in zip(links, held, reach, strict=True):
                wide = quick.to(torch.float64)
                gap = gap + Link(wide.weight - link.weight, link.through, link.terms).spread(far)
                gap = gap + SLACK * gamma(2 * link.terms + 2, self.unit) * wide.spread(far)
            sides.append((tuple(held), (gap + TINY).to(self.dtype)))
        for links in (planes.lower, planes.upper):
            for link, far in zip(links, reach, strict=True):
                self.lost += 2 * (link.terms + 1) * LEAST * far.flatten(1).sum(1)
        (lower, below), (upper, above) = sides
        upper = lower if planes.upper is planes.lower else upper
        empty = planes.floor.new_empty(0)
        return JointBend(Planes(lower, upper, empty, empty), below, above)


def gamma(terms: int, unit: float) -> float:
    """Return the relative error that so many roundings make at most, in any order (Higham 2002, section 3.1)."""
    return terms * unit / (1 - terms * unit) if terms * unit < 1 else math.inf


def _reach(values: list[Tensor], ranges: Ranges, at: int) -> Tensor:
    """Return how far a node can go from its value at the centre, float64."""
    return (ranges.upper[at] - values[at]).maximum(values[at] - ranges.lower[at]).clamp_min(0)


def trusted(device: torch.device) -> torch.dtype:
    """Return the dtype in which products round as they should: float32, or float64 where float32 may be less.

    Graphics processors may take Winograd convolutions or TF32; on processors bfloat16 and autocast can be asked for.
    """
    settings = [getattr(getattr(torch.backends.mkldnn, part, None), "fp32_precision", "none") for part in MKLDNN]
    settings.append(getattr(torch.backends, "fp32_precision", "none"))
    plain = (
        device.type == "cpu"
        and all(each in ("none", "ieee") for each in settings)
        and torch.get_float32_matmul_precision() == "highest"
        and not torch.is_autocast_enabled("cpu")
    )
    return torch.float32 if plain else torch.float64


MKLDNN = ("conv", "matmul")
