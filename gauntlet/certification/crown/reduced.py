"""A network on one region with its fixed ReLUs taken for the linear functions that they are there: dense, and quick."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from gauntlet.certification.crown.affine_layers import Affine, Convolution, Scale
from gauntlet.certification.crown.domains import Entries
from gauntlet.certification.crown.graph import Graph, Relu
from gauntlet.certification.crown.ibp import Ranges
from gauntlet.certification.crown.input_region import Region
from gauntlet.certification.crown.relaxation import Lines, Taken, below, chosen

CELLS = 2**25
"""Most entries of the matrices of a reduced network (128 MiB)."""

AT_ONCE = 64
"""Rows that are passed back together while a network is reduced."""


@dataclass(frozen=True)
class Front:
    """The first node that ReLUs read, as a function of how far an image is from the middle of its region, float32.

    Args:
        layers: from the image to the node.
        region: of one image, around zero.
        middle: values in the middle of the region where the ReLU can be positive, [A].
        active: their positions in the flattened node, int64 [A].
        inside: which of the A have an open sign, int64.
        shape: of the node.
    """

    layers: tuple[Affine, ...]
    region: Region
    middle: Tensor
    active: Tensor
    inside: Tensor
    shape: torch.Size

    @classmethod
    def of(cls, graph: Graph, region: Region, ranges: Ranges, entries: Entries, node: int) -> "Front | None":
        """Return the front, float32, of one image; None where it is not a chain of layers, or a way goes around it."""
        chain = [step.op for step in graph.nodes[1 : node + 1] if isinstance(step.op, Affine)]
        straight = all(step.inputs == (at,) for at, step in enumerate(graph.nodes[1 : node + 1]))
        behind = all(isinstance(n.op, Relu) or min(n.inputs) > node for n in graph.nodes[node + 1 :])
        if len(chain) < node or not straight or not behind:
            return None
        centre = (region.lower + region.upper) / 2 if region.radius is None else region.centre
        value = centre
        for op in chain:
            value = op.forward(value) + op.offset()
        around = Region(torch.zeros_like(centre), region.lower - centre, region.upper - centre, region.radius)
        active = (ranges.upper[node][0] > 0).flatten().nonzero().squeeze(1)
        layers = _merged(chain)
        if region.radius is None and _strided(layers[0]):
            layers[0], around = _by_phases(layers[0], around)
        inside = torch.searchsorted(active, entries.places[node])
        return cls(
            tuple(op.to(torch.float32) for op in layers),
            around.to(torch.float32),
            value.flatten()[active].float(),
            active,
            inside,
            value.shape[1:],
        )

    @cached_property
    def kernels(self) -> tuple[Tensor | None, ...]:
        """Return the kernels by which layers made of phases pass back."""
        return tuple(op.phases() if isinstance(op, _Phases) else None for op in self.layers)

    def least(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Return least values [D] of functions a [D, A] of the active entries, and how far the images where they are
        taken are from the middle."""
        field = a.new_zeros(len(a), self.shape.numel()).index_copy_(1, self.active, a).reshape(-1, *self.shape)
        for op, kernel in zip(reversed(self.layers), reversed(self.kernels), strict=True):
            if kernel is None:
                field = op.transpose(field)
            else:
                field = functional.conv2d(field, kernel, padding=(kernel.shape[2] - 1, kernel.shape[3] - 1))
        total = a @ self.middle
        if self.region.radius is not None:
            least, corner = self.region.lowest(field)
            return total + least, corner
        radius = self.region.upper
        return total - field.abs().flatten(1) @ radius.flatten(), field.sign() * -radius

    def values(self, corner: Tensor) -> Tensor:
        """Return the active entries [D, A] of images so far from the middle."""
        for op in self.layers:
            corner = op.forward(corner)
        return corner.flatten(1).index_select(1, self.active) + self.middle


def _merged(chain: Sequence[Affine]) -> list[Affine]:
    """Return fewer layers with the same weights, without their biases: channels are scaled in the convolution."""
    found: list[Affine] = []
    for op in chain:
        before = found[-1] if found else None
        if isinstance(before, Scale) and before.weight.dim() == 3 and before.weight.shape[1:] == (1, 1):
            plain = type(op) is Convolution and op.groups == 1 and op.weight.shape[1] == len(before.weight)
            if plain or isinstance(op, Scale):
                op = replace(op, weight=op.weight * before.weight)
                found.pop()
        found.append(op)
    return found


