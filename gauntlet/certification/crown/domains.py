"""Parts of one region, cut by the signs of ReLU inputs, and what is known on them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from gauntlet.certification.crown.graph import Graph
from gauntlet.certification.crown.ibp import Ranges
from gauntlet.certification.crown.relaxation import Lines

Fields = dict[int, Tensor]
"""Node -> a value for each of its entries, [D, *shape]."""


@dataclass(frozen=True)
class Entries:
    """The U entries of nodes that ReLUs read whose sign is open on the region of one image, numbered through.

    Args:
        places: node -> their positions in the flattened node.
        parts: node -> their numbers.
        shapes: node -> its shape.
    """

    places: dict[int, Tensor]
    parts: dict[int, slice]
    shapes: dict[int, tuple[int, ...]]

    @classmethod
    def of(cls, graph: Graph, ranges: Ranges) -> "Entries":
        """ranges: of one image, crown or better."""
        places, parts, shapes, count = {}, {}, {}, 0
        for at in graph.rectified():
            found = ((ranges.lower[at][0] < 0) & (ranges.upper[at][0] > 0)).flatten().nonzero().squeeze(1)
            places[at], parts[at] = found, slice(count, count + len(found))
            shapes[at] = graph.nodes[at].shape
            count += len(found)
        return cls(places, parts, shapes)

    @property
    def count(self) -> int:
        return sum(len(found) for found in self.places.values())

    def gather(self, values: Fields) -> Tensor:
        """Return the open entries of fields, [D, U]."""
        return torch.cat([values[at].flatten(1)[:, place] for at, place in self.places.items()], 1)

    def scatter(self, values: Tensor, base: Sequence[Tensor] | None = None) -> Fields:
        """Return fields that have values [D, U] at the open entries, and elsewhere those of base, [1, *shape] for each
        node of the graph, or zero."""
        found = {}
        for at, place in self.places.items():
            shape = self.shapes[at]
            size = torch.Size(shape).numel()
            if base is None:
                field = values.new_zeros(len(values), size)
            else:
                field = base[at].flatten(1).to(values.dtype).repeat(len(values), 1)
            field[:, place] = values[:, self.parts[at]]
            found[at] = field.reshape(-1, *shape)
        return found


@dataclass(frozen=True)
class Domains:
    """D parts of a region, one for each tensor row.

    Attributes:
        target: which function of the scores is bounded, int64 [D].
        bound: proven lower bound of it, float64 [D].
        sign: 1 and -1 at the entries whose sign the part fixes, int8 [D, U].
        lower, upper: bounds of the entries on the part, float64 [D, U].
        slope: of the lower lines, float32 [D, U].
        weight: multipliers of the fixed signs, float32 [D, U] >= 0.
    """

    target: Tensor
    bound: Tensor
    sign: Tensor
    lower: Tensor
    upper: Tensor
    slope: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.target)

    @property
    def unsure(self) -> Tensor:
        """Return the entries whose sign is open, bool [D, U]."""
        return (self.lower < 0) & (self.upper > 0)

    def select(self, index: Tensor) -> "Domains":
        """Return some of them; index int64 [d]."""
        return Domains(*(getattr(self, field.name)[index] for field in fields(self)))

    def rows(self) -> list["Domains"]:
        """Return them one by one, none of which keeps the others in memory."""
        return [self.select(torch.tensor([i])) for i in range(len(self))]

    def fixed(self, entry: Tensor, sign: int, weight: Tensor) -> "Domains":
        """Return the parts of these in which entry [D], of open sign, has that sign, with these weights [D] of it."""
        every = torch.arange(len(self), device=entry.device)
        side = "lower" if sign > 0 else "upper"
        changed = {"sign": self.sign.clone(), "weight": self.weight.clone(), side: getattr(self, side).clone()}
        for name, value in (("sign", sign), ("weight", weight), (side, 0.0)):
            changed[name][every, entry] = value
        return replace(self, **changed)


def joined(parts: Sequence[Domains]) -> Domains:
    """Return several as one."""
    return Domains(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Domains)))


def lines(
    entries: Entries, domains: Domains, ranges: Ranges, dtype: torch.dtype, slope: Tensor | None = None
) -> dict[int, Lines]:
    """Return the lines of all ReLUs on each part; ranges: of the whole region; slope [D, U]: in place of theirs."""
    low = entries.scatter(domains.lower.to(dtype), ranges.lower)
    high = entries.scatter(domains.upper.to(dtype), ranges.upper)
    between = {at: Lines.between(low[at], high[at]) for at in low}
    return sloped(entries, between, domains.unsure, (domains.slope if slope is None else slope).to(dtype))


def sloped(entries: Entries, between: dict[int, Lines], unsure: Tensor, slope: Tensor) -> dict[int, Lines]:
    """Return lines with other lower slopes [D, U] where the sign is open."""
    found = {}
    for at, place in entries.places.items():
        part, lower = entries.parts[at], between[at].lower.flatten(1).clone()
        lower[:, place] = torch.where(unsure[:, part], slope[:, part], lower[:, place])
        found[at] = replace(between[at], lower=lower.reshape(between[at].lower.shape))
    return found
