"""CROWN bounds of single entries of a node, in float32 with its rounding charged."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from gauntlet.certification.crown.affine_layers import FEW, Affine, Convolution, Dense, Scale
from gauntlet.certification.crown.centred import Centred, gamma
from gauntlet.certification.crown.crown import COPIES
from gauntlet.certification.crown.curves import Curve
from gauntlet.certification.crown.graph import Graph, Node, Relu
from gauntlet.certification.crown.ibp import Ranges
from gauntlet.certification.crown.input_region import Region, fall_in_ball
from gauntlet.certification.crown.joint import Joint
from gauntlet.certification.crown.windows import NodeWindow, Reader, extents, of_entries, passes

MANY = 32
"""Questions about one image, on average, from which no piece mixes images: fields are shared then."""

TERMS = 32
"""Products that are summed in float32 at most; the rest of a sum takes float64."""

Rows = Tensor | NodeWindow


class EntryBounds:
    """Bounds of entries of nodes that ReLUs, curves and joint operations read, on the regions of B images.

    Args:
        exact: the network in float64.
        graph: the same in the dtype in which coefficients are passed back.
        region: float64.
        memory: MiB for the tensors of one piece of work.
    """

    def __init__(self, exact: Graph, graph: Graph, region: Region, memory: float) -> None:
        self.graph, self.centred, self.memory = graph, Centred(exact, region, graph.dtype), memory
        self.first = self._first()

    def _first(self) -> "_First | None":
        """Return the convolution that alone reads the ground node, if its phases save anything."""
        at, *more = self.centred.readers[self.centred.ground]
        op = self.graph.nodes[at].op
        if more or type(op) is not Convolution or op.groups > 1 or op.dilation != (1, 1):
            return None
        few = 1 < op.weight.shape[1] <= FEW and op.stride[0] == op.stride[1] > 1
        return _First(at, op, op.phases()) if few and self.centred.region.radius is None else None

    def tightened(self, ranges: Ranges, node: int, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return bounds [B, *shape] of the node, the last of the ranges, no looser than those given.

        Asked are entries without a sign: first from above, and from below where that does not show that the ReLU is
        zero. What curves and joint operations read is asked for all, both ways.
        """
        self.centred.extend(ranges)
        lower, upper, value = lower.clone(), upper.clone(), self.centred.values[node]
        curved = node in self.centred.exact.curved()
        for side in (-1.0, 1.0):
            place = _ordered(upper > lower if curved else (lower < 0) & (upper > 0))
            if len(place[0]):
                entry = _flat(place[1:], value.shape[1:])
                least = side * value[place] - self.falls(node, place[0], entry, side)
                if side < 0:
                    upper[place] = upper[place].minimum(-least)
                else:
                    lower[place] = lower[place].maximum(least)
        return lower, upper

    def falls(self, node: int, owner: Tensor, entry: Tensor, side: float) -> Tensor:
        """Return how far `side` times an entry can fall below its value at the centre, at most, float64 [Q].

        Args:
            node: position in the graph.
            owner: image of each question, int64 [Q], in order.
            entry: positions in the flattened node, int64 [Q], those of one place of a feature map together.
            side: 1 or -1.
        """
        found = torch.empty(len(owner), dtype=torch.float64, device=owner.device)
        sized = extents(self.graph, node)
        for piece in self._pieces(owner, node, sized):
            found[piece] = self._fall(node, owner[piece], entry[piece], side, set(sized))
        return found.nan_to_num(nan=torch.inf)

    def _pieces(self, owner: Tensor, node: int, sized: dict[int, tuple[int, int]]) -> Iterator[slice]:
        """Yield slices of the questions that need at most the memory, of one image each if it has many."""
        entries = [math.prod(each.shape) for each in self.graph.nodes[:node]]
        for at, (height, width) in sized.items():
            if at < node:
                entries[at] = self.graph.nodes[at].shape[0] * height * width
        size = torch.finfo(self.centred.dtype).bits // 8
        step = max(1, int(self.memory * 2**20 / (size * COPIES * max(entries))))
        counts = [count for count in owner.bincount().tolist() if count]
        if len(owner) < MANY * len(counts):
            counts = [len(owner)]
        first = 0
        for count in counts:
            yield from (slice(at, min(at + step, first + count)) for at in range(first, first + count, step))
            first += count

    def _fall(self, node: int, owner: Tensor, entry: Tensor, side: float, windows: set[int]) -> Tensor:
        centred, read = self.centred, Reader(owner, entry % _area(self.graph.nodes[node]))
        error = centred.error[node]
        total = centred.lost[owner]
        if error is not None:
            total = total + error.flatten(1)[owner, entry]
        pending: dict[int, Rows] = self._started(node, entry, side, windows)
        for at in range(node, centred.ground - 1, -1):
            if at not in pending:
                continue
            a, step = pending.pop(at), self.graph.nodes[at]
            if isinstance(a, NodeWindow) and not (at in windows and passes(step)):
                a = a.dense(step.shape)
            charge = centred.charge[at]
            if at == centred.ground:
                return total + self._least(a, read)
            if charge is not None and at != node:
                total = total + self._cost(_values(a).abs(), read(charge, a))
            if self.first is not None and at == self.first.at:
                return total + self._phased(self.first, a, read)
            if isinstance(step.op, Joint):
                assert isinstance(a, Tensor)
                joint = centred.joints[at]
                up, down = _parts(a)
                costs = (up * read(joint.below, a)).addcmul_(down, read(joint.above, a), value=-1)
                total = total + self._summed(costs)
                rows = joint.planes.back(a, lambda field: read(field, None))
                for source, below in zip(step.inputs, rows, strict=True):
                    total = total + self._hand(pending, source, below, read)
                continue
            if isinstance(step.op, Relu | Curve):
                bend = centred.bends[at]
                up, down = _parts(_values(a))
                costs = (up * read(bend.below, a)).addcmul_(down, read(bend.above, a), value=-1)
                total = total + self._summed(costs)
                a = _like(a, up.mul_(read(bend.lower, a)).addcmul_(down, read(bend.upper, a)))
            elif isinstance(a, NodeWindow) and isinstance(step.op, Convolution | Scale):
                a = a.before(step.op)
            elif isinstance(a, Tensor) and isinstance(step.op, Affine):
                a = step.op.transpose(a)
            for source in step.inputs:
                total = total + self._hand(pending, source, a, read)
        return total

    def _started(self, node: int, entry: Tensor, side: float, windows: set[int]) -> dict[int, Rows]:
        """Return the coefficients of questions; where they are rows of a weight those of what it multiplies."""
        step = self.graph.nodes[node]
        if isinstance(step.op, Dense) and len(step.shape) == 1:
            return {step.inputs[0]: side * step.op.weight[entry]}
        if len(step.shape) == 3 and node in windows:
            return {node: of_entries(step.shape, entry, side, self.centred.dtype)}
        rows = torch.zeros(len(entry), math.prod(step.shape), dtype=self.centred.dtype, device=entry.device)
        return {node: rows.scatter_(1, entry[:, None], side).reshape(-1, *step.shape)}

    def _hand(self, pending: dict[int, Rows], source: int, a: Rows, read: Reader) -> Tensor | float:
        """Add the coefficients of what a node reads to those that are there; return what their rounding takes."""
        there = pending.get(source)
        if there is None:
            pending[source] = a
            return 0.0
        if isinstance(there, NodeWindow) and isinstance(a, NodeWindow):
            both: Rows = there + a
        else:
            shape = self.graph.nodes[source].shape
            first, second = (each.dense(shape) if isinstance(each, NodeWindow) else each for each in (there, a))
            both = first + second
        pending[source] = both
        return self.centred.unit * self._cost(_values(both).abs(), read(self.centred.reach[source], both))

    def _phased(self, first: "_First", a: Rows, read: Reader) -> Tensor:
        """Return what `_least` does, from coefficients of the first convolution.

        The pixels of each phase of the stride come side by side, and how far they go is sorted likewise: putting them
        in order would take longer than the convolution.
        """
        reach, op, size = self.centred.reach[self.centred.ground], first.op, first.phases.shape
        (stride, _), (down, right) = op.stride, op.padding
        values = functional.conv2d(_values(a), first.phases, None, 1, (size[2] - 1, size[3] - 1))
        high, wide = (stride * side for side in values.shape[2:])
        if isinstance(a, NodeWindow):
            some = values.new_empty(0, op.weight.shape[1], high, wide)
            field = read(reach, NodeWindow(some, a.top * stride - down, a.left * stride - right), cut=True)
        else:
            room = (right, wide - right - op.inside[1], down, high - down - op.inside[0])
            field = functional.pad(read(reach, a), room)
        return self._cost(values.abs_(), functional.pixel_unshuffle(field, stride))

    def _least(self, a: Rows, read: Reader) -> Tensor:
        """Return how far a . z can fall below its value at the centre, z on the regions at the ground node."""
        centred, region = self.centred, self.centred.region
        if region.radius is None:
            return self._cost(_values(a).abs(), read(centred.reach[centred.ground], a))
        low, high = (
            read((side - region.centre).to(centred.dtype), a).flatten(1) for side in (region.lower, region.upper)
        )
        radius = read(region.radius.to(centred.dtype)[:, None], None)
        rows = _values(a).flatten(1)
        return fall_in_ball(rows, low, high, radius).double() * (1 + gamma(rows.shape[1] + 20, centred.unit))

    def _cost(self, a: Tensor, field: Tensor) -> Tensor:
        return self._summed(a * field)

    def _summed(self, costs: Tensor) -> Tensor:
        """Return a bound of the sums of products >= 0, float64 [Q]."""
        count = costs[0].numel()
        rows = max(each for each in range(1, TERMS + 1) if count % each == 0)
        parts = costs.reshape(len(costs), rows, count // rows).sum(1)
        return parts.sum(1, dtype=torch.float64) * (1 + gamma(rows + 8, self.centred.unit))


@dataclass(frozen=True)
class _First:
    """A convolution, where it stands, and its `phases`."""

    at: int
    op: Convolution
    phases: Tensor


def _ordered(mask: Tensor) -> tuple[Tensor, ...]:
    """Return where a mask [B, *shape] is set, as an index: by image, then by place, then by channel."""
    if mask.dim() != 4:
        return mask.nonzero(as_tuple=True)
    owner, row, column, channel = mask.permute(0, 2, 3, 1).nonzero(as_tuple=True)
    return owner, channel, row, column


def _flat(place: tuple[Tensor, ...], shape: torch.Size) -> Tensor:
    """Return positions in the flattened node of indices into it."""
    found = torch.zeros_like(place[0])
    for index, size in zip(place, shape, strict=True):
        found = found * size + index
    return found


def _area(node: Node) -> int:
    return node.shape[1] * node.shape[2] if len(node.shape) == 3 else 1


def _values(a: Rows) -> Tensor:
    return a.values if isinstance(a, NodeWindow) else a


def _like(a: Rows, values: Tensor) -> Rows:
    return replace(a, values=values) if isinstance(a, NodeWindow) else values


def _parts(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is positive and what is negative of a tensor."""
    down = a.clamp_max(0)
    return a - down, down