@dataclass(frozen=True, kw_only=True)
class _Phases(Convolution):
    """A strided convolution as one of stride 1, on an image whose every stride-th rows and columns are channels."""


def _strided(op: Affine) -> bool:
    return type(op) is Convolution and op.stride[0] == op.stride[1] > 1 and op.dilation == (1, 1) and op.groups == 1


def _by_phases(op: Affine, around: Region) -> tuple[Affine, Region]:
    """Return a first layer, and a box, with the pixels of each phase of the stride in a channel of its own."""
    assert isinstance(op, Convolution)
    kernel, stride = op.phases(), op.stride[0]
    outside = op.forward(around.lower).shape[2:]
    inside = tuple(size + wide - 1 for size, wide in zip(outside, kernel.shape[2:], strict=True))
    high, wide = (
        stride * size - have - pad for size, have, pad in zip(inside, op.inside, op.padding, strict=True)
    )  # fmt: skip
    frame = (op.padding[1], wide, op.padding[0], high)  # what no window reads is cut off
    lower, upper = (functional.pixel_unshuffle(functional.pad(v, frame), stride) for v in (around.lower, around.upper))
    weight = kernel.flip(2, 3).transpose(0, 1).contiguous()
    return _Phases(weight=weight, inside=(inside[0], inside[1])), Region(torch.zeros_like(lower), lower, upper)


@dataclass(frozen=True)
class Reduced:
    """Open ReLU inputs as functions of ReLU outputs before them, float32, for searches that prove nothing.

    Columns are outputs of ReLUs: of the first node that ReLUs read, those that can be positive; of later ones, those
    whose input has an open sign. Every input of a later node is a linear function of the columns before it. Rounding
    of the deployed network is left out.

    Args:
        front: the network up to the first node that ReLUs read.
        starts: of each later node, its first column; and the number of columns.
        parts: of each node, its slice of the U entries.
        weights, biases: of each later node, [u, start] and [u].
        rows, offset: the functions of the scores, [T, N] and [T].
    """

    front: Front
    starts: tuple[int, ...]
    parts: tuple[slice, ...]
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    rows: Tensor
    offset: Tensor

    @classmethod
    def of(cls, graph: Graph, region: Region, ranges: Ranges, entries: Entries, rows: Tensor) -> "Reduced | None":
        """Return the network, or None where it would be large, or its front is not a chain of layers.

        Args:
            graph: in float64.
            region, ranges: of one image, float64.
            rows: functions of the scores, float64 [T, K].
        """
        if not entries.places:
            return None
        first, *later = entries.places
        front = Front.of(graph, region, ranges, entries, first)
        if front is None:
            return None
        starts = [len(front.active)]
        for at in later:
            starts.append(starts[-1] + len(entries.places[at]))
        if sum(len(entries.places[at]) * start for at, start in zip(later, starts, strict=False)) > CELLS:
            return None
        through = {at: (ranges.lower[at][0] >= 0).flatten().to(rows.dtype) for at in entries.places}
        builder = _Builder(graph, entries, front.active, starts, through)
        made = [builder.functions(number, at) for number, at in enumerate(later)]
        scores, offset = builder.passed(len(graph.nodes) - 1, rows)
        return cls(
            front, tuple(starts), tuple(entries.parts.values()), tuple(m[0].float() for m in made),
            tuple(m[1].float() for m in made), scores.float(), offset.float(),
        )  # fmt: skip

    def before(self, number: int, rows: Tensor, offset: Tensor) -> "Reduced":
        """Return the first nodes, so many, with functions of their columns, [T, N] and [T]."""
        return Reduced(
            self.front, self.starts[:number], self.parts[:number], self.weights[: number - 1],
            self.biases[: number - 1], rows, offset,
        )  # fmt: skip

    def taken(self, target: Tensor, lines: Lines, multipliers: Tensor) -> Taken:
        """Return lower bounds of functions target [D], each plus multipliers times the inputs of the entries' ReLUs.

        Args:
            lines: of the entries' ReLUs, [D, U].
            multipliers: [D, U].
        """
        columns, total = self.rows[target], self.offset[target]
        above = torch.empty_like(multipliers)
        for at in range(len(self.weights), 0, -1):
            start, end, part = self.starts[at - 1], self.starts[at], self.parts[at]
            above[:, part] = columns[:, start:end]
            z, constant = below(above[:, part], lines.of_part(part))
            z += multipliers[:, part]
            total = total + constant + z @ self.biases[at - 1]
            columns[:, :start].addmm_(z, self.weights[at - 1])
        part, z = self.parts[0], columns[:, : self.starts[0]].contiguous()
        above[:, part] = z.index_select(1, self.front.inside)
        opened, constant = below(above[:, part], lines.of_part(part))
        least, corner = self.front.least(z.index_copy_(1, self.front.inside, opened + multipliers[:, part]))
        return Taken(total + constant + least, corner, above)

    def values(self, taken: Taken, lines: Lines) -> Tensor:
        """Return the inputs [D, U] of the entries' ReLUs where the bounds are taken."""
        above, z, part = taken.above, torch.empty_like(taken.above), self.parts[0]
        front = self.front.values(taken.corner)
        columns = above.new_empty(len(above), self.starts[-1])
        z[:, part] = front.index_select(1, self.front.inside)
        front.index_copy_(1, self.front.inside, chosen(above[:, part], z[:, part], lines.of_part(part)))
        columns[:, : self.starts[0]] = front
        for at in range(1, len(self.weights) + 1):
            start, end, part = self.starts[at - 1], self.starts[at], self.parts[at]
            z[:, part] = torch.addmm(self.biases[at - 1], columns[:, :start], self.weights[at - 1].T)
            columns[:, start:end] = chosen(above[:, part], z[:, part], lines.of_part(part))
        return z


