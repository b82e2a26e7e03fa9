"""Parts of one region, cut by the signs of ReLU inputs, and what is known on them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from gauntlet.certification.crown.graph import Graph
from gauntlet.certification.crown.ibp import Ranges

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

    def scatter(self, values: Tensor) -> Fields:
        """Return fields that have values [D, U] at the open entries and zero elsewhere."""
        found = {}
        for at, place in self.places.items():
            field = values.new_zeros(len(values), torch.Size(self.shapes[at]).numel())
            found[at] = field.index_copy_(1, place, values[:, self.parts[at]]).reshape(-1, *self.shapes[at])
        return found

    def before(self, number: int) -> "Entries":
        """Return those of the first nodes, so many."""
        nodes = list(self.places)[:number]
        places, parts = {at: self.places[at] for at in nodes}, {at: self.parts[at] for at in nodes}
        return Entries(places, parts, {at: self.shapes[at] for at in nodes})


@dataclass(frozen=True)
class Domains:
    """D parts of a region, one for each tensor row.

    Attributes:
        target: which function of the scores is bounded, int64 [D].
        bound: proven lower bound of it, float64 [D].
        sign: 1 and -1 at the entries whose sign the part fixes, int8 [D, U].
        value: where the sign is open, slope of the lower line, in [0, 1]; where the part fixes it, multiplier of what
            the sign says, >= 0; float32 [D, U].
    """

    target: Tensor
    bound: Tensor
    sign: Tensor
    value: Tensor

    def __len__(self) -> int:
        return len(self.target)

    @property
    def unsure(self) -> Tensor:
        """Return the entries whose sign is open, bool [D, U]."""
        return self.sign == 0

    def select(self, index: Tensor) -> "Domains":
        """Return some of them; index int64 [d]."""
        return Domains(*(getattr(self, field.name)[index] for field in fields(self)))

    def rows(self) -> list["Domains"]:
        """Return them one by one, none of which keeps the others in memory."""
        columns = [getattr(self, field.name) for field in fields(self)]
        return [Domains(*(column[i : i + 1].clone() for column in columns)) for i in range(len(self))]

    def fixed(self, entry: Tensor, sign: int, weight: Tensor) -> "Domains":
        """Return the parts of these in which entry [D], of open sign, has that sign, with multipliers weight [D]."""
        signs, values = self.sign.clone(), self.value.clone()
        signs.scatter_(1, entry[:, None], sign)
        values.scatter_(1, entry[:, None], weight[:, None])
        return replace(self, sign=signs, value=values)


def joined(parts: Sequence[Domains]) -> Domains:
    """Return several as one."""
    return Domains(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Domains)))
