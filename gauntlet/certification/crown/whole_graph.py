"""Bounds on parts of a region, layer by layer through the whole network, and their gradients by hand."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gauntlet.certification.crown.affine_layers import Affine
from gauntlet.certification.crown.domains import Entries, Fields
from gauntlet.certification.crown.graph import Graph, Relu
from gauntlet.certification.crown.ibp import Ranges
from gauntlet.certification.crown.input_region import Region
from gauntlet.certification.crown.relaxation import Lines, Taken, below, chosen


@dataclass(frozen=True)
class WholeGraph:
    """The network and the region of one image, in one dtype.

    Args:
        graph: the network.
        region, ranges: of the image.
        rows: functions of the scores, [T, K].
        entries: whose signs are open on the region.
    """

    graph: Graph
    region: Region
    ranges: Ranges
    rows: Tensor
    entries: Entries

    @cached_property
    def through(self) -> Fields:
        """Return, for each node that ReLUs read, 1 where its sign is fixed and not negative, [1, N]."""
        lower = self.ranges.lower
        return {at: (lower[at].flatten(1) >= 0).to(lower[at].dtype) for at in self.entries.places}

    def taken(self, target: Tensor, lines: Lines, multipliers: Tensor, keep: bool = True) -> Taken:
        """Return lower bounds of functions target [D], each plus multipliers times the inputs of the entries' ReLUs.

        Args:
            lines: of the entries' ReLUs, [D, U].
            multipliers: [D, U].
            keep: what `values` needs.
        """
        pending, kept = {len(self.graph.nodes) - 1: self.rows[target]}, {}
        total, above = multipliers.new_zeros(len(target)), torch.zeros_like(multipliers)
        for at in range(len(self.graph.nodes) - 1, -1, -1):
            if at not in pending:
                continue
            a, node, slack = pending.pop(at), self.graph.nodes[at], self.ranges.slack[at]
            if at in self.entries.places:
                part = multipliers[:, self.entries.parts[at]]
                a = a.flatten(1).index_add(1, self.entries.places[at], part).reshape(a.shape)
            if keep or not node.inputs:
                kept[at] = a
            if slack is not None:
                total = total - a.abs().flatten(1) @ slack.flatten()
            if isinstance(node.op, Affine):
                if node.op.bias is not None:
                    total = total + (a * node.op.bias).flatten(1).sum(1)
                a = node.op.transpose(a)
            elif isinstance(node.op, Relu):
                source = node.inputs[0]
                place, numbers = self.entries.places[source], self.entries.parts[source]
                opened = a.flatten(1).index_select(1, place)
                above[:, numbers] += opened
                found, constant = below(opened, lines.of_part(numbers))
                total = total + constant
                a = (a.flatten(1) * self.through[source]).index_copy_(1, place, found).reshape(a.shape)
            for source in node.inputs:
                pending[source] = pending[source] + a if source in pending else a
        least, corner = self.region.lowest(kept[0])
        return Taken(total + least, corner, above, kept)

    def values(self, taken: Taken, lines: Lines) -> Tensor:
        """Return the inputs [D, U] of the entries' ReLUs where the bounds are taken.

        They are the gradient of a bound in the coefficients of each node: of what a multiplier multiplies, and, times
        the coefficient of the output, of a slope.
        """
        coefficients: Fields = taken.memo
        found: Fields = {}
        for at, node in enumerate(self.graph.nodes):
            if at not in coefficients:
                continue
            a, slack = coefficients[at], self.ranges.slack[at]
            if not node.inputs:
                value = taken.corner
            elif isinstance(node.op, Affine):
                value = node.op.forward(found[node.inputs[0]]) + node.op.offset()
            elif isinstance(node.op, Relu):
                source = node.inputs[0]
                place, z = self.entries.places[source], found[source].flatten(1)
                line = lines.of_part(self.entries.parts[source])
                opened = chosen(a.flatten(1)[:, place], z[:, place], line)
                value = (z * self.through[source]).index_copy_(1, place, opened).reshape(a.shape)
            else:
                value = found[node.inputs[0]] + found[node.inputs[1]]
            found[at] = value if slack is None else value - a.sign() * slack
        return self.entries.gather(found)