@dataclass(frozen=True)
class _Builder:
    """Passes functions of nodes back to the columns.

    Args:
        through: node that ReLUs read -> 1 where its sign is fixed and not negative, [N].
    """

    graph: Graph
    entries: Entries
    active: Tensor
    starts: Sequence[int]
    through: Mapping[int, Tensor]

    def functions(self, number: int, node: int) -> tuple[Tensor, Tensor]:
        """Return the open entries of a later node as functions of the columns before it, [u, start] and [u]."""
        places, shape, start = self.entries.places[node], torch.Size(self.graph.nodes[node].shape), self.starts[number]
        dtype = self.through[node].dtype
        weight = torch.empty(len(places), start, dtype=dtype, device=places.device)
        bias = weight.new_empty(len(places))
        for first in range(0, len(places), AT_ONCE):
            some = places[first : first + AT_ONCE]
            rows = weight.new_zeros(len(some), shape.numel()).scatter_(1, some[:, None], 1.0)
            found, bias[first : first + AT_ONCE] = self.passed(node, rows.reshape(-1, *shape))
            weight[first : first + AT_ONCE] = found[:, :start]
        return weight, bias

    def passed(self, node: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return functions [q, *shape] of a node as functions of the columns, [q, N] and [q]."""
        columns, total = rows.new_zeros(len(rows), self.starts[-1]), rows.new_zeros(len(rows))
        nodes, pending = list(self.entries.places), {node: rows}
        for at in range(node, nodes[0], -1):
            if at not in pending:
                continue
            a, current = pending.pop(at), self.graph.nodes[at]
            if isinstance(current.op, Affine):
                if current.op.bias is not None:
                    total = total + (a * current.op.bias).flatten(1).sum(1)
                a = current.op.transpose(a)
            elif isinstance(current.op, Relu):
                source = current.inputs[0]
                if source == nodes[0]:
                    columns[:, : self.starts[0]] += a.flatten(1)[:, self.active]
                    continue
                number = nodes.index(source)
                part = slice(self.starts[number - 1], self.starts[number])
                columns[:, part] += a.flatten(1)[:, self.entries.places[source]]
                a = (a.flatten(1) * self.through[source]).reshape(a.shape)
            for source in current.inputs:
                pending[source] = pending[source] + a if source in pending else a
        return columns, total
